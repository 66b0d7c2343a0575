//! Every captured event: its checksum holds, it is read, printed, and written back the same.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeMap;

use baton_wire::checksum::{EventChecksum, sign};
use baton_wire::event::{
    EventBody, EventHeader, EventKind, Flavor, FormatDescription, Heartbeat, Mark, RowsAction, TransactionTracker,
    body, build,
};
use baton_wire::gtid::GtidPosition;
use baton_wire::{ChecksumAlg, WireError};

/// Reads a log or stream event by event, as a relay does.
struct Walk {
    flavor: Flavor,
    alg: ChecksumAlg,
    tracker: TransactionTracker,
    position: GtidPosition,
    begun: usize,
    ended: usize,
    kinds: BTreeMap<EventKind, usize>,
    lines: Vec<String>,
}

impl Walk {
    fn new(flavor: Flavor, alg: ChecksumAlg) -> Self {
        Self {
            flavor,
            alg,
            tracker: TransactionTracker::new(),
            position: GtidPosition::empty(flavor),
            begun: 0,
            ended: 0,
            kinds: BTreeMap::new(),
            lines: Vec::new(),
        }
    }

    fn take(&mut self, event: &[u8]) {
        let header = EventHeader::parse(event).unwrap();
        assert_eq!(header.size as usize, event.len());
        if header.kind == EventKind::FORMAT_DESCRIPTION {
            let description = FormatDescription::parse(event).unwrap();
            self.alg = description.checksum;
            assert_eq!(description.flavor(), self.flavor);
        }
        self.alg.verify(event).unwrap_or_else(|e| panic!("{}: {e}", header.kind));
        let alg = self.alg;
        let inner = body(event, alg).unwrap();
        let decoded = EventBody::decode(&header, inner, self.flavor).unwrap_or_else(|e| panic!("{}: {e}", header.kind));
        assert!(!matches!(decoded, EventBody::Unknown(_)), "{}", header.kind);
        let line = decoded.to_string();
        assert!(!line.is_empty() && !line.contains(char::is_control), "{line:?}");
        self.lines.push(format!("{} {line}", header.kind));
        *self.kinds.entry(header.kind).or_default() += 1;
        rebuild(&header, &decoded, event, alg, self.flavor);

        match self.tracker.observe(&header, inner).unwrap() {
            Mark::Begin(id, _) => {
                self.begun += 1;
                self.position.advance(&id);
                assert!(self.tracker.in_transaction());
            }
            Mark::End => {
                self.ended += 1;
                assert!(!self.tracker.in_transaction());
            }
            Mark::Inside => assert!(self.tracker.in_transaction()),
            Mark::Outside => {}
        }
    }
}

/// Where there is an encoder, it gives the event back byte by byte.
fn rebuild(header: &EventHeader, decoded: &EventBody<'_>, event: &[u8], alg: ChecksumAlg, flavor: Flavor) {
    let again = match decoded {
        EventBody::FormatDescription(d) => {
            let again = d.event(*header);
            let content = if d.checksum == ChecksumAlg::Crc32 { event.len() } else { event.len() - 4 };
            assert_eq!(again[..content], event[..content]);
            return;
        }
        EventBody::Heartbeat(h) if header.kind == EventKind::HEARTBEAT => {
            assert_eq!(h.v1(flavor, header.server_id, alg), event);
            return;
        }
        EventBody::Heartbeat(h) => {
            assert_eq!(h.v2(header.server_id, alg), event);
            return;
        }
        EventBody::Rotate(r) => r.body(),
        EventBody::MariaDbGtid(g) => g.body(),
        EventBody::GtidList(l) => l.body(),
        EventBody::BinlogCheckpoint(c) => c.body(),
        EventBody::PreviousGtids(p) => p.body(),
        EventBody::XaPrepare(p) => p.body(),
        _ => return,
    };
    assert_eq!(build(*header, &again, alg), event, "{}", header.kind);
}

fn walk_file(name: &str) -> Walk {
    let flavor = if name.starts_with("mariadb") { Flavor::MariaDb } else { Flavor::MySql };
    let mut walk = Walk::new(flavor, ChecksumAlg::Crc32);
    for event in common::file_events(name) {
        walk.take(&event);
    }
    assert!(!walk.tracker.in_transaction());
    walk
}

#[test]
fn mariadb_files_are_read_whole_with_and_without_checksums() {
    for (name, alg) in
        [("mariadb-row-crc32.binlog", ChecksumAlg::Crc32), ("mariadb-row-nocrc.binlog", ChecksumAlg::None)]
    {
        let walk = walk_file(name);
        assert_eq!(walk.alg, alg);
        assert_eq!((walk.begun, walk.ended), (17, 17), "{name}");
        assert_eq!(walk.position.to_string(), "0-1-16,7-1-1", "{name}");
        for (kind, count) in [
            (EventKind::XA_PREPARE, 1),
            (EventKind::INTVAR, 1),
            (EventKind::RAND, 1),
            (EventKind::USER_VAR, 1),
            (EventKind::WRITE_ROWS_COMPRESSED_V1, 1),
            (EventKind::ROTATE, 1),
        ] {
            assert_eq!(walk.kinds.get(&kind), Some(&count), "{name}: {kind}");
        }
        let has = |text: &str| assert!(walk.lines.iter().any(|l| l.contains(text)), "{name}: {text}");
        has("MARIADB_GTID 0-1-14 transactional parallel xa-prepare xid=X'7831',X'',1");
        has("MARIADB_GTID 0-1-15 standalone transactional parallel xa-complete xid=X'7831',X'',1");
        has(": insert into app.acct(name,bal) values(concat('st',@a),rand())");
        has("XA_PREPARE XA PREPARE X'7831',X'',1");
        has("INTVAR INSERT_ID=24");
        has("USER_VAR @a int 8 bytes");
        has("zlib 31 bytes, 611 uncompressed, statement ends");
        has("is `app`.`acct` (8 columns)");
        has("ANNOTATE_ROWS insert into app.acct(name) values('dom7')");
    }
}

#[test]
fn mysql_file_is_read_whole_with_its_tagged_gtid_and_its_compressed_transaction() {
    let walk = walk_file("mysql-gtid-crc32.binlog");
    assert_eq!((walk.begun, walk.ended), (17, 17));
    assert_eq!(walk.position.to_string(), "2f214d05-e54a-11f1-8c8b-02fc00000001:1-16:tag1:1");
    let has = |text: &str| assert!(walk.lines.iter().any(|l| l.contains(text)), "{text}");
    has(
        "GTID_TAGGED 2f214d05-e54a-11f1-8c8b-02fc00000001:tag1:1 last_committed=15 sequence_number=16 transaction_length=300",
    );
    has("TRANSACTION_PAYLOAD zstd 165 bytes, 806 uncompressed");
    has("XA_PREPARE XA PREPARE X'7831',X'',1");
    has("PREVIOUS_GTIDS (empty)");
    has("ROTATE to ybin.000002:4");
}

#[test]
fn mysql_gtid_events_tell_the_length_of_their_transactions() {
    let events = common::file_events("mysql-gtid-crc32.binlog");
    let mut tracker = TransactionTracker::new();
    let (mut told, mut seen) = (0, 0);
    for event in events {
        let header = EventHeader::parse(&event).unwrap();
        let inner = body(&event, ChecksumAlg::Crc32).unwrap();
        if let EventBody::MySqlGtid(gtid) = EventBody::decode(&header, inner, Flavor::MySql).unwrap() {
            assert_eq!(gtid.immediate_server_version, Some(90_704));
            assert_eq!(gtid.original_server_version, Some(90_704));
            assert_eq!(gtid.original_commit_timestamp, gtid.immediate_commit_timestamp);
            assert!(gtid.sequence_number > gtid.last_committed);
            (told, seen) = (gtid.transaction_length.unwrap(), 0);
        }
        seen += event.len() as u64;
        if tracker.observe(&header, inner).unwrap() == Mark::End {
            assert_eq!(seen, told);
        }
    }
}

/// Events, whole transactions, and the GTIDs of these.
const STREAMED: &[(&str, usize, usize, &str)] = &[
    ("a-mariadb-filepos", 32, 8, "0-1-8"),
    ("b-mariadb-gtid-empty", 32, 8, "0-1-8"),
    ("c-mariadb-gtid-midlog", 30, 5, "0-1-13"),
    ("d-mariadb-semisync", 38, 5, "0-1-12"),
    ("g-mariadb-heartbeat", 33, 7, "0-1-7"),
    ("i-mariadb-checksum-mix", 101, 17, "0-1-17"),
    ("l-mariadb-binlog-raw", 44, 8, "0-1-8"),
    ("l-mariadb-binlog-raw-to-last", 44, 8, "0-1-8"),
    ("l-mariadb-binlog-raw-stop-never", 49, 9, "0-1-9"),
    ("m-mariadb-compressed", 16, 2, "0-1-21"),
    ("k-mariadb-17mb-event", 21, 2, "0-1-13"),
    ("k-mariadb-exact-16mb", 11, 1, "0-1-14"),
    ("mysql-a-gtid-empty", 26, 7, "76879f78-e547-11f1-8cb0-02fc00000001:1-7"),
    ("mysql-a-gtid-nonempty", 9, 1, "76879f78-e547-11f1-8cb0-02fc00000001:8"),
    ("mysql-b-filepos", 7, 1, "76879f78-e547-11f1-8cb0-02fc00000001:14"),
    ("mysql-c-semisync", 17, 3, "c7c98b6e-e547-11f1-b6bb-02fc00000001:7-9"),
    ("mysql-d-heartbeat-v2", 7, 0, ""),
    ("mysql-e-fast-auth", 9, 1, "76879f78-e547-11f1-8cb0-02fc00000001:9"),
    ("mysql-f-tagged-gtid-set", 9, 1, "76879f78-e547-11f1-8cb0-02fc00000001:19"),
    ("mysql-f-tagged-gtid-event", 9, 1, "76879f78-e547-11f1-8cb0-02fc00000001:mytag:1"),
    ("mysql-g-trx-payload", 8, 2, "76879f78-e547-11f1-8cb0-02fc00000001:17-18"),
];

#[test]
fn every_event_of_every_captured_stream_is_read_and_its_transactions_are_whole() {
    assert_eq!(STREAMED.len(), common::STREAMS.len());
    for (name, semi_sync) in common::STREAMS {
        let flavor = if name.contains("mariadb") { Flavor::MariaDb } else { Flavor::MySql };
        // Who asks for no checksums gets none before the first format description.
        let none = name.starts_with("l-") || name.starts_with("i-");
        let mut walk = Walk::new(flavor, if none { ChecksumAlg::None } else { ChecksumAlg::Crc32 });
        for (event, wants_ack) in common::events(name, *semi_sync) {
            let ended = walk.ended;
            walk.take(&event);
            if wants_ack == Some(true) {
                assert!(walk.ended > ended, "{name}: only the end of a transaction is to be acknowledged");
            }
        }
        assert!(!walk.tracker.in_transaction(), "{name}");
        assert_eq!(walk.begun, walk.ended, "{name}");
        let found = (*name, walk.lines.len(), walk.ended, walk.position.to_string());
        let (_, events, transactions, position) = STREAMED.iter().find(|(n, ..)| n == name).unwrap();
        assert_eq!(found, (*name, *events, *transactions, (*position).to_owned()));
    }
}

#[test]
fn events_in_pieces_are_summed_as_whole_ones() {
    for event in common::file_events("mariadb-row-crc32.binlog").into_iter().skip(1) {
        for step in [1, 3, 4, 1000, event.len()] {
            let sum = |event: &[u8]| {
                let mut sum = EventChecksum::new(event.len() as u32);
                event.chunks(step).for_each(|piece| sum.update(piece));
                sum.finish()
            };
            sum(&event).unwrap();
            let mut damaged = event.clone();
            damaged[10] ^= 1;
            assert!(matches!(sum(&damaged), Err(WireError::Checksum { .. })));
        }
        let mut short = EventChecksum::new(event.len() as u32);
        short.update(&event[..event.len() - 1]);
        assert!(matches!(short.finish(), Err(WireError::Truncated { .. })));
    }
}

#[test]
fn checksums_hold_whether_or_not_a_file_is_in_use_and_only_then() {
    let mut event = common::file_events("mariadb-row-crc32.binlog").remove(0);
    event[17] |= 1;
    ChecksumAlg::Crc32.verify(&event).unwrap();
    FormatDescription::clear_in_use(&mut event);
    ChecksumAlg::Crc32.verify(&event).unwrap();
    for at in 0..event.len() {
        let mut damaged = event.clone();
        damaged[at] ^= 0x40;
        assert!(ChecksumAlg::Crc32.verify(&damaged).is_err(), "byte {at}");
    }
    FormatDescription::as_sent_mid_file(&mut event, true);
    ChecksumAlg::Crc32.verify(&event).unwrap();
    let header = EventHeader::parse(&event).unwrap();
    assert_eq!((header.log_pos, FormatDescription::parse(&event).unwrap().created), (0, 0));
}

#[test]
fn heartbeats_beyond_4_gib_keep_their_position() {
    let heartbeat = Heartbeat { file: "mysql-bin.000001".to_owned(), position: (5 << 32) + 17 };
    for (event, flavor) in [
        (heartbeat.v1(Flavor::MariaDb, 1, ChecksumAlg::Crc32), Flavor::MariaDb),
        (heartbeat.v2(1, ChecksumAlg::Crc32), Flavor::MySql),
    ] {
        let header = EventHeader::parse(&event).unwrap();
        let inner = body(&event, ChecksumAlg::Crc32).unwrap();
        assert_eq!(Heartbeat::parse(&header, inner, flavor).unwrap(), heartbeat);
    }
    for position in [4, 250, 251, 65_535, 65_536, 1 << 24, u64::from(u32::MAX)] {
        let heartbeat = Heartbeat { file: "b.1".to_owned(), position };
        for event in [heartbeat.v1(Flavor::MariaDb, 1, ChecksumAlg::None), heartbeat.v2(1, ChecksumAlg::None)] {
            let header = EventHeader::parse(&event).unwrap();
            assert_eq!(Heartbeat::parse(&header, &event[19..], Flavor::MariaDb).unwrap(), heartbeat);
        }
    }
}

#[test]
fn a_heartbeat_at_position_0_does_not_lose_the_begin_of_its_file_name() {
    let heartbeat = Heartbeat { file: "mysql-bin.000001".to_owned(), position: 0 };
    let event = heartbeat.v1(Flavor::MariaDb, 1, ChecksumAlg::None);
    let header = EventHeader::parse(&event).unwrap();
    assert_eq!(Heartbeat::parse(&header, &event[19..], Flavor::MariaDb).unwrap(), heartbeat);
}

#[test]
fn an_event_of_17_mb_is_a_row_event_of_one_statement() {
    let events = common::events("k-mariadb-17mb-event", false);
    let (big, _) = events.iter().find(|(e, _)| e.len() == 17_000_042).unwrap();
    let header = EventHeader::parse(big).unwrap();
    match EventBody::decode(&header, body(big, ChecksumAlg::Crc32).unwrap(), Flavor::MariaDb).unwrap() {
        EventBody::Rows(rows) => {
            assert_eq!(rows.action, RowsAction::Write);
            assert!(rows.ends_statement());
            assert!(rows.compressed().is_none());
        }
        other => panic!("{other}"),
    }
}

#[test]
fn flavor_is_told_even_where_the_version_hides_it() {
    let event = common::file_events("mariadb-row-crc32.binlog").remove(0);
    let mut description = FormatDescription::parse(&event).unwrap();
    description.server_version = "5.5.5-10.11.19-relay".to_owned();
    assert_eq!(description.flavor(), Flavor::MariaDb);
    let header = EventHeader::parse(&event).unwrap();
    let mut again = description.event(header);
    assert_eq!(FormatDescription::parse(&again).unwrap(), description);
    sign(&mut again);
    ChecksumAlg::Crc32.verify(&again).unwrap();
}
