//! The way of a commit: how much later it reaches a client through the relay, or through an intermediate replica, than straight from the primary.
//!
//! Two clients read at the same time in this process, one of them from the primary; the difference of their clocks' readings for the same
//! transaction is the added delay.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use baton_testbed::{MariaDb, RelayProc, Story, wait_caught_up};

use super::client::{From, Reader, gtid_sequence, is_commit};
use super::figures::{Goal, Spread};

/// Commits a second.
const RATE: u64 = 1000;
/// Share of the samples at the beginning that are not counted: connections and caches are cold.
const WARM_UP: f64 = 0.1;

/// Milliseconds, all rounds together.
#[derive(Default)]
struct Delays {
    /// From the commit's return to its arrival straight from the primary.
    direct: Vec<f64>,
    /// From there to its arrival by the other way.
    added: Vec<f64>,
}

/// Measures both ways in turn.
pub(crate) fn measure(
    story: &Story,
    primary: &MariaDb,
    relay: &RelayProc,
    replica: &MariaDb,
    rounds: usize,
    seconds: u64,
) -> Result<Vec<Goal>> {
    primary.sql("CREATE TABLE test.delay (id BIGINT PRIMARY KEY AUTO_INCREMENT, number BIGINT)")?;
    let mut by_relay = Delays::default();
    let mut by_replica = [Delays::default(), Delays::default()];
    let mut disk = Vec::new();
    for _ in 0..rounds {
        // The replica rests meanwhile: it would take the processor away from the relay.
        replica.stop_slave()?;
        relay.wait_head(primary)?;
        let at = position(primary)?;
        round(primary, (relay.port(), at), seconds, &mut by_relay)?;
        disk.extend(bare_syncs(&relay.data_dir().with_extension("sync"), (seconds * RATE / 4) as usize)?);
        replica.start_slave()?;
        for (durable, delays) in by_replica.iter_mut().enumerate() {
            replica.sql(&format!("SET GLOBAL sync_binlog={durable}"))?;
            replica.sql(&format!("SET GLOBAL innodb_flush_log_at_trx_commit={}", 2 - durable))?;
            wait_caught_up(primary, replica)?;
            let at = position(replica)?;
            round(primary, (replica.port(), at), seconds, delays)?;
        }
    }
    story.say(format!("{:<44} {:>9} {:>9} {:>9}   samples", "ms", "p50", "p90", "p99"));
    let line = |name: &str, values: &[f64]| {
        let all: Spread = values.iter().copied().collect();
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|at| all.quantile(at));
        story.say(format!("{name:<44} {p50:>9.3} {p90:>9.3} {p99:>9.3}   {}", values.len()));
        p50
    };
    line("primary: from the commit's return to a client", &by_relay.direct);
    let added = line("added by the relay (durable before it sends)", &by_relay.added);
    let [quick, durable] = by_replica;
    line("added by the replica, as durable", &durable.added);
    line("added by the replica, not durable", &quick.added);
    line("for comparison: one write and fdatasync", &disk);
    Ok(vec![Goal::at_most("added delay at 1,000 commits/s, p50", added, 0.5, "ms")])
}

/// Milliseconds of one small write with its `fdatasync` at the end of a file, at the same rate: what durability costs on this disk at the least.
fn bare_syncs(path: &Path, count: usize) -> Result<Vec<f64>> {
    let mut file = File::create(path).with_context(|| format!("can't create {}", path.display()))?;
    let mut took = Vec::with_capacity(count);
    let mut due = Instant::now();
    for _ in 0..count {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let began = Instant::now();
        file.write_all(&[0; 250])?;
        file.sync_data()?;
        took.push(millis(began.elapsed()));
        due += Duration::from_secs(1) / RATE as u32;
    }
    Ok(took)
}

fn position(server: &MariaDb) -> Result<From> {
    let (file, position) = server.master_status()?;
    Ok(From { file, position: u32::try_from(position).context("the binlog file is too large")? })
}

fn round(primary: &MariaDb, (port, at): (u16, From), seconds: u64, delays: &mut Delays) -> Result<()> {
    let count = usize::try_from(seconds * RATE)?;
    let straight = position(primary)?;
    let (mut direct, mut other) = (Reader::connect(primary.port())?, Reader::connect(port)?);
    direct.dump(&straight, false)?;
    other.dump(&at, false)?;
    let (committed, direct, other) = thread::scope(|scope| {
        let direct = scope.spawn(move || arrivals(&mut direct, count));
        let other = scope.spawn(move || arrivals(&mut other, count));
        let committed = write(primary, count);
        let panicked = |_| anyhow!("a client panicked");
        anyhow::Ok((committed?, direct.join().map_err(panicked)??, other.join().map_err(panicked)??))
    })?;
    let between = |from: &Instant, to: &Instant| {
        to.checked_duration_since(*from).map_or_else(|| -millis(from.duration_since(*to)), millis)
    };
    for number in (count as f64 * WARM_UP) as usize..count {
        let (Some(committed), Some((seq, direct)), Some((same, other))) =
            (committed.get(number), direct.get(number), other.get(number))
        else {
            break;
        };
        anyhow::ensure!(seq == same, "transaction {number} is {seq} on the primary and {same} behind port {port}");
        delays.direct.push(between(committed, direct));
        delays.added.push(between(direct, other));
    }
    Ok(())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Commits at the rate; when each returned.
fn write(primary: &MariaDb, count: usize) -> Result<Vec<Instant>> {
    let mut session = primary.session()?;
    let mut returned = Vec::with_capacity(count);
    let mut due = Instant::now() + Duration::from_millis(200);
    for number in 0..count {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        session.query(&format!("INSERT INTO test.delay (number) VALUES ({number})"))?;
        returned.push(Instant::now());
        due += Duration::from_secs(1) / RATE as u32;
    }
    Ok(returned)
}

/// Sequence number and arrival of the next `count` transactions.
fn arrivals(reader: &mut Reader, count: usize) -> Result<Vec<(u64, Instant)>> {
    let mut found = Vec::with_capacity(count);
    let mut sequence = 0;
    reader.events(|at, event, _| {
        if let Some(number) = gtid_sequence(event) {
            sequence = number;
        } else if is_commit(event) {
            found.push((sequence, at));
        }
        Ok(found.len() < count)
    })?;
    Ok(found)
}
