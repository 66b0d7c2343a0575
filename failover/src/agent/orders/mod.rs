//! Orders: `POST /v1/order`.
//!
//! Promises: an order is obeyed only if it is not late; its number, and what it makes of this node, are on disk before the server is touched (but
//! for `fence`, which can't wait for a disk); each can be repeated; an error means that its effect is not known to be there.

pub(crate) mod acker;
pub(crate) mod block;
mod clone;
mod desk;
pub(crate) mod events;
mod fence;
pub(crate) mod follow;
mod number;
pub(crate) mod promote;
mod release;

use std::sync::Arc;

use axum::http::StatusCode;
use thiserror::Error;
use tokio::sync::oneshot;

use super::core::Core;
use super::sql::SqlError;
use crate::model::{Order, OrderError, OrderKind, OrderNumber, OrderResult};

pub use clone::start as start_clone;
pub use desk::{Desk, Turn};
pub use fence::fence_now;
pub use follow::resume;
pub use number::{NotObeyed, admit, wants_open, wants_unblock};
pub use promote::{OpenWait, open};
pub use release::let_go;

/// Why an order was not obeyed, or not to its end.
#[derive(Debug, Clone, Error)]
pub enum Refusal {
    /// Its number is too low.
    #[error("this order is late: {why}")]
    Late {
        /// In words.
        why: String,
        /// The last number obeyed.
        last: OrderNumber,
    },
    /// It can't be done on this server.
    #[error("{error}")]
    Cannot {
        /// One sentence.
        error: String,
        /// What to do.
        hint: String,
    },
    /// The server does not answer.
    #[error("{error}")]
    Silent {
        /// One sentence.
        error: String,
        /// What to do.
        hint: String,
    },
    /// A later order came while this one ran.
    #[error("a later order ended this one")]
    Superseded,
}

impl Refusal {
    /// 422.
    pub fn cannot(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Cannot { error: error.into(), hint: hint.into() }
    }

    /// 503.
    pub fn silent(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Silent { error: error.into(), hint: hint.into() }
    }

    /// The answer.
    pub fn answer(&self, last: OrderNumber) -> (StatusCode, OrderError) {
        let error = self.to_string();
        let body = |hint: &str, last| OrderError { error: error.clone(), hint: hint.to_owned(), last };
        match self {
            Self::Late { last, .. } => (
                StatusCode::CONFLICT,
                body("read the state and the leader again; order with a higher number if you still lead", Some(*last)),
            ),
            Self::Superseded => (StatusCode::CONFLICT, body("what the later order wants is in force", Some(last))),
            Self::Cannot { hint, .. } => (StatusCode::UNPROCESSABLE_ENTITY, body(hint, None)),
            Self::Silent { hint, .. } => (StatusCode::SERVICE_UNAVAILABLE, body(hint, None)),
        }
    }
}

impl From<SqlError> for Refusal {
    fn from(error: SqlError) -> Self {
        let text = error.to_string();
        match error {
            SqlError::Server { .. } => {
                Self::cannot(text, "see the server's error log, and the rights of the agent's account")
            }
            _ => Self::silent(text, "order it again once the server answers"),
        }
    }
}

/// Obeys an order, or says why not. Goes on to its end even if whoever ordered does not wait for the answer, or has it already.
pub async fn obey(core: Arc<Core>, order: Order) -> Result<OrderResult, Refusal> {
    let (early, told) = oneshot::channel();
    let mut task = tokio::spawn(async move { Box::pin(run(&core, order, early)).await });
    let done = tokio::select! {
        done = &mut task => done,
        Ok(result) = told => return Ok(result),
    };
    done.unwrap_or_else(|e| Err(Refusal::silent(format!("the order ended in the middle: {e}"), "order it again")))
}

async fn run(core: &Arc<Core>, order: Order, early: oneshot::Sender<OrderResult>) -> Result<OrderResult, Refusal> {
    let (number, name) = (order.number, order.kind.name());
    check(core, number)?;
    if order.kind == (OrderKind::Fence {}) {
        return fence::fence(core, number).await;
    }
    let turn = core.desk.turn(number).await;
    // Another may have been obeyed meanwhile.
    check(core, number)?;
    tracing::info!(term = number.term, epoch = number.epoch, step = number.step, order = name, "ordered");
    // Each runs to its end, but for those that can be ended by a later one: nothing is left half done on the server.
    let result = match order.kind {
        OrderKind::Fence {} => Ok(OrderResult::default()),
        OrderKind::Block { drain_ms, timeout_ms } => {
            block::block(core, number, block::Bounds::new(drain_ms, timeout_ms), &turn.superseded, early).await
        }
        OrderKind::Unblock {} => block::unblock(core, number).await,
        OrderKind::CatchUp { gtid, timeout_ms } => {
            promote::catch_up(core, number, &gtid, timeout_ms, &turn.superseded).await
        }
        OrderKind::Prepare {} => promote::prepare(core, number).await,
        OrderKind::Open { acker_ms } => promote::ordered_open(core, number, acker_ms).await,
        OrderKind::Follow { source, relay } => follow::follow(core, number, source, relay).await,
        OrderKind::RevokeAcker { user, server_id } => acker::revoke(core, number, &user, server_id).await,
        OrderKind::AllowAcker { user } => acker::allow(core, number, &user).await,
        OrderKind::Clone { donor, source } => clone::ordered(core, number, donor, source).await,
        OrderKind::Release {} => release::release(core, number).await,
    };
    core.metrics.order(name, result.is_ok());
    match &result {
        Ok(_) => tracing::info!(order = name, "obeyed"),
        Err(error) => tracing::warn!(order = name, %error, "not obeyed"),
    }
    result
}

/// Whether an order of this number is to be obeyed now.
fn check(core: &Core, number: OrderNumber) -> Result<(), Refusal> {
    let last = core.duty.get().last_order;
    admit(last, core.snapshot().term(), number).map_err(|e| {
        let shown = |n: OrderNumber| format!("term {}, epoch {}, step {}", n.term, n.epoch, n.step);
        let why = match e {
            NotObeyed::Lower => format!("{} comes after {}, which was obeyed", shown(number), shown(last)),
            NotObeyed::Deposed { leader } => {
                format!("it is of term {}, and the present leader's is {leader}", number.term)
            }
        };
        tracing::warn!(why, "a late order is refused");
        Refusal::Late { why, last }
    })
}

/// Asks etcd whether what is ordered is still wanted: who orders may have been frozen since. `wants` looks at the state.
async fn confirm(
    core: &Core,
    number: OrderNumber,
    wants: fn(&baton_cluster::ClusterState, &str) -> bool,
) -> Result<(), Refusal> {
    let asked = core.store.state_and_term().await;
    let (state, term) = asked.map_err(|e| {
        Refusal::silent(
            format!("whether this order is still wanted can't be asked: {e}"),
            "order it again once etcd answers",
        )
    })?;
    let last = core.duty.get().last_order;
    if let Some(leader) = term.filter(|leader| number.term < *leader) {
        let why = format!("it is of term {}, and the present leader's is {leader}", number.term);
        return Err(Refusal::Late { why, last });
    }
    match state {
        Some(state) if wants(&state.value, &core.config.node) => Ok(()),
        Some(state) => {
            let why = format!(
                "the state (epoch {}, {:?}) does not want this server to be writable",
                state.value.epoch, state.value.phase
            );
            Err(Refusal::Late { why, last })
        }
        None => Err(Refusal::Late { why: "there is no cluster in etcd".to_owned(), last }),
    }
}

/// Notes the number and what the order makes of this node, before the server is touched.
async fn note(
    core: &Core,
    number: OrderNumber,
    change: impl FnOnce(&mut super::kept::Duty) + Send + 'static,
) -> Result<(), Refusal> {
    let noted = core.duty.change(move |duty| {
        // A fence waits for nobody: it may have come in between.
        if duty.last_order <= number {
            duty.last_order = number;
            duty.given_up = None;
            change(duty);
        }
    });
    noted
        .await
        .map_err(|e| Refusal::silent(format!("the order can't be noted: {e}"), "mend the disk that holds data_dir"))?;
    if core.duty.get().last_order > number { Err(Refusal::Superseded) } else { Ok(()) }
}

/// The process must live for what follows.
fn must_live(core: &Core) -> Result<(), Refusal> {
    if core.host.alive().is_some() {
        return Ok(());
    }
    Err(Refusal::silent("the server does not run", "wait until it is started"))
}
