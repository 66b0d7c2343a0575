//! `nodes/<name>` in etcd: that this node is there, and how it is reached; and what is to be known of the others.

use std::sync::Arc;
use std::time::Duration;

use baton_cluster::NodeRecord;
use tokio_util::sync::CancellationToken;

use super::core::Core;

/// Announces the node until cancelled, and its server's id as soon as that is known.
pub async fn announce(core: Arc<Core>, cancel: CancellationToken) {
    let key = core.store.keys().node(&core.config.node);
    let mut observed = core.observed.changes();
    let mut record = record(&core);
    let announcement = match core.store.announce(key, &record, &cancel) {
        Ok(announcement) => announcement,
        Err(error) => {
            tracing::error!(%error, "this node can't be announced");
            return;
        }
    };
    let mut taken = announcement.taken_by();
    loop {
        core.taken.set(taken.borrow_and_update().clone());
        tokio::select! {
            () = cancel.cancelled() => return,
            () = observed.next() => {}
            Ok(()) = taken.changed() => continue,
        }
        let server_id = core.observed.get().answer.map(|a| a.status.server_id);
        if server_id.is_some() && server_id != record.server_id {
            record.server_id = server_id;
            if let Err(error) = announcement.update(&record) {
                tracing::warn!(%error, "what changed of this node can't be announced");
            }
        }
    }
}

/// Remembers the hardware addresses of the other nodes until cancelled: one that is frozen may answer for the virtual IP long after its record in etcd
/// has gone.
pub async fn know_peers(core: Arc<Core>, cancel: CancellationToken) {
    let mut snapshots = core.snapshots.clone();
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        for (name, node) in snapshot.nodes.iter().filter(|(name, _)| **name != core.config.node) {
            core.address.know(name, &node.hardware);
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn record(core: &Core) -> NodeRecord {
    let advertise = &core.config.advertise;
    NodeRecord {
        name: core.config.node.clone(),
        mysql: advertise.mysql.iter().map(ToString::to_string).collect(),
        http: advertise.http.to_string(),
        host: advertise.host.clone(),
        site: advertise.site.clone(),
        priority: advertise.priority,
        server_id: core.known.get().server.map(|s| s.server_id),
        hardware: core.address.hardware().unwrap_or_default(),
        fence_after_ms: Some(millis(core.config.address.fence_after)),
        valid_for_ms: Some(millis(core.config.address.valid_for)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
