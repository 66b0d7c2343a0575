//! What a commit waits for: its latency with the relay as the one that acknowledges, beside a MariaDB replica that does, as durable or not.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use baton_testbed::{Bed, MariaDb, Story, wait_for, wait_until};
use serde_json::json;

use super::figures::{Goal, Spread};

/// Sessions that commit, and the bounds of the medians' ratios: durable, received.
const WRITERS: [(usize, f64, f64); 3] = [(1, 0.7, 1.0), (16, 0.4, 0.8), (64, 0.4, 0.8)];
/// Of each session's commits, one in so many is not counted, at the beginning: those that are slow do only a few.
const WARM_UP: usize = 10;

/// How long the replica may take for what it missed.
const CATCH_UP: Duration = Duration::from_secs(600);

/// Who acknowledges.
const ACKERS: [&str; 4] = ["relay, durable", "replica, sync_relay_log=1", "relay, received", "replica, default"];

/// Measures all of them in turn, for so many seconds each.
pub(crate) fn measure(
    bed: &Bed,
    story: &Story,
    primary: &MariaDb,
    replica: &MariaDb,
    rounds: usize,
    seconds: u64,
) -> Result<Vec<Goal>> {
    primary.sql("CREATE TABLE IF NOT EXISTS test.acks (id BIGINT PRIMARY KEY AUTO_INCREMENT, number BIGINT)")?;
    primary.sql("SET GLOBAL rpl_semi_sync_master_timeout=60000, GLOBAL rpl_semi_sync_master_wait_point=AFTER_SYNC")?;
    let relays = [("durable", 9003), ("received", 9004)].map(|(mode, id)| {
        let relay = bed.relay(&format!("acker-{mode}")).server_id(id).upstream(primary).start_at("latest").ack(mode);
        (mode, relay.start())
    });
    let [durable, received] = relays.map(|(_, relay)| relay);
    let (durable, received) = (durable?, received?);
    for relay in [&durable, &received] {
        relay.wait_head(primary)?;
        ensure!(relay.term()?.success(), "a relay did not stop cleanly");
    }
    let mut latencies: [[Spread; WRITERS.len()]; ACKERS.len()] = Default::default();
    for _ in 0..rounds {
        for (acker, into) in latencies.iter_mut().enumerate() {
            let relay = [Some(&durable), None, Some(&received), None][acker];
            match relay {
                Some(relay) => {
                    // It rests meanwhile: as nobody but the replica is attached in its turn, so nobody but the relay in this one.
                    replica.sql("STOP SLAVE; SET GLOBAL rpl_semi_sync_slave_enabled=OFF")?;
                    relay.restart()?;
                    let state = || Ok(relay.status()?["upstream"]["acking"].clone());
                    wait_until("the relay to acknowledge", state, |acking| *acking == json!(true))?;
                }
                None => {
                    // What it missed while it rested comes without syncs, of which there would be one for each event.
                    replica.sql(
                        "STOP SLAVE; SET GLOBAL rpl_semi_sync_slave_enabled=ON; SET GLOBAL sync_relay_log=10000; START SLAVE",
                    )?;
                    catch_up(primary, replica)?;
                    if acker == 1 {
                        replica.sql("SET GLOBAL sync_relay_log=1")?;
                    }
                }
            }
            // The primary takes a closed acker for one until it sends to it in vain.
            let ackers = || {
                primary.sql("INSERT INTO test.acks (number) VALUES (0)")?;
                status(primary, "Rpl_semi_sync_master_clients")
            };
            wait_until("one acker", ackers, |n| n == "1")?;
            primary.sql("SET GLOBAL rpl_semi_sync_master_enabled=ON")?;
            for ((writers, ..), into) in WRITERS.iter().zip(into) {
                commits(primary, *writers, Duration::from_secs(seconds), into)?;
            }
            let unprotected = status(primary, "Rpl_semi_sync_master_no_tx")?;
            primary.sql("SET GLOBAL rpl_semi_sync_master_enabled=OFF")?;
            if let Some(relay) = relay {
                ensure!(relay.term()?.success(), "a relay did not stop cleanly");
            }
            story.say(format!("{:<28} {unprotected} commits so far were not acknowledged", ACKERS[acker]));
        }
    }
    replica.sql("STOP SLAVE; SET GLOBAL rpl_semi_sync_slave_enabled=OFF; START SLAVE")?;
    story.say(format!(
        "{:<28} {}",
        "ms a commit, p50 (p99)",
        WRITERS.map(|(n, ..)| format!("{:>22}", format!("{n} writers"))).concat()
    ));
    for (name, of) in ACKERS.iter().zip(&latencies) {
        let figures =
            of.iter().map(|all| format!("{:>22}", format!("{:.2} ({:.2})", all.quantile(0.5), all.quantile(0.99))));
        story.say(format!("{name:<28} {}", figures.collect::<String>()));
    }
    let mut goals = Vec::new();
    for (n, (writers, durable, received)) in WRITERS.into_iter().enumerate() {
        let ratio = |own: usize, other: usize| latencies[own][n].quantile(0.5) / latencies[other][n].quantile(0.5);
        goals.push(Goal::at_most(
            format!("commit p50, {writers} writers: durable/durable replica"),
            ratio(0, 1),
            durable,
            "x",
        ));
        goals.push(Goal::at_most(
            format!("commit p50, {writers} writers: received/default replica"),
            ratio(2, 3),
            received,
            "x",
        ));
    }
    Ok(goals)
}

/// Waits until the replica has what it missed while it rested: some ten thousand commits, by one thread.
fn catch_up(primary: &MariaDb, replica: &MariaDb) -> Result<()> {
    let goal = primary.gtid_binlog_pos()?;
    wait_for("the replica to catch up", CATCH_UP, || {
        replica.check_replication()?;
        Ok((replica.gtid_slave_pos()? == goal).then_some(()))
    })
}

fn status(server: &MariaDb, name: &str) -> Result<String> {
    server.value(&format!("SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME='{name}'"))
}

/// Milliseconds of each commit of `writers` sessions that do nothing else for so long.
fn commits(primary: &MariaDb, writers: usize, time: Duration, into: &mut Spread) -> Result<()> {
    let sessions = (0..writers).map(|_| primary.session()).collect::<Result<Vec<_>>>()?;
    let ends = Instant::now() + time;
    let all: Vec<Result<Vec<f64>>> = thread::scope(|scope| {
        let running: Vec<_> = sessions
            .into_iter()
            .enumerate()
            .map(|(number, mut session)| {
                scope.spawn(move || {
                    let mut took = Vec::new();
                    while Instant::now() < ends {
                        let began = Instant::now();
                        session.query(&format!("INSERT INTO test.acks (number) VALUES ({number})"))?;
                        took.push(began.elapsed().as_secs_f64() * 1e3);
                    }
                    Ok(took)
                })
            })
            .collect();
        running.into_iter().map(|writer| writer.join().unwrap_or_else(|_| Err(anyhow!("a writer panicked")))).collect()
    });
    for took in all {
        let took = took?;
        took.iter().skip(took.len().div_ceil(WARM_UP)).for_each(|ms| into.push(*ms));
    }
    Ok(())
}
