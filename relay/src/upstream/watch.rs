//! Asks the primary, over a connection of its own, how far it is: what it has and the relay has not yet is the upstream's lag.
//!
//! Owns `behind_since` of the status, whose meaning is decided by [`Behind`], and keeps `primary_gtid` new. Promises: the head is followed
//! also while the primary can't be asked, so that what was missing and has come does not count as missing for ever.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use baton_wire::gtid::mariadb::GtidList;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::backoff::Backoff;
use super::behind::Behind;
use super::client::Client;
use super::context::Context;
use super::error::StreamError;
use super::plan::Aim;
use super::settings;
use super::stream::Target;
use crate::clock::Micros;

/// How often the primary is asked.
const PERIOD: Duration = Duration::from_millis(500);
/// How often semi-sync and the settings that it needs are asked for.
const SETTINGS_PERIOD: Duration = Duration::from_secs(2);
/// How often at most, where the log keeps reaching what was due: asking costs the primary something.
const SHORTEST: Duration = Duration::from_millis(20);

struct Watch<'a> {
    context: &'a Context,
    target: &'a Target,
    behind: Mutex<Behind>,
    /// What was due has come.
    reached: Notify,
}

/// Watches until dropped. A primary that can't be asked is not an error here: the stream's state tells that.
pub(super) async fn run(context: &Context, target: &Target) {
    let watch = Watch { context, target, behind: Mutex::default(), reached: Notify::new() };
    tokio::join!(watch.follow(), watch.ask_all());
}

impl Watch<'_> {
    /// Follows the log's head.
    async fn follow(&self) {
        let mut heads = self.context.log.subscribe();
        while heads.changed().await.is_ok() {
            let reached = self.change(|behind| behind.moved(&self.head()));
            if reached {
                self.reached.notify_one();
            }
        }
    }

    /// Asks over one path after the other.
    async fn ask_all(&self) {
        let mut backoff = Backoff::new(PERIOD, Duration::from_secs(5));
        for path in self.target.paths.iter().cycle() {
            if let Ok(client) = Client::connect(&path.address, &self.context.login).await {
                backoff.reset();
                // A relay has none of a server's settings.
                let settings = !matches!(path.aim, Aim::Mirror { .. });
                self.ask(client, settings).await;
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    /// Asks until the connection breaks.
    async fn ask(&self, mut client: Client, settings: bool) {
        let mut settings_due = Instant::now();
        loop {
            let asked = (Instant::now(), Micros::now());
            if settings && asked.0 >= settings_due {
                settings_due = asked.0 + SETTINGS_PERIOD;
                if settings_of(self.context, self.target.acks, &mut client).await.is_err() {
                    return;
                }
            }
            let Ok(answer) = client.value("SELECT @@GLOBAL.gtid_binlog_pos").await else { return };
            let Ok(position) = answer.clone().unwrap_or_default().parse::<GtidList>() else { return };
            self.context.status.send_modify(|s| {
                s.primary_gtid = answer;
                s.primary_asked = Some(asked.0.into_std());
            });
            self.change(|behind| behind.heard(&position, &self.head(), asked.1));
            tokio::select! {
                () = sleep_until(asked.0 + PERIOD) => {}
                () = self.reached.notified() => sleep_until(asked.0 + SHORTEST).await,
            }
        }
    }

    /// Applies a step, and tells others if it changed something.
    fn change<T>(&self, step: impl FnOnce(&mut Behind) -> T) -> T {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        let result = step(&mut behind);
        let since = behind.since();
        drop(behind);
        self.context.status.send_if_modified(|s| {
            let changed = s.behind_since != since;
            s.behind_since = since;
            changed
        });
        result
    }

    fn head(&self) -> GtidList {
        self.context.log.head().and_then(|h| h.gtid.mariadb().cloned()).unwrap_or_default()
    }
}

/// How the primary waits for acknowledgements, and which settings break what they promise.
async fn settings_of(context: &Context, acks: bool, client: &mut Client) -> Result<(), StreamError> {
    let variables = client.query(settings::VARIABLES).await?;
    let status = client.query(settings::STATUS).await?;
    let semi_sync = settings::semi_sync(&variables, &status);
    let warnings = if !acks { Vec::new() } else { settings::warnings(&variables) };
    if warnings != context.status.borrow().warnings {
        for warning in &warnings {
            tracing::warn!("the primary's setting {warning}");
        }
    }
    context.status.send_if_modified(|s| {
        let changed = s.semi_sync != semi_sync || s.warnings != warnings;
        s.semi_sync = semi_sync;
        s.warnings = warnings;
        changed
    });
    Ok(())
}
