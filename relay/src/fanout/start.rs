//! Where a client's stream begins: pure decisions over what the log knows.

use baton_wire::gtid::mariadb::{Gtid, GtidList};

use super::request::StartFrom;
use crate::log::{FileInfo, GtidStartError, Log, LogError, LogPos};

/// The answer to a dump request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resolution {
    /// Begin here.
    Begin(Begin),
    /// The client is ahead of this relay: keep it with heartbeats until the log has caught up.
    Hold(String),
    /// Error 1236 with this message.
    Refuse(String),
}

/// Where to begin, and what to tell the client about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Begin {
    /// First event to send.
    pub(super) pos: LogPos,
    /// For GTID clients: the position at that place (to be told), and what the client has already of what follows.
    pub(super) gtid: Option<GtidBegin>,
}

/// The GTID side of a beginning.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct GtidBegin {
    /// The log's position at the place.
    pub(super) at: GtidList,
    /// What the client has, in the domains that the log knows: all of it is in the log.
    pub(super) known: GtidList,
    /// What the client has in other domains.
    pub(super) foreign: GtidList,
    /// Whether no transaction of the file is skipped.
    pub(super) at_file_start: bool,
}

/// Resolves a start by GTID; `primary` is where the primary is, as far as is known.
pub(super) fn by_gtid(log: &Log, wanted: &GtidList, primary: &GtidList) -> Resolution {
    // Before the search: what it looks at can only have more domains.
    let ours = log.head().and_then(|head| head.gtid.mariadb().cloned()).unwrap_or_default();
    match log.find_start(wanted) {
        Ok(start) => {
            let known = wanted.iter().filter(|g| ours.get(g.domain).is_some()).collect();
            let foreign = wanted.iter().filter(|g| ours.get(g.domain).is_none()).collect();
            if let Some(requested) = still_to_come(&foreign, primary) {
                let ahead = GtidStartError::Ahead { domain: requested.domain, requested, have: None };
                return Resolution::Hold(ahead.to_string());
            }
            let gtid = GtidBegin { at: start.gtid, known, foreign, at_file_start: start.at_file_start };
            Resolution::Begin(Begin { pos: start.pos, gtid: Some(gtid) })
        }
        Err(GtidStartError::Log(LogError::Empty)) => Resolution::Hold("this relay's log is empty".into()),
        Err(e @ GtidStartError::Ahead { .. }) => Resolution::Hold(e.to_string()),
        Err(GtidStartError::Purged { .. }) => Resolution::Refuse(
            "Could not find GTID state requested by slave in any binlog files. Probably the slave state is too old and \
             required binlog files have been purged."
                .into(),
        ),
        Err(GtidStartError::Forked { requested, .. }) => Resolution::Refuse(format!(
            "{}. Since the master's binlog contains GTIDs with higher sequence numbers, it probably means that the slave has \
             diverged due to executing extra erroneous transactions",
            not_in_the_log(requested)
        )),
        // The log can't be read here and now: the client shall come again.
        Err(e @ GtidStartError::Log(_)) => Resolution::Hold(e.to_string()),
    }
}

/// Of what a client has in domains that the log lacks: something in a domain that the primary has. So will the log, and only then can it be
/// told whether the client was ahead or has diverged. What the primary lacks as well is the client's own, and keeps nobody waiting.
fn still_to_come(foreign: &GtidList, primary: &GtidList) -> Option<Gtid> {
    foreign.iter().find(|g| primary.get(g.domain).is_some())
}

/// Whether a client that has `requested` may be merely ahead, whose stream began when nothing was known of that domain, which now begins in
/// the log with `first`: the same server wrote both, or the primary is known to have more behind `first`. Else, as far as is known, the
/// primary has nothing beyond, and so not what the client has.
pub(super) fn may_be_ahead(requested: Gtid, first: Gtid, primary: &GtidList) -> bool {
    let more = primary.sequence(first.domain) > first.sequence;
    requested.sequence > first.sequence && (requested.server_id == first.server_id || more)
}

/// As a server says it.
pub(super) fn not_in_the_log(requested: Gtid) -> String {
    format!("Error: connecting slave requested to start from GTID {requested}, which is not in the master's binlog")
}

/// Resolves a start by file and position. `parse` gives the number of a name that is of this log, `is_boundary` whether an event begins (or
/// the file ends) there, or why that can't be told.
pub(super) fn by_file(
    files: &[FileInfo],
    name: &str,
    position: u64,
    parse: impl Fn(&str) -> Option<u64>,
    is_boundary: impl Fn(LogPos) -> Result<bool, LogError>,
) -> Resolution {
    let (Some(first), Some(last)) = (files.first(), files.last()) else {
        return Resolution::Hold("this relay's log is empty".into());
    };
    let unknown = || Resolution::Refuse("Could not find first log file name in binary log index file".into());
    let number = if name.is_empty() { Some(first.number) } else { parse(name) };
    let Some(number) = number else { return unknown() };
    if number > last.number {
        return Resolution::Hold(format!("{name} is not in this relay's log yet, which ends in {}", last.name));
    }
    let Some(file) = files.iter().find(|f| f.number == number) else { return unknown() };
    let pos = LogPos { file: number, offset: position.max(4) };
    if pos.offset > file.size && !file.closed {
        return Resolution::Hold(format!(
            "{}:{position} is not in this relay's log yet, which ends at {}",
            file.name, file.size
        ));
    }
    if pos.offset > file.size || position < 4 {
        let name = &file.name;
        return Resolution::Refuse(format!(
            "Client requested master to start replication from impossible position; the first event '{name}' at {position}, the last \
             event read from '{name}' at 4, the last byte read from '{name}' at 4."
        ));
    }
    if position < 4 {
        return Resolution::Refuse("Client requested master to start replication from position < 4".into());
    }
    match is_boundary(pos) {
        Ok(true) => Resolution::Begin(Begin { pos, gtid: None }),
        Ok(false) => {
            let name = &file.name;
            Resolution::Refuse(format!(
                "log event entry exceeded max_allowed_packet; Increase max_allowed_packet on master; the first event '{name}' at \
                 {position}, the last event read from '{name}' at {position}, the last byte read from '{name}' at {position}."
            ))
        }
        // The log can't be read here and now: no reason to stop the client for good.
        Err(e) => Resolution::Hold(e.to_string()),
    }
}

/// Resolves any start; `primary` is where the primary is, as far as is known.
pub(super) fn resolve(log: &Log, start: &StartFrom, primary: &GtidList) -> Resolution {
    match start {
        StartFrom::Gtid(list) => by_gtid(log, list, primary),
        StartFrom::File { name, position } => {
            let is_boundary = |pos| match log.place_of(pos) {
                Ok(_) => Ok(true),
                Err(LogError::NotABoundary { .. }) => Ok(false),
                Err(e) => Err(e),
            };
            by_file(&log.files(), name, *position, |name| log.parse_file_name(name), is_boundary)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_wire::checksum::ChecksumAlg;
    use baton_wire::event::Flavor;
    use baton_wire::gtid::GtidPosition;

    fn file(number: u64, size: u64, closed: bool) -> FileInfo {
        FileInfo {
            number,
            name: format!("b.{number:06}"),
            size,
            start: GtidPosition::empty(Flavor::MariaDb),
            checksum: ChecksumAlg::Crc32,
            server_version: "10.11.19-MariaDB".into(),
            closed,
        }
    }

    fn resolve(name: &str, position: u64) -> Resolution {
        let files = [file(3, 1000, true), file(4, 500, false)];
        by_file(
            &files,
            name,
            position,
            |n| n.strip_prefix("b.")?.parse().ok(),
            |p| Ok(p.offset % 100 == 0 || p.offset == 4),
        )
    }

    fn begin(file: u64, offset: u64) -> Resolution {
        Resolution::Begin(Begin { pos: LogPos { file, offset }, gtid: None })
    }

    #[test]
    fn what_is_there_is_served() {
        assert_eq!(resolve("", 4), begin(3, 4));
        assert_eq!(resolve("b.000003", 1000), begin(3, 1000));
        assert_eq!(resolve("b.000004", 500), begin(4, 500));
    }

    #[test]
    fn who_is_merely_ahead_is_held() {
        for (name, position) in [("b.000004", 600), ("b.000005", 4)] {
            assert!(matches!(resolve(name, position), Resolution::Hold(_)), "{name}:{position}");
        }
        assert!(matches!(by_file(&[], "b.000001", 4, |_| Some(1), |_| Ok(true)), Resolution::Hold(_)));
    }

    fn list(text: &str) -> GtidList {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn a_domain_that_the_log_lacks_is_waited_for_only_where_the_primary_has_it() {
        for (foreign, primary, expected) in [
            ("", "0-1-5", ""),
            ("7-9-100", "", ""),
            ("7-9-100", "0-1-5", ""),
            ("0-1-6", "0-1-5", "0-1-6"), // ahead of what was last heard too
            ("0-1-4", "0-1-5", "0-1-4"),
            ("0-9-5", "0-1-5", "0-9-5"), // to be told once the log is there
            ("7-9-100,8-1-1", "0-1-5,8-1-3", "8-1-1"),
        ] {
            let found = still_to_come(&list(foreign), &list(primary));
            assert_eq!(found.map_or(String::new(), |g| g.to_string()), expected, "{foreign}, primary at {primary:?}");
        }
    }

    #[test]
    fn a_domain_that_turns_up_tells_who_is_ahead_from_who_has_diverged() {
        for (requested, first, primary, expected) in [
            ("0-1-9", "0-1-1", "", true),
            ("0-2-9", "0-1-1", "0-2-9", true), // the primary changed in between
            ("0-2-9", "0-1-1", "0-1-5", true), // so it may have since
            ("7-9-100", "7-1-1", "", false),
            ("7-9-100", "7-1-1", "0-1-5", false),
            ("7-9-100", "7-1-1", "7-1-1", false),
            ("0-2-1", "0-1-1", "0-1-5", false), // another one of that number
            ("0-1-3", "0-1-5", "0-1-9", false), // jumped over
        ] {
            let gtid = |text| list(text).iter().next().unwrap_or_else(|| panic!("no GTID"));
            let found = may_be_ahead(gtid(requested), gtid(first), &list(primary));
            assert_eq!(found, expected, "{requested}, {first} in the log, primary at {primary:?}");
        }
    }

    #[test]
    fn a_log_that_cannot_be_read_now_stops_nobody_for_good() {
        let files = [file(3, 1000, false)];
        let got = by_file(&files, "b.000003", 500, |_| Some(3), |_| Err(LogError::Empty));
        assert!(matches!(got, Resolution::Hold(_)), "{got:?}");
    }

    #[test]
    fn what_is_proven_impossible_is_refused() {
        for (name, position, text) in [
            ("b.000002", 4, "Could not find first log file name"),
            ("other.000003", 4, "Could not find first log file name"),
            ("b.000003", 1100, "impossible position"),
            ("b.000003", 301, "log event entry exceeded"),
            ("b.000003", 2, "impossible position"),
        ] {
            match resolve(name, position) {
                Resolution::Refuse(message) => assert!(message.contains(text), "{message}"),
                other => panic!("{name}:{position}: {other:?}"),
            }
        }
    }
}
