//! SQL to the one server beside the agent, over its unix socket.
//!
//! Promises: no statement is waited for longer than it is given; a session whose statement was given up is not used again; nothing that a session
//! does is written to the binlog. Never logs a statement that may hold a password.

pub mod accounts;
pub mod status;
pub mod unmet;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Opts, OptsBuilder, Row};
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use tokio::time::{Instant, timeout};

use crate::config::MysqlConfig;

/// Why a statement has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SqlError {
    /// No session could be had.
    #[error("the server does not let the agent in at {}: {cause}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the server or the system said.
        cause: String,
    },
    /// No answer in time; the session was given up.
    #[error("the server has not answered {what:?} within {limit:?}")]
    Timeout {
        /// The statement, or what it is for.
        what: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The server refused a statement.
    #[error("the server refuses {what:?}: {number} {text}")]
    Server {
        /// The statement, or what it is for.
        what: String,
        /// Error number.
        number: u16,
        /// Its text.
        text: String,
    },
    /// The connection broke, or an answer was not understood.
    #[error("the session with the server ended at {what:?}: {cause}")]
    Broken {
        /// The statement, or what it is for.
        what: String,
        /// What happened.
        cause: String,
    },
}

impl SqlError {
    /// The server's error number, if it was the server that refused.
    pub fn number(&self) -> Option<u16> {
        match self {
            Self::Server { number, .. } => Some(*number),
            _ => None,
        }
    }
}

/// Sessions that are kept for the next order, at most, and for how long: the orders of one operation follow each other at once, and clients wait
/// for them.
const KEPT: usize = 2;
const KEPT_FOR: Duration = Duration::from_secs(5);
/// For a kept session to answer; then a new one is made.
const SIGN_OF_LIFE: Duration = Duration::from_millis(50);

/// How the server is reached.
#[derive(Clone)]
pub struct Db {
    opts: Opts,
    socket: PathBuf,
    timeout: Duration,
    kept: Arc<Mutex<Vec<(Instant, Session)>>>,
}

impl Db {
    /// With the account of the configuration.
    pub fn new(config: &MysqlConfig) -> Self {
        let password = Some(config.password.expose_secret()).filter(|p| !p.is_empty());
        let opts = OptsBuilder::default()
            .user(Some(&config.user))
            .pass(password)
            .socket(Some(config.socket.display().to_string()))
            .prefer_socket(true)
            // Asked for at every login otherwise.
            .max_allowed_packet(Some(16 << 20))
            .wait_timeout(Some(28_800))
            // Accounts and events are changed here alone; and no own statement waits for an acknowledgement.
            .setup(vec!["SET SESSION sql_log_bin=0, SESSION lock_wait_timeout=10".to_owned()]);
        Self { opts: opts.into(), socket: config.socket.clone(), timeout: config.timeout, kept: Arc::default() }
    }

    /// For a statement that should take no time.
    pub fn limit(&self) -> Duration {
        self.timeout
    }

    /// A session: one that was kept, if it lives, or a new one.
    ///
    /// # Errors
    /// [`SqlError::Connect`], also if the server does not answer in time.
    pub async fn connect(&self) -> Result<Session, SqlError> {
        while let Some((since, mut session)) = self.take_kept() {
            if since.elapsed() < KEPT_FOR && session.lives().await {
                return Ok(session);
            }
        }
        let failed = |cause: String| SqlError::Connect { socket: self.socket.clone(), cause };
        let conn = timeout(self.timeout, Conn::new(self.opts.clone())).await;
        let conn = conn.map_err(|_| failed(format!("no answer within {:?}", self.timeout)))?;
        let conn = conn.map_err(|e| match e {
            mysql_async::Error::Server(e) => failed(format!("{} {}", e.code, e.message)),
            other => failed(other.to_string()),
        })?;
        Ok(Session { conn: Some(conn), limit: self.timeout })
    }

    /// Keeps a session, of which no setting was changed, for the next who wants one.
    pub fn keep(&self, session: Session) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(since, _)| since.elapsed() < KEPT_FOR);
        if session.is_usable() && kept.len() < KEPT {
            kept.push((Instant::now(), session));
        }
    }

    fn take_kept(&self) -> Option<(Instant, Session)> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

/// One session.
pub struct Session {
    /// None once it was given up.
    conn: Option<Conn>,
    limit: Duration,
}

impl Session {
    /// Over a connection that was opened elsewhere; `limit` is for a statement that should take no time.
    pub fn over(conn: Conn, limit: Duration) -> Self {
        Self { conn: Some(conn), limit }
    }

    /// Whether it can be used still.
    pub fn is_usable(&self) -> bool {
        self.conn.is_some()
    }

    /// Whether the server still answers on it.
    async fn lives(&mut self) -> bool {
        let Some(mut conn) = self.conn.take() else { return false };
        let lives = matches!(timeout(SIGN_OF_LIFE, conn.ping()).await, Ok(Ok(())));
        self.conn = lives.then_some(conn);
        lives
    }

    /// The server's number for this session.
    pub fn id(&self) -> u32 {
        self.conn.as_ref().map_or(0, Conn::id)
    }

    /// Runs a statement that gives no rows.
    ///
    /// # Errors
    /// [`SqlError`].
    pub async fn run(&mut self, statement: &str) -> Result<(), SqlError> {
        self.run_within(statement, self.limit).await
    }

    /// As [`run`](Self::run), waiting for as long as said.
    ///
    /// # Errors
    /// [`SqlError`].
    pub async fn run_within(&mut self, statement: &str, limit: Duration) -> Result<(), SqlError> {
        self.run_as(statement, statement, limit).await
    }

    /// As [`run`](Self::run) for a long statement: errors call it `what`.
    ///
    /// # Errors
    /// [`SqlError`].
    pub async fn run_called(&mut self, statement: &str, what: &str) -> Result<(), SqlError> {
        self.run_as(statement, what, self.limit).await
    }

    /// As [`run`](Self::run) for a statement that must not be shown: errors call it `what`, and leave out the server's text.
    ///
    /// # Errors
    /// [`SqlError`].
    pub async fn run_secret(&mut self, statement: &SecretString, what: &str) -> Result<(), SqlError> {
        self.run_as(statement.expose_secret(), what, self.limit).await.map_err(|e| match e {
            SqlError::Server { what, number, .. } => {
                SqlError::Server { what, number, text: "(its text may hold the statement)".to_owned() }
            }
            other => other,
        })
    }

    async fn run_as(&mut self, statement: &str, what: &str, limit: Duration) -> Result<(), SqlError> {
        let Some(mut conn) = self.conn.take() else { return Err(given_up(what)) };
        let done = timeout(limit, conn.query_drop(statement)).await;
        self.settle(conn, done, what, limit)
    }

    /// All rows.
    ///
    /// # Errors
    /// [`SqlError`].
    pub async fn rows<T: FromRow + Send + 'static>(&mut self, statement: &str) -> Result<Vec<T>, SqlError> {
        self.rows_within(statement, self.limit).await
    }

    /// All rows, waiting for as long as said.
    ///
    /// # Errors
    /// [`SqlError`].
    pub async fn rows_within<T: FromRow + Send + 'static>(
        &mut self,
        statement: &str,
        limit: Duration,
    ) -> Result<Vec<T>, SqlError> {
        let Some(mut conn) = self.conn.take() else { return Err(given_up(statement)) };
        // Values that are not what was expected are errors, not panics.
        let done = timeout(limit, async {
            let rows: Vec<Row> = conn.query(statement).await?;
            rows.into_iter()
                .map(|row| T::from_row_opt(row).map_err(|e| mysql_async::Error::Other(e.to_string().into())))
                .collect()
        })
        .await;
        self.settle(conn, done, statement, limit)
    }

    /// The first row.
    ///
    /// # Errors
    /// [`SqlError`].
    pub async fn first<T: FromRow + Send + 'static>(&mut self, statement: &str) -> Result<Option<T>, SqlError> {
        Ok(self.rows(statement).await?.into_iter().next())
    }

    /// The one value of the one row.
    ///
    /// # Errors
    /// [`SqlError`]; no row too.
    pub async fn value<T>(&mut self, statement: &str) -> Result<T, SqlError>
    where
        (T,): FromRow + Send + 'static,
    {
        let row: Option<(T,)> = self.first(statement).await?;
        row.map(|(value,)| value)
            .ok_or_else(|| SqlError::Broken { what: statement.to_owned(), cause: "no row was answered".to_owned() })
    }

    fn settle<T>(
        &mut self,
        conn: Conn,
        done: Result<Result<T, mysql_async::Error>, tokio::time::error::Elapsed>,
        what: &str,
        limit: Duration,
    ) -> Result<T, SqlError> {
        let what = || what.chars().take(200).collect::<String>();
        match done {
            // The connection is in the middle of something: it is dropped.
            Err(_) => Err(SqlError::Timeout { what: what(), limit }),
            Ok(Ok(value)) => {
                self.conn = Some(conn);
                Ok(value)
            }
            Ok(Err(mysql_async::Error::Server(e))) => {
                self.conn = Some(conn);
                Err(SqlError::Server { what: what(), number: e.code, text: e.message })
            }
            Ok(Err(other)) => Err(SqlError::Broken { what: what(), cause: other.to_string() }),
        }
    }
}

fn given_up(what: &str) -> SqlError {
    SqlError::Broken { what: what.to_owned(), cause: "the session was given up before".to_owned() }
}

/// A text as an SQL literal, quotes included.
pub fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for c in text.chars() {
        match c {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

/// A name as an SQL identifier, quotes included.
pub fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_names_stay_within_their_quotes() {
        assert_eq!(literal("it's \\ fine"), "'it''s \\\\ fine'");
        assert_eq!(identifier("a`b"), "`a``b`");
    }
}
