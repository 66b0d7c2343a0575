//! From a decision to its effects. `plan` is pure: state, facts and what came of earlier steps, to the next steps. The runner carries them out.

pub mod address;
mod effects;
pub(crate) mod history;
pub mod hooks;
mod picture;
pub mod plan;
mod runner;
mod servers;

pub use effects::Hands;
pub use picture::Picture;
pub use runner::{Answer, Command, Runner, RunnerOptions};
pub use servers::{Servers, surplus};
