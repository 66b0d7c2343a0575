//! Asks the primary, over a connection of its own, how far it is: what it has and the relay has not yet is the upstream's lag.

use std::time::Duration;

use baton_wire::gtid::mariadb::GtidList;
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep_until};

use super::Context;
use super::backoff::Backoff;
use super::client::Client;
use crate::clock::Micros;
use crate::config::Address;

/// How often the primary is asked.
const PERIOD: Duration = Duration::from_millis(500);
/// Least time between two questions.
const GAP: Duration = Duration::from_millis(50);

/// What the primary is known to have and the relay has not yet.
type Due = channel::Sender<Option<GtidList>>;

/// Watches until dropped. A primary that can't be asked is not an error here: the stream's state tells that.
pub(super) async fn run(context: &Context, addresses: &[Address]) {
    let due = Due::new(None);
    tokio::join!(ask(context, addresses, &due), settle(context, &due));
}

async fn ask(context: &Context, addresses: &[Address], due: &Due) {
    let mut backoff = Backoff::new(PERIOD, Duration::from_secs(5));
    let mut path = 0;
    loop {
        let Some(address) = addresses.get(path % addresses.len().max(1)) else { return std::future::pending().await };
        if let Ok(client) = Client::connect(address, &context.login).await {
            backoff.reset();
            ask_one(context, client, due).await;
        }
        path += 1;
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// Asks until the connection breaks: periodically, and sooner once the relay has all that was known.
async fn ask_one(context: &Context, mut client: Client, due: &Due) {
    let mut settled = due.subscribe();
    let mut asked_at = Instant::now();
    let mut next = asked_at;
    loop {
        tokio::select! {
            () = sleep_until(next) => {
                let asked = Micros::now();
                asked_at = Instant::now();
                next = asked_at + PERIOD;
                let Ok(answer) = client.value("SELECT @@GLOBAL.gtid_binlog_pos").await else { return };
                let Ok(position) = answer.clone().unwrap_or_default().parse::<GtidList>() else { return };
                context.status.send_modify(|s| s.primary_gtid = answer);
                if due.borrow().is_none() && !has(context, &position) {
                    context.status.send_modify(|s| s.behind_since = Some(asked));
                    due.send_replace(Some(position));
                }
            }
            changed = settled.changed() => {
                if changed.is_ok() && settled.borrow_and_update().is_none() {
                    next = next.min(asked_at + GAP);
                }
            }
        }
    }
}

/// Notes when the relay has what was due, be the primary still there or not.
async fn settle(context: &Context, due: &Due) {
    let (mut heads, mut news) = (context.log.subscribe(), due.subscribe());
    loop {
        let settled = news.borrow_and_update().as_ref().is_some_and(|position| has(context, position));
        if settled {
            context.status.send_modify(|s| s.behind_since = None);
            due.send_replace(None);
        }
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            changed = heads.changed() => if changed.is_err() { return },
        }
    }
}

fn has(context: &Context, position: &GtidList) -> bool {
    position.is_empty()
        || context.log.head().and_then(|h| h.gtid.mariadb().map(|g| g.covers(position))).unwrap_or(false)
}
