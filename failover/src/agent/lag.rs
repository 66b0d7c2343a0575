//! How far this replica is behind, as the relay that it follows says: right also while the primary idles or is dead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::core::Core;
use crate::model::ServerRole;

/// How often the relay is asked.
const PERIOD: Duration = Duration::from_millis(250);
/// For its answer.
const LIMIT: Duration = Duration::from_secs(1);
/// An answer older than this is not used any more: the server's own figure is.
const OLD: Duration = Duration::from_secs(30);

/// What is read of `GET /v1/lag`.
#[derive(Deserialize)]
struct Report {
    replicas: Vec<Replica>,
}

#[derive(Deserialize)]
struct Replica {
    server_id: u32,
    state: String,
    received: Lag,
    applied: Option<Lag>,
}

#[derive(Deserialize)]
struct Lag {
    lag_ms: u64,
}

impl Report {
    /// Of a server that is attached: what it has applied, else what it was sent. Pure.
    fn of(&self, server_id: u32) -> Option<u64> {
        let attached = self.replicas.iter().filter(|r| r.server_id == server_id && r.state != "gone");
        attached.map(|r| r.applied.as_ref().map_or(r.received.lag_ms, |a| a.lag_ms)).next_back()
    }
}

/// Asks until cancelled.
pub async fn ask(core: Arc<Core>, cancel: CancellationToken) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let lag = match relay(&core) {
            Some((http, server_id)) => {
                let answer = core.client.get::<Report>(&http, "/v1/lag", LIMIT).await;
                answer.ok().and_then(|report| report.of(server_id)).map(|lag| (lag, Instant::now()))
            }
            None => None,
        };
        let replica = is_replica(&core);
        core.extra.change_if(|e| {
            let keep = lag.is_none() && e.lag.is_some_and(|(_, at)| at.elapsed() < OLD) && replica;
            if !keep {
                e.lag = lag;
            }
            !keep && lag.is_some()
        });
    }
}

fn is_replica(core: &Core) -> bool {
    core.duty.get().used_as() == ServerRole::Replica && core.host.alive().is_some()
}

/// The HTTP address of the relay that the server replicates from, and the server's own id.
fn relay(core: &Core) -> Option<(String, u32)> {
    if !is_replica(core) {
        return None;
    }
    let status = core.observed.get().answer?.status;
    let source = status.replication?.source;
    let snapshot = core.snapshot();
    let relay = snapshot.relays.values().find(|r| r.replication == source)?;
    Some((relay.http.clone(), status.server_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relay_s_report_is_read_for_the_newest_connection_of_this_server() {
        let report: Report = serde_json::from_str(
            r#"{"cluster":"shop","replicas":[
                {"name":"db-2","server_id":2,"state":"gone","received":{"lag_ms":900},"applied":null},
                {"name":"db-2","server_id":2,"state":"streaming","received":{"lag_ms":3},"applied":{"lag_ms":37,"age_ms":12}},
                {"name":"db-3","server_id":3,"state":"streaming","received":{"lag_ms":5},"applied":null}]}"#,
        )
        .unwrap();
        assert_eq!((report.of(2), report.of(3), report.of(4)), (Some(37), Some(5), None));
    }
}
