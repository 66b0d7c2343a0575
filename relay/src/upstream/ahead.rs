//! A login at the server that is about to be promoted, made before it is: commits wait there for the acker's stream, and that for the login.
//!
//! Promises: one connection at most, only while a change of primary is under way whose acker is this relay; nothing is asked over it, so it is no
//! acknowledgement of anything; one try for each time that the cluster's state changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use baton_cluster::store::Snapshot;
use baton_cluster::{ClusterState, NodeRecord, Phase};
use tokio::sync::watch as channel;

use super::client::{Client, Login};
use crate::config::Address;

/// The connection, while there is one.
#[derive(Default)]
pub(super) struct Ahead(Mutex<Option<(Address, Client)>>);

impl Ahead {
    /// The connection to `address`, if there is one; it may have died since.
    pub(super) fn take(&self, address: &Address) -> Option<Client> {
        let mut slot = self.slot();
        let taken = if slot.as_ref().is_some_and(|(to, _)| to == address) { slot.take() } else { None };
        taken.map(|(_, client)| client)
    }

    fn is_for(&self, address: &Address) -> bool {
        self.slot().as_ref().is_some_and(|(to, _)| to == address)
    }

    fn slot(&self) -> MutexGuard<'_, Option<(Address, Client)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps it as the cluster's state asks for it. Never returns; what was connected stays if it is dropped.
    pub(super) async fn keep(&self, login: &Login, cluster: Option<channel::Receiver<Arc<Snapshot>>>, name: &str) {
        let Some(mut snapshots) = cluster else { return std::future::pending().await };
        loop {
            let wanted = {
                let snapshot = snapshots.borrow_and_update();
                snapshot.state.as_ref().and_then(|state| wanted(&state.value, &snapshot.nodes, name))
            };
            match wanted {
                None => drop(self.slot().take()),
                Some(address) if self.is_for(&address) => {}
                Some(address) => match Client::connect(&address, login).await {
                    Ok(client) => {
                        tracing::debug!(%address, "logged in at the server that is to be promoted");
                        *self.slot() = Some((address, client));
                    }
                    // Told when it is the primary, if it is so then.
                    Err(error) => {
                        tracing::debug!(%address, %error, "no login yet at the server that is to be promoted")
                    }
                },
            }
            if snapshots.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

/// Where the candidate is to be had, as long as it is not named and this relay is the acker that stays.
fn wanted(state: &ClusterState, nodes: &BTreeMap<String, NodeRecord>, name: &str) -> Option<Address> {
    let under_way = matches!(state.phase, Phase::Fencing | Phase::CatchingUp);
    let candidate = state.candidate.as_ref().filter(|_| under_way && state.grant_holder.as_deref() == Some(name))?;
    nodes.get(candidate)?.mysql.first()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_acker_logs_in_and_only_until_the_candidate_is_named() {
        let node: NodeRecord = serde_json::from_value(serde_json::json!({
            "name": "db-2", "mysql": ["10.0.1.6:3306", "192.168.1.6:3306"], "http": "", "priority": 1, "server_id": 2, "version": "0"
        }))
        .unwrap();
        let nodes = BTreeMap::from([("db-2".to_owned(), node)]);
        let mut state = ClusterState::bootstrap("db-1", "t", "2026-01-01T00:00:00Z".into());
        state.grant_holder = Some("relay-1".into());
        let mut ask = |phase, candidate: Option<&str>, name| {
            state.phase = phase;
            state.candidate = candidate.map(str::to_owned);
            wanted(&state, &nodes, name).map(|address| address.to_string())
        };
        let found = Some("10.0.1.6:3306".to_owned());
        assert_eq!(ask(Phase::Fencing, Some("db-2"), "relay-1"), found);
        assert_eq!(ask(Phase::CatchingUp, Some("db-2"), "relay-1"), found);
        assert_eq!(ask(Phase::CatchingUp, Some("db-2"), "relay-2"), None, "it does not acknowledge");
        assert_eq!(ask(Phase::Promoting, Some("db-2"), "relay-1"), None, "it is followed then");
        assert_eq!(ask(Phase::Steady, None, "relay-1"), None);
        assert_eq!(ask(Phase::Fencing, None, "relay-1"), None);
        assert_eq!(ask(Phase::Fencing, Some("db-9"), "relay-1"), None, "nobody knows where it is");
    }
}
