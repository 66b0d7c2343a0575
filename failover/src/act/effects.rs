//! Carries out one step. The only place that orders anything.
//!
//! Promises: every step ends within its time limit, with an outcome that says whether it happened, did not, or may have. Never decides, never
//! retries: that is for who reads the outcome.

use std::time::Duration;

use baton_cluster::{Grant, NodeRecord, RelayRecord, Tail};
use serde::{Deserialize, Serialize};

use super::plan::Outcome;
use super::servers::Servers;
use crate::http::{Client, ClientError};
use crate::model::{Order, OrderError, OrderKind, OrderNumber, OrderResult};

/// For a relay to promise: it asks etcd, settles a sync and makes the promise durable.
const PROMISE: Duration = Duration::from_secs(4);
/// For a standby to read the end of a dead primary's binlog.
const RESCUE: Duration = Duration::from_secs(120);
/// Added to the time that an order itself allows: for the way, and for what surrounds it.
const MARGIN: Duration = Duration::from_secs(2);

/// What steps are carried out with.
#[derive(Clone)]
pub struct Hands {
    /// To agents and relays.
    pub client: Client,
    /// To servers without an agent.
    pub servers: Servers,
}

/// `POST /v1/promise`.
#[derive(Serialize)]
struct Promise {
    term: u64,
    grant: Grant,
}

/// `POST /v1/rescue`.
#[derive(Serialize)]
struct Rescue<'a> {
    agent: &'a str,
    term: u64,
    grant: Grant,
}

/// What a relay answers to either.
#[derive(Deserialize)]
struct Promised {
    log_id: String,
    complete: bool,
    #[serde(default)]
    tail: Option<Tail>,
}

impl Hands {
    /// Has `relay` promise `grant`.
    pub async fn promise(&self, relay: &RelayRecord, term: u64, grant: Grant) -> Outcome {
        let answer = self.client.post::<Promised>(&relay.http, "/v1/promise", &Promise { term, grant }, PROMISE).await;
        promised(answer)
    }

    /// Has the standby `relay` complete itself from the binlog behind `agent`, and promise `grant`.
    pub async fn rescue(&self, relay: &RelayRecord, agent: &str, term: u64, grant: Grant) -> Outcome {
        let order = Rescue { agent, term, grant };
        promised(self.client.post::<Promised>(&relay.http, "/v1/rescue", &order, RESCUE).await)
    }

    /// Orders `node` to do `kind`: its agent, or over SQL where it has none.
    pub async fn order(&self, node: &NodeRecord, number: OrderNumber, kind: OrderKind) -> Outcome {
        let limit = limit_of(&kind);
        if node.has_no_agent() {
            let obeyed = tokio::time::timeout(limit, self.servers.obey(node, number, &kind)).await;
            let late = |_| Outcome::Unreachable(format!("{} has not done {} within {limit:?}", node.name, kind.name()));
            return obeyed.unwrap_or_else(late);
        }
        if node.http.is_empty() {
            return Outcome::Unreachable(format!("it is not known where the agent of {} is", node.name));
        }
        let order = Order { number, kind };
        match self.client.post::<OrderResult>(&node.http, "/v1/order", &order, limit).await {
            Ok(result) => Outcome::Done(result),
            Err(ClientError::Status(refusal)) => {
                let text = match serde_json::from_slice::<OrderError>(&refusal.body) {
                    Ok(told) if told.hint.is_empty() => told.error,
                    Ok(told) => format!("{} ({})", told.error, told.hint),
                    Err(_) => format!("{} {}", refusal.status, refusal.error),
                };
                if refusal.status == 409 { Outcome::Refused(text) } else { Outcome::Failed(text) }
            }
            Err(error) => Outcome::Unreachable(error.to_string()),
        }
    }
}

fn promised(answer: Result<Promised, ClientError>) -> Outcome {
    match answer {
        Ok(p) => Outcome::Promised { log_id: p.log_id, complete: p.complete, tail: p.tail.unwrap_or_default() },
        Err(ClientError::Status(refusal)) if refusal.status == 409 => Outcome::Refused(refusal.error),
        Err(ClientError::Status(refusal)) => Outcome::Failed(refusal.error),
        Err(error) => Outcome::Unreachable(error.to_string()),
    }
}

/// How long an order may take.
fn limit_of(kind: &OrderKind) -> Duration {
    let own = match kind {
        OrderKind::Block { timeout_ms, .. } | OrderKind::CatchUp { timeout_ms, .. } => *timeout_ms,
        OrderKind::Open { acker_ms } => *acker_ms + 3000,
        OrderKind::Fence {} | OrderKind::Unblock {} | OrderKind::RevokeAcker { .. } | OrderKind::AllowAcker { .. } => {
            3000
        }
        OrderKind::Prepare {} | OrderKind::Follow { .. } | OrderKind::Clone { .. } | OrderKind::Release {} => 10_000,
    };
    Duration::from_millis(own) + MARGIN
}
