//! Keeps one primary writable: promotes the freshest replica and moves the virtual IP when the primary stops answering.
//!
//! Reading order is the data flow: `probe -> decide -> act`. `model` is plain data; `decide` and the plans of `act` are pure.

pub mod act;
pub mod admin;
pub mod agent;
pub mod config;
pub mod controller;
pub mod ctl;
pub mod decide;
pub mod http;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod metrics;
pub mod model;
pub mod probe;
pub mod setup;
