//! Asks the primary, over a connection of its own, how far it is: what it has and the relay has not yet is the upstream's lag.

use std::time::Duration;

use baton_wire::gtid::mariadb::GtidList;
use tokio::time::{Instant, sleep_until};

use super::Context;
use super::backoff::Backoff;
use super::client::Client;
use crate::clock::Micros;
use crate::config::Address;

/// How often the primary is asked.
const PERIOD: Duration = Duration::from_millis(500);

/// Watches until dropped. A primary that can't be asked is not an error here: the stream's state tells that.
pub(super) async fn run(context: &Context, addresses: &[Address]) {
    let mut backoff = Backoff::new(PERIOD, Duration::from_secs(5));
    let mut path = 0;
    loop {
        let Some(address) = addresses.get(path % addresses.len().max(1)) else { return std::future::pending().await };
        if let Ok(client) = Client::connect(address, &context.login).await {
            backoff.reset();
            ask(context, client).await;
        }
        path += 1;
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// Asks until the connection breaks.
async fn ask(context: &Context, mut client: Client) {
    let mut heads = context.log.subscribe();
    let mut due: Option<GtidList> = None;
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(next) => {
                next = Instant::now() + PERIOD;
                let asked = Micros::now();
                let began = Instant::now();
                let Ok(answer) = client.value("SELECT @@GLOBAL.gtid_binlog_pos").await else { return };
                let Ok(position) = answer.clone().unwrap_or_default().parse::<GtidList>() else { return };
                let behind = !has(context, &position);
                context.status.send_modify(|s| {
                    s.primary_gtid = answer;
                    s.primary_asked = Some(began.into_std());
                    if behind && due.is_none() {
                        s.behind_since = Some(asked);
                    }
                });
                if behind && due.is_none() {
                    due = Some(position);
                }
            }
            changed = heads.changed(), if due.is_some() => {
                if changed.is_err() {
                    return;
                }
                if due.as_ref().is_some_and(|d| has(context, d)) {
                    due = None;
                    context.status.send_modify(|s| s.behind_since = None);
                    next = Instant::now();
                }
            }
        }
    }
}

fn has(context: &Context, position: &GtidList) -> bool {
    position.is_empty()
        || context.log.head().and_then(|h| h.gtid.mariadb().map(|g| g.covers(position))).unwrap_or(false)
}
