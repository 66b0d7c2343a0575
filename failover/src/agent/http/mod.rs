//! The agent's HTTP: health checks for load balancers, status and events for controllers, orders, and files for rescue.
//!
//! Promises: all but the health checks need the token; a watcher that does not read is dropped; every error is
//! `{"error":"one sentence","hint":"what to do"}`.

mod backup;
mod binlog;
mod check;
mod health;
mod routes;
mod watch;

pub(super) use check::serve as serve_agent_check;
pub(super) use routes::router;
