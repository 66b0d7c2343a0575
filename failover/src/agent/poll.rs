//! Asks the server how it does, again and again, over one kept session.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::core::Core;
use super::kept::KnownServer;
use super::sql::accounts::lacking;
use super::sql::status::{Answer, ask};
use super::sql::unmet::unreachable;
use super::sql::{Session, SqlError};
use crate::config::MysqlConfig;
use crate::model::ServerRole;

/// How often accounts are looked at: they seldom change.
const ACCOUNTS: Duration = Duration::from_secs(10);

/// What was answered last, by the process that lives now.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The answer; kept while the same process lives, however old.
    pub answer: Option<Answer>,
    /// When it was asked for.
    pub at: Option<Instant>,
    /// Why it does not answer now.
    pub error: Option<String>,
}

impl Observed {
    /// Whether the server answers at present.
    pub fn is_fresh(&self, config: &MysqlConfig) -> bool {
        self.answer.is_some() && self.error.is_none() && self.at.is_some_and(|at| at.elapsed() < patience(config))
    }
}

fn patience(config: &MysqlConfig) -> Duration {
    config.poll * 2 + config.timeout
}

/// Asks until cancelled: every `mysql.poll`, and whenever an order has changed something.
pub async fn poll(core: Arc<Core>, cancel: CancellationToken) {
    let mut session: Option<Asking> = None;
    let mut states = core.host.subscribe();
    let mut ticks = interval(core.config.mysql.poll);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = states.changed() => {
                if changed.is_err() {
                    return;
                }
                states.borrow_and_update();
                session = None;
                core.observed.set(Observed::default());
            }
            _ = ticks.tick() => {}
            () = core.desk.looked_for() => {}
        }
        if core.host.alive().is_none() {
            session = None;
            continue;
        }
        let asked = Instant::now();
        // A death in the middle of it is noticed above: nothing of it is kept.
        let dead = died(&mut states);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = dead => {
                session = None;
                core.observed.set(Observed::default());
            }
            answer = answer(&core, &mut session) => note(&core, answer, asked).await,
        }
    }
}

async fn died(states: &mut watch::Receiver<super::host::HostState>) {
    if states.wait_for(|s| s.alive().is_none()).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A kept session, and what was found of the accounts.
struct Asking {
    session: Session,
    relays: BTreeSet<String>,
    lacking: Vec<String>,
    /// When; none: not yet.
    looked: Option<Instant>,
}

async fn answer(core: &Core, kept: &mut Option<Asking>) -> Result<Answer, SqlError> {
    let relays: BTreeSet<String> = core.snapshot().relays.values().map(|r| r.user.clone()).collect();
    let mut asking = match kept.take().filter(|a| a.session.is_usable()) {
        Some(asking) => asking,
        None => {
            let session = core.db.connect().await?;
            Asking { session, relays: BTreeSet::new(), lacking: Vec::new(), looked: None }
        }
    };
    let mut answer = ask(&mut asking.session).await?;
    if asking.looked.is_none_or(|at| at.elapsed() >= ACCOUNTS) || asking.relays != relays {
        asking.lacking = match lacking(&mut asking.session, &relays).await {
            // Of another kind, or without the rights to look.
            Err(error @ SqlError::Server { .. }) => vec![format!("accounts can't be looked at: {error}")],
            found => found?,
        };
        asking.looked = Some(Instant::now());
        asking.relays = relays;
    }
    answer.status.unmet.extend(unreachable(&answer.bind_address, &core.config.advertise.mysql));
    answer.status.unmet.extend(asking.lacking.iter().cloned());
    *kept = Some(asking);
    Ok(answer)
}

async fn note(core: &Core, answer: Result<Answer, SqlError>, asked: Instant) {
    match answer {
        Ok(answer) => {
            remember(core, &answer).await;
            core.observed.set(Observed { answer: Some(answer), at: Some(asked), error: None });
        }
        Err(error) => core.observed.change(|o| {
            let error = error.to_string();
            if o.error.as_ref() != Some(&error) {
                tracing::warn!(error, "the server does not answer");
            }
            o.error = Some(error);
        }),
    }
}

/// Where the server keeps what, for when it is dead.
async fn remember(core: &Core, answer: &Answer) {
    let server = KnownServer {
        datadir: answer.datadir.clone(),
        log_bin_basename: answer.log_bin_basename.clone(),
        server_id: answer.status.server_id,
        version: answer.status.version.clone(),
    };
    let duty = core.duty.get();
    // While it serves: a server that was deposed is started without its scheduler.
    let serves = duty.role == ServerRole::Primary && duty.blocked.is_none() && !answer.status.read_only;
    let scheduler = answer.scheduler;
    let changed = core.known.change(move |k| {
        k.server = Some(server);
        k.unfinished = false;
        if serves {
            k.scheduler = Some(scheduler);
        }
    });
    if let Err(error) = changed.await {
        tracing::warn!(%error, "what the server told of itself can't be kept");
    }
}
