//! The agent beside a database server: knows of its death at once, holds the virtual IP, obeys orders, and fences.
//!
//! Owns the server's process and settings, and the address on the node's interface. Promises: the server becomes writable only by an order of the
//! present leader, or where the cluster's state, read anew, names it and nothing is under way; it is ended when somebody else takes over or when
//! nothing of the cluster is reached. Never decides who is to be primary.
//!
//! Reading order: what is pure comes first ([`role`], [`duty`], [`contact`], `orders::number`), then who does it ([`supervise`], [`watchdog`],
//! [`guard`], [`orders`]), then what is shown ([`poll`], `http`).

pub mod address;
pub mod announce;
mod command;
pub mod contact;
pub mod core;
pub mod disk;
pub mod duty;
pub mod guard;
pub mod host;
mod http;
pub mod kept;
pub mod lag;
pub mod metrics;
pub mod orders;
pub mod poll;
pub mod position;
pub mod process;
pub mod role;
pub mod rolefile;
pub mod run;
mod slots;
pub mod sql;
pub mod starting;
pub mod stream;
pub mod supervise;
pub mod surplus;
mod unfinished;
pub mod watchdog;
pub mod watched;

pub use command::{AgentArguments, main};
pub use run::run;
pub use starting::may_start;
