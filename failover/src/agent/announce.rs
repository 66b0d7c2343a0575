//! `nodes/<name>` in etcd: that this node is there, and how it is reached.

use std::sync::Arc;

use baton_cluster::NodeRecord;
use tokio_util::sync::CancellationToken;

use super::core::Core;

/// Announces the node until cancelled, and its server's id as soon as that is known.
pub async fn announce(core: Arc<Core>, cancel: CancellationToken) {
    let key = core.store.keys().node(&core.config.node);
    let mut observed = core.observed.subscribe();
    let mut record = record(&core);
    let announcement = match core.store.announce(key, &record, &cancel) {
        Ok(announcement) => announcement,
        Err(error) => {
            tracing::error!(%error, "this node can't be announced");
            return;
        }
    };
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = observed.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        let server_id = observed.borrow_and_update().answer.as_ref().map(|a| a.status.server_id);
        if server_id.is_some() && server_id != record.server_id {
            record.server_id = server_id;
            if let Err(error) = announcement.update(&record) {
                tracing::warn!(%error, "what changed of this node can't be announced");
            }
        }
    }
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
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
