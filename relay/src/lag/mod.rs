//! How far each replica lags: pure arithmetic, and the pollers that ask replicas what they have applied.
//!
//! Owns the figures of `GET /v1/lag`. Promises: milliseconds are the age, by the relay's arrival clock, of the oldest transaction that
//! was missing when the replica was asked (and of all that arrived since, once a sample is overdue), wrong by the sample's `age_ms` plus
//! 20 ms at most; sessions are kept and bounded. Never slows the stream: it only reads what the fan-out notes.

mod arithmetic;
mod config;
mod entry;
mod history;
mod poller;
mod pool;
mod position;
mod report;
mod sample;
mod schedule;
mod server;
mod sql;
#[cfg(test)]
mod tests;
mod tracker;

pub use config::LagConfig;
pub use history::History;
pub use report::{AppliedReport, Bottleneck, HeadReport, LagReport, ReceivedReport, ReplicaReport, UpstreamReport};
pub use tracker::{LagSources, LagTracker};
