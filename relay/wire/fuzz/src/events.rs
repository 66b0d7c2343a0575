//! Events: whatever a sender puts into one is read or refused, is shown on one line, and is written as it was read.

use baton_wire::checksum::{self, ChecksumAlg, EventChecksum};
use baton_wire::event::{
    BODY_PREFIX, BinlogCheckpoint, EventBody, EventHeader, EventKind, Flavor, FormatDescription, GtidEvent,
    GtidListEvent, HEADER_LEN, Heartbeat, Mark, PreviousGtids, Rotate, Rows, TransactionPayload, TransactionTracker,
    XaPrepare, body, build,
};
use baton_wire::gtid::TransactionId;

use super::input::{Input, cuts};

/// Input: flavor and checksum, seed of slices, a whole event.
pub fn event(data: &[u8]) {
    let mut input = Input(data);
    let (flavor, alg) = flavor_and_checksum(input.byte());
    let cut = cuts(input.byte());
    let event = input.0;
    checksummed_in_pieces(event, cut);
    let Ok(header) = EventHeader::parse(event) else { return };
    let mut again = Vec::new();
    header.write(&mut again);
    assert_eq!(again, event[..HEADER_LEN]);
    let Ok(body) = body(event, alg) else { return };

    let rebuilt = build(header, body, alg);
    assert_eq!(alg.verify(&rebuilt), Ok(()));
    // A format description has a checksum field, whatever the others have.
    if header.kind != EventKind::FORMAT_DESCRIPTION {
        assert_eq!(baton_wire::event::body(&rebuilt, alg), Ok(body));
    }
    let decoded = match EventBody::decode(&header, body, flavor) {
        Ok(decoded) => decoded,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(!decoded.to_string().contains(|c: char| c.is_control()), "not on one line");
    assert!(!format!("{decoded:?}").is_empty());
    if let EventBody::Rows(rows) = &decoded {
        assert!(Rows::shape(header.kind).is_some());
        let _ = rows.compressed();
    }
    if let Some(written) = write(&decoded, &header, flavor) {
        assert_eq!(EventBody::decode(&header, &written, flavor).as_ref(), Ok(&decoded));
    }
}

/// The body of an event of which we are able to write one.
fn write(decoded: &EventBody<'_>, header: &EventHeader, flavor: Flavor) -> Option<Vec<u8>> {
    Some(match decoded {
        EventBody::MariaDbGtid(gtid) => gtid.body(),
        EventBody::GtidList(list) => list.body(),
        EventBody::BinlogCheckpoint(checkpoint) => checkpoint.body(),
        EventBody::Rotate(rotate) => rotate.body(),
        EventBody::PreviousGtids(previous) => previous.body(),
        EventBody::XaPrepare(prepare) => prepare.body(),
        EventBody::Heartbeat(beat) if header.kind == EventKind::HEARTBEAT_V2 => {
            let event = beat.v2(header.server_id, ChecksumAlg::None);
            event[HEADER_LEN..].to_vec()
        }
        EventBody::Heartbeat(beat) => {
            let event = beat.v1(flavor, header.server_id, ChecksumAlg::None);
            // Where the position goes depends on the header, which is the input's here.
            let same_header = EventHeader::parse(&event).is_ok_and(|written| written.log_pos == header.log_pos);
            same_header.then(|| event[HEADER_LEN..].to_vec())?
        }
        _ => return None,
    })
}

fn flavor_and_checksum(choice: u8) -> (Flavor, ChecksumAlg) {
    let flavor = if choice & 1 == 0 { Flavor::MariaDb } else { Flavor::MySql };
    (flavor, if choice & 2 == 0 { ChecksumAlg::Crc32 } else { ChecksumAlg::None })
}

/// A checksum that is computed piece by piece is that of the whole; a signed event verifies, and does not if a bit is wrong.
fn checksummed_in_pieces(event: &[u8], mut cut: impl FnMut() -> usize) {
    let mut signed = event.to_vec();
    checksum::sign(&mut signed);
    let signable = event.len() >= HEADER_LEN + checksum::CHECKSUM_LEN;
    assert_eq!(checksum::verify(&signed).is_ok(), signable);
    if !signable || event[4] == EventKind::FORMAT_DESCRIPTION.0 {
        return;
    }
    let broken_at = cut() % signed.len();
    for broken in [false, true] {
        let mut sum = EventChecksum::new(signed.len() as u32);
        signed[broken_at] ^= u8::from(broken);
        let mut rest = &signed[..];
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(cut().min(rest.len()));
            sum.update(piece);
            rest = later;
        }
        assert_eq!(sum.finish().is_ok(), !broken);
        assert_eq!(checksum::verify(&signed).is_ok(), !broken);
    }
}

/// Input: a whole format description.
pub fn format_description(data: &[u8]) {
    let Ok(description) = FormatDescription::parse(data) else { return };
    let header = EventHeader::parse(data).expect("was read before");
    let again = description.event(header);
    assert_eq!(checksum::verify(&again), Ok(()));
    // 50 bytes without NUL, and replacement characters, do not fit the field that is written.
    if description.server_version.len() < 50 {
        assert_eq!(FormatDescription::parse(&again).as_ref(), Ok(&description));
        assert_eq!(FormatDescription::parse(&again).map(|d| d.flavor()), Ok(description.flavor()));
    }
    for zero_log_pos in [false, true] {
        let mut sent = data.to_vec();
        FormatDescription::as_sent_mid_file(&mut sent, zero_log_pos);
        // Where events have no checksums, the field stays as it stands in the file.
        assert_eq!(description.checksum.verify(&sent), Ok(()));
        let sent_header = EventHeader::parse(&sent).expect("is an event still");
        assert_eq!(sent_header.log_pos, if zero_log_pos { 0 } else { header.log_pos });
        assert_eq!(FormatDescription::parse(&sent), Ok(FormatDescription { created: 0, ..description.clone() }));
    }
}

/// Input: body of a GTID_LIST, of a MariaDB GTID, of a PREVIOUS_GTIDS, of a ROTATE, of a BINLOG_CHECKPOINT, of an XA_PREPARE.
pub fn gtid_list(data: &[u8]) {
    if let Ok(list) = GtidListEvent::parse(data) {
        assert_eq!(GtidListEvent::parse(&list.body()).as_ref(), Ok(&list));
        let position = list.position();
        assert!(list.gtids.iter().all(|gtid| position.get(gtid.domain).is_some()));
        let event = GtidListEvent::artificial(&position, 1, 4, ChecksumAlg::Crc32);
        assert_eq!(checksum::verify(&event), Ok(()));
        let sent = body(&event, ChecksumAlg::Crc32).and_then(GtidListEvent::parse);
        assert_eq!(sent.map(|sent| sent.position()), Ok(position));
    }
    if let Ok(gtid) = GtidEvent::parse(7, data) {
        assert_eq!(GtidEvent::parse(7, &gtid.body()), Ok(gtid));
    }
    if let Ok(previous) = PreviousGtids::parse(data) {
        assert_eq!(PreviousGtids::parse(&previous.body()), Ok(previous));
    }
    if let Ok(rotate) = Rotate::parse(data) {
        assert_eq!(rotate.body(), data);
        assert_eq!(checksum::verify(&rotate.artificial(1, ChecksumAlg::Crc32)), Ok(()));
    }
    if let Ok(checkpoint) = BinlogCheckpoint::parse(data) {
        assert_eq!(BinlogCheckpoint::parse(&checkpoint.body()), Ok(checkpoint));
    }
    if let Ok(prepare) = XaPrepare::parse(data) {
        assert_eq!(XaPrepare::parse(&prepare.body()), Ok(prepare));
    }
}

/// Input: body of a TRANSACTION_PAYLOAD. The payload is the end of the body, and a header made anew says the same of it.
pub fn transaction_payload(data: &[u8]) {
    let Ok(parsed) = TransactionPayload::parse(data) else { return };
    assert!(data.ends_with(parsed.payload));
    let mut again = Vec::new();
    let size = Some(parsed.payload.len() as u64);
    for (field, value) in [(1, size), (2, Some(parsed.compression)), (3, parsed.uncompressed_size)] {
        if let Some(value) = value {
            again.extend_from_slice(&[field, 9, 0xfe]);
            again.extend_from_slice(&value.to_le_bytes());
        }
    }
    again.push(0);
    again.extend_from_slice(parsed.payload);
    assert_eq!(TransactionPayload::parse(&again), Ok(parsed));
}

/// Input: flavor, form, low half of the position, body of a heartbeat. What was read is written in both forms and read alike.
pub fn heartbeat(data: &[u8]) {
    let mut input = Input(data);
    let (flavor, alg) = flavor_and_checksum(input.byte());
    let kind = if input.byte() & 1 == 0 { EventKind::HEARTBEAT } else { EventKind::HEARTBEAT_V2 };
    let header = EventHeader { timestamp: 0, kind, server_id: 1, size: 0, log_pos: input.word(), flags: 0 };
    let Ok(beat) = Heartbeat::parse(&header, input.0, flavor) else { return };
    let read = |event: &[u8]| {
        let header = EventHeader::parse(event)?;
        assert_eq!(header.size as usize, event.len());
        alg.verify(event)?;
        Heartbeat::parse(&header, body(event, alg)?, flavor)
    };
    assert_eq!(read(&beat.v2(1, alg)).as_ref(), Ok(&beat));
    let mut v1 = beat.clone();
    if flavor == Flavor::MySql {
        v1.position &= u64::from(u32::MAX);
    }
    assert_eq!(read(&beat.v1(flavor, 1, alg)), Ok(v1));
}

/// Input: events as kind, flags, and a body as a chunk. The marks of a stream open and close in turn; an error changes nothing.
pub fn transaction_tracker(data: &[u8]) {
    let mut input = Input(data);
    let mut tracker = TransactionTracker::new();
    while !input.0.is_empty() {
        let (kind, flags) = (EventKind(input.byte()), u16::from(input.byte()));
        let body = input.chunk().unwrap_or_default();
        let header = EventHeader { timestamp: 1, kind, server_id: 3, size: 0, log_pos: 0, flags };
        let before = tracker.in_transaction();
        let seen = tracker.clone().observe(&header, &body[..body.len().min(BODY_PREFIX)]);
        let mark = tracker.observe(&header, body);
        assert_eq!(seen, mark, "the same state and event, another mark");
        let after = tracker.in_transaction();
        match mark {
            Ok(Mark::Begin(id, _)) => {
                assert!(!before && after);
                begins(&header, body, &id);
            }
            Ok(Mark::Inside) => assert!(before && after),
            Ok(Mark::End) => assert!(before && !after),
            Ok(Mark::Outside) => assert!(before == after || (before && kind == EventKind::FORMAT_DESCRIPTION)),
            Err(_) => assert_eq!(before, after),
        }
    }
    tracker.reset();
    assert!(!tracker.in_transaction());
}

/// The event that begins a transaction names the same one when its body is read.
fn begins(header: &EventHeader, body: &[u8], id: &TransactionId) {
    match (EventBody::decode(header, body, Flavor::MariaDb), id) {
        (Ok(EventBody::MariaDbGtid(event)), TransactionId::MariaDb(gtid)) => assert_eq!(event.gtid, *gtid),
        (Ok(EventBody::MySqlGtid(event)), TransactionId::MySql(gtid)) => assert_eq!(event.gtid, *gtid),
        // Nothing of an anonymous one is needed, so its body is not read.
        (_, TransactionId::Anonymous) => assert_eq!(header.kind, EventKind::ANONYMOUS_GTID),
        (decoded, id) => panic!("{id} begins with {decoded:?}"),
    }
}
