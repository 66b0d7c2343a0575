//! The connection to the primary.

mod status;

pub use status::{UpstreamState, UpstreamStatus};
