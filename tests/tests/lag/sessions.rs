//! The poller's sessions: kept, bounded, and awake when something happens.

use std::time::Duration;

use anyhow::{Result, ensure};
use baton_testbed::{MariaDb, RelayProc, Source, scenario, wait_caught_up, wait_until};

use crate::support::{Fake, Told, told_current, told_until};

/// Sessions of the poller, as the asked server counts them.
fn sessions(server: &MariaDb) -> Result<usize> {
    Ok(server.value("SELECT COUNT(*) FROM information_schema.processlist WHERE user='monitor'")?.parse()?)
}

fn polls(relay: &RelayProc) -> Result<f64> {
    Ok(relay.metric("baton_relay_lag_polls_total")?.unwrap_or(0.0))
}

/// Twenty replicas that are all asked at the primary's own server.
fn twenty(relay: &RelayProc, asked: &MariaDb) -> Result<Vec<Fake>> {
    (0..20).map(|n| Fake::attach(relay, 100 + n, &format!("db-{n}"), asked.port())).collect()
}

fn sampled(relay: &RelayProc) -> Result<usize> {
    let lag = relay.lag()?;
    Ok(lag["replicas"].as_array().into_iter().flatten().filter(|r| r["applied"].is_object()).count())
}

#[test]
fn twenty_idle_replicas_are_asked_over_twenty_kept_sessions() {
    scenario("lag_kept", |bed| {
        let primary = bed.mariadb("primary").server_id(1).start()?;
        let relay = bed.relay("relay").upstream(&primary).set("lag", "poll", "\"10ms..50ms\"").start()?;
        let _replicas = twenty(&relay, &primary)?;
        wait_until("twenty samples", || sampled(&relay), |count| *count == 20)?;
        let (before, asked) = (connections(&primary)?, polls(&relay)?);
        wait_until("many more questions", || polls(&relay), |count| *count > asked + 400.0)?;
        // The test's own session is kept too: not one login in all that time.
        ensure!(connections(&primary)? == before, "sessions are set up anew while idle replicas are asked");
        ensure!(sessions(&primary)? == 20, "{} sessions", sessions(&primary)?);
        ensure!(relay.metric("baton_relay_lag_sessions")? == Some(20.0));
        Ok(())
    });
}

/// Logins at a server since it started.
fn connections(server: &MariaDb) -> Result<u64> {
    let rows = server.sql("SHOW GLOBAL STATUS LIKE 'Connections'")?;
    Ok(rows.first().and_then(|row| row.get(1).cloned().flatten()).unwrap_or_default().parse()?)
}

#[test]
fn sessions_never_exceed_the_configured_limit() {
    scenario("lag_bounded", |bed| {
        let primary = bed.mariadb("primary").server_id(1).start()?;
        let relay = bed.relay("relay").upstream(&primary).set("lag", "max_sessions", "6");
        let relay = relay.set("lag", "min_sessions", "2").set("lag", "poll", "\"10ms..50ms\"").start()?;
        let replicas = twenty(&relay, &primary)?;
        wait_until("six samples", || sampled(&relay), |count| *count == 6)?;
        let told = wait_until(
            "the others to say what they wait for",
            || relay.lag(),
            |lag| {
                let listed = lag["replicas"].as_array().into_iter().flatten();
                listed.filter(|r| r["error"].as_str().is_some_and(|text| text.contains("max_sessions"))).count() == 14
            },
        )?;
        let asked = polls(&relay)?;
        wait_until(
            "more questions",
            || {
                ensure!(sessions(&primary)? <= 6, "{} sessions", sessions(&primary)?);
                polls(&relay)
            },
            |count| *count > asked + 100.0,
        )?;
        ensure!(sessions(&primary)? == 6 && relay.metric("baton_relay_lag_sessions")? == Some(6.0), "{told}");
        drop(replicas);
        relay.term()?;
        wait_until("all sessions to be closed", || sessions(&primary), |count| *count == 0)?;
        Ok(())
    });
}

#[test]
fn a_new_head_wakes_the_poller_of_a_replica_that_idled_for_long() {
    scenario("lag_wake", |bed| {
        let primary = bed.mariadb("primary").server_id(1).start()?;
        // Nobody would be asked again within the test, were it not for what happens.
        let relay = bed.relay("relay").upstream(&primary).set("lag", "poll", "\"400ms..1h\"").start()?;
        let replica = bed.mariadb("replica").server_id(2).option("--report-host=db").start()?;
        replica.replicate_from(&Source::gtid(relay.port()))?;
        primary.sql("CREATE TABLE test.t (a INT PRIMARY KEY)")?;
        wait_caught_up(&primary, &replica)?;
        for row in 0..3 {
            let idle = told_until(&relay, "db", "to have been asked long ago", |told| {
                Ok(told.age()? > Duration::from_secs(1))
            })?;
            ensure!(idle.is_current()?, "{}", idle.json);
            let before = polls(&relay)?;
            primary.sql(&format!("INSERT INTO test.t VALUES ({row})"))?;
            relay.wait_head(&primary)?;
            let goal = primary.gtid_binlog_pos()?;
            told_until(&relay, "db", "a sample of the new head", |told| Ok(told.json["applied"]["gtid"] == goal))?;
            told_current(&relay, "db")?;
            let questions = polls(&relay)? - before;
            ensure!((1.0..50.0).contains(&questions), "{questions} questions for one transaction");
        }
        let told = Told::of(&relay, "db")?;
        ensure!(told.json["error"].is_null() && told.json["bottleneck"].is_null(), "{}", told.json);
        Ok(())
    });
}
