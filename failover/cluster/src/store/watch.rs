//! The view of a cluster's keys, kept up to date.
//!
//! Promises: after every broken connection the view is read anew as a whole; a watch that is half open (the connection stands, nothing comes) is
//! noticed within [`SILENCE`], since the server is asked for a sign of life every [`ASK`].

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, GetOptions, Txn, TxnOp, TxnOpResponse, WatchOptions};
use tokio::sync::watch;
use tokio::time::{Instant, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::members::REQUEST;
use super::snapshot::Snapshot;
use super::{Store, StoreError};

/// How often the server is asked for a sign of life.
const ASK: Duration = Duration::from_millis(500);
/// Silence after which a watch counts as dead.
const SILENCE: Duration = Duration::from_millis(1800);
/// First and longest wait before the view is read anew.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Different reasons of one outage that are logged.
const REASONS: usize = 8;

impl Store {
    /// Everything but the history, kept up to date until cancelled.
    pub fn watch(&self, cancel: CancellationToken) -> watch::Receiver<Arc<Snapshot>> {
        let (told, snapshots) = watch::channel(Arc::new(Snapshot::empty()));
        let store = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = keep(&store, &told) => {}
            }
        });
        snapshots
    }

    /// Reads everything but the history, at one revision.
    async fn read_all(&self) -> Result<Snapshot, StoreError> {
        let prefix = self.keys.prefix();
        let history = format!("{prefix}history/");
        // "0" is what follows "/": the two ranges leave out what lies below "history/".
        let behind = format!("{prefix}history0");
        let end = format!("{}0", prefix.trim_end_matches('/'));
        let txn = Txn::new().and_then([
            TxnOp::get(prefix, Some(GetOptions::new().with_range(history))),
            TxnOp::get(behind, Some(GetOptions::new().with_range(end))),
        ]);
        let answer = self
            .members
            .call(|mut c| {
                let txn = txn.clone();
                async move { c.txn(txn).await }
            })
            .await?;
        let mut snapshot = Snapshot::empty();
        snapshot.revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        snapshot.healthy = true;
        for response in answer.op_responses() {
            if let TxnOpResponse::Get(found) = response {
                for kv in found.kvs() {
                    snapshot.set(&self.keys, kv);
                }
            }
        }
        Ok(snapshot)
    }
}

async fn keep(store: &Store, told: &watch::Sender<Arc<Snapshot>>) {
    let mut wait = RETRY.0;
    let mut outage = false;
    // What broke the connection is seldom what keeps it from being made anew.
    let mut told_of: Vec<String> = Vec::new();
    loop {
        let began = Instant::now();
        let why = match follow(store, told).await {
            Ok(why) => why,
            Err(error) => error.to_string(),
        };
        told.send_modify(|s| {
            let snapshot = Arc::make_mut(s);
            snapshot.healthy = false;
            snapshot.trouble = Some(why.clone());
        });
        if !outage {
            told_of.clear();
        }
        if told_of.len() < REASONS && !told_of.contains(&why) {
            tracing::warn!(%why, "the view of etcd has to be read anew");
            told_of.push(why);
        }
        outage = began.elapsed() < SILENCE;
        wait = if outage { (wait * 2).min(RETRY.1) } else { RETRY.0 };
        sleep(wait).await;
    }
}

/// Reads everything and follows the changes; gives why that ended.
async fn follow(store: &Store, told: &watch::Sender<Arc<Snapshot>>) -> Result<String, StoreError> {
    let first = store.read_all().await?;
    let options = Some(WatchOptions::new().with_prefix().with_start_revision(first.revision + 1));
    told.send_replace(Arc::new(first));
    let prefix = store.keys.prefix();
    let opened = store.members.call(|mut c| {
        let options = options.clone();
        async move { c.watch(prefix, options).await }
    });
    let mut stream = opened.await?;
    let mut heard = Instant::now();
    let mut ask = interval_at(heard + ASK, ASK);
    loop {
        tokio::select! {
            _ = ask.tick() => {
                if heard.elapsed() > SILENCE {
                    return Ok(format!("no sign of life for {} ms", heard.elapsed().as_millis()));
                }
                match timeout(REQUEST, stream.request_progress()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Ok(error.to_string()),
                    Err(_) => return Ok("the connection takes no more".to_owned()),
                }
            }
            message = stream.message() => {
                let response = match message {
                    Ok(Some(response)) => response,
                    Ok(None) => return Ok("the watch was ended".to_owned()),
                    Err(error) => return Ok(error.to_string()),
                };
                heard = Instant::now();
                if response.canceled() {
                    return Ok(format!("the watch was cancelled: {}", response.cancel_reason()));
                }
                let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
                let mut new = Arc::clone(&told.borrow());
                let snapshot = Arc::make_mut(&mut new);
                snapshot.heard = heard;
                snapshot.revision = snapshot.revision.max(revision);
                for event in response.events() {
                    let Some(kv) = event.kv() else { continue };
                    match event.event_type() {
                        EventType::Put => snapshot.set(&store.keys, kv),
                        EventType::Delete => snapshot.unset(&store.keys, kv),
                    }
                }
                told.send_replace(new);
            }
        }
    }
}
