//! Statement and facts in, answer out.

use super::parse::{Expr, Statement, like};
use super::tables::{self, Table};
use super::{Facts, Reply, Session};

/// Answers a parsed statement.
pub(super) fn answer(session: &mut Session, statement: Statement, facts: &Facts) -> Reply {
    match statement {
        Statement::Select(columns) => select(session, columns, facts),
        Statement::SetUser(assignments) => set(session, assignments, facts),
        Statement::SetGlobal(name) => error(
            1227,
            "42000",
            format!("Access denied; {name} can't be set on a relay: change its configuration file instead"),
        ),
        Statement::ShowVariables(pattern) => Reply::Rows(show_variables(pattern.as_deref(), facts)),
        Statement::ShowStatus(pattern) => {
            Reply::Rows(tables::status(facts, |name| matches_pattern(pattern.as_deref(), name)))
        }
        Statement::ShowMasterStatus => Reply::Rows(tables::primary_status(facts)),
        Statement::ShowBinaryLogs => Reply::Rows(tables::binary_logs(facts)),
        Statement::ShowReplicas => Reply::Rows(tables::replicas(facts)),
        Statement::ShowReplicaStatus => Reply::Rows(tables::replica_status(facts)),
        Statement::ShowProcesslist => Reply::Rows(tables::processlist(facts)),
        Statement::ShowEmpty(column) => Reply::Rows(Table::new(&[column])),
        Statement::Kill { query_only: true, .. } => Reply::Ok,
        Statement::Kill { connection, .. } => Reply::Kill(connection),
        Statement::Nothing => Reply::Ok,
        Statement::Unsupported => error(
            1235,
            "42000",
            "this is a replication relay: it serves the binlog and answers SHOW and SELECT @@variable; send other statements to the primary",
        ),
        Statement::Malformed(what) => error(1064, "42000", format!("You have an error in your SQL syntax; {what}")),
    }
}

fn error(code: u16, state: &'static str, message: impl Into<String>) -> Reply {
    Reply::Error { code, state, message: message.into() }
}

fn matches_pattern(pattern: Option<&str>, name: &str) -> bool {
    pattern.is_none_or(|p| like(p, name))
}

fn select(session: &Session, columns: Vec<(String, Expr)>, facts: &Facts) -> Reply {
    if let [(column, Expr::Call { name, args })] = columns.as_slice() {
        if name == "BINLOG_GTID_POS" {
            return match args.as_slice() {
                [Expr::Text(file), Expr::Number(pos)] => Reply::GtidAt {
                    column: column.clone(),
                    file: file.clone(),
                    position: pos.parse().unwrap_or(u64::MAX),
                },
                _ => error(1582, "42000", "Incorrect parameter count in the call to native function 'binlog_gtid_pos'"),
            };
        }
    }
    let mut table = Table::default();
    let mut row = Vec::with_capacity(columns.len());
    for (name, expr) in columns {
        match value(session, &expr, facts) {
            Ok(v) => {
                table.columns.push(name);
                row.push(v);
            }
            Err(reply) => return reply,
        }
    }
    table.rows.push(row);
    Reply::Rows(table)
}

fn set(session: &mut Session, assignments: Vec<(String, Expr)>, facts: &Facts) -> Reply {
    for (name, expr) in assignments {
        let set = value(session, &expr, facts).and_then(|v| session.set(name, v));
        if let Err(reply) = set {
            return reply;
        }
    }
    Reply::Ok
}

fn value(session: &Session, expr: &Expr, facts: &Facts) -> Result<Option<String>, Reply> {
    Ok(match expr {
        Expr::Null => None,
        Expr::Text(t) => Some(t.clone()),
        Expr::Number(n) => Some(n.clone()),
        Expr::UserVar(name) => session.variable(name).map(str::to_owned),
        Expr::SystemVar(name) => match system_variable(name, facts) {
            Some(v) => v,
            None => return Err(error(1193, "HY000", format!("Unknown system variable '{name}'"))),
        },
        Expr::Call { name, .. } => match name.as_str() {
            "UNIX_TIMESTAMP" => Some(facts.unix_time.to_string()),
            "VERSION" => Some(facts.version.clone()),
            "CONNECTION_ID" => Some(facts.connection.to_string()),
            "USER" | "CURRENT_USER" | "SESSION_USER" | "SYSTEM_USER" => Some(format!("{}@{}", facts.user, facts.peer)),
            "DATABASE" | "SCHEMA" => None,
            "NOW" | "CURRENT_TIMESTAMP" => {
                jiff::Timestamp::from_second(facts.unix_time).ok().map(|t| t.strftime("%Y-%m-%d %H:%M:%S").to_string())
            }
            _ => return Err(error(1305, "42000", format!("FUNCTION {name} does not exist"))),
        },
    })
}

/// The value of a system variable; the outer `None` says that there is none of that name.
fn system_variable(name: &str, facts: &Facts) -> Option<Option<String>> {
    variables(facts).into_iter().find(|(n, _)| *n == name).map(|(_, v)| v)
}

fn show_variables(pattern: Option<&str>, facts: &Facts) -> Table {
    let mut table = Table::new(&["Variable_name", "Value"]);
    let mut all = variables(facts);
    all.sort_by_key(|(name, _)| *name);
    for (name, value) in all {
        if matches_pattern(pattern, name) {
            table.rows.push(vec![Some(name.to_owned()), Some(value.unwrap_or_default())]);
        }
    }
    table
}

fn variables(facts: &Facts) -> Vec<(&'static str, Option<String>)> {
    let text = |s: &str| Some(s.to_owned());
    let as_upstream =
        |name: &str, default: &str| text(facts.upstream.settings.get(name).map_or(default, String::as_str));
    let mut all = vec![
        ("autocommit", text("1")),
        ("binlog_checksum", text(facts.checksum.name())),
        ("binlog_format", as_upstream("binlog_format", "ROW")),
        ("binlog_row_image", as_upstream("binlog_row_image", "FULL")),
        ("binlog_row_metadata", as_upstream("binlog_row_metadata", if facts.mysql { "MINIMAL" } else { "NO_LOG" })),
        ("character_set_client", text("utf8mb4")),
        ("character_set_connection", text("utf8mb4")),
        ("character_set_results", text("utf8mb4")),
        ("character_set_server", text("utf8mb4")),
        ("collation_connection", text("utf8mb4_general_ci")),
        ("collation_server", text("utf8mb4_general_ci")),
        ("hostname", text(&facts.hostname)),
        ("init_connect", text("")),
        ("interactive_timeout", text("28800")),
        ("log_bin", text("1")),
        ("log_slave_updates", text("1")),
        ("lower_case_table_names", text("0")),
        ("max_allowed_packet", Some(facts.max_packet.to_string())),
        ("net_buffer_length", text("16384")),
        ("net_read_timeout", text("30")),
        ("net_write_timeout", text("60")),
        ("port", Some(facts.port.to_string())),
        ("read_only", text("1")),
        ("server_id", Some(facts.server_id.to_string())),
        ("sql_mode", text("")),
        ("system_time_zone", text("UTC")),
        ("time_zone", text("SYSTEM")),
        ("tx_isolation", text("REPEATABLE-READ")),
        ("version", text(&facts.version)),
        ("version_comment", text("Baton relay")),
        ("wait_timeout", text("28800")),
    ];
    if facts.mysql {
        all.extend([
            ("gtid_executed", text(&facts.gtid_position)),
            ("gtid_mode", text("ON")),
            ("gtid_purged", text("")),
            ("enforce_gtid_consistency", text("ON")),
            ("server_uuid", text(&facts.server_uuid)),
            ("transaction_isolation", text("REPEATABLE-READ")),
        ]);
    } else {
        all.extend([
            ("gtid_binlog_pos", text(&facts.gtid_position)),
            ("gtid_binlog_state", text(&facts.gtid_position)),
            ("gtid_current_pos", text(&facts.gtid_position)),
            ("gtid_slave_pos", text(&facts.gtid_position)),
            ("gtid_domain_id", text("0")),
            ("gtid_strict_mode", text("1")),
            // A replica may acknowledge what it receives; nothing waits for that here, so there is no more to say of it.
            ("rpl_semi_sync_master_enabled", text("ON")),
        ]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            server_id: 9001,
            version: "10.11.19-MariaDB-log".into(),
            gtid_position: "0-1-5".into(),
            ..Facts::default()
        }
    }

    fn rows(reply: Reply) -> Vec<Vec<Option<String>>> {
        match reply {
            Reply::Rows(t) => t.rows,
            other => panic!("{other:?}"),
        }
    }

    fn one(reply: Reply) -> Option<String> {
        rows(reply).remove(0).remove(0)
    }

    #[test]
    fn the_conversation_of_a_mariadb_replica_is_answered() {
        let (mut s, f) = (Session::default(), facts());
        assert_eq!(
            rows(s.answer("SHOW VARIABLES LIKE 'SERVER_ID'", &f)),
            [[Some("server_id".to_owned()), Some("9001".to_owned())]]
        );
        assert_eq!(s.answer("SET @master_heartbeat_period= 30000001024", &f), Reply::Ok);
        assert_eq!(s.answer("SET @master_binlog_checksum= @@global.binlog_checksum", &f), Reply::Ok);
        assert_eq!(one(s.answer("SELECT @master_binlog_checksum", &f)), Some("CRC32".into()));
        assert_eq!(s.answer("SET @slave_connect_state='7-1-1,0-1-16'", &f), Reply::Ok);
        assert_eq!(s.variable("slave_connect_state"), Some("7-1-1,0-1-16"));
        assert_eq!(one(s.answer("SELECT @@GLOBAL.gtid_domain_id", &f)), Some("0".into()));
        assert_eq!(
            rows(s.answer("SHOW VARIABLES LIKE 'rpl_semi_sync_master_enabled'", &f)),
            [[Some("rpl_semi_sync_master_enabled".to_owned()), Some("ON".to_owned())]]
        );
        assert_eq!(s.answer("SET @rpl_semi_sync_slave= 1", &f), Reply::Ok);
    }

    #[test]
    fn readers_are_told_how_the_primary_writes_its_log() {
        let mut f = facts();
        assert_eq!(one(Session::default().answer("SELECT @@binlog_row_metadata", &f)), Some("NO_LOG".into()));
        f.upstream.settings.insert("binlog_row_metadata", "FULL".into());
        assert_eq!(one(Session::default().answer("SELECT @@global.binlog_row_metadata", &f)), Some("FULL".into()));
    }

    #[test]
    fn a_mariadb_log_lets_a_mysql_replica_know_that_it_has_no_gtid_mode() {
        let reply = Session::default().answer("SELECT @@GLOBAL.GTID_MODE", &facts());
        assert!(matches!(reply, Reply::Error { code: 1193, .. }), "{reply:?}");
    }

    #[test]
    fn what_is_not_replication_gets_a_clear_error() {
        let mut s = Session::default();
        for (sql, expected) in [
            ("SELECT @@nonsense", 1193),
            ("DROP TABLE t", 1235),
            ("SELECT 'x", 1064),
            ("SET GLOBAL x=1", 1227),
            ("SELECT sleep(5)", 1305),
        ] {
            match s.answer(sql, &facts()) {
                Reply::Error { code, .. } => assert_eq!(code, expected, "{sql}"),
                other => panic!("{sql}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_session_cannot_fill_the_memory_with_variables() {
        let mut s = Session::default();
        for i in 0..super::super::MAX_USER_VARIABLES {
            assert_eq!(s.answer(&format!("SET @v{i}=1"), &facts()), Reply::Ok);
        }
        assert!(matches!(s.answer("SET @one_more=1", &facts()), Reply::Error { code: 1038, .. }));
        assert_eq!(s.answer("SET @v0=2", &facts()), Reply::Ok);
    }
}
