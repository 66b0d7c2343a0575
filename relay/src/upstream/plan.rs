//! Where the stream from the primary has to begin, or why there must be none: pure, facts in, decision out.

use baton_wire::gtid::GtidPosition;
use baton_wire::gtid::mariadb::GtidList;

use super::error::StreamError;
use super::origin::Origin;
use crate::config::Start;
use crate::log::LogPos;

/// What the stream is meant to come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Aim {
    /// The one primary that the configuration names.
    Fixed,
    /// The primary of an epoch.
    Epoch(Origin),
    /// Another relay, whose log this one is to equal.
    Mirror {
        server_id: u32,
        /// A relay that lacks this is of no use.
        needs: Option<GtidList>,
    },
}

/// What the server said of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct ServerFacts {
    pub(super) server_id: u32,
    /// `@@gtid_binlog_pos`.
    pub(super) gtid_binlog_pos: GtidList,
    /// `binlog_gtid_pos(file, position)` of the log's head: `None` if the server has no such place.
    pub(super) gtid_at_head: Option<GtidList>,
    /// Whether the server has the file that the log ends in; asked only where it has not the place.
    pub(super) has_file: bool,
    /// The position at the beginning of the epoch's first file; `None` if the server has no such file. Asked only where the epoch is to begin.
    pub(super) gtid_at_first: Option<GtidList>,
}

/// The log's end, as the server that is asked would name it.
#[derive(Debug, Clone)]
pub(super) struct LogEnd {
    pub(super) pos: LogPos,
    /// Name of its file there; of a file of another epoch it means nothing.
    pub(super) upstream_file: String,
    /// Server that wrote it.
    pub(super) server_id: u32,
    /// Epoch that it lies in.
    pub(super) epoch: u64,
    pub(super) gtid: GtidList,
}

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Go on at this place of the file that the log ends in; in an empty log, dump from there (an empty name is the server's oldest file).
    Dump { file: String, position: u64 },
    /// Ask for this GTID position first, to learn the name of the file that holds it; then dump that file from its beginning.
    LearnFile(GtidList),
    /// Begin the epoch with this file.
    BeginEpoch { file: String },
}

const RESET_HINT: &str = "if the primary is right, begin a new log: `baton-relay reset-log` moves this one aside; if the log is right, promote a server that has it all";

/// Decides where the stream begins.
pub(super) fn plan(
    own_server_id: u32,
    aim: &Aim,
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
    match aim {
        Aim::Mirror { server_id, needs } => {
            expect_server(*server_id, facts, "the relay announces", "[advertise] replication names another relay")?;
            if let Some(needs) = needs.as_ref().filter(|needs| !facts.gtid_binlog_pos.covers(needs)) {
                return Err(StreamError::Waiting {
                    cause: format!("this relay is at '{}' only, '{needs}' is wanted", facts.gtid_binlog_pos),
                });
            }
        }
        Aim::Epoch(origin) => {
            let what = format!("epoch {} of the cluster is of", origin.epoch);
            expect_server(
                origin.server_id,
                facts,
                &what,
                "another server answers at the address that the epoch names",
            )?;
        }
        Aim::Fixed => {}
    }
    let first =
        if let Aim::Epoch(origin) = aim { origin.first_file.as_deref().map(|file| (origin, file)) } else { None };
    let Some(end) = end else {
        return match first {
            Some((origin, file)) if facts.gtid_at_first.is_none() => Err(lost_first(origin, file)),
            Some((_, file)) => Ok(Plan::BeginEpoch { file: file.to_owned() }),
            None => begin(start, facts),
        };
    };
    if let Aim::Epoch(origin) = aim {
        if end.epoch != origin.epoch {
            return begin_epoch(origin, end, facts);
        }
    }
    if end.server_id != facts.server_id && !matches!(aim, Aim::Mirror { .. }) {
        return Err(StreamError::Diverged {
            cause: format!("the log was written by server {}, this is server {}", end.server_id, facts.server_id),
            hint: format!("point [upstream] addresses at server {}; {RESET_HINT}", end.server_id),
        });
    }
    go_on(aim, end, facts)
}

fn expect_server(wanted: u32, facts: &ServerFacts, who: &str, hint: &str) -> Result<(), StreamError> {
    if facts.server_id == wanted {
        return Ok(());
    }
    Err(StreamError::Refused {
        cause: format!("{who} server_id {wanted}, the server that answers has {}", facts.server_id),
        hint: hint.to_owned(),
    })
}

fn lost_first(origin: &Origin, file: &str) -> StreamError {
    StreamError::Purged {
        cause: format!(
            "{} has no {file}, with which epoch {} begins: it was purged, or the server has lost its binlog",
            origin.node, origin.epoch
        ),
        hint: format!("nothing is skipped silently: restore {file} on {}, or {RESET_HINT}", origin.node),
    }
}

/// The log ends in an earlier epoch: this one begins with its first file, if that continues the log.
fn begin_epoch(origin: &Origin, end: &LogEnd, facts: &ServerFacts) -> Result<Plan, StreamError> {
    let Origin { epoch, node, .. } = origin;
    let diverged = |cause: String| StreamError::Diverged { cause, hint: RESET_HINT.into() };
    let Some(file) = &origin.first_file else {
        return Err(diverged(format!("the log is of epoch {}, the cluster's is {epoch}", end.epoch)));
    };
    if end.epoch > *epoch {
        return Err(diverged(format!("the log is of epoch {} already, the cluster's is {epoch}", end.epoch)));
    }
    if !facts.gtid_binlog_pos.covers(&end.gtid) {
        return Err(diverged(format!(
            "{node}, the primary of epoch {epoch}, lacks what the log holds: its GTID position is '{}', the log's '{}'",
            facts.gtid_binlog_pos, end.gtid
        )));
    }
    match &facts.gtid_at_first {
        None => Err(lost_first(origin, file)),
        Some(theirs) if *theirs != end.gtid => Err(diverged(format!(
            "epoch {epoch} begins with {node}'s {file} at GTID position '{theirs}', the log ends at '{}'",
            end.gtid
        ))),
        Some(_) if origin.first_number().is_none_or(|first| first <= end.pos.file) => Err(diverged(format!(
            "epoch {epoch} begins with {node}'s {file}, which would be number {:?} in the log: that ends in {} already",
            origin.first_number(),
            end.pos.file
        ))),
        Some(_) => Ok(Plan::BeginEpoch { file: file.clone() }),
    }
}

/// The server is the one that wrote the log's end, or mirrors it: the stream goes on there, if its answer for the place agrees.
fn go_on(aim: &Aim, end: &LogEnd, facts: &ServerFacts) -> Result<Plan, StreamError> {
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
    let covers = facts.gtid_binlog_pos.covers(&end.gtid);
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
        // What this log has alone may yet come there: from the primary, or from the old one's host.
        None if matches!(aim, Aim::Mirror { .. }) && !covers => Err(StreamError::Waiting {
            cause: format!(
                "this log is ahead of the acker's, which is at '{}': held at '{}' until that has caught up",
                facts.gtid_binlog_pos, end.gtid
            ),
        }),
        None if facts.has_file => Err(StreamError::Diverged {
            cause: format!(
                "the primary lacks what the log holds: its {} has no event that ends at {} (a crash that lost its binlog's tail, or another history)",
                end.upstream_file, end.pos.offset
            ),
            hint: RESET_HINT.into(),
        }),
        None if covers => Err(StreamError::Purged {
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
#[path = "plan_tests.rs"]
mod tests;
