//! Asks replicas by SQL, over kept sessions.
//!
//! MariaDB: `@@gtid_slave_pos` ("gtid_slave_pos" in its manual), which advances with each applied transaction also on replicas that
//! attached by file and position, and `SHOW ALL SLAVES STATUS`. MySQL: `@@gtid_executed` and `SHOW REPLICA STATUS`.

use std::net::SocketAddr;
use std::time::Duration;

use baton_wire::Flavor;
use baton_wire::gtid::GtidPosition;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, OptsBuilder, Row, Value};
use secrecy::{ExposeSecret, SecretString};

use crate::clock::Micros;
use crate::lag::position;
use crate::lag::sample::{SampleError, Sampler, Session, ThreadState, Threads};
use crate::log::LogPos;

const MARIADB_POSITION: &str = "SELECT @@global.gtid_slave_pos, @@global.gtid_current_pos";
const MARIADB_THREADS: &str = "SHOW ALL SLAVES STATUS";
const MYSQL_POSITION: &str = "SELECT @@global.gtid_mode, @@global.gtid_executed";
const MYSQL_THREADS: &str = "SHOW REPLICA STATUS";
/// Time for saying goodbye.
const QUIT_TIMEOUT: Duration = Duration::from_millis(500);
/// Packets up to this size: set, so that the client library does not ask the server for its own limit.
const MAX_PACKET: usize = 16 << 20;

/// Logs in with one account everywhere.
pub(super) struct SqlSampler {
    user: String,
    password: Option<SecretString>,
}

impl SqlSampler {
    /// Logs in as `user`.
    pub(super) fn new(user: String, password: Option<SecretString>) -> Self {
        Self { user, password }
    }
}

impl Sampler for SqlSampler {
    type Session = SqlSession;

    async fn connect(&self, target: SocketAddr) -> Result<SqlSession, SampleError> {
        let opts = OptsBuilder::default()
            .ip_or_hostname(target.ip().to_string())
            .tcp_port(target.port())
            .user(Some(self.user.clone()))
            .pass(self.password.as_ref().map(|p| p.expose_secret().to_owned()))
            .prefer_socket(false)
            .stmt_cache_size(0)
            .max_allowed_packet(Some(MAX_PACKET))
            .wait_timeout(Some(28_800))
            .tcp_keepalive(Some(Duration::from_secs(10)));
        let conn = Conn::new(opts).await.map_err(|e| match &e {
            Error::Server(_) => SampleError::Refused(told(&e)),
            _ => SampleError::Broken(told(&e)),
        })?;
        // From here on `close` is called in every case: dropping the connection would wait for a frozen server in a task of its own.
        let mut session = SqlSession { conn, flavor: Flavor::MariaDb };
        match session.first("SELECT VERSION()").await {
            Ok(row) => {
                let version = row.as_ref().and_then(|r| text_at(r, 0)).unwrap_or_default();
                session.flavor = Flavor::of_version(&version);
                Ok(session)
            }
            Err(error) => {
                session.close().await;
                Err(error)
            }
        }
    }
}

/// A kept connection.
pub(super) struct SqlSession {
    conn: Conn,
    flavor: Flavor,
}

impl SqlSession {
    async fn first(&mut self, query: &str) -> Result<Option<Row>, SampleError> {
        self.conn.query_first(query).await.map_err(|e| classify(query, &e))
    }
}

impl Session for SqlSession {
    async fn position(&mut self) -> Result<GtidPosition, SampleError> {
        let query = match self.flavor {
            Flavor::MariaDb => MARIADB_POSITION,
            Flavor::MySql => MYSQL_POSITION,
        };
        let row = self.first(query).await?;
        let row = row.ok_or_else(|| SampleError::Refused(format!("{query}: the answer is empty")))?;
        let column = |i| text_at(&row, i).unwrap_or_default();
        match self.flavor {
            Flavor::MariaDb => position::mariadb(&column(0), &column(1)),
            Flavor::MySql => position::mysql(&column(0), &column(1)),
        }
    }

    async fn threads(&mut self) -> Result<Option<Threads>, SampleError> {
        let query = match self.flavor {
            Flavor::MariaDb => MARIADB_THREADS,
            Flavor::MySql => MYSQL_THREADS,
        };
        let rows: Vec<Row> = self.conn.query(query).await.map_err(|e| classify(query, &e))?;
        // Of several sources the unnamed one counts.
        let name = |r: &Row| text(r, "Connection_name").or_else(|| text(r, "Channel_Name")).unwrap_or_default();
        let row = rows.iter().find(|r| name(r).is_empty()).or(rows.first());
        Ok(row.map(|r| threads_of(&|column| text(r, column))))
    }

    async fn close(self) {
        // `disconnect` marks the connection as closed before it writes; when it does not finish in time, dropping it closes the socket.
        let _ = tokio::time::timeout(QUIT_TIMEOUT, self.conn.disconnect()).await;
    }
}

/// Reads one row of the threads' state; `column` gives a column's text, or `None` if it is NULL or not there.
fn threads_of(column: &dyn Fn(&str) -> Option<String>) -> Threads {
    let either = |mariadb: &str, mysql: &str| column(mariadb).or_else(|| column(mysql));
    let number = |name: &str| column(name).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
    let state = |text: Option<String>| match text.as_deref() {
        Some("Yes") => ThreadState::Running,
        Some("No") | None => ThreadState::Stopped,
        Some(_) => ThreadState::Connecting, // Connecting, Preparing
    };
    let error = |number_of: &str, text_of: &str| match number(number_of) {
        0 => None,
        code => Some(format!("error {code}: {}", column(text_of).unwrap_or_default())),
    };
    let place = |file: Option<String>, offset: Option<String>| log_pos(&file?, &offset?);
    Threads {
        taken_at: Micros::default(),
        sent: None,
        io: state(either("Slave_IO_Running", "Replica_IO_Running")),
        sql: state(either("Slave_SQL_Running", "Replica_SQL_Running")),
        io_error: error("Last_IO_Errno", "Last_IO_Error"),
        sql_error: error("Last_SQL_Errno", "Last_SQL_Error"),
        delay: Duration::from_secs(number("SQL_Delay")),
        received: place(
            either("Master_Log_File", "Source_Log_File"),
            either("Read_Master_Log_Pos", "Read_Source_Log_Pos"),
        ),
        applied: place(
            either("Relay_Master_Log_File", "Relay_Source_Log_File"),
            either("Exec_Master_Log_Pos", "Exec_Source_Log_Pos"),
        ),
    }
}

/// A place in the log from a file's name and an offset; `None` before anything was received.
fn log_pos(file: &str, offset: &str) -> Option<LogPos> {
    let (_, number) = file.rsplit_once('.')?;
    Some(LogPos { file: number.parse().ok()?, offset: offset.parse().ok()? })
}

fn text(row: &Row, column: &str) -> Option<String> {
    let index = row.columns_ref().iter().position(|c| c.name_str().eq_ignore_ascii_case(column))?;
    text_at(row, index)
}

fn text_at(row: &Row, index: usize) -> Option<String> {
    match row.as_ref(index)? {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        other => Some(other.as_sql(true).trim_matches('\'').to_owned()),
    }
}

/// An answer of the server leaves the session usable, unless it says that the session ends.
fn classify(query: &str, error: &Error) -> SampleError {
    match error {
        // 1053 shutdown in progress, 1927 connection was killed, 4031 the client was inactive for too long
        Error::Server(e) if !matches!(e.code, 1053 | 1927 | 4031) => {
            SampleError::Refused(format!("{query}: error {}: {}", e.code, e.message))
        }
        other => SampleError::Broken(told(other)),
    }
}

fn told(error: &Error) -> String {
    match error {
        Error::Server(e) => format!("error {}: {}", e.code, e.message),
        Error::Io(mysql_async::IoError::Io(e)) => e.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(columns: &[(&str, &str)]) -> Threads {
        let columns: HashMap<String, String> = columns.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        threads_of(&|name| columns.get(name).cloned())
    }

    #[test]
    fn thread_states_errors_and_places_are_read_in_both_families_spelling() {
        let maria = read(&[
            ("Slave_IO_Running", "Connecting"),
            ("Slave_SQL_Running", "No"),
            ("Last_IO_Errno", "2003"),
            ("Last_IO_Error", "error connecting"),
            ("Last_SQL_Errno", "1062"),
            ("Last_SQL_Error", "Duplicate entry"),
            ("SQL_Delay", "60"),
            ("Master_Log_File", "mysql-bin.000002"),
            ("Read_Master_Log_Pos", "918"),
            ("Relay_Master_Log_File", "mysql-bin.000001"),
            ("Exec_Master_Log_Pos", "4"),
        ]);
        assert_eq!((maria.io, maria.sql), (ThreadState::Connecting, ThreadState::Stopped));
        assert_eq!(maria.io_error.as_deref(), Some("error 2003: error connecting"));
        assert_eq!(maria.sql_error.as_deref(), Some("error 1062: Duplicate entry"));
        assert_eq!(maria.delay, Duration::from_secs(60));
        assert_eq!(maria.received, Some(LogPos { file: 2, offset: 918 }));
        assert_eq!(maria.applied, Some(LogPos { file: 1, offset: 4 }));

        let mysql = read(&[
            ("Replica_IO_Running", "Yes"),
            ("Replica_SQL_Running", "Yes"),
            ("Last_IO_Errno", "0"),
            ("Source_Log_File", ""),
            ("Read_Source_Log_Pos", "4"),
        ]);
        assert_eq!((mysql.io, mysql.sql), (ThreadState::Running, ThreadState::Running));
        assert_eq!((mysql.io_error, mysql.received), (None, None));
    }
}
