//! A primary, relays and replicas of all kinds in one go, and the check that all of them hold the same.
//!
//! Owns the invariants that every fault must leave intact: equal tables, equal files, every GTID once. Used by tests and the soak test alike.

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::compare::{binlog_text, compare_tables, wait_caught_up};
use crate::dir::Bed;
use crate::load::DATABASE;
use crate::mariadb::{MariaDb, Source};
use crate::proxy::Proxy;
use crate::relay::RelayProc;
use crate::wait::{DEADLINE, wait_for};
use crate::witness;

/// How a replica attaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By GTID.
    Gtid,
    /// By GTID, with four appliers.
    Parallel,
    /// By file and position.
    FilePosition,
}

/// What there is to be.
#[must_use]
#[derive(Debug, Clone)]
pub struct Plan {
    replicas: Vec<Kind>,
    second: bool,
    proxies: bool,
    durable: bool,
    options: Vec<String>,
}

impl Plan {
    /// A primary with small binlog files, one supervised relay, and these replicas behind it.
    pub fn new(replicas: &[Kind]) -> Self {
        Self {
            replicas: replicas.to_vec(),
            second: false,
            proxies: false,
            durable: false,
            options: vec!["--max-binlog-size=256K".into()],
        }
    }

    /// A second relay behind the first, with one more replica behind it.
    pub fn second_relay(mut self) -> Self {
        self.second = true;
        self
    }

    /// Proxies between the primary and the relay and between the relay and its replicas.
    pub fn proxies(mut self) -> Self {
        self.proxies = true;
        self
    }

    /// A primary that syncs every commit.
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// An option of the primary and the replicas.
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// Starts it all.
    pub fn start(self, bed: &Bed) -> Result<Fleet> {
        let server = |name: &str, id: u32| {
            let builder = bed.mariadb(name).server_id(id);
            self.options.iter().fold(builder, |builder, option| builder.option(option))
        };
        let primary = server("primary", 1).durable(self.durable).start()?;
        let upstream = self.proxies.then(|| Proxy::start(primary.address())).transpose()?;
        let port = upstream.as_ref().map_or(primary.port(), Proxy::port);
        let relay = bed.relay("relay-1").upstream_ports(&[port]).supervised().start()?;
        let downstream = self.proxies.then(|| Proxy::start(relay.address())).transpose()?;
        let port = downstream.as_ref().map_or(relay.port(), Proxy::port);
        let mut replicas = Vec::new();
        let mut attach = |id: u32, kind: Kind, port: u16| -> Result<()> {
            let threads = if kind == Kind::Parallel { 4 } else { 0 };
            let replica = server(&format!("replica-{id}"), id).binlog(false).parallel_appliers(threads).start()?;
            let source = match kind {
                Kind::FilePosition => Source::file_pos(port, "mysql-bin.000001", 4),
                Kind::Gtid | Kind::Parallel => Source::gtid(port),
            };
            replica.replicate_from(&source.heartbeat(1.0))?;
            replicas.push(replica);
            Ok(())
        };
        for (id, kind) in (2..).zip(&self.replicas) {
            attach(id, *kind, port)?;
        }
        let mut second = None;
        if self.second {
            let further = bed.relay("relay-2").server_id(9002).behind(&relay).supervised().start()?;
            attach(100, Kind::Gtid, further.port())?;
            second = Some(further);
        }
        Ok(Fleet { primary, relay, second, replicas, upstream, downstream })
    }
}

/// A primary, one relay or two, and replicas.
pub struct Fleet {
    /// The primary.
    pub primary: MariaDb,
    /// The relay behind it.
    pub relay: RelayProc,
    /// The relay behind that relay.
    pub second: Option<RelayProc>,
    /// Replicas; with a second relay, the last one is behind that.
    pub replicas: Vec<MariaDb>,
    upstream: Option<Proxy>,
    downstream: Option<Proxy>,
}

impl Fleet {
    /// The proxy between the primary and the relay.
    pub fn upstream(&self) -> Result<&Proxy> {
        self.upstream.as_ref().context("this fleet has no proxies")
    }

    /// The proxy between the relay and its replicas.
    pub fn downstream(&self) -> Result<&Proxy> {
        self.downstream.as_ref().context("this fleet has no proxies")
    }

    /// Both relays, or the one.
    pub fn relays(&self) -> impl Iterator<Item = &RelayProc> {
        [&self.relay].into_iter().chain(&self.second)
    }

    /// Waits until all have all, then checks that tables and files are equal and that nothing stands twice; gives how many transactions there are.
    pub fn check(&self) -> Result<usize> {
        for proxy in [&self.upstream, &self.downstream].into_iter().flatten() {
            proxy.disarm();
            proxy.resume();
        }
        let mut transactions = 0;
        for relay in self.relays() {
            relay.wait_head(&self.primary)?;
        }
        for replica in &self.replicas {
            wait_caught_up(&self.primary, replica)?;
            compare_tables(&self.primary, replica, &["test", DATABASE])?;
        }
        for relay in self.relays() {
            witness::check_mirror(&self.primary, relay)?;
            transactions = witness::check_each_once(relay)?;
        }
        Ok(transactions)
    }

    /// Checks that `mariadb-binlog` reads every file of every relay, checksums included.
    pub fn check_readable(&self) -> Result<()> {
        for relay in self.relays() {
            let stem = self.primary.bed().path("logs").join(format!("binlog-{}", relay.name()));
            binlog_text(&stem, &witness::log_files(relay)?, &["--base64-output=DECODE-ROWS"])?;
        }
        Ok(())
    }

    /// Waits until the relay's head is another one than `before`.
    pub fn wait_head_moves(&self, before: &str) -> Result<()> {
        wait_for("the relay's head to move", DEADLINE, || {
            let now = self.relay.head_gtid().ok();
            Ok(now.filter(|now| now != before).map(drop))
        })
    }
}

/// Rows of 100,000 bytes into `test.wide`: `megabytes` transactions of ten.
pub fn fill(primary: &MariaDb, megabytes: u32) -> Result<()> {
    primary.sql("CREATE TABLE IF NOT EXISTS test.wide (id INT AUTO_INCREMENT PRIMARY KEY, filler LONGTEXT)")?;
    for _ in 0..megabytes {
        primary.sql("INSERT INTO test.wide (filler) SELECT REPEAT('x', 100000) FROM test.seq_1_to_10")?;
    }
    Ok(())
}

/// Random numbers whose seed is told, so that a failure can be repeated with `SEED=`.
pub fn seeded(what: &str) -> StdRng {
    let given = std::env::var("SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000_u64));
    eprintln!("{what}: SEED={seed}");
    StdRng::seed_from_u64(seed)
}
