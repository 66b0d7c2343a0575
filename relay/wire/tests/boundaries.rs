//! Where transactions begin and end, case by case, and that no bytes make a parser panic.
#![allow(missing_docs)]

mod common;

use baton_wire::event::{
    BinlogCheckpoint, EventBody, EventHeader, EventKind, FLAG_IGNORABLE, Flavor, FormatDescription, GtidEvent,
    GtidExtra, GtidFlags, Mark, MysqlGtidEvent, TransactionTracker, Xid, body,
};
use baton_wire::gtid::mariadb::Gtid;
use baton_wire::{ChecksumAlg, checksum};
use proptest::prelude::*;

type Event = (EventKind, u16, Vec<u8>);

fn plain(kind: EventKind) -> Event {
    (kind, 0, Vec::new())
}

fn query(text: &str) -> Event {
    let mut body = vec![0; 13];
    body[8] = 3;
    body[11] = 2; // two bytes of status variables
    body.extend_from_slice(b"\x07\x07app\0");
    body.extend_from_slice(text.as_bytes());
    (EventKind::QUERY, 0, body)
}

fn maria(flags: u8) -> Event {
    let gtid = Gtid { domain: 0, server_id: 1, sequence: 7 };
    let xa = flags & (GtidFlags::PREPARED_XA | GtidFlags::COMPLETED_XA) != 0;
    let event = GtidEvent {
        gtid,
        flags: GtidFlags(flags),
        commit_id: (flags & GtidFlags::GROUP_COMMIT_ID != 0).then_some(9),
        xid: xa.then(|| Xid::new(1, b"x1", b"").unwrap()),
        extra: GtidExtra::default(),
    };
    (EventKind::MARIADB_GTID, 0x8, event.body())
}

fn mysql() -> Event {
    let mut body = vec![0; 25];
    body[17] = 5;
    (EventKind::GTID, 0, body)
}

fn incident() -> Event {
    (EventKind::INCIDENT, 0, b"\x01\0\x04lost".to_vec())
}

fn format(created: u8) -> Event {
    let mut body = vec![0; 57];
    body[52] = created;
    (EventKind::FORMAT_DESCRIPTION, 0, body)
}

/// One letter an event: `b`egin, `i`nside, `e`nd, `.` outside, `!` error.
fn marks(events: &[Event]) -> String {
    let mut tracker = TransactionTracker::new();
    let mut out = String::new();
    for (kind, flags, body) in events {
        let header = EventHeader { timestamp: 1, kind: *kind, server_id: 1, size: 0, log_pos: 0, flags: *flags };
        out.push(match tracker.observe(&header, body) {
            Ok(Mark::Begin(..)) => 'b',
            Ok(Mark::Inside) => 'i',
            Ok(Mark::End) => 'e',
            Ok(Mark::Outside) => '.',
            Err(_) => '!',
        });
    }
    out
}

#[test]
fn mariadb_groups_end_where_a_mariadb_replica_ends_them() {
    use EventKind as K;
    let rows = [plain(K::ANNOTATE_ROWS), plain(K::TABLE_MAP), plain(K::WRITE_ROWS_V1)];
    let transactional = GtidFlags::TRANSACTIONAL;
    let ddl = GtidFlags::STANDALONE | GtidFlags::DDL;
    let case = |head: u8, events: Vec<Event>| marks(&[vec![maria(head)], events].concat());

    assert_eq!(case(transactional, [&rows[..], &[plain(K::XID)]].concat()), "biiie", "row transaction");
    assert_eq!(case(0x0e, [&rows[..], &[plain(K::XID)]].concat()), "biiie", "in a group commit");
    assert_eq!(case(0x08, [&rows[..], &[query("COMMIT")]].concat()), "biiie", "Aria or MyISAM");
    assert_eq!(case(0x08, vec![query("insert into a"), query("ROLLBACK")]), "bie", "rolled back, Aria remains");
    assert_eq!(case(ddl, vec![query("CREATE TABLE t(a int)")]), "be", "DDL");
    assert_eq!(case(ddl, vec![(K::QUERY_COMPRESSED, 0, Vec::new())]), "be", "long DDL, compressed");
    assert_eq!(
        case(transactional, vec![plain(K::INTVAR), plain(K::RAND), plain(K::USER_VAR), query("insert"), plain(K::XID)]),
        "biiiie",
        "statement format"
    );
    assert_eq!(case(ddl, vec![plain(K::INTVAR), plain(K::RAND), plain(K::USER_VAR), query("insert")]), "biiie");
    assert_eq!(
        case(transactional, [&[query("CREATE TABLE t(a int)")], &rows[..], &[plain(K::XID)]].concat()),
        "biiiie",
        "CREATE TABLE .. SELECT"
    );
    assert_eq!(
        case(transactional, vec![query("SAVEPOINT `s`"), query("ROLLBACK TO `s`"), query("BEGIN"), plain(K::XID)]),
        "biiie",
        "savepoints and BEGIN inside"
    );
    assert_eq!(
        case(transactional, vec![query("insert into t values('COMMIT')"), query("commit work"), plain(K::XID)]),
        "biie",
        "only the exact word ends a group"
    );
    assert_eq!(
        case(
            transactional,
            vec![plain(K::BEGIN_LOAD_QUERY), plain(K::APPEND_BLOCK), plain(K::EXECUTE_LOAD_QUERY), plain(K::XID)]
        ),
        "biiie",
        "LOAD DATA"
    );
    assert_eq!(case(0x4c, [&rows[..], &[query("XA END X'7831',X'',1"), plain(K::XA_PREPARE)]].concat()), "biiiie");
    assert_eq!(case(0x8d, vec![query("XA COMMIT X'7831',X'',1")]), "be", "XA COMMIT");
    assert_eq!(case(0x8d, vec![query("XA ROLLBACK X'7831',X'',1")]), "be", "XA ROLLBACK");
    assert_eq!(
        case(transactional, vec![plain(K::TABLE_MAP), plain(K::WRITE_ROWS_COMPRESSED_V1), plain(K::XID)]),
        "biie"
    );
    assert_eq!(case(transactional, vec![plain(K::HEARTBEAT), plain(K::BINLOG_CHECKPOINT), plain(K::XID)]), "b..e");
}

#[test]
fn mysql_groups_end_where_a_mysql_replica_ends_them() {
    use EventKind as K;
    let case = |events: Vec<Event>| marks(&[vec![mysql()], events].concat());
    let rows = || vec![plain(K::ROWS_QUERY), plain(K::TABLE_MAP), plain(K::WRITE_ROWS)];
    assert_eq!(case([vec![query("BEGIN")], rows(), vec![plain(K::XID)]].concat()), "biiiie");
    assert_eq!(case([vec![query("BEGIN")], rows(), vec![query("COMMIT")]].concat()), "biiiie");
    assert_eq!(case(vec![query("CREATE TABLE t(a int)")]), "be");
    assert_eq!(case(vec![plain(K::TRANSACTION_PAYLOAD)]), "be");
    assert_eq!(case(vec![plain(K::INTVAR), plain(K::USER_VAR), query("create table t select 1")]), "biie");
    assert_eq!(case(vec![query("BEGIN"), query("rollback to `s`"), query("ROLLBACK /* why */")]), "biie");
    assert_eq!(
        case([vec![query("XA START X'1',X'',1")], rows(), vec![query("XA END X'1'"), plain(K::XA_PREPARE)]].concat()),
        "biiiiie"
    );
    assert_eq!(case(vec![query("XA COMMIT X'1',X'',1")]), "be");
    assert_eq!(case(vec![query("XA ROLLBACK X'1',X'',1")]), "be");
    assert_eq!(case(vec![query("XA START X'1',X'',1"), query("XA ROLLBACK X'1'")]), "bie");
    assert_eq!(case(vec![incident()]), "be", "an incident has a GTID of its own");
    assert_eq!(
        case(vec![
            query("BEGIN"),
            query("CREATE TABLE t(a int) START TRANSACTION"),
            plain(K::WRITE_ROWS),
            plain(K::XID)
        ]),
        "biiie",
        "CREATE TABLE .. SELECT as one transaction"
    );
    assert_eq!(case(vec![query("BEGIN"), plain(K::VIEW_CHANGE), query("COMMIT")]), "biie", "group replication");
    let anonymous = (K::ANONYMOUS_GTID, 0, vec![0; 25]);
    assert_eq!(marks(&[anonymous, query("BEGIN"), plain(K::XID)]), "bie");
    let unknown = (EventKind(77), FLAG_IGNORABLE, Vec::new());
    assert_eq!(marks(&[unknown.clone(), mysql(), unknown.clone(), query("BEGIN"), unknown, plain(K::XID)]), ".biiie");
}

#[test]
fn a_stream_that_lost_events_is_noticed() {
    use EventKind as K;
    assert_eq!(marks(&[maria(4), plain(K::TABLE_MAP), maria(4)]), "bi!", "the end is missing");
    assert_eq!(marks(&[maria(4), plain(K::XID), plain(K::XID)]), "be!", "the beginning is missing");
    assert_eq!(marks(&[plain(K::TABLE_MAP)]), "!");
    assert_eq!(marks(&[mysql(), mysql()]), "b!");
    assert_eq!(marks(&[(EventKind(77), 0, Vec::new())]), "!", "an unknown kind that may not be ignored");
    assert_eq!(marks(&[incident(), plain(K::STOP), plain(K::ROTATE), plain(K::GTID_LIST)]), "....");
}

#[test]
fn a_transaction_that_a_crash_cut_short_ends_with_the_servers_restart_only() {
    use EventKind as K;
    let rotated = [maria(4), plain(K::TABLE_MAP), plain(K::ROTATE), format(0), plain(K::WRITE_ROWS_V1), plain(K::XID)];
    assert_eq!(marks(&rotated), "bi..ie", "a reconnect within a transaction goes on with it");
    let restarted = [maria(4), plain(K::TABLE_MAP), plain(K::ROTATE), format(1), maria(4), plain(K::XID)];
    assert_eq!(marks(&restarted), "bi..be");
    let mut tracker = TransactionTracker::new();
    let (kind, flags, body) = maria(4);
    let header = EventHeader { timestamp: 0, kind, server_id: 1, size: 0, log_pos: 0, flags };
    tracker.observe(&header, &body).unwrap();
    tracker.reset();
    assert!(!tracker.in_transaction());
}

#[test]
fn mariadb_gtid_events_keep_what_newer_servers_add() {
    let gtid = Gtid { domain: 3, server_id: 1, sequence: 1 << 40 };
    let xid = Some(Xid::new(7, &[b'g'; 64], b"branch").unwrap());
    for (flags, commit_id, xid, extra) in [
        (GtidFlags::STANDALONE, None, None, GtidExtra::default()),
        (GtidFlags::GROUP_COMMIT_ID, Some(77), None, GtidExtra::default()),
        (GtidFlags::COMPLETED_XA | GtidFlags::GROUP_COMMIT_ID, Some(77), xid, GtidExtra::default()),
        (
            GtidFlags::PREPARED_XA,
            None,
            xid,
            GtidExtra { flags: GtidExtra::MULTI_ENGINE, engines: Some(255), ..Default::default() },
        ),
        (
            GtidFlags::DDL,
            None,
            None,
            GtidExtra {
                flags: GtidExtra::COMMIT_ALTER | GtidExtra::THREAD_ID,
                engines: None,
                start_alter: Some(12),
                thread_id: Some(5),
            },
        ),
    ] {
        let event = GtidEvent { gtid, flags: GtidFlags(flags), commit_id, xid, extra };
        let body = event.body();
        assert_eq!(GtidEvent::parse(1, &body).unwrap(), event);
        for cut in 0..13 {
            assert!(GtidEvent::parse(1, &body[..cut]).is_err());
        }
    }
    assert!(Xid::new(1, &[0; 65], b"").is_err());
}

#[test]
fn mysql_gtid_events_of_older_servers_and_of_copies_are_read() {
    let mut body = mysql().2;
    let v56 = MysqlGtidEvent::parse(EventKind::GTID, &body).unwrap();
    assert_eq!((v56.gtid.number, v56.last_committed), (5, None));
    body.extend_from_slice(&[2, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    let v57 = MysqlGtidEvent::parse(EventKind::GTID, &body).unwrap();
    assert_eq!((v57.last_committed, v57.sequence_number), (Some(4), Some(5)));
    assert_eq!(v57.immediate_commit_timestamp, None);
    // Copied by a replica: another commit time and another version than where it was born; then a group's ticket.
    body.extend_from_slice(&[9, 0, 0, 0, 0, 0, 0x80, 8, 0, 0, 0, 0, 0, 0]);
    body.extend_from_slice(&[0xfc, 0, 1]);
    body.extend_from_slice(&90_704u32.wrapping_add(1 << 31).to_le_bytes());
    body.extend_from_slice(&80_036u32.to_le_bytes());
    body.extend_from_slice(&6u64.to_le_bytes());
    let copy = MysqlGtidEvent::parse(EventKind::GTID, &body).unwrap();
    assert_eq!((copy.immediate_commit_timestamp, copy.original_commit_timestamp), (Some(9), Some(8)));
    assert_eq!((copy.immediate_server_version, copy.original_server_version), (Some(90_704), Some(80_036)));
    assert_eq!((copy.transaction_length, copy.commit_group_ticket), (Some(256), Some(6)));
    body[17] = 0;
    assert!(MysqlGtidEvent::parse(EventKind::GTID, &body).is_err(), "number 0");
    assert!(MysqlGtidEvent::parse(EventKind::ANONYMOUS_GTID, &body).is_ok());
}

/// A tagged event of `fields`, with the given last field that must be known.
fn tagged(last_needed: u8, fields: &[u8]) -> Vec<u8> {
    let size = 3 + fields.len() as u8;
    [&[2, size << 1, last_needed << 1][..], fields].concat()
}

#[test]
fn tagged_gtid_events_pass_over_new_fields_that_may_be_ignored() {
    let fields = [&[0, 2, 2][..], &[0x0c; 16], &[4, 20, 6, 4, b'a', b'b'], &[24, 1, 2, 3]].concat();
    let event = MysqlGtidEvent::parse(EventKind::GTID_TAGGED, &tagged(3, &fields)).unwrap();
    assert_eq!(event.gtid.to_string(), "06060606-0606-0606-0606-060606060606:ab:5");
    let needed = MysqlGtidEvent::parse(EventKind::GTID_TAGGED, &tagged(12, &fields)).unwrap_err().to_string();
    assert!(needed.contains("field 12 is unknown and may not be ignored"), "{needed}");
    let mut twice = fields.clone();
    twice.truncate(25);
    twice.extend_from_slice(&[4, 20]);
    assert!(MysqlGtidEvent::parse(EventKind::GTID_TAGGED, &tagged(3, &twice)).is_err());
    let mut wrong_size = tagged(3, &fields);
    wrong_size.push(0);
    assert!(MysqlGtidEvent::parse(EventKind::GTID_TAGGED, &wrong_size).unwrap_err().to_string().contains("message of"));
}

#[test]
fn texts_are_printed_on_one_line_whatever_they_hold() {
    let (kind, flags, body) = query("insert '\n\r\0\u{2028}\u{85}é'");
    let mut body = body;
    body.extend_from_slice(b"\xff\xfe");
    let header = EventHeader { timestamp: 1, kind, server_id: 1, size: 0, log_pos: 0, flags };
    let text = EventBody::decode(&header, &body, Flavor::MariaDb).unwrap().to_string();
    assert_eq!(text, "thread 0 database app: insert '\\n\\r\\u{0}\\u{2028}\\u{85}é'\u{fffd}\u{fffd}");
}

fn decode_all(kind: EventKind, log_pos: u32, bytes: &[u8]) {
    let header = EventHeader { timestamp: 1, kind, server_id: 1, size: 0, log_pos, flags: 0 };
    for flavor in [Flavor::MariaDb, Flavor::MySql] {
        if let Ok(body) = EventBody::decode(&header, bytes, flavor) {
            assert!(!body.to_string().contains('\n'));
        }
    }
    for begin in [maria(1), maria(4), mysql()] {
        let mut tracker = TransactionTracker::new();
        let start = EventHeader { kind: begin.0, ..header };
        tracker.observe(&start, &begin.2).unwrap();
        let _ = tracker.observe(&header, bytes);
    }
}

proptest! {
    #[test]
    fn noise_in_any_kind_of_event_is_read_or_refused(
        kind in any::<u8>(),
        log_pos in prop::sample::select(vec![0, 4]),
        bytes in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        decode_all(EventKind(kind), log_pos, &bytes);
        let _ = EventHeader::parse(&bytes);
        let _ = FormatDescription::parse(&bytes);
        let _ = BinlogCheckpoint::parse(&bytes);
        let _ = checksum::verify(&bytes);
        let _ = body(&bytes, ChecksumAlg::Crc32);
        let mut copy = bytes.clone();
        checksum::sign(&mut copy);
        FormatDescription::as_sent_mid_file(&mut copy, true);
    }
}

#[test]
fn captured_events_with_bytes_changed_or_cut_are_read_or_refused() {
    // A fixed generator: what fails can be run again.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let mut events: Vec<_> = common::FILES.iter().flat_map(|name| common::file_events(name)).collect();
    for (name, semi_sync) in common::STREAMS.iter().filter(|(n, _)| n.starts_with("mysql") || n.starts_with('g')) {
        events.extend(common::events(name, *semi_sync).into_iter().map(|(event, _)| event));
    }
    for event in events.iter().filter(|e| e.len() < 2000) {
        let header = EventHeader::parse(event).unwrap();
        for _ in 0..40 {
            let mut bytes = event[19..].to_vec();
            for _ in 0..random() % 4 {
                let at = random() % bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random() as u8;
                }
            }
            bytes.truncate(bytes.len().saturating_sub(random() % 8 * (random() % 8)));
            decode_all(header.kind, header.log_pos, &bytes);
        }
    }
}
