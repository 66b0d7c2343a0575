//! Starts real servers, relays, load and faults for Baton's tests, demo and benchmarks.
//!
//! Everything begins with a [`Bed`]: a private directory, ports that nobody else gets, and processes that end with it, however the test ends.
//! Blocking code and threads throughout: a test reads from top to bottom.
//!
//! ```no_run
//! use baton_testbed::{Source, scenario};
//!
//! scenario("replica_follows_primary", |bed| {
//!     let primary = bed.mariadb("primary").server_id(1).start()?;
//!     let replica = bed.mariadb("replica").server_id(2).start()?;
//!     replica.replicate_from(&Source::gtid(primary.port()))?;
//!     primary.sql("CREATE TABLE test.t (a INT PRIMARY KEY)")?;
//!     baton_testbed::wait_caught_up(&primary, &replica)
//! });
//! ```

mod base64;
pub mod binaries;
pub mod certs;
pub mod cluster;
pub mod compare;
pub mod dir;
pub mod dump;
pub mod etcd;
pub mod failpoints;
pub mod fleet;
pub mod kube;
pub mod load;
pub mod mariadb;
pub mod netns;
pub mod ports;
pub mod procs;
pub mod proxy;
pub mod relay;
pub mod rows;
pub mod sql;
pub mod story;
pub mod template;
pub mod volume;
pub mod wait;
pub mod witness;

pub use certs::{Authority, Certs};
pub use cluster::{Cluster, ClusterPlan};
pub use compare::{assert_tables_equal, cmp_files, cmp_prefix, wait_caught_up};
pub use dir::{Bed, scenario};
pub use dump::Dump;
pub use etcd::{Etcd, EtcdBuilder};
pub use fleet::{Fleet, Kind, Plan, seeded};
pub use load::{Report, Running, Sysbench, Workload};
pub use mariadb::{MariaDb, MariaDbBuilder, Source, Ssl, Start};
pub use netns::{Host, Net};
pub use procs::{Cmd, Proc};
pub use proxy::{Direction, Proxy};
pub use relay::{RelayBuilder, RelayProc};
pub use rows::{RowWriter, Written};
pub use sql::{Sql, SqlError};
pub use story::Story;
pub use volume::{Disk, Volume};
pub use wait::{DEADLINE, wait_for, wait_until};

/// What every query answers: rows of text, `None` for NULL.
pub type Rows = Vec<Vec<Option<String>>>;
