//! One server by SQL, over every path to it: a kept session each, so that a probe costs a query and not a login.
//!
//! The verdict is layered: path (nothing answers), port (refused), login (the server lives and lets nobody in), query.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, IoError, OptsBuilder};
use prometheus::Histogram;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::board::Board;
use crate::model::SqlFacts;

/// Time for saying goodbye.
const QUIT: Duration = Duration::from_millis(500);
/// Packets up to this size: set, so that the client library does not ask the server for its own limit.
const MAX_PACKET: usize = 16 << 20;
const QUESTION: &str = "SELECT @@global.read_only";

/// An account on servers.
#[derive(Clone)]
pub struct Account {
    /// Its name.
    pub user: String,
    /// Its password.
    pub password: SecretString,
}

/// Opens a session at `host:port`.
///
/// # Errors
/// As the library tells them.
pub async fn connect(at: &str, account: &Account) -> Result<Conn, Error> {
    let (host, port) = at.rsplit_once(':').unwrap_or((at, "3306"));
    let options = OptsBuilder::default()
        .ip_or_hostname(host.trim_start_matches('[').trim_end_matches(']').to_owned())
        .tcp_port(port.parse().unwrap_or(3306))
        .user(Some(account.user.clone()))
        .pass(Some(account.password.expose_secret().to_owned()))
        .prefer_socket(false)
        .stmt_cache_size(0)
        .max_allowed_packet(Some(MAX_PACKET))
        .wait_timeout(Some(28_800));
    Conn::new(options).await
}

/// Ends a session in the background: saying goodbye to a frozen server would take for ever.
pub fn close(session: Conn) {
    tokio::spawn(timeout(QUIT, session.disconnect()));
}

/// In words, without the statement.
pub fn told(error: &Error) -> String {
    match error {
        Error::Server(e) => format!("error {}: {}", e.code, e.message),
        Error::Io(IoError::Io(e)) => e.to_string(),
        other => other.to_string(),
    }
}

/// How a server is probed.
#[derive(Clone)]
pub(super) struct SqlProbe {
    pub(super) node: String,
    pub(super) account: Account,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    pub(super) latency: Histogram,
}

/// Probes all paths until cancelled.
pub(super) async fn run(probe: SqlProbe, paths: Vec<String>, board: Arc<Board>, cancel: CancellationToken) {
    let wake = board.wake_of(&probe.node);
    let verdicts: Vec<watch::Sender<Option<SqlFacts>>> = paths.iter().map(|_| watch::Sender::new(None)).collect();
    let wakes: Vec<Arc<Notify>> = paths.iter().map(|_| Arc::default()).collect();
    // One round a change on any path: a path may be silent for long while another one answers.
    let round = Arc::new(Notify::new());
    let mut tasks = tokio::task::JoinSet::new();
    for ((path, verdict), wake) in paths.iter().zip(&verdicts).zip(&wakes) {
        let (path, verdict, wake) = (path.clone(), verdict.clone(), Arc::clone(wake));
        tasks.spawn(one_path(probe.clone(), path, verdict, wake, Arc::clone(&round)));
    }
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = wake.notified() => wakes.iter().for_each(|w| w.notify_one()),
            () = round.notified() => {
                let told: Vec<SqlFacts> = verdicts.iter().filter_map(|v| v.borrow().clone()).collect();
                // A path that has not been tried to its end yet may still answer.
                if let Some(facts) = best(&told, told.len() == verdicts.len()) {
                    board.saw_sql(&probe.node, facts);
                }
            }
        }
    }
}

/// One verdict on a server of what its paths say; `all`: whether each path has said something.
fn best(paths: &[SqlFacts], all: bool) -> Option<SqlFacts> {
    let answers = paths.iter().find(|f| matches!(f, SqlFacts::Answers { .. }));
    if let Some(facts) = answers.or_else(|| paths.iter().find(|f| matches!(f, SqlFacts::Alive(_)))) {
        return Some(facts.clone());
    }
    if !all {
        return None;
    }
    if paths.contains(&SqlFacts::Refused) {
        return Some(SqlFacts::Refused);
    }
    let texts: Vec<&str> =
        paths.iter().filter_map(|f| if let SqlFacts::Silent(t) = f { Some(t.as_str()) } else { None }).collect();
    if texts.is_empty() { None } else { Some(SqlFacts::Silent(texts.join("; "))) }
}

async fn one_path(
    probe: SqlProbe,
    path: String,
    verdict: watch::Sender<Option<SqlFacts>>,
    wake: Arc<Notify>,
    round: Arc<Notify>,
) {
    let mut session = None;
    loop {
        let begun = Instant::now();
        let facts = ask(&mut session, &path, &probe).await;
        verdict.send_replace(Some(facts));
        round.notify_one();
        tokio::select! {
            () = wake.notified() => {}
            () = sleep_until(begun + probe.interval) => {}
        }
    }
}

/// One probe over a kept session, or over a new one if that one is broken.
async fn ask(session: &mut Option<Conn>, path: &str, probe: &SqlProbe) -> SqlFacts {
    let begun = Instant::now();
    if let Some(mut kept) = session.take() {
        match timeout(probe.timeout, kept.query_first::<u8, _>(QUESTION)).await {
            Ok(Ok(answer)) => {
                probe.latency.observe(begun.elapsed().as_secs_f64());
                *session = Some(kept);
                return SqlFacts::Answers { read_only: answer != Some(0) };
            }
            Ok(Err(_)) => close(kept),
            Err(_) => {
                close(kept);
                return SqlFacts::Silent(format!("{path}: a query was not answered within {:?}", probe.timeout));
            }
        }
    }
    match timeout(probe.timeout, connect(path, &probe.account)).await {
        Err(_) => SqlFacts::Silent(format!("{path}: no connection within {:?}", probe.timeout)),
        Ok(Err(error)) => verdict_of(path, &error),
        Ok(Ok(mut new)) => match timeout(probe.timeout, new.query_first::<u8, _>(QUESTION)).await {
            Ok(Ok(answer)) => {
                probe.latency.observe(begun.elapsed().as_secs_f64());
                *session = Some(new);
                SqlFacts::Answers { read_only: answer != Some(0) }
            }
            Ok(Err(error)) => {
                close(new);
                verdict_of(path, &error)
            }
            Err(_) => {
                close(new);
                SqlFacts::Silent(format!("{path}: a query was not answered within {:?}", probe.timeout))
            }
        },
    }
}

fn verdict_of(path: &str, error: &Error) -> SqlFacts {
    match error {
        // Whoever answers with an error of its own lives.
        Error::Server(_) => SqlFacts::Alive(format!("{path}: {}", told(error))),
        Error::Io(IoError::Io(e)) if e.kind() == io::ErrorKind::ConnectionRefused => SqlFacts::Refused,
        other => SqlFacts::Silent(format!("{path}: {}", told(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_that_answers_is_enough_and_silence_takes_all_of_them() {
        let answers = SqlFacts::Answers { read_only: false };
        let alive = SqlFacts::Alive("b: too many connections".into());
        let silent = |p: &str| SqlFacts::Silent(format!("{p}: no connection"));
        assert_eq!(best(&[silent("a"), answers.clone()], true), Some(answers.clone()));
        assert_eq!(best(std::slice::from_ref(&answers), false), Some(answers));
        assert_eq!(best(&[silent("a"), alive.clone()], true), Some(alive));
        assert_eq!(best(&[silent("a"), SqlFacts::Refused], true), Some(SqlFacts::Refused));
        assert_eq!(best(&[SqlFacts::Refused], false), None, "the other path may still answer");
        let both = SqlFacts::Silent("a: no connection; b: no connection".into());
        assert_eq!(best(&[silent("a"), silent("b")], true), Some(both));
        assert_eq!(best(&[], true), None);
    }

    #[tokio::test]
    async fn nobody_listening_is_refused_and_somebody_silent_is_silent() {
        let account = Account { user: "probe".into(), password: SecretString::from(String::new()) };
        let probe = SqlProbe {
            node: "db-1".into(),
            account,
            interval: Duration::from_millis(10),
            timeout: Duration::from_millis(50),
            latency: Histogram::with_opts(prometheus::HistogramOpts::new("t", "t")).unwrap(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let facts = ask(&mut None, &at, &probe).await;
        assert!(matches!(&facts, SqlFacts::Silent(text) if text.contains(&at)), "{facts:?}");
        drop(listener);
        assert_eq!(ask(&mut None, &at, &probe).await, SqlFacts::Refused);
    }
}
