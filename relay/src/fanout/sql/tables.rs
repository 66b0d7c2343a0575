//! The tables behind the `SHOW` statements, with the columns that MariaDB's and MySQL's clients and monitoring expect.

use super::{Facts, UpstreamRow};

/// Columns and rows of a text result.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Table {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<Option<String>>>,
}

impl Table {
    /// Without rows.
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(|c| (*c).to_owned()).collect(), rows: Vec::new() }
    }

    fn row(&mut self, values: impl IntoIterator<Item = String>) {
        self.rows.push(values.into_iter().map(Some).collect());
    }
}

/// `SHOW MASTER STATUS`: the last file and its visible end.
pub(super) fn primary_status(facts: &Facts) -> Table {
    let mut table = Table::new(&["File", "Position", "Binlog_Do_DB", "Binlog_Ignore_DB"]);
    if facts.mysql {
        table.columns.push("Executed_Gtid_Set".into());
    }
    if let Some(last) = facts.files.last() {
        let mut row = vec![last.name.clone(), last.size.to_string(), String::new(), String::new()];
        if facts.mysql {
            row.push(facts.gtid_position.clone());
        }
        table.row(row);
    }
    table
}

/// `SHOW BINARY LOGS`.
pub(super) fn binary_logs(facts: &Facts) -> Table {
    let mut table = Table::new(&["Log_name", "File_size"]);
    for file in &facts.files {
        table.row([file.name.clone(), file.size.to_string()]);
    }
    table
}

/// `SHOW SLAVE HOSTS`, `SHOW REPLICAS`.
pub(super) fn replicas(facts: &Facts) -> Table {
    let mut table = if facts.mysql {
        Table::new(&["Server_Id", "Host", "Port", "Source_Id", "Replica_UUID"])
    } else {
        Table::new(&["Server_id", "Host", "Port", "Master_id"])
    };
    for r in facts.replicas.iter().filter(|r| r.server_id != 0) {
        let mut row = vec![r.server_id.to_string(), r.host.clone(), r.port.to_string(), facts.server_id.to_string()];
        if facts.mysql {
            row.push(r.uuid.clone());
        }
        table.row(row);
    }
    table
}

/// `SHOW PROCESSLIST`: the replication sessions, and the one that asks.
pub(super) fn processlist(facts: &Facts) -> Table {
    let mut table = Table::new(&["Id", "User", "Host", "db", "Command", "Time", "State", "Info"]);
    for r in &facts.replicas {
        table.rows.push(vec![
            Some(r.connection.to_string()),
            Some(r.user.clone()),
            Some(r.peer.clone()),
            None,
            Some("Binlog Dump".into()),
            Some(r.seconds.to_string()),
            Some(r.state.into()),
            None,
        ]);
    }
    if !facts.replicas.iter().any(|r| r.connection == facts.connection) {
        table.rows.push(vec![
            Some(facts.connection.to_string()),
            Some(facts.user.clone()),
            Some(facts.peer.clone()),
            None,
            Some("Query".into()),
            Some("0".into()),
            Some("starting".into()),
            Some("SHOW PROCESSLIST".into()),
        ]);
    }
    table
}

/// `SHOW STATUS`: the few figures that monitoring of a source looks at.
pub(super) fn status(facts: &Facts, wanted: impl Fn(&str) -> bool) -> Table {
    let mut table = Table::new(&["Variable_name", "Value"]);
    let streaming = facts.replicas.len().to_string();
    let running = if facts.upstream.streaming { "ON" } else { "OFF" };
    for (name, value) in [
        ("Connections", facts.connection.to_string()),
        ("Rpl_semi_sync_master_clients", facts.replicas.iter().filter(|r| r.semi_sync).count().to_string()),
        ("Rpl_semi_sync_master_status", "ON".to_owned()),
        ("Slave_running", running.to_owned()),
        ("Slaves_connected", streaming.clone()),
        ("Threads_connected", streaming),
    ] {
        if wanted(name) {
            table.row([name.to_owned(), value]);
        }
    }
    table
}

/// `SHOW SLAVE STATUS`: the relay as a replica of its upstream. It applies nothing: applied means durable here.
pub(super) fn replica_status(facts: &Facts) -> Table {
    let UpstreamRow { host, port, user, server_id, streaming, connecting, lag_seconds, error, .. } =
        facts.upstream.clone();
    let mut table = Table::default();
    if host.is_empty() {
        return table;
    }
    let (file, position) =
        facts.files.last().map_or((String::new(), String::from("4")), |f| (f.name.clone(), f.size.to_string()));
    let io_state = if streaming {
        "Waiting for master to send event"
    } else if connecting {
        "Connecting to master"
    } else {
        ""
    };
    let io_running = if streaming {
        "Yes"
    } else if connecting {
        "Connecting"
    } else {
        "No"
    };
    let seconds = streaming.then(|| lag_seconds.to_string());
    let some = |s: &str| Some(s.to_owned());
    let columns: Vec<(&str, Option<String>)> = vec![
        ("Slave_IO_State", some(io_state)),
        ("Master_Host", Some(host)),
        ("Master_User", Some(user)),
        ("Master_Port", Some(port)),
        ("Connect_Retry", some("1")),
        ("Master_Log_File", Some(file.clone())),
        ("Read_Master_Log_Pos", Some(position.clone())),
        ("Relay_Log_File", Some(file.clone())),
        ("Relay_Log_Pos", Some(position.clone())),
        ("Relay_Master_Log_File", Some(file)),
        ("Slave_IO_Running", some(io_running)),
        ("Slave_SQL_Running", some("Yes")),
        ("Last_Errno", some("0")),
        ("Last_Error", some("")),
        ("Skip_Counter", some("0")),
        ("Exec_Master_Log_Pos", Some(position)),
        ("Relay_Log_Space", Some(facts.files.iter().map(|f| f.size).sum::<u64>().to_string())),
        ("Until_Condition", some("None")),
        ("Seconds_Behind_Master", seconds),
        ("Last_IO_Errno", some(if error.is_empty() { "0" } else { "1593" })),
        ("Last_IO_Error", Some(error)),
        ("Last_SQL_Errno", some("0")),
        ("Last_SQL_Error", some("")),
        ("Master_Server_Id", Some(server_id.to_string())),
        ("Using_Gtid", some("No")),
        ("Gtid_IO_Pos", Some(facts.gtid_position.clone())),
        ("SQL_Delay", some("0")),
        ("Slave_SQL_Running_State", some("Has durably stored all received events; waiting for more")),
    ];
    table.rows.push(columns.iter().map(|(_, v)| v.clone()).collect());
    table.columns = columns.into_iter().map(|(c, _)| c.to_owned()).collect();
    table
}
