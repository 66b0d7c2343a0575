//! What goes out to whom, by tables over a small made-up log.

use baton_wire::checksum::CHECKSUM_LEN;
use baton_wire::event::{GtidListEvent, build};
use baton_wire::frame::{Deframed, DeframerOptions, EventDeframer};

use super::super::pieces::{Pieces, Taken};
use super::*;

const ALG: ChecksumAlg = ChecksumAlg::Crc32;

fn list(text: &str) -> GtidList {
    text.parse().unwrap_or_else(|e| panic!("{e}"))
}

/// Events one behind the other, as in a file.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn event(&mut self, kind: EventKind, server_id: u32, body: &[u8]) -> &mut Self {
        let log_pos = (4 + self.0.len() + HEADER_LEN + body.len() + CHECKSUM_LEN) as u32;
        let header = EventHeader { timestamp: 1, kind, server_id, size: 0, log_pos, flags: 0 };
        self.0.extend_from_slice(&build(header, body, ALG));
        self
    }

    fn gtid(&mut self, gtid: &str, flags: u8) -> &mut Self {
        let gtid: Gtid = gtid.parse().unwrap_or_else(|e| panic!("{e}"));
        let mut body = [&gtid.sequence.to_le_bytes()[..], &gtid.domain.to_le_bytes(), &[flags]].concat();
        body.resize(19, 0);
        self.event(EventKind::MARIADB_GTID, gtid.server_id, &body)
    }

    /// Rows with their statement.
    fn rows(&mut self, gtid: &str) -> &mut Self {
        self.gtid(gtid, 0x0c).event(EventKind::ANNOTATE_ROWS, 1, b"INSERT INTO t VALUES (1)");
        self.event(EventKind::TABLE_MAP, 1, &[1; 30]).event(EventKind::WRITE_ROWS_V1, 1, &[2; 300]);
        self.event(EventKind::XID, 1, &[3; 8])
    }

    /// A statement that stands alone.
    fn ddl(&mut self, gtid: &str, text: &[u8]) -> &mut Self {
        let body = [&[0; 13][..], &[0], text].concat();
        self.gtid(gtid, 0x29).event(EventKind::QUERY, 1, &body)
    }

    fn list(&mut self, gtids: &str) -> &mut Self {
        let body = GtidListEvent { gtids: list(gtids).iter().collect(), flags: 0 }.body();
        self.event(EventKind::GTID_LIST, 1, &body)
    }
}

fn log() -> Vec<u8> {
    let mut log = Bytes::default();
    log.list("")
        .rows("0-1-1")
        .rows("1-1-1")
        .ddl("0-1-2", b"CREATE TABLE t (a INT)")
        .rows("1-1-2")
        .rows("0-1-4")
        .0
        .clone()
}

fn filter() -> Filter {
    Filter::default()
}

/// Puts `log` through an emitter in reads of `read` bytes; what came out, event by event, and where it ended.
fn emitted(filter: Filter, at: &str, log: &[u8], read: usize) -> (Vec<Vec<u8>>, Option<EmitError>, Emitter) {
    let mut emitter = Emitter::new(filter, ALG, list(at), 1, false);
    let (mut out, mut pieces, mut from, mut least, mut error) = (Vec::new(), Pieces::new(read), 0, 1, None);
    while from < log.len() && (pieces.inside_event() || !emitter.until_reached()) {
        match pieces.take(&mut emitter, &mut out, &log[from..log.len().min(from + read.max(least))]) {
            Ok(Taken::Bytes(n)) => (from, least) = (from + n, 1),
            Ok(Taken::Needs(n)) => least = n,
            Err(e) => {
                error = Some(e);
                break;
            }
        }
    }
    let mut deframer = EventDeframer::new(DeframerOptions { whole_up_to: usize::MAX, ..DeframerOptions::default() });
    let (mut events, mut rest): (Vec<Vec<u8>>, &[u8]) = (Vec::new(), &out);
    while let (used, Deframed::EventData { first, data, .. }) = deframer.next(rest).unwrap_or_else(|e| panic!("{e}")) {
        if first {
            events.push(Vec::new());
        }
        events.last_mut().unwrap_or_else(|| panic!("no beginning")).extend_from_slice(data);
        rest = &rest[used..];
    }
    assert!(rest.is_empty(), "something is left that is no event");
    assert_eq!(emitter.events(), events.len() as u64);
    (events, error, emitter)
}

/// The transactions in what came out.
fn gtids(events: &[Vec<u8>]) -> String {
    let gtid = |e: &Vec<u8>| -> Option<String> {
        let header = EventHeader::parse(e).ok().filter(|h| h.kind == EventKind::MARIADB_GTID)?;
        let body = &e[HEADER_LEN..];
        let sequence = u64::from_le_bytes(*body.first_chunk()?);
        let domain = u32::from_le_bytes(*body.get(8..)?.first_chunk()?);
        Some(format!("{domain}-{}-{sequence}", header.server_id))
    };
    events.iter().filter_map(gtid).collect::<Vec<_>>().join(" ")
}

const READS: [usize; 3] = [usize::MAX >> 1, 400, 120];

#[test]
fn without_a_filter_everything_goes_out_as_it_stands() {
    for read in READS {
        let (events, error, _) = emitted(filter(), "", &log(), read);
        assert!(error.is_none() && events.concat() == log(), "reads of {read}");
    }
}

#[test]
fn transactions_that_the_client_has_are_left_out_and_nothing_else() {
    for (known, expected) in [
        ("0-1-1", "1-1-1 0-1-2 1-1-2 0-1-4"),
        ("1-1-1", "0-1-1 0-1-2 1-1-2 0-1-4"),
        ("0-1-2", "1-1-1 1-1-2 0-1-4"),
        ("0-1-4", "1-1-1 1-1-2"),
        ("0-1-1,1-1-2", "0-1-2 0-1-4"),
        ("0-1-4,1-1-2", ""),
    ] {
        for read in READS {
            let (events, error, _) = emitted(Filter { known: list(known), ..filter() }, "", &log(), read);
            assert!(error.is_none(), "{error:?}");
            assert_eq!(gtids(&events), expected, "known {known}, reads of {read}");
            let ends = events.iter().filter(|e| e[4] == EventKind::XID.0 || e[4] == EventKind::QUERY.0).count();
            assert_eq!(ends, expected.split_whitespace().count(), "known {known}: each with its end");
            assert_eq!(events[0][4], EventKind::GTID_LIST.0, "what belongs to no transaction goes out");
        }
    }
}

#[test]
fn until_ends_behind_the_last_transaction_asked_for() {
    for (until, expected, reached) in [
        ("0-1-2", "0-1-1 0-1-2", true),
        ("0-1-1", "0-1-1", true),
        ("0-1-2,1-1-1", "0-1-1 1-1-1 0-1-2", true),
        ("0-1-1,1-1-2", "0-1-1 1-1-1 1-1-2", true),
        // One that the log jumps over ends where the log is beyond it.
        ("0-1-3", "0-1-1 0-1-2", true),
        ("0-1-9", "0-1-1 0-1-2 0-1-4", false),
        ("7-1-1", "", false),
        ("", "", true),
    ] {
        for read in READS {
            let (events, error, emitter) = emitted(Filter { until: Some(list(until)), ..filter() }, "", &log(), read);
            assert!(error.is_none(), "{error:?}");
            assert_eq!((gtids(&events).as_str(), emitter.until_reached()), (expected, reached), "until {until}");
        }
    }
}

#[test]
fn until_counts_what_the_client_has_already() {
    for (at, known, until, expected) in [
        ("0-1-2,1-1-1", "", "0-1-2", ""),
        ("0-1-1", "1-1-2", "0-1-2,1-1-1", "0-1-2"),
        ("0-1-1", "1-1-1", "1-1-2", "1-1-2"),
    ] {
        let skipped = Bytes::default().list("").rows("0-1-1").0.len();
        let filter = Filter { known: list(known), until: Some(list(until)), ..filter() };
        let (events, error, emitter) = emitted(filter, at, &log()[skipped..], 400);
        assert!(error.is_none() && emitter.until_reached());
        assert_eq!(gtids(&events), expected, "at {at}, known {known}, until {until}");
    }
}

#[test]
fn until_waits_for_the_whole_of_a_large_last_event() {
    let large = vec![b'-'; 5000];
    let mut log = Bytes::default();
    log.ddl("0-1-1", &large).rows("0-1-2");
    let (events, error, emitter) = emitted(Filter { until: Some(list("0-1-1")), ..filter() }, "", &log.0, 1000);
    assert!(error.is_none() && emitter.until_reached() && !emitter.inside_event());
    assert_eq!((gtids(&events).as_str(), events.last().map(Vec::len)), ("0-1-1", Some(HEADER_LEN + 14 + 5000 + 4)));
}

#[test]
fn a_large_event_of_a_known_transaction_is_left_out_whole() {
    let mut log = Bytes::default();
    log.ddl("0-1-1", &[b'-'; 5000]).rows("1-1-1");
    let (events, error, _) = emitted(Filter { known: list("0-1-1"), ..filter() }, "", &log.0, 1000);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(gtids(&events), "1-1-1");
}

#[test]
fn a_domain_that_turns_up_with_other_transactions_than_the_client_has_is_told() {
    let (events, error, _) = emitted(Filter { foreign: list("1-9-100"), ..filter() }, "", &log(), 400);
    assert_eq!(gtids(&events), "0-1-1");
    match error {
        Some(EmitError::Forked { requested, ours }) => {
            assert_eq!((requested.to_string(), ours.to_string()), ("1-9-100".into(), "1-1-1".into()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_domain_that_turns_up_with_what_the_client_has_goes_on_behind_it() {
    for read in READS {
        let (events, error, _) = emitted(Filter { foreign: list("1-1-1"), ..filter() }, "", &log(), read);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(gtids(&events), "0-1-1 0-1-2 1-1-2 0-1-4", "reads of {read}");
    }
}

#[test]
fn statements_of_rows_are_left_out_for_who_did_not_ask_for_them() {
    let (events, error, _) = emitted(Filter { drop_annotate: true, ..filter() }, "", &log(), 400);
    assert!(error.is_none() && events.iter().all(|e| e[4] != EventKind::ANNOTATE_ROWS.0));
    assert_eq!(gtids(&events), "0-1-1 1-1-1 0-1-2 1-1-2 0-1-4");
}

#[test]
fn a_client_may_begin_inside_a_transaction_whatever_it_does_not_want_to_see() {
    let whole = log();
    let begins = Bytes::default().list("").gtid("0-1-1", 0x0c).0.len();
    for filter in [Filter { drop_annotate: true, ..filter() }, Filter { stand_ins: true, ..filter() }] {
        let (events, error, _) = emitted(filter, "", &whole[begins..], 400);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(events.iter().filter(|e| e[4] == EventKind::XID.0).count(), 4);
    }
}

#[test]
fn stand_ins_leave_every_position_where_it_was() {
    let whole = log();
    // A client that asks for statements of rows gets them as they are; all else that is MariaDB's own is replaced.
    let (events, _, _) = emitted(Filter { stand_ins: true, ..filter() }, "", &whole, 400);
    assert!(events.iter().any(|e| e[4] == EventKind::ANNOTATE_ROWS.0));
    let (events, error, _) = emitted(Filter { stand_ins: true, drop_annotate: true, ..filter() }, "", &whole, 400);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(events.concat().len(), whole.len());
    let mut end = 4;
    for event in &events {
        let header = EventHeader::parse(event).unwrap_or_else(|e| panic!("{e}"));
        end += event.len();
        assert_eq!(header.log_pos as usize, end);
        assert!(ALG.verify(event).is_ok() && header.kind.0 < EventKind::ANNOTATE_ROWS.0, "{}", header.kind);
    }
}

/// Puts `log` through a semi-sync emitter in reads of `read` bytes: kinds and GTIDs' ends of the events that are to be acknowledged, and where the emitter said that
/// they end.
fn asked_for(filter: Filter, log: &[u8], read: usize) -> (Vec<u32>, Vec<u64>) {
    let mut emitter = Emitter::new(filter, ALG, list(""), 1, true);
    let (mut out, mut pieces, mut from, mut least) = (Vec::new(), Pieces::new(read), 0, 1);
    let mut told = Vec::new();
    while from < log.len() {
        match pieces.take(&mut emitter, &mut out, &log[from..log.len().min(from + read.max(least))]) {
            Ok(Taken::Bytes(n)) => {
                told.extend(emitter.take_ends().map(|ends| 4 + from as u64 + ends));
                (from, least) = (from + n, 1);
            }
            Ok(Taken::Needs(n)) => least = n,
            Err(e) => panic!("{e}"),
        }
    }
    let options = DeframerOptions { semi_sync: true, whole_up_to: usize::MAX, ..DeframerOptions::default() };
    let (mut deframer, mut rest, mut asked): (_, &[u8], _) = (EventDeframer::new(options), &out, Vec::new());
    // The numbers of the packets are checked by the way.
    while let (used, Deframed::EventData { header, last, semi_sync_flag, .. }) =
        deframer.next(rest).unwrap_or_else(|e| panic!("{e}"))
    {
        asked.extend((last && semi_sync_flag == Some(true)).then_some(header.log_pos));
        rest = &rest[used..];
    }
    assert!(rest.is_empty(), "something is left that is no event");
    (asked, told)
}

#[test]
fn the_last_transaction_that_goes_out_of_each_read_is_to_be_acknowledged() {
    let whole = log();
    let ends = |n: usize| (4 + log_up_to(n)) as u32;
    for (known, expected) in [("", ends(5)), ("0-1-4", ends(4)), ("0-1-4,1-1-2", 0)] {
        let (asked, told) = asked_for(Filter { known: list(known), ..filter() }, &whole, usize::MAX >> 1);
        assert_eq!(asked, if expected == 0 { vec![] } else { vec![expected] }, "known {known}");
        assert_eq!(told, asked.iter().map(|at| u64::from(*at)).collect::<Vec<_>>());
    }
    // A read that ends inside of a transaction asks for the one before; events larger than a read are asked for too.
    for read in [1000, 400, 120] {
        let (asked, told) = asked_for(filter(), &whole, read);
        assert_eq!(asked.last(), Some(&ends(5)), "reads of {read}");
        assert!(asked.iter().all(|at| (1..=5).any(|n| ends(n) == *at)), "{asked:?}");
        assert_eq!(told, asked.iter().map(|at| u64::from(*at)).collect::<Vec<_>>());
    }
}

/// Bytes up to the end of the `n`th transaction of [`log`].
fn log_up_to(n: usize) -> usize {
    let mut log = Bytes::default();
    log.list("").rows("0-1-1");
    for step in 2..=n {
        match step {
            2 => log.rows("1-1-1"),
            3 => log.ddl("0-1-2", b"CREATE TABLE t (a INT)"),
            4 => log.rows("1-1-2"),
            _ => log.rows("0-1-4"),
        };
    }
    log.0.len()
}

#[test]
fn a_client_that_begins_inside_a_transaction_is_asked_for_the_end_of_it() {
    let begins = Bytes::default().list("").gtid("0-1-1", 0x0c).0.len();
    let end = log_up_to(1);
    let (asked, _) = asked_for(filter(), &log()[begins..end], usize::MAX >> 1);
    // What ends is not known to be a transaction: the next one is asked for.
    assert_eq!(asked, Vec::<u32>::new());
    let (asked, _) = asked_for(filter(), &log()[begins..log_up_to(2)], usize::MAX >> 1);
    assert_eq!(asked, [(4 + log_up_to(2)) as u32]);
}
