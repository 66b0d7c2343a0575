//! Load, distance and size: every kind of replica gets what the primary wrote, whatever the others do, within the relay's bound on memory.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_testbed::fleet::fill;
use baton_testbed::template::{REPL_PASSWORD, program};
use baton_testbed::{
    Cmd, Fleet, Kind, MariaDb, Plan, Proc, Sysbench, Workload, scenario, wait_caught_up, wait_until, witness,
};

/// What a relay may use at its peak, in KiB: its caches and buffers, whatever passes through it.
const MEMORY: u64 = 200 << 10;

fn memory_is_bounded(fleet: &Fleet) -> Result<()> {
    for relay in fleet.relays() {
        let peak = relay.proc()?.peak_kb()?;
        ensure!(peak < MEMORY, "{} used {peak} KiB at its peak, allowed are {MEMORY}", relay.name());
    }
    Ok(())
}

/// The relay's number of a replica's connection.
fn connection(fleet: &Fleet, replica: &MariaDb) -> Result<u64> {
    let status = fleet.relay.status()?;
    let list = status["replicas"].as_array().context("no list of replicas")?;
    let ours = list.iter().filter(|entry| entry["server_id"] == replica.server_id() && entry["state"] != "gone");
    let numbers: Vec<_> = ours.filter_map(|entry| entry["connection"].as_u64()).collect();
    let [number] = numbers.as_slice() else { anyhow::bail!("{} is attached as {numbers:?}", replica.name()) };
    Ok(*number)
}

#[test]
fn sysbench_through_two_relays_is_equal_on_every_kind_of_replica() {
    scenario("sysbench_through_relays", |bed| {
        let plan = Plan::new(&[Kind::Gtid, Kind::Parallel, Kind::FilePosition]).second_relay();
        let fleet = plan.start(bed)?;
        let load = Sysbench::new(&fleet.primary).tables(4).table_size(500).threads(16);
        load.prepare()?;
        let report = load.run(Workload::ReadWrite, Duration::from_secs(10))?;
        let transactions = fleet.check()?;
        ensure!(
            transactions as u64 >= report.transactions,
            "{transactions} transactions in the log, sysbench counted {}",
            report.transactions
        );
        let files = witness::log_files(&fleet.relay)?.len();
        ensure!(files > 5, "only {files} files: the log was to rotate under load");
        fleet.check_readable()?;
        memory_is_bounded(&fleet)
    });
}

#[test]
fn replica_far_behind_catches_up_while_another_stays_at_the_head() {
    scenario("far_behind", |bed| {
        let fleet = Plan::new(&[Kind::Gtid, Kind::Gtid]).option("--max-binlog-size=4M").start(bed)?;
        let (near, far) = (&fleet.replicas[0], &fleet.replicas[1]);
        fill(&fleet.primary, 1)?;
        fleet.check()?;
        let before = connection(&fleet, near)?;
        far.stop_slave()?;
        fill(&fleet.primary, 60)?;
        wait_caught_up(&fleet.primary, near)?;
        far.start_slave()?;
        let mut rounds = 0;
        let goal = fleet.primary.gtid_binlog_pos()?;
        while far.gtid_slave_pos()? != goal && rounds < 30 {
            fleet.primary.sql("INSERT INTO test.wide (filler) VALUES ('meanwhile')")?;
            wait_caught_up(&fleet.primary, near)?;
            rounds += 1;
        }
        fleet.check()?;
        ensure!(rounds > 0, "it caught up before anything else was written");
        ensure!(connection(&fleet, near)? == before, "the replica at the head was disturbed");
        memory_is_bounded(&fleet)
    });
}

#[test]
fn clients_that_do_not_read_cost_bounded_memory_and_disturb_nobody() {
    scenario("not_reading", |bed| {
        let fleet = Plan::new(&[Kind::Gtid, Kind::Gtid]).option("--max-binlog-size=4M").start(bed)?;
        let (reading, frozen) = (&fleet.replicas[0], &fleet.replicas[1]);
        fill(&fleet.primary, 1)?;
        fleet.check()?;
        let dump = remote_dump(&fleet)?;
        let attached = || Ok(fleet.relay.status()?["replicas"].as_array().map_or(0, Vec::len));
        wait_until("the dump to be attached", attached, |count| *count >= 3)?;
        let before = connection(&fleet, reading)?;
        dump.freeze()?;
        frozen.freeze()?;
        let at_rest = fleet.relay.rss_kb()?;
        fill(&fleet.primary, 60)?;
        wait_caught_up(&fleet.primary, reading)?;
        let grown = fleet.relay.rss_kb()?.saturating_sub(at_rest);
        ensure!(grown < 100 << 10, "the relay grew by {grown} KiB for clients that do not read");
        ensure!(connection(&fleet, reading)? == before, "the replica that reads was disturbed");
        frozen.thaw()?;
        dump.thaw()?;
        fleet.check()?;
        memory_is_bounded(&fleet)
    });
}

/// A client that follows the relay's log from its beginning.
fn remote_dump(fleet: &Fleet) -> Result<Proc> {
    let out = fleet.primary.bed().path("dump");
    let cmd = Cmd::new(program("mariadb-binlog")?).args(["--no-defaults", "--read-from-remote-server", "--raw"]);
    let cmd = cmd.args(["--host=127.0.0.1", "--user=repl", "--stop-never", "--stop-never-slave-server-id=77"]);
    let cmd = cmd.args([format!("--port={}", fleet.relay.port()), format!("--password={REPL_PASSWORD}")]);
    let cmd = cmd.arg(format!("--result-file={}-", out.display())).arg("mysql-bin.000001");
    cmd.spawn(&fleet.primary.bed().log("dump"), None)
}

#[test]
fn transaction_of_300_mb_passes_within_the_bound_on_memory() {
    scenario("large_transaction", |bed| {
        let fleet = Plan::new(&[Kind::Gtid]).second_relay().option("--max-binlog-size=64M").start(bed)?;
        fleet.primary.sql("CREATE TABLE test.large (id INT PRIMARY KEY, filler LONGTEXT)")?;
        fleet.primary.sql("INSERT INTO test.large SELECT seq, REPEAT('x', 100000) FROM test.seq_1_to_3000")?;
        fleet.primary.sql("INSERT INTO test.large VALUES (0, 'behind it')")?;
        fleet.check()?;
        memory_is_bounded(&fleet)
    });
}

#[test]
fn single_events_around_the_packet_boundaries_pass_unchanged() {
    scenario("packet_boundaries", |bed| {
        let plan = Plan::new(&[Kind::Gtid, Kind::FilePosition]).second_relay();
        let fleet = plan.option("--max-allowed-packet=64M").option("--max-binlog-size=64M").start(bed)?;
        let primary = &fleet.primary;
        primary.sql("CREATE TABLE test.wide (id INT PRIMARY KEY, filler LONGBLOB)")?;
        let mut expected = Vec::new();
        let insert = |id: usize, length: usize| {
            primary.sql(&format!("INSERT INTO test.wide VALUES ({id}, REPEAT('x', {length}))"))
        };
        insert(0, 1000)?;
        let file = primary.binlog_path("mysql-bin.000001");
        let around = witness::row_event_sizes(&file)?.last().context("no rows event")? - 1000;
        // A packet is full with 0xffffff bytes, of which the first is the marker of an event.
        let full = 0xff_ffff - 1;
        for (id, size) in (1..).zip([full - 1, full, full + 1, 17_000_000, 2 * full, 2 * full + 1, 2 * full + 2]) {
            insert(id, size - around)?;
            expected.push(size);
        }
        expected.sort_unstable();
        fleet.check()?;
        let mut sizes = Vec::new();
        for path in witness::log_files(&fleet.relay)? {
            sizes.extend(witness::row_event_sizes(&path)?);
        }
        sizes.sort_unstable();
        ensure!(sizes.ends_with(&expected), "sizes of events: wanted {expected:?}, found {sizes:?}");
        fleet.check_readable()?;
        memory_is_bounded(&fleet)
    });
}
