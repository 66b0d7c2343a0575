//! Reading a whole log: how fast each server delivers it to 1, 4 and 16 clients, and what that costs the server.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};
use baton_testbed::{Proc, Story};

use super::client::{From, Reader, Stream, plain, skim};
use super::figures::{Goal, Spread};
use super::floor::Floor;

/// Bytes that each measurement delivers at least, so that the clock tick of processor times (10 ms) does not matter.
const AT_LEAST: u64 = 1 << 30;

/// Who is measured.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) proc: Proc,
    pub(crate) port: u16,
    pub(crate) from: From,
}

/// What one server did with one number of clients.
#[derive(Default)]
struct Figures {
    megabytes: Spread,
    events: Spread,
    cpu: Spread,
}

/// One server's stream.
struct Subject<'a> {
    name: &'static str,
    proc: &'a Proc,
    port: u16,
    /// `None` for the floor, which sends without being asked.
    from: Option<&'a From>,
    stream: Stream,
}

/// Measures all servers with each number of clients in turn, `rounds` times; prints the table. The first server is what the others are compared with,
/// the second one the relay.
pub(crate) fn measure(
    story: &Story,
    what: &'static str,
    servers: &[Server],
    floor: &Floor,
    counts: &[usize],
    rounds: usize,
) -> Result<Vec<Goal>> {
    let mut subjects = Vec::new();
    for server in servers {
        let mut reader = Reader::connect(server.port)?;
        reader.dump(&server.from, true)?;
        let stream = reader.survey()?;
        subjects.push(Subject {
            name: server.name,
            proc: &server.proc,
            port: server.port,
            from: Some(&server.from),
            stream,
        });
    }
    let events = subjects.first().map_or(0, |s| s.stream.events);
    for subject in &subjects {
        // An intermediate replica writes a log of its own, with own rotations; the rest is the same.
        anyhow::ensure!(
            subject.stream.events.abs_diff(events) <= 16,
            "{} sends {} events, the primary {events}",
            subject.name,
            subject.stream.events
        );
    }
    let stream = Stream { bytes: floor.bytes, events };
    subjects.push(Subject { name: "sendfile", proc: &floor.proc, port: floor.port, from: None, stream });
    let bytes = floor.bytes as f64;
    story.say(format!(
        "{what}: {:.0} MB, {events} events of {:.0} bytes in the mean",
        bytes / 1e6,
        bytes / events as f64
    ));
    let head: String = subjects.iter().map(|s| format!("{:>22}", s.name)).collect();
    story.say(format!("{:<24}{head}   relay/primary  relay/sendfile", ""));

    let mut goals = Vec::new();
    for &clients in counts {
        let mut all: Vec<Figures> = subjects.iter().map(|_| Figures::default()).collect();
        let (mut speed, mut cost, mut over_floor) = (Spread::default(), Spread::default(), Spread::default());
        for _ in 0..rounds {
            let mut cpus = Vec::new();
            let mut speeds = Vec::new();
            for (subject, figures) in subjects.iter().zip(&mut all) {
                let (seconds, cpu, readings) = once(subject, clients)?;
                let bytes = readings * subject.stream.bytes as f64;
                figures.megabytes.push(bytes / 1e6 / seconds);
                figures.events.push(readings * subject.stream.events as f64 / 1e3 / seconds);
                figures.cpu.push(cpu / (bytes / 1e9));
                cpus.push(cpu / (bytes / 1e9));
                speeds.push(bytes / seconds);
            }
            if let ([primary, relay, ..], [.., floor]) = (&cpus[..], &cpus[..]) {
                cost.push(relay / primary);
                over_floor.push(relay / floor);
            }
            if let [primary, relay, ..] = speeds[..] {
                speed.push(relay / primary);
            }
        }
        let line = |label: &str, pick: fn(&Figures) -> &Spread, ratios: String| {
            let cells: String = all.iter().map(|f| format!("{:>22}", pick(f))).collect();
            story.say(format!("{clients:>2} clients {label:<14}{cells}   {ratios}"));
        };
        line("MB/s", |f| &f.megabytes, format!("{:.2}", speed.median()));
        line("1000 events/s", |f| &f.events, String::new());
        line("CPU s/GB", |f| &f.cpu, format!("{:<13.2}  {:.2}", cost.median(), over_floor.median()));
        if clients >= 4 {
            goals.push((clients, speed.median(), cost.median(), over_floor.median()));
        }
    }
    let small = what.starts_with("small");
    let (cost_bound, speed_bound, name) = if small { (0.2, 2.0, "small events") } else { (1.0, 1.5, "16 KB rows") };
    let judged = goals.into_iter().flat_map(|(clients, speed, cost, over_floor)| {
        let what = |figure: &str| format!("{name}, {clients} clients: {figure}");
        let floor = small.then(|| Goal::at_most(what("CPU s/GB, relay/sendfile"), over_floor, 2.0, "x"));
        [
            Some(Goal::at_most(what("CPU s/GB, relay/primary"), cost, cost_bound, "x")),
            floor,
            Some(Goal::at_least(what("MB/s, relay/primary"), speed, speed_bound, "x")),
        ]
    });
    Ok(judged.flatten().collect())
}

/// One reading of everything by that many clients: seconds, the server's processor seconds, readings in all.
fn once(subject: &Subject<'_>, clients: usize) -> Result<(f64, f64, f64)> {
    let repeats = AT_LEAST.div_ceil(subject.stream.bytes * clients as u64).max(1);
    let ready = Barrier::new(clients + 1);
    let before = subject.proc.cpu_time()?;
    let mut began = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(|| read(subject, repeats, &ready))).collect();
        ready.wait();
        began = Instant::now();
        threads.into_iter().try_for_each(|t| t.join().map_err(|_| anyhow!("a client panicked"))?)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = subject.proc.cpu_time()?.saturating_sub(before).as_secs_f64();
    Ok((seconds, cpu, (clients as u64 * repeats) as f64))
}

fn read(subject: &Subject<'_>, repeats: u64, ready: &Barrier) -> Result<()> {
    let Some(from) = subject.from else {
        ready.wait();
        return (0..repeats).try_for_each(|_| skim(&plain(subject.port)?, subject.stream.bytes));
    };
    let readers: Result<Vec<Reader>> = (0..repeats).map(|_| Reader::connect(subject.port)).collect();
    // Whoever fails must not keep the others waiting.
    ready.wait();
    for mut reader in readers? {
        reader.dump(from, true)?;
        reader.skim_to_end(subject.stream)?;
    }
    Ok(())
}
