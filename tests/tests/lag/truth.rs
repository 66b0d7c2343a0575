//! Milliseconds against the truth, for every way to fall behind.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_testbed::{
    Bed, MariaDb, Proxy, RelayProc, RowWriter, Source, scenario, wait_caught_up, wait_for, wait_until,
};

use crate::support::{TOLERANCE, Told, told_current, told_until};

/// The ways to fall behind: name of the replica, and the bottleneck that is to be told.
const FAULTS: [(&str, &str); 6] = [
    ("stopped", "stopped"),
    ("locked", "apply"),
    ("delayed", "apply"),
    ("cut-off", "receive"),
    ("frozen", "network"),
    ("killed", "stopped"),
];

fn start(bed: &Bed, name: &str, server_id: u32) -> Result<MariaDb> {
    bed.mariadb(name).server_id(server_id).option(&format!("--report-host={name}")).start()
}

/// Inserts a row; the moments between which it has arrived at the relay.
fn arrival(primary: &MariaDb, relay: &RelayProc, row: u32) -> Result<(Instant, Instant)> {
    let before = Instant::now();
    primary.sql(&format!("INSERT INTO test.t VALUES ({row})"))?;
    relay.wait_head(primary)?;
    Ok((before, Instant::now()))
}

/// Checks a few times that all of them lag by the age of what arrived then.
fn check_all(relay: &RelayProc, names: &[&str], arrived: (Instant, Instant)) -> Result<()> {
    for name in names {
        // Of the frozen one only the next sample's absence tells.
        told_until(relay, name, "to be told behind", |told| Ok(!told.is_current()?))?;
    }
    for _ in 0..5 {
        for name in names {
            Told::of(relay, name)?.check_arrived(arrived).with_context(|| (*name).to_owned())?;
        }
    }
    Ok(())
}

#[test]
fn lag_is_the_age_of_the_oldest_missing_transaction_whether_the_primary_is_busy_idle_or_dead() {
    scenario("lag_truth", |bed| {
        let primary = bed.mariadb("primary").server_id(1).start()?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        let proxy = Proxy::start(relay.address())?;
        let names: Vec<_> = FAULTS.map(|(name, _)| name).into();
        let mut replicas = Vec::new();
        for (server_id, name) in (2..).zip(["good"].iter().chain(&names)) {
            let replica = start(bed, name, server_id)?;
            let port = if *name == "cut-off" { proxy.port() } else { relay.port() };
            replica.replicate_from(&Source::gtid(port))?;
            replicas.push(replica);
        }
        let [good, stopped, locked, delayed, _, frozen, killed] = &replicas[..] else { unreachable!() };
        primary.sql("CREATE TABLE test.t (a INT PRIMARY KEY)")?;
        let all = primary.gtid_binlog_pos()?;
        for replica in &replicas {
            wait_caught_up(&primary, replica)?;
            told_until(&relay, replica.name(), "to be current", |told| {
                // Asked since: what had just arrived when it was asked counts as being applied.
                let asked = told.json["applied"]["gtid"] == all.as_str();
                Ok(asked && told.is_current().unwrap_or(false) && told.json["bottleneck"].is_null())
            })?;
        }

        stopped.sql("STOP SLAVE SQL_THREAD")?;
        let mut lock = locked.session()?;
        lock.query("LOCK TABLES test.t WRITE")?;
        delayed.sql("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY=3600; START SLAVE")?;
        told_until(&relay, "delayed", "to be attached again", |told| Ok(told.word("state") == "streaming"))?;
        proxy.stall();
        frozen.freeze()?;
        let froze = Instant::now();
        killed.kill9()?;
        told_until(&relay, "killed", "to be gone", |told| Ok(told.word("state") == "gone"))?;
        let arrived = arrival(&primary, &relay, 1)?;

        let writer = RowWriter::start(&primary, "busy", 1, Duration::from_millis(2))?;
        check_all(&relay, &names, arrived).context("busy primary")?;
        keeps_up(&relay)?;
        for (name, bottleneck) in FAULTS {
            told_until(&relay, name, bottleneck, |told| Ok(told.word("bottleneck") == bottleneck))?;
        }
        let age = Told::of(&relay, "frozen")?;
        ensure!(age.age()? + TOLERANCE >= age.asked.0 - froze, "the frozen one was not sampled since: {}", age.json);
        let why = told_until(&relay, "delayed", "the delay", |told| Ok(told.word("error").contains("3600 s")))?;
        ensure!(why.word("error").contains("on purpose"), "{}", why.json);

        writer.stop()?;
        relay.wait_head(&primary)?;
        check_all(&relay, &names, arrived).context("idle primary")?;
        told_current(&relay, "good")?;

        primary.kill9()?;
        check_all(&relay, &names, arrived).context("dead primary")?;
        told_current(&relay, "good")?;
        let received = Told::of(&relay, "good")?.number("received", "lag_ms")?;
        ensure!(received == 0, "everything was sent");

        for stop in [RelayProc::kill9, |relay: &RelayProc| relay.term().map(drop)] {
            stop(&relay)?;
            relay.proc()?.wait_exit(baton_testbed::DEADLINE).context("the relay did not end")?;
            relay.restart()?;
            for name in ["good", "stopped", "locked", "delayed"] {
                told_until(&relay, name, "to be back", |told| Ok(told.json["applied"].is_object()))?;
            }
            check_all(&relay, &["stopped", "locked", "delayed"], arrived).context("restarted relay")?;
            let good = told_current(&relay, "good")?;
            ensure!(good.word("bottleneck") == "-", "{}", good.json);
        }

        // The primary stays dead: what is missing is applied from the relay.
        frozen.thaw()?;
        proxy.resume();
        proxy.cut_now();
        stopped.sql("START SLAVE SQL_THREAD")?;
        lock.query("UNLOCK TABLES")?;
        delayed.sql("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY=0; START SLAVE")?;
        killed.restart()?;
        let goal = good.gtid_slave_pos()?;
        for name in &names {
            told_current(&relay, name)?;
            let replica = replicas.iter().find(|replica| replica.name() == *name).context("listed")?;
            ensure!(replica.gtid_slave_pos()? == goal, "{name} is told to be current, and is not");
        }
        Ok(())
    });
}

/// Under load, reports of a replica that keeps up tell no lag, and nothing that holds it back.
fn keeps_up(relay: &RelayProc) -> Result<()> {
    let (mut quiet, mut last_head) = (VecDeque::new(), String::new());
    wait_for("18 of 20 reports at different heads to tell no lag", baton_testbed::DEADLINE, || {
        let lag = relay.lag()?;
        let listed = lag["replicas"].as_array().into_iter().flatten();
        let replica = listed.into_iter().find(|r| r["name"] == "good").context("good is not listed")?;
        let lags = replica["applied"]["lag_transactions"] != 0 || replica["received"]["lag_transactions"] != 0;
        ensure!(lags || replica["bottleneck"].is_null(), "a bottleneck without lag: {replica}");
        let head = lag["head"]["gtid"].as_str().unwrap_or_default();
        if head != last_head {
            head.clone_into(&mut last_head);
            quiet.push_front(!lags);
            quiet.truncate(20);
        }
        Ok((quiet.iter().filter(|quiet| **quiet).count() >= 18).then_some(()))
    })
}

/// Lag that is the applier's, whatever else the machine does.
const DISTINCT: Duration = Duration::from_millis(200);

/// What whole milliseconds hide.
const ROUNDING: Duration = Duration::from_millis(2);

/// What the test saw by itself: up to which row the replica had applied, and up to which the relay had received, with the moments
/// between which that was so.
#[derive(Debug, Clone, Copy)]
struct Seen {
    from: Instant,
    to: Instant,
    row: usize,
}

#[test]
fn lag_of_a_slow_applier_follows_it_row_by_row() {
    scenario("lag_slow", |bed| {
        let primary = bed.mariadb("primary").server_id(1).start()?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        let replica = start(bed, "slow", 2)?;
        replica.replicate_from(&Source::gtid(relay.port()))?;
        primary.sql("CREATE TABLE test.t (a INT PRIMARY KEY)")?;
        wait_caught_up(&primary, &replica)?;
        // Each row takes 30 ms to apply.
        replica.sql("SET GLOBAL slave_run_triggers_for_rbr=YES")?;
        replica.sql(
            "SET sql_log_bin=0; CREATE TRIGGER test.slow BEFORE INSERT ON test.t FOR EACH ROW SET @x = SLEEP(0.03)",
        )?;
        replica.sql("STOP SLAVE SQL_THREAD; START SLAVE SQL_THREAD")?;
        // Before it is asked for the first time nothing is known of it; and it may have been asked while its applier stood, and how its threads do is asked now and then.
        told_current(&relay, "slow")?;
        let word = || Ok(Told::of(&relay, "slow")?.word("bottleneck").to_owned());
        wait_until("its applier to be told as running", word, |word| word != "stopped")?;

        let base = sequence(&primary.gtid_binlog_pos()?)?;
        let rows = 100;
        let mut begun = Vec::new();
        let end = AtomicBool::new(false);
        let (applied, head, told) = thread::scope(|threads| -> Result<_> {
            let stop = StopAtEnd(&end);
            let applied = threads.spawn(|| watch(&end, || last_row(&replica)));
            let head = threads.spawn(|| watch(&end, || Ok(sequence(&relay.head_gtid()?)?.saturating_sub(base))));
            let told = threads.spawn(|| ask(&end, &relay));
            let mut session = primary.session()?;
            for row in 1..=rows {
                begun.push(Instant::now());
                session.query(&format!("INSERT INTO test.t VALUES ({row})"))?;
                thread::sleep(Duration::from_millis(10));
            }
            wait_until("the replica to have all rows", || last_row(&replica), |row| *row == rows)?;
            told_current(&relay, "slow")?;
            drop(stop);
            let join = "a watching thread panicked";
            Ok((applied.join().expect(join)?, head.join().expect(join)?, told.join().expect(join)?))
        })?;

        // One that answers late is held back by the network too.
        let prompt = |told: &&Told| told.age().is_ok_and(|age| age < DISTINCT);
        let lags = |told: &&Told| told.applied_ms().is_ok_and(|lag| lag > DISTINCT);
        let words: Vec<_> = told.iter().filter(prompt).filter(lags).collect();
        let apply = words.iter().filter(|told| told.word("bottleneck") == "apply").count();
        ensure!(
            words.len() > 10 && apply * 10 >= words.len() * 9,
            "{apply} of {} reports blame the applier",
            words.len()
        );

        let (mut checked, mut most) = (0, Duration::ZERO);
        for told in &told {
            let (lag, age) = (told.applied_ms()?, told.age()?);
            most = most.max(lag);
            // It was asked after what was last seen before that, and has answered before what was first seen after the report.
            let Some(asked) = told.asked.0.checked_sub(age + ROUNDING) else { continue };
            let had = applied.iter().rfind(|seen| seen.to <= asked).map(|seen| seen.row);
            if let (Some(row), true) = (had, lag > Duration::ZERO) {
                let since = begun.get(row).with_context(|| format!("{} without a missing row", told.json))?;
                let truth = told.asked.1 - *since;
                ensure!(lag <= truth + ROUNDING, "lag {lag:?}, at most {truth:?}: {}", told.json);
            }
            let lacked = applied.iter().find(|seen| seen.from >= told.asked.1).map(|seen| seen.row);
            let arrived = lacked.and_then(|row| head.iter().find(|seen| seen.row > row)).map(|seen| seen.to);
            // What arrived just before it was asked is no lag yet.
            if let Some(arrived) = arrived.filter(|arrived| *arrived + TOLERANCE < asked) {
                let truth = told.asked.0 - arrived;
                ensure!(lag + ROUNDING >= truth, "lag {lag:?}, at least {truth:?}: {}", told.json);
                checked += 1;
            }
        }
        ensure!(checked > 20 && most > DISTINCT, "{checked} reports, at most {most:?}: too few to judge");
        Ok(())
    });
}

/// Ends the watching threads, also when the test fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn watch(end: &AtomicBool, mut look: impl FnMut() -> Result<usize>) -> Result<Vec<Seen>> {
    let mut all = Vec::new();
    while !end.load(Ordering::Relaxed) {
        let from = Instant::now();
        let row = look()?;
        all.push(Seen { from, to: Instant::now(), row });
        thread::sleep(Duration::from_millis(3));
    }
    Ok(all)
}

fn ask(end: &AtomicBool, relay: &RelayProc) -> Result<Vec<Told>> {
    let mut all = Vec::new();
    while !end.load(Ordering::Relaxed) {
        all.push(Told::of(relay, "slow")?);
        thread::sleep(Duration::from_millis(7));
    }
    Ok(all)
}

fn last_row(replica: &MariaDb) -> Result<usize> {
    Ok(replica.value("SELECT COALESCE(MAX(a), 0) FROM test.t")?.parse()?)
}

fn sequence(gtid: &str) -> Result<usize> {
    let last = gtid.rsplit('-').next().unwrap_or_default();
    last.parse().with_context(|| format!("no sequence number in {gtid:?}"))
}
