//! Many clients at the head: what they take while they idle, and what a commit costs that all of them get.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use baton_testbed::{MariaDb, Proc, Story};

use super::client::{From, Reader};
use super::figures::Goal;

/// Clients attached at the same time.
const COUNTS: [usize; 3] = [1, 100, 1000];
/// What a server may take to give memory back, or to deliver what is in flight.
const SETTLE: Duration = Duration::from_secs(2);
/// Bound for the relay with the most clients, in MB.
const BOUND_MB: f64 = 100.0;
/// Commits that everybody gets, and the pause between two. They fit the sockets' buffers, so nobody has to read meanwhile.
const COMMITS: u32 = 300;
const PAUSE: Duration = Duration::from_millis(5);

/// Attaches ever more clients, which all read the log from `from` at the same time and stay; prints and judges.
pub(crate) fn measure(
    story: &Story,
    from: &From,
    primary: &MariaDb,
    servers: [(&str, &Proc, u16); 2],
) -> Result<Vec<Goal>> {
    primary.sql("CREATE TABLE IF NOT EXISTS test.head (id BIGINT PRIMARY KEY AUTO_INCREMENT, number BIGINT)")?;
    let head: String = COUNTS.iter().map(|n| format!("{:>16}", format!("{n} clients"))).collect();
    story.say(format!("{:<36}{:>10}{head}", "", "none"));
    let mut goals = Vec::new();
    for (name, proc, port) in servers {
        thread::sleep(SETTLE);
        let mut memory = format!("{:<36}{:>10.1}", format!("{name}: resident MB"), megabytes(proc)?);
        let alone = commits(primary, proc)?;
        let mut cost = format!("{:<36}{:>10}", format!("{name}: CPU us a commit and client"), "");
        let mut clients: Vec<Reader> = Vec::new();
        for count in COUNTS {
            let mut new = (clients.len()..count).map(|_| Reader::connect(port)).collect::<Result<Vec<_>>>()?;
            let mut reader = Reader::connect(port)?;
            reader.dump(from, true)?;
            let bytes = reader.survey()?.bytes;
            for client in &mut new {
                client.dump(from, false)?;
            }
            for client in &mut new {
                client.skim(bytes)?;
            }
            clients.append(&mut new);
            thread::sleep(SETTLE);
            let now = megabytes(proc)?;
            memory += &format!("{now:>16.1}");
            if name == "relay" && count == 1000 {
                goals.push(Goal::at_most("resident with 1,000 idle clients", now, BOUND_MB, "MB"));
            }
            let each = (commits(primary, proc)? - alone) / f64::from(COMMITS) / count as f64;
            cost += &format!("{:>16.1}", each * 1e6);
            clients.iter_mut().try_for_each(Reader::drain)?;
        }
        story.say(memory);
        story.say(cost);
    }
    Ok(goals)
}

/// Processor seconds that the server uses while commits are made and delivered.
fn commits(primary: &MariaDb, proc: &Proc) -> Result<f64> {
    let mut session = primary.session()?;
    let before = proc.cpu_time()?;
    let mut due = Instant::now();
    for number in 0..COMMITS {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        session.query(&format!("INSERT INTO test.head (number) VALUES ({number})"))?;
        due += PAUSE;
    }
    thread::sleep(SETTLE);
    Ok(proc.cpu_time()?.saturating_sub(before).as_secs_f64())
}

fn megabytes(proc: &Proc) -> Result<f64> {
    Ok(proc.rss_kb()? as f64 * 1024.0 / 1e6)
}
