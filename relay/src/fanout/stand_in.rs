//! What stands in for MariaDB's own events where a client does not know them: pure.
//!
//! Promises: a stand-in has the size of what it stands for, so that positions stay right, and is checksummed as its file is.

use baton_wire::checksum::ChecksumAlg;
use baton_wire::event::{self, EventHeader, EventKind, FLAG_SUPPRESS_USE, GtidEvent, GtidFlags};

/// Fixed fields of a QUERY.
const QUERY_HEADER: usize = 13;
/// A USER_VAR's length of the name, and whether the value is NULL.
const USER_VAR_FRAME: usize = 5;
const VARIABLE_NAME: &[u8] = b"!dummyvar";

/// What a server sends in place of MariaDB's own events to a client that does not know them (`Gtid_log_event::make_compatible_event`,
/// `Query_log_event::dummy_event`): `BEGIN`, or a comment; and a user variable where a QUERY has no room. `None` for all other events.
pub(super) fn stand_in(header: &EventHeader, body: &[u8], alg: ChecksumAlg) -> Option<Vec<u8>> {
    let begins = match header.kind {
        EventKind::MARIADB_GTID => {
            let gtid = GtidEvent::parse(header.server_id, body).ok()?;
            !gtid.flags.has(GtidFlags::STANDALONE)
        }
        EventKind::GTID_LIST | EventKind::BINLOG_CHECKPOINT | EventKind::ANNOTATE_ROWS => false,
        _ => return None,
    };
    let Some(room) = body.len().checked_sub(QUERY_HEADER + 1).filter(|room| *room > 0) else {
        return user_variable(header, body, alg);
    };
    let query = if begins { begin(room)? } else { comment(header.kind, room) };
    let header = EventHeader { kind: EventKind::QUERY, flags: header.flags | FLAG_SUPPRESS_USE, ..*header };
    Some(event::build(header, &query, alg))
}

fn begin(room: usize) -> Option<Vec<u8>> {
    let mut query = vec![0; QUERY_HEADER];
    // What is too much for BEGIN goes into a status variable (Q_TIME_ZONE, an empty or blank name).
    let extra = room.checked_sub(5).filter(|n| *n != 1 && *n <= 257)?;
    query[11..13].copy_from_slice(&(extra as u16).to_le_bytes());
    if let Some(name) = extra.checked_sub(2) {
        query.extend_from_slice(&[5, name as u8]);
        query.resize(query.len() + name, b' ');
    }
    query.push(0);
    query.extend_from_slice(b"BEGIN");
    Some(query)
}

fn comment(kind: EventKind, room: usize) -> Vec<u8> {
    let mut query = vec![0; QUERY_HEADER + 1];
    let text = format!("# Dummy event replacing event type {} that slave cannot handle.", kind.0);
    query.extend((0..room).map(|i| text.as_bytes().get(i).copied().unwrap_or(b' ')));
    query
}

/// A user variable of a name that nobody uses, set to NULL.
fn user_variable(header: &EventHeader, body: &[u8], alg: ChecksumAlg) -> Option<Vec<u8>> {
    let name = VARIABLE_NAME.get(..body.len().checked_sub(USER_VAR_FRAME)?)?;
    let set = [&(name.len() as u32).to_le_bytes(), name, &[1]].concat();
    let header = EventHeader { kind: EventKind::USER_VAR, flags: header.flags | FLAG_SUPPRESS_USE, ..*header };
    Some(event::build(header, &set, alg))
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_wire::event::{BinlogCheckpoint, EventBody, Flavor, GtidListEvent, HEADER_LEN};

    const ALGS: [ChecksumAlg; 2] = [ChecksumAlg::None, ChecksumAlg::Crc32];

    fn header(kind: EventKind) -> EventHeader {
        EventHeader { timestamp: 7, kind, server_id: 1, size: 0, log_pos: 900, flags: 0 }
    }

    /// The stand-in for an event, after what all of them have in common was checked.
    fn checked(kind: EventKind, body: &[u8], alg: ChecksumAlg) -> Option<(EventHeader, Vec<u8>)> {
        let original = event::build(header(kind), body, alg);
        let got = stand_in(&header(kind), body, alg)?;
        assert_eq!(got.len(), original.len(), "{kind} of {} bytes", body.len());
        let h = EventHeader::parse(&got).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((h.size as usize, h.log_pos, h.timestamp), (got.len(), 900, 7));
        assert!(alg.verify(&got).is_ok());
        Some((h, got[HEADER_LEN..got.len() - alg.len()].to_vec()))
    }

    fn query_of(kind: EventKind, body: &[u8], alg: ChecksumAlg) -> String {
        let (h, body) = checked(kind, body, alg).unwrap_or_else(|| panic!("{kind}: none"));
        match EventBody::decode(&h, &body, Flavor::MariaDb) {
            Ok(EventBody::Query(q)) => String::from_utf8_lossy(q.statement).into_owned(),
            other => panic!("{kind}: {other:?}"),
        }
    }

    fn gtid(flags: u8, rest: &[u8]) -> Vec<u8> {
        let mut body = [&9_u64.to_le_bytes()[..], &0_u32.to_le_bytes(), &[flags], rest].concat();
        body.resize(body.len().max(19), 0);
        body
    }

    #[test]
    fn a_gtid_becomes_begin_or_before_a_lone_statement_a_comment() {
        for alg in ALGS {
            assert_eq!(query_of(EventKind::MARIADB_GTID, &gtid(0x0c, &[]), alg), "BEGIN");
            assert_eq!(query_of(EventKind::MARIADB_GTID, &gtid(0x0e, &[1; 8]), alg), "BEGIN");
            assert!(query_of(EventKind::MARIADB_GTID, &gtid(0x29, &[]), alg).starts_with('#'));
        }
    }

    #[test]
    fn lists_and_names_and_statements_become_comments_of_their_size() {
        let list = GtidListEvent { gtids: vec!["0-1-5".parse().unwrap_or_else(|e| panic!("{e}"))], flags: 0 };
        let checkpoint = BinlogCheckpoint { file: "mysql-bin.000001".into() };
        for alg in ALGS {
            assert!(query_of(EventKind::GTID_LIST, &list.body(), alg).starts_with('#'));
            assert!(query_of(EventKind::BINLOG_CHECKPOINT, &checkpoint.body(), alg).starts_with('#'));
            for len in [15, 60, 5000] {
                let text = query_of(EventKind::ANNOTATE_ROWS, &vec![b'x'; len], alg);
                assert!(text.starts_with('#'), "{len}: {text}");
            }
        }
    }

    #[test]
    fn what_is_too_small_for_a_statement_becomes_a_variable_that_nobody_uses() {
        let list = GtidListEvent { gtids: Vec::new(), flags: 0 }.body();
        for alg in ALGS {
            for (kind, body) in [(EventKind::GTID_LIST, list.clone()), (EventKind::ANNOTATE_ROWS, b"DO 1".repeat(3))] {
                let (h, body) = checked(kind, &body, alg).unwrap_or_else(|| panic!("{kind}: none"));
                match EventBody::decode(&h, &body, Flavor::MariaDb) {
                    Ok(EventBody::UserVar(v)) => assert!(VARIABLE_NAME.starts_with(v.name) && v.value.is_none()),
                    other => panic!("{kind}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn what_every_client_knows_stays_as_it_is() {
        for kind in [EventKind::QUERY, EventKind::XID, EventKind::TABLE_MAP, EventKind::ROTATE] {
            assert_eq!(stand_in(&header(kind), &[0; 40], ChecksumAlg::Crc32), None, "{kind}");
        }
    }
}
