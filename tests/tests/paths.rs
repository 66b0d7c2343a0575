//! Two network paths to one primary: the stream leaves a path that fails, goes back once it is well, and no commit returns unprotected or is lost by
//! either.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_testbed::{Bed, MariaDb, Proxy, RelayProc, RowWriter, cmp_prefix, scenario, wait_until};
use serde_json::json;

/// What befalls the preferred path.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Connections are reset; new ones are refused.
    Reset,
    /// Everything is accepted, nothing is forwarded.
    Silence,
    /// Connections are closed; new ones are refused.
    Refused,
}

impl Fault {
    fn strike(self, path: &Proxy) {
        match self {
            Self::Silence => path.stall(),
            Self::Reset => {
                path.refuse(true);
                path.reset_now();
            }
            Self::Refused => {
                path.refuse(true);
                path.cut_now();
            }
        }
    }

    fn heal(path: &Proxy) {
        path.refuse(false);
        path.resume();
    }
}

fn over(relay: &RelayProc, path: &Proxy) -> Result<()> {
    let wanted = path.address().to_string();
    wait_until(
        &format!("the stream to go over {wanted}"),
        || Ok(relay.status()?["upstream"].clone()),
        |upstream| upstream["state"] == "streaming" && upstream["address"] == json!(wanted),
    )
    .map(drop)
}

fn commits_go_on(writer: &RowWriter) -> Result<()> {
    let goal = writer.confirmed() + 50;
    wait_until("commits to return", || Ok(writer.confirmed()), |n| *n >= goal).map(drop)
}

fn primary(bed: &Bed) -> Result<MariaDb> {
    bed.mariadb("primary").durable(true).option("--rpl-semi-sync-master-timeout=4294967295").start()
}

/// Strikes the preferred path with each fault in turn, under load.
fn faults(bed: &Bed, ack: &str, faults: &[Fault]) -> Result<()> {
    let primary = primary(bed)?;
    let [preferred, other] = [Proxy::start(primary.address())?, Proxy::start(primary.address())?];
    let ports = [preferred.port(), other.port()];
    let relay = bed.relay("relay").upstream_ports(&ports).ack(ack).set("upstream", "heartbeat", "\"100ms\"").start()?;
    over(&relay, &preferred)?;
    if ack == "durable" {
        primary.sql("SET GLOBAL rpl_semi_sync_master_wait_point=AFTER_SYNC, GLOBAL rpl_semi_sync_master_enabled=ON")?;
    }
    let writer = RowWriter::start(&primary, "load", 4, Duration::ZERO)?;
    for fault in faults {
        let context = || format!("{fault:?}");
        fault.strike(&preferred);
        over(&relay, &other).with_context(context)?;
        commits_go_on(&writer).with_context(context)?;
        Fault::heal(&preferred);
        over(&relay, &preferred).with_context(context)?;
        commits_go_on(&writer).with_context(context)?;
    }
    let written = writer.stop()?;
    ensure!(
        written.unknown.is_empty() && written.lost_on(&primary, "test.load", 1)?.is_empty(),
        "the primary lacks rows"
    );
    let unprotected = primary.value(
        "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME='Rpl_semi_sync_master_no_tx'",
    )?;
    ensure!(unprotected == "0", "{unprotected} commits returned without an acknowledgement");
    relay.wait_head(&primary)?;
    let (file, end) = primary.master_status()?;
    cmp_prefix(&primary.binlog_path(&file), &relay.log_path(&file)?, end as usize, &[21])
}

#[test]
fn stream_leaves_a_failed_path_and_goes_back_to_it_and_no_commit_returns_unprotected() {
    scenario("paths_lossless", |bed| faults(bed, "durable", &[Fault::Reset, Fault::Refused, Fault::Reset]));
}

/// Without acknowledgements: a MariaDB 10.11.14 whose acknowledging replica falls silent ends that stream only once its connection ends, and begins no other one
/// of the same server before.
#[test]
fn stream_leaves_a_silent_path_and_goes_back_to_it() {
    scenario("paths_silent", |bed| faults(bed, "off", &[Fault::Silence, Fault::Reset]));
}

#[test]
fn stream_over_another_path_is_left_alone_while_the_preferred_one_leads_elsewhere() {
    scenario("paths_elsewhere", |bed| {
        let primary = primary(bed)?;
        let stranger = bed.mariadb("stranger").server_id(5).start()?;
        let [preferred, other] = [Proxy::start(primary.address())?, Proxy::start(primary.address())?];
        let relay = bed.relay("relay").upstream_ports(&[preferred.port(), other.port()]).ack("durable").start()?;
        over(&relay, &preferred)?;
        primary.sql("CREATE TABLE test.t (a INT PRIMARY KEY)")?;
        preferred.set_target(stranger.address());
        preferred.reset_now();
        over(&relay, &other)?;
        let connects = relay.status()?["upstream"]["connects"].clone();
        let tried = preferred.accepted();
        wait_until("the preferred path to be tried twice", || Ok(preferred.accepted()), |n| *n >= tried + 2)?;
        over(&relay, &other)?;
        ensure!(relay.status()?["upstream"]["connects"] == connects, "the stream was begun anew");
        preferred.set_target(primary.address());
        over(&relay, &preferred)?;
        primary.sql("INSERT INTO test.t VALUES (1)")?;
        relay.wait_head(&primary)
    });
}
