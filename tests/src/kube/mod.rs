//! A small Kubernetes: serves the part of the API that Baton uses, and runs rendered manifests as local processes.
//!
//! Promises: what it takes it does as Kubernetes does, and what it would have to ignore it refuses. Never a stand-in for a cluster: no scheduler but
//! a simple one, no cgroups, no images.

pub mod api;
mod fields;
mod http;
mod image;
mod manifest;
pub mod objects;
pub mod pod;
mod proxy;
pub mod rights;
pub mod runner;

pub use api::ApiServer;
pub use objects::{Kind, Objects};
pub use pod::Pod;
pub use runner::Release;
