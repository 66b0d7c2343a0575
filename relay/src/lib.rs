//! The relay: tails a primary's binlog, makes it durable, fans it out to replicas, and tells how far each one lags.
//!
//! Reading order is the data flow: [`upstream`] -> [`log`] -> [`fanout`]; [`lag`] and [`admin`] look on.

pub mod admin;
pub mod clock;
pub mod config;
pub mod events;
mod failpoint;
pub mod fanout;
pub mod lag;
pub mod log;
pub mod metrics;
mod net;
mod packets;
pub mod relay;
pub mod reset;
pub mod tls;
pub mod upstream;
