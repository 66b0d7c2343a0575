//! What takes long: full counts and sizes of what the end-to-end tests do in small.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_testbed::fleet::fill;
use baton_testbed::{DEADLINE, MariaDb, Proxy, RowWriter, Sysbench, Volume, Workload, wait_for, wait_until, witness};
use rand::Rng;

use super::Soak;
use super::faults::kill;

/// How long the largest may take to be applied.
const PATIENCE: Duration = Duration::from_secs(1200);

#[derive(Debug, Clone, Copy)]
pub(super) enum Heavy {
    /// 64 threads for a minute.
    Sysbench,
    /// The relay killed twenty times under load.
    KilledTwentyTimes,
    /// 1 GB behind, while others are at the head.
    FarBehind,
    /// A transaction of 1 GiB.
    GiantTransaction,
    /// Events at and around the limits of packets.
    GiantEvents,
    /// A relay whose disk is full for a while.
    FullDisk,
    /// A relay with two paths, of which now one fails, now the other.
    TwoPaths,
}

pub(super) const HEAVY: [Heavy; 7] = [
    Heavy::Sysbench,
    Heavy::KilledTwentyTimes,
    Heavy::FarBehind,
    Heavy::GiantTransaction,
    Heavy::GiantEvents,
    Heavy::FullDisk,
    Heavy::TwoPaths,
];

impl Soak {
    pub(super) fn weigh(&mut self, test: Heavy) -> Result<()> {
        let primary = self.fleet.primary.clone();
        match test {
            Heavy::Sysbench => {
                let load = Sysbench::new(&primary).tables(8).table_size(1000).threads(64);
                load.prepare()?;
                load.run(Workload::ReadWrite, Duration::from_secs(60))?;
                self.wait_applied()?;
                self.fleet.check()?;
                load.cleanup()
            }
            Heavy::KilledTwentyTimes => {
                let writer = RowWriter::start(&primary, "killed", 8, Duration::ZERO)?;
                for _ in 0..20 {
                    let goal = writer.confirmed() + self.random.random_range(0..800);
                    wait_for("commits to go on", DEADLINE, || Ok((writer.confirmed() >= goal).then_some(())))?;
                    kill(&self.fleet.relay)?;
                }
                writer.stop()?;
                self.fleet.check()?;
                primary.sql("DROP TABLE test.killed").map(drop)
            }
            Heavy::FarBehind => {
                let (near, far) = (&self.fleet.replicas[0], &self.fleet.replicas[1]);
                far.stop_slave()?;
                fill(&primary, 1000)?;
                self.wait_position(near)?;
                far.start_slave()?;
                while far.gtid_slave_pos()? != primary.gtid_binlog_pos()? {
                    primary.sql("INSERT INTO test.wide (filler) VALUES ('meanwhile')")?;
                    self.wait_position(near)?;
                    self.wait_position_or(far, Duration::from_millis(200))?;
                }
                self.drop_wide()
            }
            Heavy::GiantTransaction => {
                primary
                    .sql("CREATE TABLE IF NOT EXISTS test.wide (id INT AUTO_INCREMENT PRIMARY KEY, filler LONGTEXT)")?;
                let mut session = primary.session()?;
                session.set_timeout(Some(PATIENCE))?;
                session.query("INSERT INTO test.wide (filler) SELECT REPEAT('x', 100000) FROM test.seq_1_to_10738")?;
                self.drop_wide()
            }
            Heavy::GiantEvents => {
                primary
                    .sql("CREATE TABLE IF NOT EXISTS test.wide (id INT AUTO_INCREMENT PRIMARY KEY, filler LONGTEXT)")?;
                for length in
                    [17_000_000, (1 << 24) - 64, 1 << 25, 60_000_000].into_iter().chain((1 << 24) - 60..(1 << 24) - 45)
                {
                    primary.sql(&format!("INSERT INTO test.wide (filler) VALUES (REPEAT('x', {length}))"))?;
                }
                self.drop_wide()
            }
            Heavy::FullDisk => self.full_disk(&primary),
            Heavy::TwoPaths => self.two_paths(&primary),
        }
    }

    fn full_disk(&mut self, primary: &MariaDb) -> Result<()> {
        self.count += 1;
        let name = format!("full-{}", self.count);
        let Some(volume) = Volume::mount(&self.bed.path(&name).join("data"), 8 << 10)? else {
            eprintln!("soak: no full disk: mounting a tmpfs needs root");
            return Ok(());
        };
        let relay = self.bed.relay(&name).server_id(9100 + self.count).upstream(primary).without_waiting().start()?;
        fill(primary, 20)?;
        let ready = || Ok(relay.get("/readyz")?.0);
        wait_until("/readyz to answer 503", ready, |code| *code == 503)?;
        volume.resize(2 << 20)?;
        relay.wait_ready()?;
        relay.wait_head(primary)?;
        witness::check_mirror(primary, &relay)?;
        witness::check_each_once(&relay)?;
        let status = relay.term()?;
        ensure!(status.success(), "it ended with {status}");
        drop(volume);
        self.drop_wide()
    }

    fn two_paths(&mut self, primary: &MariaDb) -> Result<()> {
        self.count += 1;
        let paths = [Proxy::start(primary.address())?, Proxy::start(primary.address())?];
        let relay = self
            .bed
            .relay(&format!("paths-{}", self.count))
            .server_id(9100 + self.count)
            .upstream_ports(&[paths[0].port(), paths[1].port()])
            .ack("off")
            .set("upstream", "heartbeat", "\"100ms\"")
            .start()?;
        primary.sql("CREATE TABLE IF NOT EXISTS test.wide (id INT AUTO_INCREMENT PRIMARY KEY, filler LONGTEXT)")?;
        for _ in 0..20 {
            let path = &paths[self.random.random_range(0..2)];
            let refused = self.random.random_bool(0.5);
            if refused {
                path.refuse(true);
                path.reset_now();
            } else {
                path.stall();
            }
            primary.sql("INSERT INTO test.wide (filler) VALUES ('over one path or the other')")?;
            relay.wait_head(primary)?;
            if self.random.random_bool(0.5) {
                thread::sleep(Duration::from_millis(self.random.random_range(0..3000)));
            }
            path.refuse(false);
            path.resume();
            primary.sql("INSERT INTO test.wide (filler) VALUES ('over both')")?;
            relay.wait_head(primary)?;
        }
        witness::check_mirror(primary, &relay)?;
        witness::check_each_once(&relay)?;
        let status = relay.term()?;
        ensure!(status.success(), "it ended with {status}");
        self.drop_wide()
    }

    /// Compares, then gives the room back.
    fn drop_wide(&self) -> Result<()> {
        self.wait_applied()?;
        self.fleet.check()?;
        self.fleet.primary.sql("DROP TABLE test.wide").map(drop)
    }

    fn wait_applied(&self) -> Result<()> {
        self.fleet.replicas.iter().try_for_each(|replica| self.wait_position(replica))
    }

    fn wait_position(&self, replica: &MariaDb) -> Result<()> {
        self.wait_position_or(replica, PATIENCE)?.then_some(()).with_context(|| format!("{} is behind", replica.name()))
    }

    /// Whether it had all in time.
    fn wait_position_or(&self, replica: &MariaDb, limit: Duration) -> Result<bool> {
        let goal = self.fleet.primary.gtid_binlog_pos()?;
        let reached =
            wait_for(
                "the replica to have applied all",
                limit,
                || Ok((replica.gtid_slave_pos()? == goal).then_some(())),
            );
        replica.check_replication()?;
        Ok(reached.is_ok())
    }
}
