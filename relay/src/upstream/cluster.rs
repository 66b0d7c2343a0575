//! The cluster's side of the upstream: what etcd says is turned into what is followed, and what the relay has recorded is told to it.
//!
//! Promises: a grant counts only once it is durable here; that etcd is lost changes nothing.

use std::sync::Arc;

use baton_cluster::RelayRecord;
use baton_cluster::store::{Announcement, Snapshot};
use tokio::sync::watch as channel;

use super::context::Context;
use super::follow::{Following, Mirrored, Situation, Step, follow};
use super::plan::Aim;
use super::status::{Followed, UpstreamState};
use super::stream::{Path, Target};
use crate::log::{PromiseFile, Promised, StorageFailure};

/// What this relay says of itself in etcd.
pub struct Announced {
    announcement: Announcement,
    record: RelayRecord,
}

impl Announced {
    /// Keeps `announcement` equal to `record`, but for what was promised since.
    pub fn new(announcement: Announcement, record: RelayRecord) -> Self {
        Self { announcement, record }
    }

    /// Tells what was promised or taken.
    pub(super) fn update(&self, promised: Promised) {
        let record = RelayRecord { promised: promised.grant, held: promised.held, ..self.record.clone() };
        if let Err(error) = self.announcement.update(&record) {
            tracing::warn!(%error, "what was promised is not announced");
        }
    }
}

/// What is followed at present, by what etcd says.
pub(super) struct Cluster {
    snapshots: channel::Receiver<Arc<Snapshot>>,
    name: String,
    pub(super) following: Following,
}

impl Cluster {
    pub(super) fn new(name: &str, snapshots: channel::Receiver<Arc<Snapshot>>) -> Self {
        let following = Following::Nothing { why: String::new(), hint: String::new() };
        Self { snapshots, name: name.to_owned(), following }
    }

    /// The cluster as etcd tells it.
    pub(super) fn snapshots(&self) -> channel::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Decides anew what to follow, recording what that needs.
    ///
    /// Errors: it could not be recorded; then nothing is followed.
    pub(super) fn decide(&mut self, context: &Context, promise: &mut PromiseFile) -> Result<(), StorageFailure> {
        self.snapshots.mark_unchanged();
        let result = loop {
            match self.step(context, promise.current()) {
                Step::Follow(following) => {
                    self.following = following;
                    break Ok(());
                }
                Step::Record(promised) => {
                    if let Err(error) = promise.record(promised) {
                        self.following = Following::Nothing {
                            why: format!("grant {} can't be recorded: {error}", promised.grant),
                            hint: error.hint().to_owned(),
                        };
                        break Err(error);
                    }
                    tracing::info!(grant = %promised.grant, held = promised.held, "recorded a grant");
                    context.set_promised(promised);
                }
            }
        };
        self.tell(context);
        result
    }

    fn step(&self, context: &Context, promised: Promised) -> Step {
        let snapshot = self.snapshots.borrow();
        let head = context.log.head();
        let (log_id, empty) = (context.log.log_id(), Default::default());
        let end = head.as_ref().map(|h| (h.pos.file, h.gtid.mariadb().unwrap_or(&empty)));
        if snapshot.revision == 0 {
            return Step::Follow(Following::Nothing {
                why: "etcd has not answered since the start: whom to follow is not known".to_owned(),
                hint: "see that etcd runs and that [etcd] endpoints reach it; the relay goes on by itself".to_owned(),
            });
        }
        follow(&Situation {
            // Of a cluster that was given up, what was: nobody changes it, and replicas are to be fed on.
            state: snapshot.last_state(),
            unreadable: snapshot.errors.get("state").map(String::as_str),
            epochs: &snapshot.epochs,
            relays: &snapshot.relays,
            name: &self.name,
            log_id: &log_id,
            promised,
            end,
            before: &self.following,
        })
    }

    /// Waits until something else is to be followed, or a grant to be recorded.
    pub(super) async fn changed(&self, context: &Context, promised: Promised) {
        let mut snapshots = self.snapshots.clone();
        let mut heads = context.log.subscribe();
        let by_head = matches!(&self.following, Following::Relay(Mirrored { until: Some(_), .. }));
        loop {
            // Marked as seen before it is looked at: nothing that comes in between is missed.
            snapshots.mark_unchanged();
            match self.step(context, promised) {
                Step::Follow(following) if following.is_like(&self.following) => {}
                _ => return,
            }
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
                changed = heads.changed(), if by_head => if changed.is_err() {
                    return std::future::pending().await;
                },
            }
        }
    }

    /// Where what is followed is to be had.
    pub(super) fn target(&self) -> Target {
        match &self.following {
            Following::Primary { addresses, origin, after, .. } => Target {
                paths: addresses
                    .iter()
                    .map(|address| Path { address: address.clone(), aim: Aim::Epoch(origin.clone()) })
                    .collect(),
                acks: true,
                after: after.clone(),
            },
            Following::Relay(Mirrored { relays, until }) => Target {
                paths: relays
                    .iter()
                    .map(|peer| Path {
                        address: peer.address.clone(),
                        aim: Aim::Mirror { server_id: peer.server_id, needs: until.clone() },
                    })
                    .collect(),
                acks: false,
                after: None,
            },
            Following::Nothing { .. } => Target { paths: Vec::new(), acks: false, after: None },
        }
    }

    /// Tells what is followed, in the log and in the status.
    fn tell(&self, context: &Context) {
        let last_epoch = || context.log.identity().epochs.last().map(|e| e.epoch);
        let followed = match &self.following {
            Following::Primary { origin, grant, after, .. } => {
                tracing::info!(
                    node = origin.node, epoch = origin.epoch, %grant,
                    after = after.as_ref().map(ToString::to_string), "following the primary"
                );
                Followed { kind: "primary", of: Some(origin.node.clone()), epoch: Some(origin.epoch) }
            }
            Following::Relay(Mirrored { relays, until }) => {
                let of: Vec<&str> = relays.iter().map(|r| r.name.as_str()).collect();
                let of = of.join(", ");
                tracing::info!(relay = of, until = until.as_ref().map(ToString::to_string), "following a relay");
                Followed { kind: "relay", of: Some(of), epoch: last_epoch() }
            }
            Following::Nothing { why, hint } => {
                tracing::warn!(hint, "following nobody: {why}");
                let waits = self.snapshots.borrow().revision == 0;
                let state = if waits { UpstreamState::Connecting } else { UpstreamState::Stopped };
                context.set_idle(state, why, hint);
                Followed { kind: "none", of: None, epoch: last_epoch() }
            }
        };
        if followed.kind != "none" {
            context.set_state(UpstreamState::Connecting);
        }
        context.set_followed(Some(followed));
    }
}
