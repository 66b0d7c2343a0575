//! Processes that die and connections that break under load: nothing is lost, nothing is repeated, and everything goes on by itself.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_testbed::{
    DEADLINE, Direction, Fleet, Kind, Plan, RowWriter, Written, scenario, seeded, wait_for, wait_until,
};
use rand::Rng;

/// Without a pause between their commits.
fn writers(fleet: &Fleet) -> Result<RowWriter> {
    RowWriter::start(&fleet.primary, "load", 6, Duration::ZERO)
}

fn wait_commits(writer: &RowWriter, more: u64) -> Result<()> {
    let goal = writer.confirmed() + more;
    wait_for("commits to go on", DEADLINE, || Ok((writer.confirmed() >= goal).then_some(())))
}

fn nothing_lost(fleet: &Fleet, written: &Written) -> Result<()> {
    for db in [&fleet.primary].into_iter().chain(&fleet.replicas) {
        let lost = written.lost_on(db, "test.load", 5)?;
        ensure!(lost.is_empty(), "{} lacks confirmed rows: {lost:?} and perhaps more", db.name());
    }
    Ok(())
}

#[test]
fn relay_killed_five_times_under_load_loses_and_repeats_nothing() {
    scenario("relay_killed", |bed| {
        let fleet = Plan::new(&[Kind::Gtid, Kind::FilePosition]).second_relay().start(bed)?;
        let mut random = seeded("relay_killed");
        let writer = writers(&fleet)?;
        for kill in 1..=5 {
            wait_commits(&writer, random.random_range(0..600))?;
            fleet.relay.kill9()?;
            let restarted = || Ok((fleet.relay.restarts() >= kill).then_some(()));
            wait_for("the supervisor to start it again", DEADLINE, restarted)?;
        }
        fleet.relay.wait_ready()?;
        wait_commits(&writer, 200)?;
        let written = writer.stop()?;
        let transactions = fleet.check()?;
        // One statement made the table; every other transaction is a row.
        let rows: usize = fleet.primary.value("SELECT COUNT(*) FROM test.load")?.parse()?;
        ensure!(transactions == rows + 1, "{transactions} transactions in the log for {rows} rows and one table");
        ensure!(written.unknown.is_empty(), "the primary was not touched: {:?}", written.unknown);
        nothing_lost(&fleet, &written)?;
        fleet.check_readable()
    });
}

#[test]
fn primary_stopped_and_killed_under_load_is_followed_into_its_new_files() {
    scenario("primary_restarts", |bed| {
        let fleet = Plan::new(&[Kind::Gtid, Kind::Parallel, Kind::FilePosition]).second_relay().start(bed)?;
        let mut random = seeded("primary_restarts");
        let writer = writers(&fleet)?;
        for round in 0..4 {
            wait_commits(&writer, random.random_range(50..600))?;
            let before = connections(&fleet)?;
            if round % 2 == 0 {
                fleet.primary.stop()?
            } else {
                fleet.primary.kill9()?
            }
            fleet.primary.restart()?;
            wait_until("the relay to be back", || connections(&fleet), |now| *now > before)?;
        }
        wait_commits(&writer, 100)?;
        let written = writer.stop()?;
        fleet.check()?;
        nothing_lost(&fleet, &written)?;
        ensure!(fleet.relay.restarts() == 0, "the relay was not to die");
        fleet.check_readable()
    });
}

fn connections(fleet: &Fleet) -> Result<u64> {
    fleet.relay.status()?["upstream"]["connects"].as_u64().context("upstream.connects is no number")
}

#[test]
fn connections_cut_anywhere_on_both_sides_lose_and_repeat_nothing() {
    scenario("connections_cut", |bed| {
        let fleet = Plan::new(&[Kind::Gtid, Kind::Parallel, Kind::FilePosition]).proxies().start(bed)?;
        let mut random = seeded("connections_cut");
        let writer = writers(&fleet)?;
        for round in 0..24 {
            let proxy = if round % 2 == 0 { fleet.upstream()? } else { fleet.downstream()? };
            let (handshake, stream) = (random.random_range(0..1200), random.random_range(0..40_000));
            match random.random_range(0..7) {
                0 => drop(proxy.cut_now()),
                1 => drop(proxy.reset_now()),
                2 => proxy.cut_after(Direction::ToClient, stream),
                3 => proxy.reset_after(Direction::ToClient, stream),
                4 => {
                    proxy.cut_next_connection_at(Direction::ToClient, handshake);
                    proxy.cut_now();
                }
                5 => {
                    proxy.cut_next_connection_at(Direction::ToServer, handshake / 3);
                    proxy.reset_now();
                }
                _ => {
                    proxy.cut_after(Direction::ToServer, handshake / 10);
                    proxy.cut_now();
                }
            }
            let head = fleet.relay.head_gtid()?;
            fleet.wait_head_moves(&head)?;
            wait_commits(&writer, 20)?;
        }
        let written = writer.stop()?;
        fleet.check()?;
        nothing_lost(&fleet, &written)
    });
}

#[test]
fn log_in_of_a_replica_that_comes_again_is_cut_anywhere_and_never_stops_it() {
    for (name, kind) in [("log_in_gtid", Kind::Gtid), ("log_in_file", Kind::FilePosition)] {
        scenario(name, |bed| {
            let fleet = Plan::new(&[kind]).proxies().start(bed)?;
            let proxy = fleet.downstream()?;
            let streaming = || Ok(fleet.relay.lag()?["replicas"][0]["state"].clone());
            let writer = writers(&fleet)?;
            wait_until("the replica to stream", streaming, |state| state == "streaming")?;
            let before = proxy.accepted();
            proxy.cut_now();
            let returned = || Ok((proxy.accepted(), proxy.turns()));
            wait_until("its return", returned, |(accepted, turns)| *accepted > before && turns.len() > 8)?;
            wait_until("the replica to stream again", streaming, |state| state == "streaming")?;
            // Where an answer ends, the replica's client library notices before it speaks next, and goes on over a new connection.
            let turns = proxy.turns();
            for (round, bytes) in (1..).zip(&turns) {
                proxy.cut_next_connection_at(Direction::ToClient, *bytes);
                proxy.cut_now();
                wait_until("the log-in to be cut", || Ok(proxy.struck()), |now| *now >= round)?;
                let head = fleet.relay.head_gtid()?;
                fleet.wait_head_moves(&head)?;
                wait_until("the replica to stream again", streaming, |state| state == "streaming")?;
            }
            let written = writer.stop()?;
            fleet.check()?;
            nothing_lost(&fleet, &written)
        });
    }
}

#[test]
fn flipped_bit_from_the_primary_is_noticed_fetched_again_and_never_stored() {
    scenario("flipped_bit_upstream", |bed| {
        let fleet = Plan::new(&[Kind::Gtid]).proxies().start(bed)?;
        let proxy = fleet.upstream()?;
        let mut random = seeded("flipped_bit_upstream");
        fleet.primary.sql("CREATE TABLE test.t (id INT AUTO_INCREMENT PRIMARY KEY, filler TEXT)")?;
        fleet.relay.wait_head(&fleet.primary)?;
        // While nothing else is sent, the next byte is a packet's first: its length, its number, the event's header.
        let mut struck = 0;
        for byte in 0..24 {
            proxy.flip_bit_after(Direction::ToClient, byte);
            fleet.primary.sql("INSERT INTO test.t (filler) VALUES (REPEAT('x', 500))")?;
            struck += 1;
            wait_until("the bit to be flipped", || Ok(proxy.struck()), |now| *now >= struck)?;
            fleet.relay.wait_head(&fleet.primary)?;
        }
        let writer = writers(&fleet)?;
        for _ in 0..12 {
            proxy.flip_bit_after(Direction::ToClient, random.random_range(0..40_000));
            struck += 1;
            wait_until("the bit to be flipped", || Ok(proxy.struck()), |now| *now >= struck)?;
            let head = fleet.relay.head_gtid()?;
            fleet.wait_head_moves(&head)?;
        }
        let written = writer.stop()?;
        fleet.check()?;
        nothing_lost(&fleet, &written)?;
        let refused = fleet.relay.metric("baton_relay_upstream_checksum_failures_total")?;
        ensure!(refused.is_some_and(|count| count > 0.0), "no event was refused for its checksum: {refused:?}");
        ensure!(fleet.relay.restarts() == 0, "the relay was not to die");
        Ok(())
    });
}

#[test]
fn silent_primary_is_noticed_and_followed_again_when_it_speaks() {
    scenario("silent_primary", |bed| {
        let fleet = Plan::new(&[Kind::Gtid]).proxies().start(bed)?;
        fleet.primary.sql("CREATE TABLE test.t (id INT PRIMARY KEY)")?;
        fleet.relay.wait_head(&fleet.primary)?;
        let state = || Ok(fleet.relay.status()?["upstream"].clone());
        let noticed = |upstream: &serde_json::Value| upstream["state"] == "connecting" && upstream["error"].is_string();
        let streaming = |upstream: &serde_json::Value| upstream["state"] == "streaming";
        // The network: everything is accepted, nothing is forwarded.
        fleet.upstream()?.stall();
        fleet.primary.sql("INSERT INTO test.t VALUES (1)")?;
        let seen = wait_until("the stall to be noticed", state, noticed)?;
        ensure!(seen["error"].as_str().is_some_and(|text| text.contains("within")), "{seen}");
        ensure!(fleet.relay.get("/readyz")?.0 == 200, "replicas can be served meanwhile");
        fleet.upstream()?.resume();
        wait_until("the stream to go on", state, streaming)?;
        // The server: its sockets are open, nobody answers.
        fleet.primary.freeze()?;
        wait_until("the silence to be noticed", state, noticed)?;
        fleet.primary.thaw()?;
        wait_until("the stream to go on", state, streaming)?;
        fleet.primary.sql("INSERT INTO test.t VALUES (2)")?;
        fleet.check().map(drop)
    });
}

#[test]
fn relay_told_to_stop_ends_cleanly_and_replicas_come_back_to_it() {
    scenario("relay_stops", |bed| {
        let fleet = Plan::new(&[Kind::Gtid, Kind::Parallel, Kind::FilePosition]).second_relay().start(bed)?;
        let writer = writers(&fleet)?;
        for _ in 0..2 {
            wait_commits(&writer, 300)?;
            let status = fleet.relay.term()?;
            ensure!(status.success(), "the relay ended with {status}");
            wait_commits(&writer, 100)?;
            fleet.relay.restart()?;
            let dropped = fleet.relay.status()?["log"]["recovered_bytes_dropped"].as_u64();
            ensure!(dropped == Some(0), "a clean end left something to cut: {dropped:?}");
        }
        let written = writer.stop()?;
        fleet.check()?;
        nothing_lost(&fleet, &written)
    });
}
