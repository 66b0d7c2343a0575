//! What the server says of itself, in three statements.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mysql_async::{Row, Value};

use super::unmet::unmet;
use super::{Session, SqlError};
use crate::model::{ReplicationStatus, ServerStatus};

/// Everything that was answered: what goes into the agent's status, and what only the agent needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// As it is told.
    pub status: ServerStatus,
    /// `@@rpl_semi_sync_master_enabled`.
    pub semi_sync_enabled: bool,
    /// `@@event_scheduler` is `ON`.
    pub scheduler: bool,
    /// `@@datadir`.
    pub datadir: PathBuf,
    /// `@@log_bin_basename`; empty without a binlog.
    pub log_bin_basename: PathBuf,
    /// `@@max_connections`.
    pub max_connections: u32,
    /// `@@bind_address`; empty: every address, and `none` with `skip_networking`.
    pub bind_address: String,
    /// `Seconds_Behind_Master`; none while it is not known.
    pub seconds_behind: Option<u64>,
    /// `Using_Gtid` of its replication: `Slave_Pos`, `Current_Pos`, `No`.
    pub using_gtid: String,
}

/// Variables that are read each time, some to be told, some to be judged.
const VARIABLES: [&str; 21] = [
    "version",
    "server_id",
    "read_only",
    "gtid_binlog_pos",
    "gtid_slave_pos",
    "rpl_semi_sync_master_enabled",
    "rpl_semi_sync_master_timeout",
    "rpl_semi_sync_master_wait_point",
    "rpl_semi_sync_master_wait_no_slave",
    "event_scheduler",
    "datadir",
    "log_bin",
    "log_bin_basename",
    "log_slave_updates",
    "binlog_format",
    "sync_binlog",
    "innodb_flush_log_at_trx_commit",
    "gtid_strict_mode",
    "max_connections",
    "bind_address",
    "skip_networking",
];

/// Values by name.
pub(super) type Variables = BTreeMap<&'static str, String>;

/// Asks the server.
///
/// # Errors
/// [`SqlError`].
pub async fn ask(session: &mut Session) -> Result<Answer, SqlError> {
    let statement = format!("SELECT {}", VARIABLES.map(|name| format!("@@GLOBAL.{name}")).join(", "));
    // Some exist in sessions only, or not at all in other families: those are asked for by name.
    let row: Option<Row> = match session.first(&statement).await {
        Ok(row) => row,
        Err(e) if e.number() == Some(1193) => return ask_a_stranger(session).await,
        Err(e) => return Err(e),
    };
    let values = row.map(Row::unwrap).unwrap_or_default();
    let variables: Variables = VARIABLES.into_iter().zip(values.iter().map(text)).collect();
    let counters: Vec<(String, String)> = session
        .rows(
            "SELECT VARIABLE_NAME, VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME IN \
             ('RPL_SEMI_SYNC_MASTER_STATUS', 'RPL_SEMI_SYNC_MASTER_CLIENTS', 'RPL_SEMI_SYNC_MASTER_WAIT_SESSIONS', \
             'THREADS_CONNECTED')",
        )
        .await?;
    let counters: BTreeMap<String, String> =
        counters.into_iter().map(|(name, value)| (name.to_ascii_uppercase(), value)).collect();
    let slave: Option<Row> = session.first("SHOW SLAVE STATUS").await?;
    let slave = slave.map(columns);
    Ok(answer(&variables, &counters, slave.as_ref()))
}

/// Another kind of server: it answers, and lacks everything.
async fn ask_a_stranger(session: &mut Session) -> Result<Answer, SqlError> {
    let version: String = session.value("SELECT @@version").await?;
    let unmet = vec![format!("the server is {version}: agents work with MariaDB 10.6 and later; install that")];
    let status = ServerStatus { version, read_only: true, unmet, ..ServerStatus::default() };
    Ok(Answer { status, ..Answer::default() })
}

/// Pure.
fn answer(v: &Variables, counters: &BTreeMap<String, String>, slave: Option<&BTreeMap<String, String>>) -> Answer {
    let get = |name: &str| v.get(name).map_or("", String::as_str);
    let counter = |name: &str| counters.get(name).map_or("", String::as_str);
    let on = |value: &str| value == "1" || value.eq_ignore_ascii_case("on");
    let replication = slave.map(replication);
    let status = ServerStatus {
        version: get("version").to_owned(),
        server_id: get("server_id").parse().unwrap_or_default(),
        read_only: on(get("read_only")),
        gtid_binlog: sorted(get("gtid_binlog_pos")),
        gtid_slave: sorted(get("gtid_slave_pos")),
        semi_sync: on(counter("RPL_SEMI_SYNC_MASTER_STATUS")),
        semi_sync_clients: counter("RPL_SEMI_SYNC_MASTER_CLIENTS").parse().unwrap_or_default(),
        waiting_commits: counter("RPL_SEMI_SYNC_MASTER_WAIT_SESSIONS").parse().unwrap_or_default(),
        connections: counter("THREADS_CONNECTED").parse().unwrap_or_default(),
        unmet: unmet(v, slave),
        replication,
    };
    let of_slave = |name: &str| slave.and_then(|s| s.get(name)).map_or("", String::as_str);
    Answer {
        semi_sync_enabled: on(get("rpl_semi_sync_master_enabled")),
        scheduler: on(get("event_scheduler")),
        datadir: PathBuf::from(get("datadir")),
        log_bin_basename: PathBuf::from(get("log_bin_basename")),
        max_connections: get("max_connections").parse().unwrap_or_default(),
        bind_address: if on(get("skip_networking")) { "none" } else { get("bind_address") }.to_owned(),
        seconds_behind: of_slave("Seconds_Behind_Master").parse().ok(),
        using_gtid: of_slave("Using_Gtid").to_owned(),
        status,
    }
}

fn replication(slave: &BTreeMap<String, String>) -> ReplicationStatus {
    let get = |name: &str| slave.get(name).map_or("", String::as_str);
    let error = |number: &str, text: &str| {
        let number = get(number).parse().ok().filter(|n| *n != 0)?;
        Some((number, get(text).to_owned()))
    };
    let filters = [
        "Replicate_Do_DB",
        "Replicate_Ignore_DB",
        "Replicate_Do_Table",
        "Replicate_Ignore_Table",
        "Replicate_Wild_Do_Table",
        "Replicate_Wild_Ignore_Table",
        "Replicate_Do_Domain_Ids",
        "Replicate_Ignore_Domain_Ids",
        "Replicate_Rewrite_DB",
    ];
    let host = get("Master_Host");
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    ReplicationStatus {
        source: format!("{host}:{}", get("Master_Port")),
        io: get("Slave_IO_Running").to_owned(),
        sql: get("Slave_SQL_Running") == "Yes",
        io_error: error("Last_IO_Errno", "Last_IO_Error"),
        sql_error: error("Last_SQL_Errno", "Last_SQL_Error"),
        received: sorted(get("Gtid_IO_Pos")),
        delay: get("SQL_Delay").parse().unwrap_or_default(),
        filtered: filters.iter().any(|name| !get(name).is_empty()),
    }
}

/// The columns of a row by name; NULL as empty text.
pub fn columns(row: Row) -> BTreeMap<String, String> {
    let names: Vec<String> = row.columns_ref().iter().map(|c| c.name_str().into_owned()).collect();
    names.into_iter().zip(row.unwrap().iter().map(text)).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::NULL => String::new(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Int(n) => n.to_string(),
        Value::UInt(n) => n.to_string(),
        other => other.as_sql(true).trim_matches('\'').to_owned(),
    }
}

/// A GTID position with its entries sorted by domain, so that equal ones are equal texts.
pub fn sorted(position: &str) -> String {
    let domain = |gtid: &&str| gtid.split('-').next().and_then(|n| n.parse::<u32>().ok());
    let mut gtids: Vec<&str> = position.split(',').map(str::trim).filter(|g| !g.is_empty()).collect();
    gtids.sort_by_key(domain);
    gtids.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_sorted_by_domain() {
        assert_eq!(sorted("7-1-1, 0-1-16,3-9-2"), "0-1-16,3-9-2,7-1-1");
        assert_eq!(sorted(""), "");
    }

    #[test]
    fn a_replica_shows_its_source_its_errors_and_its_filters() {
        let slave: BTreeMap<String, String> = [
            ("Master_Host", "fd00::7"),
            ("Master_Port", "3307"),
            ("Slave_IO_Running", "No"),
            ("Slave_SQL_Running", "Yes"),
            ("Last_IO_Errno", "1236"),
            ("Last_IO_Error", "Got fatal error"),
            ("Last_SQL_Errno", "0"),
            ("Gtid_IO_Pos", "1-1-5,0-1-9"),
            ("SQL_Delay", "0"),
            ("Seconds_Behind_Master", ""),
            ("Replicate_Do_DB", "shop"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        let answer = answer(&Variables::new(), &BTreeMap::new(), Some(&slave));
        let r = answer.status.replication.unwrap();
        assert_eq!(
            (r.source.as_str(), r.received.as_str(), r.sql, r.filtered),
            ("[fd00::7]:3307", "0-1-9,1-1-5", true, true)
        );
        assert_eq!((r.io_error, r.sql_error), (Some((1236, "Got fatal error".to_owned())), None));
        assert_eq!(answer.seconds_behind, None);
    }
}
