//! The cluster's facts, the orders to agents, and what agents tell: plain data with its JSON, and the invariants, written once.

pub mod agent;
pub mod facts;
#[cfg(test)]
pub(crate) mod fixture;
pub mod invariants;
pub mod order;

pub use agent::{AgentEvent, AgentStatus, MysqldState, ReplicationStatus, ServerRole, ServerStatus};
pub use facts::{AgentFacts, ClusterFacts, ControllerFacts, NodeFacts, Policy, RelayFacts, Seen, SqlFacts};
pub use order::{Order, OrderError, OrderKind, OrderNumber, OrderResult};
