//! What a Baton cluster keeps in etcd: the documents, and the store that reads and changes them.
//!
//! Owns the names of the keys, the documents' JSON, and every use of etcd's API. Promises: each change of the cluster's state is one
//! transaction that compares the leader's key and the revision that was read. Never decides anything: that is `baton-failover`'s part.

pub mod grant;
pub mod keys;
pub mod records;
pub mod state;
pub mod store;

pub use grant::Grant;
pub use keys::Keys;
pub use records::{
    ControllerRecord, EpochRecord, HistoryRecord, LeaderRecord, LeftRecord, NodeRecord, PausedRecord, RelayRecord,
    Stage, SwitchoverRequest,
};
pub use state::{Cause, ClusterState, OperationKind, Phase, RelayAccount, Tail};
