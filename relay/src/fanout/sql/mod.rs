//! The statements that a replication source answers: what replicas, CDC clients and a DBA's client say.
//!
//! Owns the session's user variables and the answers. Promises: every statement gets an answer, an unknown variable is error
//! 1193, anything else that is not replication a clear error. Never does I/O: what an answer needs is in [`Facts`].

mod eval;
mod lexer;
mod parse;
mod tables;

use std::collections::BTreeMap;

use baton_wire::checksum::ChecksumAlg;

use crate::log::FileInfo;

pub(crate) use tables::Table;

/// User variables a session may set, at most: more is an error, not memory.
const MAX_USER_VARIABLES: usize = 64;
/// Bytes of one user variable, at most (a GTID position of many domains is long).
const MAX_VARIABLE_BYTES: usize = 1 << 20;

/// What a MariaDB replica says behind its first question (`get_master_version_and_clock` in sql/slave.cc, semisync_slave.cc).
const MIDDLE: [&str; 10] = [
    "SHOW VARIABLES LIKE 'SERVER_ID'",
    "SET @master_heartbeat_period",
    "SELECT @master_binlog_checksum",
    "SET skip_replication",
    "SET @mariadb_slave_capability",
    "SELECT binlog_gtid_pos(",
    "SELECT @@GLOBAL.gtid_domain_id",
    "SET @slave_",
    "SHOW VARIABLES LIKE 'rpl_semi_sync_master_enabled'",
    "SET @rpl_semi_sync_slave",
];

/// What the server side knows when it answers a statement.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) server_id: u32,
    pub(crate) server_uuid: String,
    pub(crate) hostname: String,
    pub(crate) port: u16,
    pub(crate) version: String,
    pub(crate) mysql: bool,
    pub(crate) checksum: ChecksumAlg,
    pub(crate) max_packet: u64,
    pub(crate) gtid_position: String,
    pub(crate) unix_time: i64,
    pub(crate) connection: u32,
    pub(crate) user: String,
    pub(crate) peer: String,
    pub(crate) files: Vec<FileInfo>,
    pub(crate) replicas: Vec<ReplicaRow>,
    pub(crate) upstream: UpstreamRow,
}

/// A replica, for `SHOW SLAVE HOSTS` and `SHOW PROCESSLIST`.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReplicaRow {
    pub(crate) connection: u32,
    pub(crate) server_id: u32,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) peer: String,
    pub(crate) uuid: String,
    pub(crate) seconds: u64,
    pub(crate) state: &'static str,
    /// It acknowledges what it receives.
    pub(crate) semi_sync: bool,
}

/// The upstream, for `SHOW SLAVE STATUS`.
#[derive(Debug, Clone, Default)]
pub(crate) struct UpstreamRow {
    pub(crate) host: String,
    pub(crate) port: String,
    pub(crate) user: String,
    pub(crate) server_id: u32,
    pub(crate) streaming: bool,
    pub(crate) connecting: bool,
    pub(crate) lag_seconds: u64,
    pub(crate) error: String,
    /// Variables that say how the primary writes its log.
    pub(crate) settings: BTreeMap<&'static str, String>,
}

/// What to do about a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Ok,
    Rows(Table),
    Error {
        code: u16,
        state: &'static str,
        message: String,
    },
    Kill(u32),
    /// None: the connection is to end, so that the replica starts over; see [`Session::lacks_its_beginning`].
    StartOver,
    /// `SELECT binlog_gtid_pos(file, pos)`: the one answer that needs the log; the column's name comes along.
    GtidAt {
        column: String,
        file: String,
        position: u64,
    },
}

/// How a session's conversation began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Opening {
    #[default]
    Nothing,
    /// With `SET NAMES`, and nothing else yet.
    Names,
    /// With `SET NAMES` and then with what a replica says later.
    Middle,
    Beginning,
}

/// The user variables of one session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Session {
    variables: BTreeMap<String, Option<String>>,
    opening: Opening,
}

impl Session {
    /// The value of a user variable that was set and is not NULL; names are lower case.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).and_then(|v| v.as_deref())
    }

    /// Whether this is the rest of a conversation that broke on another connection, so that what was set there is missing here.
    ///
    /// A replica that connects again lets its client library mend broken connections (`mysql_reconnect` in sql-common/client.c leaves it on):
    /// the library logs in anew, says `SET NAMES`, and goes on with the statement at hand. A whole conversation goes on with
    /// `SELECT UNIX_TIMESTAMP()`. Other clients that begin with `SET NAMES` go on with something of their own.
    pub(crate) fn lacks_its_beginning(&self) -> bool {
        let checksum = ["master_binlog_checksum", "source_binlog_checksum"];
        matches!(self.opening, Opening::Names | Opening::Middle)
            && checksum.iter().all(|name| self.variable(name).is_none())
    }

    /// Answers a statement.
    pub(crate) fn answer(&mut self, sql: &str, facts: &Facts) -> Reply {
        self.opening = match self.opening {
            Opening::Nothing if starts_with(sql, "SET NAMES ") => Opening::Names,
            Opening::Names if MIDDLE.iter().any(|words| starts_with(sql, words)) => Opening::Middle,
            Opening::Middle => Opening::Middle,
            Opening::Nothing | Opening::Names | Opening::Beginning => Opening::Beginning,
        };
        if starts_with(sql, "SELECT @master_binlog_checksum") && self.lacks_its_beginning() {
            // No value would be a fatal error for it (1593).
            return Reply::StartOver;
        }
        eval::answer(self, parse::parse(sql), facts)
    }

    fn set(&mut self, name: String, value: Option<String>) -> Result<(), Reply> {
        let full = self.variables.len() >= MAX_USER_VARIABLES && !self.variables.contains_key(&name);
        if full || value.as_ref().is_some_and(|v| v.len() > MAX_VARIABLE_BYTES) {
            let message = format!(
                "@{name}: a session holds at most {MAX_USER_VARIABLES} variables of {MAX_VARIABLE_BYTES} bytes"
            );
            return Err(Reply::Error { code: 1038, state: "HY001", message });
        }
        self.variables.insert(name, value);
        Ok(())
    }
}

fn starts_with(sql: &str, words: &str) -> bool {
    sql.get(..words.len()).is_some_and(|start| start.eq_ignore_ascii_case(words))
}
