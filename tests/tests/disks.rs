//! The relay's own disk: full, damaged, not its own. It stops with a clear error, throws nothing away, and goes on by itself where it can.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_testbed::fleet::fill;
use baton_testbed::{
    Cmd, DEADLINE, Kind, Plan, RelayProc, Source, Volume, procs, scenario, template, wait_caught_up, wait_until,
    witness,
};

#[test]
fn full_disk_stops_the_log_with_a_clear_error_and_it_goes_on_once_there_is_room() {
    scenario("full_disk", |bed| {
        let Some(volume) = Volume::mount(&bed.path("relay-1/data"), 6 << 10)? else {
            eprintln!("full_disk: skipped: mounting a tmpfs needs root");
            return Ok(());
        };
        let fleet = Plan::new(&[Kind::Gtid]).start(bed)?;
        fill(&fleet.primary, 2)?;
        fleet.check()?;
        fill(&fleet.primary, 8)?;
        let ready = || fleet.relay.get("/readyz");
        let (_, body) = wait_until("/readyz to answer 503", ready, |(code, _)| *code == 503)?;
        ensure!(body.contains("space") && body.contains("hint"), "/readyz says: {body}");
        let log = fleet.relay.status()?["log"].clone();
        ensure!(log["writable"] == false, "{log}");
        ensure!(log["error"].as_str().is_some_and(|text| text.contains("No space left")), "{log}");
        let errors = fleet.relay.metric("baton_relay_log_write_errors_total")?;
        ensure!(errors.is_some_and(|count| count > 0.0), "no write error was counted: {errors:?}");
        // What is there is served on; the relay lives.
        let (head, replica) = (fleet.relay.head_gtid()?, &fleet.replicas[0]);
        wait_until("the replica to have what the log has", || replica.gtid_slave_pos(), |position| *position == head)?;
        volume.resize(64 << 10)?;
        wait_until("the relay to go on", ready, |(code, _)| *code == 200)?;
        fleet.check()?;
        ensure!(fleet.relay.restarts() == 0, "the relay was not to die");
        drop(fleet);
        drop(volume);
        Ok(())
    });
}

#[test]
fn disk_that_is_full_from_the_start_is_told_and_filled_once_there_is_room() {
    scenario("full_from_the_start", |bed| {
        let Some(volume) = Volume::mount(&bed.path("relay-1/data"), 64)? else {
            eprintln!("full_from_the_start: skipped: mounting a tmpfs needs root");
            return Ok(());
        };
        let primary = bed.mariadb("primary").start()?;
        fill(&primary, 1)?;
        let relay = bed.relay("relay-1").upstream(&primary).supervised().without_waiting().start()?;
        let not_ready = || relay.get("/readyz");
        wait_until("/readyz to answer 503", not_ready, |(code, _)| *code == 503)?;
        volume.resize(64 << 10)?;
        relay.wait_head(&primary)?;
        relay.wait_ready()?;
        witness::check_mirror(&primary, &relay)?;
        drop(relay);
        drop(volume);
        Ok(())
    });
}

#[test]
fn damage_in_what_was_durable_is_told_with_file_and_offset_and_nothing_is_cut() {
    scenario("damaged", |bed| {
        let fleet = Plan::new(&[Kind::Gtid]).option("--max-binlog-size=64M").start(bed)?;
        fill(&fleet.primary, 1)?;
        let sound = fleet.primary.gtid_binlog_pos()?;
        let (file, end_of_sound) = fleet.primary.master_status()?;
        fill(&fleet.primary, 3)?;
        fleet.check()?;
        let late = bed.mariadb("late").server_id(9).binlog(false).start()?;
        fleet.relay.term()?;
        let path = fleet.relay.data_dir().join(&file);
        let length = path.metadata()?.len();
        let at = end_of_sound + 500_000;
        flip(&path, at)?;
        // Not ready, but alive: it serves what is sound.
        let relay = &fleet.relay;
        relay.spawn()?;
        let damaged = wait_until(
            "the damage to be told",
            || Ok(relay.status()?["log"].clone()),
            |log| log["damaged"].is_string(),
        )?;
        let text = damaged["damaged"].as_str().unwrap_or_default();
        ensure!(text.contains(&file), "{text} does not name {file}");
        let offset = text.split("offset ").nth(1).and_then(|rest| rest.split(':').next()?.parse::<u64>().ok());
        let offset = offset.with_context(|| format!("{text} names no offset"))?;
        ensure!((end_of_sound..=at).contains(&offset), "the damage at {at} was told as {text}");
        ensure!(relay.get("/readyz")?.0 == 503);
        ensure!(path.metadata()?.len() == length, "{file} was cut");
        late.replicate_from(&Source::gtid(relay.port()))?;
        wait_until("what is sound to be served", || late.gtid_slave_pos(), |position| *position == sound)?;
        late.check_replication()?;
        // Whoever mends the file gets everything back.
        relay.term()?;
        flip(&path, at)?;
        relay.restart()?;
        relay.wait_ready()?;
        fleet.check()?;
        wait_caught_up(&fleet.primary, &late)
    });
}

fn flip(path: &Path, at: u64) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 4], at)?;
    Ok(())
}

#[test]
fn directory_of_another_cluster_or_relay_and_one_that_can_not_be_written_are_refused() {
    scenario("refused_directories", |bed| {
        let primary = bed.mariadb("primary").start()?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        let data = relay.data_dir().display().to_string();
        let quoted = format!("{data:?}");
        let refused = |name: &str, config: &RelayProc, words: &str| -> Result<()> {
            config.spawn()?;
            let proc = config.proc()?;
            let status = proc.wait_exit(Duration::from_secs(30)).with_context(|| format!("{name} goes on running"))?;
            let said = procs::tail(proc.log(), 5);
            ensure!(status.code() == Some(1), "{name} ended with {status}: {said}");
            ensure!(said.contains(words) && said.contains(&data), "{name} says: {said}");
            Ok(())
        };
        let second = bed.relay("second").top("data_dir", &quoted).upstream(&primary).without_waiting().prepare()?;
        refused("second", &second, "in use by another relay")?;
        relay.wait_ready()?;
        relay.term()?;
        let other = bed.relay("other").cluster("elsewhere").top("data_dir", &quoted);
        refused("other", &other.upstream(&primary).without_waiting().prepare()?, "cluster \"test\"")?;
        let file = bed.path("file");
        fs::write(&file, "")?;
        let inside = format!("{:?}", file.join("data").display().to_string());
        let blocked = bed.relay("blocked").top("data_dir", &inside).upstream(&primary).without_waiting().prepare()?;
        blocked.spawn()?;
        let status = blocked.proc()?.wait_exit(Duration::from_secs(30)).context("it goes on running")?;
        ensure!(status.code() == Some(1) && procs::tail(blocked.proc()?.log(), 5).contains("data_dir"), "{status}");
        unreadable(&relay, &data)?;
        // None of them has changed anything.
        relay.restart()?;
        relay.wait_head(&primary)?;
        witness::check_mirror(&primary, &relay).map(drop)
    });
}

/// A directory that this user may not look into. Root may look into all, unless that right is taken away.
fn unreadable(relay: &RelayProc, data: &str) -> Result<()> {
    let mode = fs::metadata(data)?.permissions();
    fs::set_permissions(data, fs::Permissions::from_mode(0o000))?;
    let mut cmd = Cmd::new("setpriv");
    if template::as_user().is_some() {
        cmd = cmd.arg("--bounding-set=-dac_override,-dac_read_search");
    }
    let log = relay.data_dir().with_file_name("unreadable.log");
    let ended = cmd.arg(baton_testbed::relay::binary()?).arg("--config").arg(relay.config_file()).spawn(&log, None);
    let status = ended.map(|proc| proc.wait_exit(DEADLINE));
    fs::set_permissions(data, mode)?;
    let status = status?.context("it goes on running")?;
    let said = procs::tail(&log, 5);
    ensure!(status.code() == Some(1) && said.contains(data) && said.contains("ermission denied"), "{status}: {said}");
    Ok(())
}
