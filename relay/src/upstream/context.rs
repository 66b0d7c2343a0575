//! What every stream works with, and what is told of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use baton_cluster::store::Snapshot;
use baton_wire::gtid::mariadb::GtidList;
use tokio::sync::watch as channel;

use super::ahead::Ahead;
use super::client::Login;
use super::cluster::Announced;
use super::error::StreamError;
use super::naming::Naming;
use super::origin::origin_of;
use super::plan::{Aim, LogEnd};
use super::status::{Followed, UpstreamState, UpstreamStatus};
use crate::clock::Micros;
use crate::config::{Ack, Start};
use crate::log::{FileEpoch, Head, Log, Promised};
use crate::metrics::Metrics;

/// What every stream works with.
pub(super) struct Context {
    pub(super) login: Login,
    pub(super) start: Start,
    pub(super) heartbeat: Duration,
    pub(super) silence: Duration,
    pub(super) ack: Ack,
    pub(super) server_id: u32,
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) log: Arc<Log>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) status: channel::Sender<UpstreamStatus>,
    /// The cluster as etcd tells it; `None` where the relay stands alone.
    pub(super) cluster: Option<channel::Receiver<Arc<Snapshot>>>,
    /// A login that was made before it is needed.
    pub(super) ahead: Ahead,
    /// What the relay tells the cluster of itself.
    pub(super) announced: Option<Announced>,
}

impl Context {
    pub(super) fn set_state(&self, state: UpstreamState) {
        self.status.send_modify(|s| {
            if s.state != state {
                s.state = state;
                s.since = Micros::now();
            }
            if state == UpstreamState::Streaming {
                s.error = None;
                s.hint = None;
            } else {
                s.acking = false;
            }
        });
    }

    pub(super) fn set_streaming(&self, acking: bool) {
        self.set_state(UpstreamState::Streaming);
        self.status.send_modify(|s| s.acking = acking);
    }

    /// Nothing is taken from anybody, for a reason.
    pub(super) fn set_idle(&self, state: UpstreamState, why: &str, hint: &str) {
        self.set_state(state);
        self.status.send_if_modified(|s| {
            let changed = s.error.as_deref() != Some(why);
            s.error = Some(why.to_owned());
            s.hint = Some(hint.to_owned());
            s.behind_since = None;
            changed
        });
    }

    /// What was promised or taken, for all who ask.
    pub(super) fn set_promised(&self, promised: Promised) {
        self.status.send_modify(|s| s.promised = promised);
        if let Some(announced) = &self.announced {
            announced.update(promised);
        }
    }

    pub(super) fn set_followed(&self, followed: Option<Followed>) {
        self.status.send_if_modified(|s| {
            let changed = s.followed != followed;
            s.followed = followed;
            changed
        });
    }

    /// Something came from the server. Wakes nobody.
    pub(super) fn note_heard(&self) {
        self.status.send_if_modified(|s| {
            s.heard = Some(std::time::Instant::now());
            false
        });
    }

    pub(super) fn note_server(&self, address: &str, server_id: u32, version: &str) {
        self.status.send_modify(|s| {
            s.address = Some(address.to_owned());
            s.server_id = Some(server_id);
            s.server_version = Some(version.strip_prefix("5.5.5-").unwrap_or(version).to_owned());
            s.connects += 1;
            s.heard = Some(std::time::Instant::now());
        });
    }

    /// Where the server is, asked before the stream: known before the log has anything of it, for all who judge who is ahead of the log.
    pub(super) fn note_primary(&self, gtid: &GtidList, asked: std::time::Instant) {
        self.status.send_modify(|s| {
            s.primary_gtid = Some(gtid.to_string());
            s.primary_asked = Some(asked);
        });
    }

    pub(super) fn note_setting(&self, name: &'static str, value: Option<String>) {
        self.status.send_if_modified(|s| {
            let changed = s.settings.get(name) != value.as_ref();
            match value {
                Some(value) => s.settings.insert(name, value),
                None => s.settings.remove(name),
            };
            changed
        });
    }

    pub(super) fn note_error(&self, address: &str, error: &StreamError) {
        self.set_state(error.state());
        self.status.send_modify(|s| {
            s.address = Some(address.to_owned());
            s.error = Some(error.to_string());
            s.hint = error.hint();
        });
    }

    /// The log's end in the words of the server that is aimed at; `None` while the log is empty.
    pub(super) fn log_end(&self, head: &Head, aim: &Aim) -> Option<LogEnd> {
        let (pos, gtid) = (head.pos, head.gtid.mariadb()?.clone());
        let base = self.log.base_name()?;
        if matches!(aim, Aim::Mirror { .. }) {
            let upstream_file = self.log.file_name(pos.file)?;
            return Some(LogEnd { pos, upstream_file, server_id: 0, epoch: 0, gtid });
        }
        if let Aim::Epoch(aimed) = aim {
            // etcd's word on the epochs outweighs the log's own, which may have been written before all of them were known.
            let origin = self.epochs(|records| origin_of(records, aimed.epoch, pos.file)).flatten();
            if let Some(origin) = origin {
                let upstream_file = origin.naming().name(pos.file, Some(&base))?;
                return Some(LogEnd { pos, upstream_file, server_id: origin.server_id, epoch: origin.epoch, gtid });
            }
        }
        let identity = self.log.identity();
        let epoch = identity.epoch_of(pos.file)?;
        let upstream_file = epoch.upstream_name(pos.file)?;
        Some(LogEnd { pos, upstream_file, server_id: epoch.server_id, epoch: epoch.epoch, gtid })
    }

    /// How the server that is aimed at names what comes next.
    pub(super) fn naming(&self, aim: &Aim) -> Naming {
        match aim {
            Aim::Mirror { .. } => Naming::default(),
            Aim::Epoch(origin) => origin.naming(),
            Aim::Fixed => self
                .log
                .identity()
                .epochs
                .last()
                .map_or_else(Naming::default, |e| Naming { shift: e.shift, base: Some(e.base.clone()) }),
        }
    }

    /// Who wrote the file that is to become number `number` of the log, and the epoch that it belongs to. `server_id` is that of the server it comes
    /// from, `upstream_base` its name's base there.
    pub(super) fn file_epoch(
        &self,
        aim: &Aim,
        server_id: u32,
        number: u64,
        base: &str,
        upstream_base: String,
    ) -> (u32, Option<FileEpoch>) {
        match aim {
            Aim::Fixed => (server_id, None),
            Aim::Epoch(origin) => (server_id, Some(FileEpoch { base: upstream_base, ..origin.file_epoch(base) })),
            Aim::Mirror { .. } => {
                let recorded = self.log.identity().epochs.last().map_or(0, |e| e.epoch);
                let origin = self.epochs(|records| origin_of(records, u64::MAX, number)).flatten();
                match origin.filter(|o| o.epoch >= recorded) {
                    Some(origin) => (origin.server_id, Some(origin.file_epoch(base))),
                    None => (self.log.identity().epochs.last().map_or(server_id, |e| e.server_id), None),
                }
            }
        }
    }

    /// Looks at the cluster's epochs; `None` where the relay stands alone.
    fn epochs<T>(&self, look: impl FnOnce(&BTreeMap<u64, baton_cluster::EpochRecord>) -> T) -> Option<T> {
        self.cluster.as_ref().map(|snapshots| look(&snapshots.borrow().epochs))
    }
}
