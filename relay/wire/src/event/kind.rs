//! Event type codes of both families (`enum Log_event_type` of MariaDB and MySQL).

use std::fmt;

/// The server family that wrote a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavor {
    /// MariaDB: GTIDs are `domain-server-sequence`.
    MariaDb,
    /// Oracle's MySQL: GTIDs are `uuid:number`.
    MySql,
}

impl Flavor {
    /// The family that a server's version string announces.
    pub fn of_version(version: &str) -> Self {
        if version.to_ascii_lowercase().contains("mariadb") { Self::MariaDb } else { Self::MySql }
    }

    /// `mariadb` or `mysql`.
    pub fn name(self) -> &'static str {
        match self {
            Self::MariaDb => "mariadb",
            Self::MySql => "mysql",
        }
    }
}

/// An event's type code. Unknown codes are kept as they are: a relay passes on what it need not understand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKind(pub u8);

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl EventKind {
            $($(#[$doc])* pub const $name: Self = Self($code);)*

            /// The name of a known code, as the servers' manuals spell it.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// Before 5.0; never written by a supported server.
    START_V3 = 1;
    /// A statement; `BEGIN`, `COMMIT` and DDL among them.
    QUERY = 2;
    /// Last event of a file closed by a clean shutdown.
    STOP = 3;
    /// The file ends, the next one is named.
    ROTATE = 4;
    /// LAST_INSERT_ID or INSERT_ID of the statement that follows.
    INTVAR = 5;
    /// LOAD DATA: further block of the file.
    APPEND_BLOCK = 9;
    /// LOAD DATA: the file is not needed any more.
    DELETE_FILE = 11;
    /// Seed of RAND() of the statement that follows.
    RAND = 13;
    /// A user variable of the statement that follows.
    USER_VAR = 14;
    /// First event of a file.
    FORMAT_DESCRIPTION = 15;
    /// Commit of a transaction of transactional engines.
    XID = 16;
    /// LOAD DATA: first block of the file.
    BEGIN_LOAD_QUERY = 17;
    /// LOAD DATA: the statement.
    EXECUTE_LOAD_QUERY = 18;
    /// Table of the row events that follow.
    TABLE_MAP = 19;
    /// Row events, version 1 (MariaDB's).
    WRITE_ROWS_V1 = 23;
    /// Row events, version 1 (MariaDB's).
    UPDATE_ROWS_V1 = 24;
    /// Row events, version 1 (MariaDB's).
    DELETE_ROWS_V1 = 25;
    /// Something happened on the primary that replication cannot express.
    INCIDENT = 26;
    /// Sent over the wire only.
    HEARTBEAT = 27;
    /// May be skipped by those that do not know it.
    IGNORABLE = 28;
    /// MySQL: the statement of the row events that follow.
    ROWS_QUERY = 29;
    /// Row events, version 2 (MySQL's).
    WRITE_ROWS = 30;
    /// Row events, version 2 (MySQL's).
    UPDATE_ROWS = 31;
    /// Row events, version 2 (MySQL's).
    DELETE_ROWS = 32;
    /// MySQL: begins a transaction.
    GTID = 33;
    /// MySQL: begins a transaction without a GTID.
    ANONYMOUS_GTID = 34;
    /// MySQL: what was executed before this file.
    PREVIOUS_GTIDS = 35;
    /// MySQL group replication.
    TRANSACTION_CONTEXT = 36;
    /// MySQL group replication.
    VIEW_CHANGE = 37;
    /// XA PREPARE: ends the transaction's event group.
    XA_PREPARE = 38;
    /// MySQL: partial JSON updates.
    PARTIAL_UPDATE_ROWS = 39;
    /// MySQL: a whole compressed transaction.
    TRANSACTION_PAYLOAD = 40;
    /// MySQL 8.0.26+: heartbeat with a 64-bit position.
    HEARTBEAT_V2 = 41;
    /// MySQL 8.4+: begins a transaction whose GTID has a tag.
    GTID_TAGGED = 42;
    /// MariaDB: the statement of the row events that follow.
    ANNOTATE_ROWS = 160;
    /// MariaDB: the oldest file that crash recovery needs.
    BINLOG_CHECKPOINT = 161;
    /// MariaDB: begins a transaction.
    MARIADB_GTID = 162;
    /// MariaDB: the GTID state at the beginning of a file.
    GTID_LIST = 163;
    /// MariaDB: encryption of the file (never sent).
    START_ENCRYPTION = 164;
    /// MariaDB: compressed statement.
    QUERY_COMPRESSED = 165;
    /// MariaDB: compressed row events.
    WRITE_ROWS_COMPRESSED_V1 = 166;
    /// MariaDB: compressed row events.
    UPDATE_ROWS_COMPRESSED_V1 = 167;
    /// MariaDB: compressed row events.
    DELETE_ROWS_COMPRESSED_V1 = 168;
}

impl fmt::Debug for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "UNKNOWN({})", self.0),
        }
    }
}
