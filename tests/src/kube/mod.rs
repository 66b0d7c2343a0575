//! A small Kubernetes: serves the part of the API that Baton uses, with optimistic concurrency and rights.
//!
//! Promises: what it takes it does as Kubernetes does, and what it would have to ignore it refuses.

pub mod api;
mod http;
pub mod objects;
pub mod rights;

pub use api::ApiServer;
pub use objects::{Kind, Objects};
