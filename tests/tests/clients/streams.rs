//! The bytes of the stream, compared with the primary's from every place at which a client can begin.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use baton_testbed::dump::{ANNOTATE, Dump, End, NON_BLOCKING, Stream, difference};
use baton_testbed::{MariaDb, RelayProc, cmp_prefix, scenario, template::REPL_PASSWORD};

use crate::support::{wait_same_end, write_everything};

/// Event type of a transaction's beginning.
const GTID: u8 = 162;
/// Event type of the note that older files are not needed for recovery.
const CHECKPOINT: u8 = 161;
/// Event type of a position.
const GTID_LIST: u8 = 163;

#[test]
fn relay_sends_the_primarys_bytes_from_every_position_to_every_kind_of_client() {
    scenario("streams", |bed| {
        let primary = bed.mariadb("primary").option("--binlog-annotate-row-events=1").start()?;
        write_everything(&primary)?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        wait_same_end(&primary, &relay)?;
        for file in primary.binlogs()? {
            let path = primary.binlog_path(&file);
            cmp_prefix(&path, &relay.log_path(&file)?, fs::metadata(&path)?.len() as usize, &[21])?;
        }
        from_every_event(&primary, &relay)?;
        from_every_gtid_position(&primary, &relay)?;
        every_kind_of_client(&primary, &relay)
    });
}

fn from_every_event(primary: &MariaDb, relay: &RelayProc) -> Result<()> {
    for file in primary.binlogs()? {
        for event in events(&primary.binlog_path(&file))? {
            same(primary, relay, &Dump::file(&file, event.at))?;
        }
        same(primary, relay, &Dump::file(&file, fs::metadata(primary.binlog_path(&file))?.len() as u32))?;
    }
    same(primary, relay, &Dump::file("", 4))
}

fn from_every_gtid_position(primary: &MariaDb, relay: &RelayProc) -> Result<()> {
    let mut state = BTreeMap::new();
    let mut positions = vec![String::new(), "5-1-10".to_owned()];
    for file in primary.binlogs()? {
        for event in events(&primary.binlog_path(&file))?.into_iter().filter(|event| event.kind == GTID) {
            let (sequence, domain) = (event.number(19, 8)?, event.number(27, 4)?);
            state.insert(domain, format!("{domain}-{}-{sequence}", event.number(5, 4)?));
            positions.push(state.values().cloned().collect::<Vec<_>>().join(","));
            // Only one domain is known: the others begin at their beginning.
            positions.push(state[&domain].clone());
        }
    }
    for position in &positions {
        same(primary, relay, &Dump::gtid(position))?;
    }
    // A replica that has much of one domain and little of another.
    let last: Vec<_> = state.values().cloned().collect();
    for mixed in [format!("0-1-2,{}", last[1]), format!("{},7-1-1", last[0]), format!("{},7-1-2,0-1-9", last[2])] {
        same(primary, relay, &Dump::gtid(&mixed))?;
    }
    Ok(())
}

fn every_kind_of_client(primary: &MariaDb, relay: &RelayProc) -> Result<()> {
    let (none, crc) = ("SET @master_binlog_checksum='NONE'", "SET @master_binlog_checksum= @@global.binlog_checksum");
    let first = primary.binlogs()?[0].clone();
    for flags in [NON_BLOCKING, NON_BLOCKING | ANNOTATE] {
        for checksum in [none, crc] {
            let dump = Dump::file(&first, 4).flags(flags).saying_only(&[checksum, "SET @mariadb_slave_capability=4"]);
            same(primary, relay, &dump)?;
            let by_gtid = dump.clone().saying("SET @slave_connect_state='0-1-4'");
            same(primary, relay, &Dump { position: 0, file: String::new(), ..by_gtid })?;
            // A client of old gets stand-ins for MariaDB's own events. The server gives up at the first XA transaction.
            let old = dump.saying_only(&[checksum]);
            let expected = old.run(&mut primary.session_as("repl", REPL_PASSWORD)?)?.comparable();
            let found = old.run(&mut relay.session()?)?.comparable();
            ensure!(expected.len() > 50 && found.len() > expected.len(), "{} and {}", expected.len(), found.len());
            difference(&expected, &found[..expected.len()]).context("stand-ins")?;
        }
    }
    for until in ["0-1-4", "0-1-12,7-1-1", "0-1-6,7-1-1"] {
        // Both end with a note (it holds the position, domains in any order) and EOF.
        let dump = Dump::gtid("0-1-2").flags(ANNOTATE).saying(&format!("SET @slave_until_gtid='{until}'"));
        let expected = dump.run(&mut primary.session_as("repl", REPL_PASSWORD)?)?;
        let found = dump.run(&mut relay.session()?)?;
        ensure!(expected.end == End::Eof && found.end == End::Eof, "{until}: {:?}, {:?}", expected.end, found.end);
        let (mut expected, mut found) = (condensed(&expected), condensed(&found));
        for events in [&mut expected, &mut found] {
            let last = events.pop().context("no events")?;
            ensure!(last[4] == GTID_LIST && last[22] >> 4 == 1, "{until}: the last event is {last:02x?}");
        }
        difference(&expected, &found).with_context(|| format!("until {until}"))?;
    }
    Ok(())
}

/// The same request to both, and the same answer.
fn same(primary: &MariaDb, relay: &RelayProc, dump: &Dump) -> Result<()> {
    let expected = dump.run(&mut primary.session_as("repl", REPL_PASSWORD)?)?;
    let found = dump.run(&mut relay.session()?)?;
    let kind = |stream: &Stream| match &stream.end {
        End::Refused(error) => format!("{} {}", error.code, error.message.split(';').next().unwrap_or_default()),
        other => format!("{other:?}"),
    };
    let check = || -> Result<()> {
        ensure!(
            kind(&expected) == kind(&found),
            "ends: {:?} from the primary, {:?} from the relay",
            expected.end,
            found.end
        );
        if dump.statements.iter().any(|text| text.contains("slave_connect_state")) {
            return difference(&condensed(&expected), &condensed(&found));
        }
        difference(&expected.comparable(), &found.comparable())
    };
    check().with_context(|| format!("{dump:?}"))
}

/// A server reads through what it skips: it sends the checkpoints that it meets there, and tells the position (in an artificial event, its domains in no
/// order) after each domain that is done with. A relay finds its place by its index and tells the position once, where it begins. Replicas need neither.
fn condensed(stream: &Stream) -> Vec<Vec<u8>> {
    let told = |event: &[u8]| event[4] == GTID_LIST && event[17] == 0x20 && event[22] == 0;
    stream.comparable().into_iter().filter(|event| event[4] != CHECKPOINT && !told(event)).collect()
}

/// An event in a file.
struct Event {
    at: u32,
    kind: u8,
    bytes: Vec<u8>,
}

impl Event {
    fn number(&self, at: usize, size: usize) -> Result<u64> {
        let bytes = self.bytes.get(at..at + size).context("the event is too short")?;
        Ok(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }
}

fn events(path: &Path) -> Result<Vec<Event>> {
    let bytes = fs::read(path)?;
    let (mut at, mut found) = (4, Vec::new());
    while at < bytes.len() {
        let header = Event { at: at as u32, kind: bytes[at + 4], bytes: bytes[at..at + 19].to_vec() };
        let size = header.number(9, 4)? as usize;
        found.push(Event { bytes: bytes[at..at + size].to_vec(), ..header });
        at += size;
    }
    Ok(found)
}
