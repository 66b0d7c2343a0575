//! Replicas and relays that acknowledge what they receive, and the packets of such a stream beside those of a primary.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_testbed::dump::{ANNOTATE, Dump};
use baton_testbed::{MariaDb, RelayProc, Source, Sql, scenario, template::REPL_PASSWORD, wait_until};
use serde_json::{Value, json};

/// Event type of a change of file.
const ROTATE: u8 = 4;
/// Event type of a transaction's end.
const XID: u8 = 16;
/// Event type of a heartbeat.
const HEARTBEAT: u8 = 27;
/// Event type of the note that older files are not needed for recovery.
const CHECKPOINT: u8 = 161;
/// Event type of a transaction's beginning.
const GTID: u8 = 162;
/// Bytes of a packet in front of its event: length, number, `00`, `ef`, flag.
const BEFORE_EVENT: usize = 7;

fn attached(relay: &RelayProc, server_id: u32) -> Result<Value> {
    let status = relay.status()?;
    let found = status["replicas"].as_array().and_then(|all| all.iter().find(|r| r["server_id"] == server_id).cloned());
    found.with_context(|| format!("server {server_id} is not attached: {status}"))
}

fn status(server: &MariaDb, name: &str) -> Result<String> {
    server.value(&format!("SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME='{name}'"))
}

#[test]
fn what_a_semi_synchronous_replica_has_received_is_what_it_has_acknowledged() {
    scenario("semi_sync_replica", |bed| {
        let primary = bed.mariadb("primary").start()?;
        primary.sql("CREATE TABLE test.t (a INT PRIMARY KEY)")?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        let replica = bed.mariadb("replica").server_id(2).option("--rpl-semi-sync-slave-enabled=ON").start()?;
        replica.replicate_from(&Source::gtid(relay.port()))?;
        for n in 0..50 {
            primary.sql(&format!("INSERT INTO test.t VALUES ({n})"))?;
        }
        relay.wait_head(&primary)?;
        wait_until("the replica to have acknowledged all", || attached(&relay, 2), |r| r["received"] == r["sent"])?;
        let end = relay.lag()?["head"].clone();
        let found = attached(&relay, 2)?;
        ensure!(
            found["semi_sync"] == json!(true) && found["received"]["position"] == end["position"],
            "{found} at {end}"
        );
        ensure!(status(&replica, "Rpl_semi_sync_slave_status")? == "ON");
        let acks = relay.metric("baton_relay_fanout_acks_total")?.unwrap_or_default();
        ensure!(acks >= 1.0 && relay.metric("baton_relay_fanout_ignored_acks_total")? == Some(0.0), "{acks} acks");

        // It stands still with its connection open: what it is sent it has not received.
        replica.freeze()?;
        primary.sql("INSERT INTO test.t VALUES (1000)")?;
        relay.wait_head(&primary)?;
        let lag = |relay: &RelayProc| Ok(relay.lag_of("server-2")?["received"]["lag_transactions"].clone());
        wait_until("the replica to lag", || lag(&relay), |lag| *lag == json!(1))?;
        ensure!(attached(&relay, 2)?["received"] != attached(&relay, 2)?["sent"]);
        replica.thaw()?;
        wait_until("the replica to have received it", || lag(&relay), |lag| *lag == json!(0))?;
        replica.stop_slave()?;
        wait_until("its connection to end", || attached(&relay, 2), |r| r["state"] == "gone").map(drop)
    });
}

#[test]
fn a_relay_behind_a_relay_acknowledges_what_it_holds() {
    scenario("semi_sync_relay", |bed| {
        let primary = bed.mariadb("primary").start()?;
        primary.sql("CREATE TABLE test.t (a INT PRIMARY KEY)")?;
        let first = bed.relay("first").upstream(&primary).start()?;
        let second = bed.relay("second").server_id(9002).ack("durable").behind(&first).start()?;
        for n in 0..20 {
            primary.sql(&format!("INSERT INTO test.t VALUES ({n})"))?;
        }
        second.wait_head(&primary)?;
        wait_until("all to be acknowledged", || attached(&first, 9002), |r| r["received"] == r["sent"])?;
        ensure!(attached(&first, 9002)?["semi_sync"] == json!(true));
        ensure!(second.metric("baton_relay_upstream_acks_total")?.unwrap_or_default() >= 1.0);
        first.kill9()?;
        first.restart()?;
        primary.sql("INSERT INTO test.t VALUES (1000)")?;
        second.wait_head(&primary)?;
        wait_until("all to be acknowledged again", || attached(&first, 9002), |r| r["received"] == r["sent"]).map(drop)
    });
}

/// A stream that is acknowledged.
struct Acked {
    session: Sql,
    file: String,
}

impl Acked {
    fn begin(mut session: Sql, position: &str, server_id: u32) -> Result<Self> {
        session.set_timeout(Some(Duration::from_secs(30)))?;
        let shown = session.query("SHOW VARIABLES LIKE 'rpl_semi_sync_master_enabled'")?;
        ensure!(shown == [[Some("rpl_semi_sync_master_enabled".to_owned()), Some("ON".to_owned())]], "{shown:?}");
        Dump::gtid(position)
            .flags(ANNOTATE)
            .server_id(server_id)
            .saying("SET @rpl_semi_sync_slave= 1")
            .begin(&mut session)?;
        Ok(Self { session, file: String::new() })
    }

    /// Packets up to and with the next end of a transaction, which is acknowledged if that is asked for. What is no part of a transaction is left out, for it comes when
    /// it comes; and so the numbers are those that the packets have behind the transaction before it.
    fn transaction(&mut self) -> Result<Vec<Vec<u8>>> {
        let mut packets: Vec<Vec<u8>> = Vec::new();
        loop {
            let packet = self.session.raw_packet()?;
            ensure!(packet.get(4..6) == Some(&[0, 0xef]), "no semi-sync header: {packet:02x?}");
            let (flag, event) = (packet[6], &packet[BEFORE_EVENT..]);
            let kind = event[4];
            if kind == ROTATE {
                self.file = String::from_utf8_lossy(&event[27..]).into_owned();
            }
            if matches!(kind, HEARTBEAT | CHECKPOINT) || (packets.is_empty() && kind != GTID) {
                ensure!(flag == 0, "event {kind} is to be acknowledged");
                continue;
            }
            let end = u64::from(u32::from_le_bytes([event[13], event[14], event[15], event[16]]));
            packets.push(packet);
            if kind == XID {
                if flag == 1 {
                    let ack = [&[0xef][..], &end.to_le_bytes(), self.file.as_bytes()].concat();
                    let header = [ack.len() as u8, 0, 0, 0];
                    self.session.send_raw(&[&header[..], &ack].concat())?;
                }
                return Ok(packets);
            }
        }
    }
}

#[test]
fn packets_of_a_semi_synchronous_stream_are_the_primarys() {
    scenario("semi_sync_packets", |bed| {
        let primary = bed.mariadb("primary").option("--rpl-semi-sync-master-timeout=60000").start()?;
        primary.sql("CREATE TABLE test.t (a INT PRIMARY KEY, b TEXT)")?;
        let relay = bed.relay("relay").upstream(&primary).ack("off").start()?;
        relay.wait_head(&primary)?;
        let position = primary.gtid_binlog_pos()?;
        primary.sql("SET GLOBAL rpl_semi_sync_master_enabled=ON")?;
        let mut streams = [
            Acked::begin(primary.session_as("repl", REPL_PASSWORD)?, &position, 71)?,
            Acked::begin(relay.session()?, &position, 72)?,
        ];
        wait_until(
            "the primary to wait for acknowledgements",
            || status(&primary, "Rpl_semi_sync_master_clients"),
            |n| n == "1",
        )?;
        // One at a time, so that the relay's groups are those of the primary; the first one's numbers count what came before it.
        for n in 0..30 {
            let insert = format!("INSERT INTO test.t VALUES ({n}, REPEAT('x', {}))", n * n * 10);
            let writer = commits(&primary, &insert)?;
            let [expected, found] = &mut streams;
            let (expected, found) = (expected.transaction()?, found.transaction()?);
            writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
            let skip = usize::from(n == 0) * 4;
            for (expected, found) in expected.iter().zip(&found) {
                ensure!(expected[skip..] == found[skip..], "transaction {n}:\n{expected:02x?}\n{found:02x?}");
            }
            ensure!(expected.len() == found.len() && expected.last().is_some_and(|p| p[6] == 1), "transaction {n}");
        }
        Ok(())
    });
}

/// A commit that waits for its acknowledgement.
fn commits(primary: &MariaDb, statement: &str) -> Result<std::thread::JoinHandle<Result<()>>> {
    let mut session = primary.session()?;
    let statement = statement.to_owned();
    Ok(std::thread::spawn(move || session.query(&statement).map(drop)))
}
