//! Clients at the head while commits come at a rate: how long after a commit's return each client has it, and that all have all.
//!
//! Every commit takes the same bytes on the wire, so a client knows by counting bytes how many it has: it looks at nothing else.

use std::io::{ErrorKind, Read};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use baton_testbed::{MariaDb, RelayProc, Story};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::client::{From, Reader};
use super::figures::{Goal, Spread};

/// Clients, commits a second, and the bound of the 99th percentile in milliseconds.
const CROWDS: [(usize, u32, f64); 2] = [(10, 2000, 5.0), (1000, 200, 50.0)];
/// Bound of the relay's memory with all of them, in MB.
const BOUND_MB: f64 = 150.0;
/// Commits at the beginning that are not counted.
const WARM_UP: usize = 100;
/// Nothing has come for so long: what was to come has come.
const QUIET: Duration = Duration::from_millis(500);

/// Measures each crowd for so many seconds.
pub(crate) fn measure(story: &Story, primary: &MariaDb, relay: &RelayProc, seconds: u32) -> Result<Vec<Goal>> {
    primary.sql("CREATE TABLE IF NOT EXISTS test.crowd (number BIGINT PRIMARY KEY)")?;
    story.say(format!(
        "{:<32} {:>9} {:>9} {:>9} {:>9}   deliveries/s",
        "ms from commit to client", "p50", "p90", "p99", "max"
    ));
    let mut goals = Vec::new();
    let mut next = 1_000_000_000_u64;
    for (clients, rate, bound) in CROWDS {
        let count = (rate * seconds) as usize;
        let all = crowd(primary, relay, clients, rate, count, &mut next)?;
        let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(|at| all.quantile(at));
        let what = format!("{clients} clients, {rate} commits/s");
        story.say(format!(
            "{what:<32} {p50:>9.2} {p90:>9.2} {p99:>9.2} {max:>9.2}   {}",
            clients as u64 * u64::from(rate)
        ));
        goals.push(Goal::at_most(format!("{what}: delivery p99"), p99, bound, "ms"));
    }
    goals.push(Goal::at_most(
        "resident with 1,000 clients under load",
        relay.rss_kb()? as f64 * 1024.0 / 1e6,
        BOUND_MB,
        "MB",
    ));
    Ok(goals)
}

fn crowd(
    primary: &MariaDb,
    relay: &RelayProc,
    clients: usize,
    rate: u32,
    count: usize,
    next: &mut u64,
) -> Result<Spread> {
    relay.wait_head(primary)?;
    let (file, position) = primary.master_status()?;
    let from = From { file, position: u32::try_from(position).context("the binlog file is too large")? };
    let mut readers = Vec::new();
    for _ in 0..clients {
        let mut reader = Reader::connect(relay.port())?;
        reader.dump(&from, false)?;
        readers.push(reader);
    }
    // The first client tells what the beginning takes and what a commit does: the same for all.
    let [first, others @ ..] = &mut readers[..] else { return Ok(Spread::default()) };
    let beginning = taken(first)?;
    commit(primary, 1, 1, next)?;
    let size = taken(first)?;
    ensure!(beginning > 0 && size > 0, "{beginning} bytes before the first commit, {size} for it");
    others.iter_mut().try_for_each(|reader| reader.skim(beginning + size))?;
    let (committed, arrived) = thread::scope(|scope| {
        let clients = scope.spawn(|| arrivals(&readers, size, count));
        let committed = commit(primary, rate, count, next)?;
        let arrived = clients.join().map_err(|_| anyhow!("the clients panicked"))??;
        anyhow::Ok((committed, arrived))
    })?;
    let mut delays = Spread::default();
    for client in &arrived {
        for (committed, arrived) in committed.iter().zip(client).skip(WARM_UP) {
            delays.push(arrived.saturating_duration_since(*committed).as_secs_f64() * 1e3);
        }
    }
    Ok(delays)
}

/// Commits at the rate; when each returned.
fn commit(primary: &MariaDb, rate: u32, count: usize, next: &mut u64) -> Result<Vec<Instant>> {
    let mut session = primary.session()?;
    let mut due = Instant::now();
    (0..count)
        .map(|_| {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            due += Duration::from_secs(1) / rate;
            *next += 1;
            session.query(&format!("INSERT INTO test.crowd VALUES ({next})"))?;
            Ok(Instant::now())
        })
        .collect()
}

/// Bytes that come until it is quiet.
fn taken(reader: &mut Reader) -> Result<u64> {
    let mut socket = reader.socket();
    socket.set_read_timeout(Some(QUIET))?;
    let (mut room, mut bytes) = ([0; 4096], 0);
    loop {
        match socket.read(&mut room) {
            Ok(0) => return Err(anyhow!("the relay closed the stream")),
            Ok(n) => bytes += n as u64,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(bytes),
            Err(error) => return Err(error.into()),
        }
    }
}

/// When each of `count` commits of `size` bytes was there, for each client. One thread reads for all: to wake a thread for each client would cost the cores more
/// than to feed it does.
fn arrivals(readers: &[Reader], size: u64, count: usize) -> Result<Vec<Vec<Instant>>> {
    let readable = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (number, reader) in readers.iter().enumerate() {
        epoll::add(&readable, reader.socket(), epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
    }
    let mut found: Vec<(u64, Vec<Instant>)> = readers.iter().map(|_| (0, Vec::with_capacity(count))).collect();
    let (mut room, mut ready) = ([0; 16 * 1024], Vec::with_capacity(256));
    let mut left = readers.len();
    let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
    while left > 0 {
        ready.clear();
        epoll::wait(&readable, spare_capacity(&mut ready), Some(&patience))?;
        ensure!(!ready.is_empty(), "{left} clients were not fed");
        for event in &ready {
            let number = usize::try_from(event.data.u64())?;
            let (Some(reader), Some((bytes, found))) = (readers.get(number), found.get_mut(number)) else { continue };
            let n = reader.socket().read(&mut room).context("a client was not fed")?;
            ensure!(n > 0, "the relay closed the stream");
            let now = Instant::now();
            *bytes += n as u64;
            let had_all = found.len() == count;
            found.resize((usize::try_from(*bytes / size)?).min(count), now);
            left -= usize::from(!had_all && found.len() == count);
        }
    }
    Ok(found.into_iter().map(|(_, found)| found).collect())
}
