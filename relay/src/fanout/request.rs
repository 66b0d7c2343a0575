//! What a client asks for with its dump command and the variables it set before: pure.

use std::time::Duration;

use baton_wire::checksum::ChecksumAlg;
use baton_wire::gtid::mariadb::GtidList;

use super::sql::Session;

/// `@mariadb_slave_capability` of a client that understands MariaDB's GTID events (`MARIA_SLAVE_CAPABILITY_GTID`).
const CAPABILITY_GTID: u32 = 4;
/// Heartbeats come no more often than this, whatever a client asks for.
const MIN_HEARTBEAT: Duration = Duration::from_millis(10);

/// User variable that a relay sets on whatever it follows: another relay need not ask it what it has applied.
pub(crate) const RELAY_VARIABLE: &str = "baton_relay";

/// User variable that a relay sets to have files as they are stored, to the byte: in its log they are named as here.
pub(crate) const MIRROR_VARIABLE: &str = "baton_mirror";

/// Where a client wants to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StartFrom {
    /// Behind this GTID position.
    Gtid(GtidList),
    /// At this place; an empty name is the oldest file.
    File { name: String, position: u64 },
}

/// A dump request with everything that shapes the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DumpRequest {
    pub(super) start: StartFrom,
    /// End with EOF at the end of the log.
    pub(super) non_blocking: bool,
    /// Send ANNOTATE_ROWS events.
    pub(super) annotate: bool,
    /// The client understands MariaDB's own events.
    pub(super) understands_gtid: bool,
    /// Send a heartbeat when nothing was sent for so long.
    pub(super) heartbeat: Option<Duration>,
    /// How the first event is checksummed; `None`: the client never said that it understands checksums.
    pub(super) checksum: Option<ChecksumAlg>,
    /// Send nothing beyond this position (`START SLAVE UNTIL master_gtid_pos`).
    pub(super) until: Option<GtidList>,
    /// The client acknowledges what it has received.
    pub(super) semi_sync: bool,
    /// The client keeps the files themselves: events name files as their primary does.
    pub(super) mirror: bool,
}

impl DumpRequest {
    /// From COM_BINLOG_DUMP and the session's variables. `Err` is the message of an error 1236.
    pub(super) fn mariadb(session: &Session, file: &str, position: u32, flags: u16) -> Result<Self, String> {
        let list = |name: &str| -> Result<Option<GtidList>, String> {
            session.variable(name).map(|text| text.parse().map_err(|e| format!("@{name}: {e}"))).transpose()
        };
        let start = match list("slave_connect_state")? {
            // The state wins over file and position: a replica that reconnects sends both.
            Some(state) => StartFrom::Gtid(state),
            None => StartFrom::File { name: file.to_owned(), position: u64::from(position) },
        };
        let capability: u32 = session.variable("mariadb_slave_capability").and_then(|v| v.parse().ok()).unwrap_or(0);
        let heartbeat = ["master_heartbeat_period", "source_heartbeat_period"]
            .iter()
            .find_map(|name| session.variable(name))
            .and_then(|v| v.parse::<f64>().ok())
            .filter(|ns| ns.is_finite() && *ns >= 1.0)
            .map(|ns| Duration::from_nanos(ns as u64).max(MIN_HEARTBEAT));
        let checksum =
            ["master_binlog_checksum", "source_binlog_checksum"].iter().find_map(|name| session.variable(name));
        Ok(Self {
            start,
            non_blocking: flags & 0x0001 != 0,
            annotate: flags & 0x0002 != 0,
            understands_gtid: capability >= CAPABILITY_GTID,
            heartbeat,
            checksum: checksum
                .map(|c| if c.eq_ignore_ascii_case("CRC32") { ChecksumAlg::Crc32 } else { ChecksumAlg::None }),
            until: list("slave_until_gtid")?,
            semi_sync: ["rpl_semi_sync_slave", "rpl_semi_sync_replica"]
                .iter()
                .filter_map(|name| session.variable(name))
                .any(|value| value.parse().is_ok_and(|on: u64| on != 0)),
            mirror: session.variable(MIRROR_VARIABLE).is_some_and(|v| v != "0"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::sql::{Facts, Reply};
    use super::*;

    fn session(statements: &[&str]) -> Session {
        let mut s = Session::default();
        for sql in statements {
            assert_eq!(s.answer(sql, &Facts::default()), Reply::Ok, "{sql}");
        }
        s
    }

    #[test]
    fn a_gtid_replicas_state_wins_over_file_and_position() {
        let s = session(&[
            "SET @master_heartbeat_period= 30000001024",
            "SET @master_binlog_checksum= @@global.binlog_checksum",
            "SET @mariadb_slave_capability=4",
            "SET @slave_connect_state='7-1-1,0-1-16'",
        ]);
        let r = DumpRequest::mariadb(&s, "mbin.000001", 1130, 2).ok();
        let expected = DumpRequest {
            start: StartFrom::Gtid("0-1-16,7-1-1".parse().unwrap_or_default()),
            non_blocking: false,
            annotate: true,
            understands_gtid: true,
            heartbeat: Some(Duration::from_nanos(30_000_001_024)),
            checksum: Some(ChecksumAlg::Crc32),
            until: None,
            semi_sync: false,
            mirror: false,
        };
        assert_eq!(r, Some(expected));
    }

    #[test]
    fn a_client_that_sets_nothing_gets_no_heartbeats_and_is_known_to_lack_checksums() {
        let r = DumpRequest::mariadb(&Session::default(), "b.000002", 4, 1).ok();
        let r = r.unwrap_or_else(|| panic!("refused"));
        assert_eq!((r.heartbeat, r.checksum, r.understands_gtid, r.non_blocking), (None, None, false, true));
        assert_eq!(r.start, StartFrom::File { name: "b.000002".into(), position: 4 });
    }

    #[test]
    fn a_conversation_that_goes_on_in_the_middle_is_known() {
        let whole = [
            "SET NAMES latin1",
            "SELECT UNIX_TIMESTAMP()",
            "SHOW VARIABLES LIKE 'SERVER_ID'",
            "SET @master_heartbeat_period= 30000001024",
            "SET @master_binlog_checksum= @@global.binlog_checksum",
            "SELECT @master_binlog_checksum",
            "SET @mariadb_slave_capability=4",
            "SELECT @@GLOBAL.gtid_domain_id",
            "SET @slave_connect_state='0-1-16'",
        ];
        let lacks = |statements: &[&str]| {
            let mut s = Session::default();
            for sql in statements {
                s.answer(sql, &Facts::default());
            }
            s.lacks_its_beginning()
        };
        for first in 1..=whole.len() {
            let rest = [&whole[..1], &whole[first..]].concat();
            let has_checksum = first <= 4;
            assert_eq!(lacks(&rest), !has_checksum, "{rest:?}");
        }
        let mut torn = session(&["SET NAMES latin1"]);
        assert!(torn.lacks_its_beginning(), "a dump at once");
        assert_eq!(torn.answer("SELECT @master_binlog_checksum", &Facts::default()), Reply::StartOver, "NULL stops it");
        assert!(!lacks(&[]), "a client that says nothing");
        assert!(!lacks(&whole[1..]), "a first connection");
        assert!(
            !lacks(&["SELECT UNIX_TIMESTAMP()", "SHOW VARIABLES LIKE 'SERVER_ID'"]),
            "a server of before checksums"
        );
        assert!(!lacks(&["set names latin1", "select unix_timestamp()"]), "and when it comes again");
        assert!(!lacks(&["SET NAMES utf8mb4", "SET @master_binlog_checksum='NONE'"]), "a reader of changes");
        assert!(
            !lacks(&["SET NAMES utf8mb4", "SET AUTOCOMMIT = 0", "SET @slave_uuid='x'"]),
            "one of a log without them"
        );
    }

    #[test]
    fn a_client_acknowledges_if_it_says_so() {
        for (said, semi_sync) in [("SET @rpl_semi_sync_slave= 1", true), ("SET @rpl_semi_sync_slave= 0", false)] {
            let r = DumpRequest::mariadb(&session(&[said]), "", 4, 2);
            assert_eq!(r.map(|r| r.semi_sync), Ok(semi_sync), "{said}");
        }
    }

    #[test]
    fn a_garbled_position_is_named() {
        let s = session(&["SET @slave_connect_state='0-1'"]);
        let refused = DumpRequest::mariadb(&s, "", 4, 2);
        assert!(
            matches!(&refused, Err(text) if text.contains("slave_connect_state") && text.contains("0-1")),
            "{refused:?}"
        );
    }

    #[test]
    fn a_heartbeat_period_of_nothing_cannot_spin() {
        let s = session(&["SET @master_heartbeat_period= 1"]);
        let r = DumpRequest::mariadb(&s, "", 4, 2).ok().and_then(|r| r.heartbeat);
        assert_eq!(r, Some(MIN_HEARTBEAT));
    }
}
