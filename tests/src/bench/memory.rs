//! Memory with many clients that have read everything and wait.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use baton_testbed::{Proc, Story};

use super::client::{From, Reader};
use super::figures::Goal;

/// Clients attached at the same time.
const COUNTS: [usize; 3] = [1, 100, 1000];
/// What a server may take to give memory back.
const SETTLE: Duration = Duration::from_secs(2);
/// Bound for the relay with the most clients, in MB.
const BOUND_MB: f64 = 100.0;

/// Attaches ever more clients, which all read the log from `from` at the same time and stay; prints and judges the relay's memory.
pub(crate) fn measure(story: &Story, from: &From, servers: [(&str, &Proc, u16); 2]) -> Result<Vec<Goal>> {
    let head: String = COUNTS.iter().map(|n| format!("{:>16}", format!("{n} clients"))).collect();
    story.say(format!("{:<12}{:>10}{head}", "resident MB", "none"));
    let mut goals = Vec::new();
    for (name, proc, port) in servers {
        let mut reader = Reader::connect(port)?;
        reader.dump(from, true)?;
        let stream = reader.survey()?;
        drop(reader);
        thread::sleep(SETTLE);
        let mut line = format!("{name:<12}{:>10.1}", megabytes(proc)?);
        let mut clients: Vec<Reader> = Vec::new();
        for count in COUNTS {
            let mut new = (clients.len()..count).map(|_| Reader::connect(port)).collect::<Result<Vec<_>>>()?;
            for client in &mut new {
                client.dump(from, false)?;
            }
            for client in &mut new {
                client.skim(stream.bytes)?;
            }
            clients.append(&mut new);
            thread::sleep(SETTLE);
            let now = megabytes(proc)?;
            line += &format!("{now:>16.1}");
            if name == "relay" && count == 1000 {
                goals.push(Goal::at_most("resident with 1,000 idle clients", now, BOUND_MB, "MB"));
            }
        }
        story.say(line);
    }
    Ok(goals)
}

fn megabytes(proc: &Proc) -> Result<f64> {
    Ok(proc.rss_kb()? as f64 * 1024.0 / 1e6)
}
