//! A relay that is killed, or whose disk fails, at operations of log and acknowledgement on a real disk: what a client saw succeed is in its log. `make soak` goes
//! through all operations; here are the ones that matter most and some that are drawn.

use anyhow::{Context, Result, ensure};
use baton_testbed::failpoints::{EIO, HALF, KILL, Points, Site, Strike, TOKEN, actions, draw};
use baton_testbed::{DEADLINE, RelayProc, scenario, seeded, wait_until};
use rand::seq::IteratorRandom;
use serde_json::{Value, json};

/// The operations between the arrival of a transaction and its acknowledgement.
const CORE: [(&str, &str); 7] = [
    ("write-binlog", HALF),
    ("write-binlog", EIO),
    ("sync-binlog", KILL),
    ("sync-binlog", EIO),
    ("write-mark", HALF),
    ("send-ack", KILL),
    ("sent-ack", KILL),
];
/// Drawn from the rest.
const DRAWN: usize = 9;

#[test]
fn killed_or_failing_at_an_operation_the_relay_holds_what_the_primary_completed() {
    scenario("failpoints", |bed| {
        let mut site = Site::start(bed, None)?;
        let mut random = seeded("failpoints");
        let points: Points = site.points()?;
        let core = |point: &str, action: &str| CORE.contains(&(point, action));
        let pairs = points.iter().flat_map(|point| actions(point.0).into_iter().map(move |action| (point, action)));
        let (chosen, rest): (Vec<_>, Vec<_>) = pairs.partition(|((point, _), action)| core(point, action));
        ensure!(chosen.len() == CORE.len(), "{points:?}");
        for (point, action) in chosen.into_iter().chain(rest.into_iter().choose_multiple(&mut random, DRAWN)) {
            let strike: Strike = draw(&mut random, point, action);
            site.strike(&strike).with_context(|| format!("{strike:?}"))?;
        }
        site.stop()
    });
}

#[test]
fn disk_that_can_not_be_changed_any_more_stops_the_acknowledging_until_it_can() {
    scenario("read_only_disk", |bed| {
        let site = Site::start(bed, None)?;
        site.relay.term()?;
        site.read_only(Some(60))?;
        site.relay.restart()?;
        let ready = || Ok(site.relay.get("/readyz").map(|(code, _)| code).unwrap_or_default());
        wait_until("/readyz to say that the log is read only", ready, |code| *code == 503)?;
        ensure!(site.relay.metric("baton_relay_log_write_errors_total")?.unwrap_or_default() > 0.0);
        site.read_only(None)?;
        wait_until("the relay to go on", ready, |code| *code == 200)?;
        site.commits_go_on()?;
        site.check(0)?;
        site.stop()
    });
}

fn promise(relay: &RelayProc, grant: [u64; 2]) -> Result<(u16, Value)> {
    let (status, body) = relay.post("/v1/promise", TOKEN, &json!({"term": 1, "grant": grant}))?;
    Ok((status, serde_json::from_str(&body)?))
}

#[test]
fn promise_whose_record_fails_is_not_given_and_one_that_a_kill_interrupts_holds_or_does_not() {
    scenario("promise_fails", |bed| {
        let site = Site::start(bed, None)?;
        let restart = |plan: &str| {
            site.relay.term()?;
            site.plan(plan)?;
            site.relay.restart()?;
            site.commits_go_on()
        };
        // The first of each is done at the start, which writes what holds again.
        for plan in ["write-promise@2=eio", "sync-promise@2=eio"] {
            restart(plan)?;
            let (status, body) = promise(&site.relay, [5, 1])?;
            ensure!(status == 503 && body["hint"].is_string(), "{plan}: {status}: {body}");
            // It was not given: the relay acknowledges on.
            site.commits_go_on().context(plan)?;
            ensure!(site.relay.status()?["upstream"]["holds_grant"] == json!(true), "{plan}");
            // A record that could not be synced may be found at the next start, and then it holds.
        }
        // Killed in the middle of it: nothing was answered, so either may be found; what is found holds.
        site.relay.term()?;
        site.plan("sync-promise@2=kill")?;
        site.relay.restart()?;
        ensure!(promise(&site.relay, [6, 1]).is_err(), "an answer came from the dead");
        site.relay.proc()?.wait_exit(DEADLINE).context("the relay did not die")?;
        site.plan("")?;
        site.relay.restart()?;
        if site.relay.status()?["upstream"]["holds_grant"] == json!(true) {
            site.commits_go_on()?;
        } else {
            let (status, _) = promise(&site.relay, [4, 9])?;
            ensure!(status == 409, "a lower one was given: {status}");
        }
        let (status, body) = promise(&site.relay, [7, 1])?;
        ensure!(status == 200 && body["complete"] == json!(true), "{status}: {body}");
        site.holds_all(body["tail"]["gtid"].as_str().unwrap_or_default())?;
        site.primary.kill9()
    });
}
