//! Where the stream from the primary has to begin, or why there must be none: pure, facts in, decision out.

use baton_wire::gtid::mariadb::GtidList;

use baton_wire::gtid::GtidPosition;

use super::error::StreamError;
use crate::config::Start;
use crate::log::LogPos;

/// What the primary said of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct ServerFacts {
    pub(super) server_id: u32,
    /// `@@gtid_binlog_pos`.
    pub(super) gtid_binlog_pos: GtidList,
    /// `binlog_gtid_pos(file, position)` of the log's head: `None` if the server has no such place.
    pub(super) gtid_at_head: Option<GtidList>,
    /// Whether the server has the file that the log ends in; asked only where it has not the place.
    pub(super) has_file: bool,
}

/// The log's end, as the upstream would name it.
#[derive(Debug, Clone)]
pub(super) struct LogEnd {
    pub(super) pos: LogPos,
    pub(super) upstream_file: String,
    /// Server that wrote the log's last epoch.
    pub(super) server_id: u32,
    pub(super) gtid: GtidList,
}

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Dump from this place; an empty name is the server's oldest file.
    Dump { file: String, position: u64 },
    /// Ask for this GTID position first, to learn the name of the file that holds it; then dump that file from its beginning.
    LearnFile(GtidList),
}

const RESET_HINT: &str = "if the primary is right, begin a new log: `baton-relay reset-log` moves this one aside; if the log is right, promote a server that has it all";

/// Decides where the stream begins.
pub(super) fn plan(
    own_server_id: u32,
    start: &Start,
    end: Option<&LogEnd>,
    facts: &ServerFacts,
) -> Result<Plan, StreamError> {
    if facts.server_id == own_server_id {
        return Err(StreamError::Refused {
            cause: format!("the primary has server_id {own_server_id}, the relay's own"),
            hint: "give the relay a server_id of its own".into(),
        });
    }
    let Some(end) = end else { return begin(start, facts) };
    if end.server_id != facts.server_id {
        return Err(StreamError::Diverged {
            cause: format!("the log was written by server {}, this is server {}", end.server_id, facts.server_id),
            hint: format!("point [upstream] addresses at server {}; {RESET_HINT}", end.server_id),
        });
    }
    if u32::try_from(end.pos.offset).is_err() {
        return Err(StreamError::Refused {
            cause: format!(
                "the log ends at {}:{}, and places beyond 4 GiB can't be asked for",
                end.upstream_file, end.pos.offset
            ),
            hint: format!(
                "no file may grow that large (max_binlog_size is 1 GiB at most; one huge transaction can exceed it); {RESET_HINT}"
            ),
        });
    }
    match &facts.gtid_at_head {
        Some(theirs) if *theirs == end.gtid => {
            Ok(Plan::Dump { file: end.upstream_file.clone(), position: end.pos.offset })
        }
        Some(theirs) => Err(StreamError::Diverged {
            cause: format!(
                "at {}:{} the primary is at GTID position '{theirs}', the log at '{}'",
                end.upstream_file, end.pos.offset, end.gtid
            ),
            hint: RESET_HINT.into(),
        }),
        None if facts.has_file => Err(StreamError::Diverged {
            cause: format!(
                "the primary lacks what the log holds: its {} has no event that ends at {} (a crash that lost its binlog's tail, or another history)",
                end.upstream_file, end.pos.offset
            ),
            hint: RESET_HINT.into(),
        }),
        None if facts.gtid_binlog_pos.covers(&end.gtid) => Err(StreamError::Purged {
            cause: format!(
                "the primary has no {} that reaches {}, where the log goes on: it was purged, or lost its end in a crash",
                end.upstream_file, end.pos.offset
            ),
            hint: format!(
                "nothing is skipped silently: restore {} on the primary (or the log from another relay), or {RESET_HINT}",
                end.upstream_file
            ),
        }),
        None => Err(StreamError::Diverged {
            cause: format!(
                "the primary lacks what the log holds: its GTID position is '{}', the log's '{}' (RESET MASTER, or a crash that lost its binlog's tail)",
                facts.gtid_binlog_pos, end.gtid
            ),
            hint: RESET_HINT.into(),
        }),
    }
}

fn begin(start: &Start, facts: &ServerFacts) -> Result<Plan, StreamError> {
    let earliest = Plan::Dump { file: String::new(), position: 4 };
    Ok(match start {
        Start::Earliest => earliest,
        // A server without transactions has one file, or none that matters.
        Start::Latest if facts.gtid_binlog_pos.is_empty() => earliest,
        Start::Latest => Plan::LearnFile(facts.gtid_binlog_pos.clone()),
        Start::Gtid(GtidPosition::MariaDb(position)) if position.is_empty() => earliest,
        Start::Gtid(GtidPosition::MariaDb(position)) => Plan::LearnFile(position.clone()),
        Start::Gtid(GtidPosition::MySql(_)) => {
            return Err(StreamError::Refused {
                cause: "upstream.start is a GTID set of MySQL, the primary is MariaDB".into(),
                hint: "give a position such as \"0-1-100\"".into(),
            });
        }
        Start::File { name, .. } => Plan::Dump { file: name.clone(), position: 4 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> GtidList {
        text.parse().unwrap_or_default()
    }

    fn end() -> LogEnd {
        LogEnd {
            pos: LogPos { file: 3, offset: 500 },
            upstream_file: "mysql-bin.000003".into(),
            server_id: 1,
            gtid: list("0-1-50"),
        }
    }

    fn facts(at_head: Option<&str>, now: &str) -> ServerFacts {
        ServerFacts { server_id: 1, gtid_binlog_pos: list(now), gtid_at_head: at_head.map(list), has_file: false }
    }

    #[test]
    fn an_empty_log_begins_where_it_is_told_to() {
        let f = facts(None, "0-1-9");
        let earliest = Plan::Dump { file: String::new(), position: 4 };
        let plan_of = |start: Start, f: &ServerFacts| plan(9, &start, None, f).ok();
        assert_eq!(plan_of(Start::Earliest, &f), Some(earliest.clone()));
        assert_eq!(plan_of(Start::Latest, &f), Some(Plan::LearnFile(list("0-1-9"))));
        assert_eq!(plan_of(Start::Latest, &facts(None, "")), Some(earliest));
        assert_eq!(
            plan_of(Start::Gtid(GtidPosition::MariaDb(list("0-1-5"))), &f),
            Some(Plan::LearnFile(list("0-1-5")))
        );
        assert_eq!(
            plan_of(Start::File { name: "b.000002".into(), position: 900 }, &f),
            Some(Plan::Dump { file: "b.000002".into(), position: 4 })
        );
    }

    #[test]
    fn the_same_server_goes_on_by_file_and_position() {
        let got = plan(9, &Start::Earliest, Some(&end()), &facts(Some("0-1-50"), "0-1-70")).ok();
        assert_eq!(got, Some(Plan::Dump { file: "mysql-bin.000003".into(), position: 500 }));
    }

    #[test]
    fn another_history_is_never_merged() {
        for (case, f) in [
            ("same place, other position", facts(Some("0-1-49"), "0-1-70")),
            ("same place, other server", facts(Some("0-2-50"), "0-2-70")),
            ("tail lost in a crash", facts(None, "0-1-40")),
            ("RESET MASTER", facts(None, "")),
            ("tail lost, others written since", ServerFacts { has_file: true, ..facts(None, "0-1-70") }),
            ("another server", ServerFacts { server_id: 2, ..facts(Some("0-1-50"), "0-1-70") }),
        ] {
            let got = plan(9, &Start::Earliest, Some(&end()), &f);
            assert!(matches!(got, Err(StreamError::Diverged { .. })), "{case}: {got:?}");
        }
    }

    #[test]
    fn a_purged_position_is_no_silent_gap() {
        let got = plan(9, &Start::Earliest, Some(&end()), &facts(None, "0-1-70"));
        assert!(
            matches!(&got, Err(StreamError::Purged { cause, .. }) if cause.contains("mysql-bin.000003")),
            "{got:?}"
        );
    }

    #[test]
    fn a_place_that_the_protocol_cannot_name_is_told_as_that() {
        let far = LogEnd { pos: LogPos { file: 3, offset: 1 << 32 }, ..end() };
        let got = plan(9, &Start::Earliest, Some(&far), &facts(None, "0-1-70"));
        assert!(matches!(&got, Err(StreamError::Refused { cause, .. }) if cause.contains("4294967296")), "{got:?}");
    }

    #[test]
    fn the_primarys_own_server_id_is_refused() {
        let got = plan(1, &Start::Earliest, None, &facts(None, ""));
        assert!(matches!(got, Err(StreamError::Refused { .. })), "{got:?}");
    }
}
