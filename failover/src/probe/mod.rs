//! What the controller sees with its own eyes: servers by SQL, agents and relays by their streams, the other controllers.
//!
//! Owns the table of facts, each with the time when it was seen, and one small task a thing that is looked at. Promises: a probe that
//! succeeds costs one question over a kept session; every probe ends within its time limit; whatever changes wakes who decides at once.
//! Never concludes anything.

mod agentless;
mod agents;
mod backoff;
mod board;
mod controllers;
mod members;
mod relays;
pub mod sql;
mod views;

pub use board::Board;
pub(crate) use controllers::View as ControllerView;
pub use members::{Options, watch};
pub use views::{RelayView, ReplicaView};
