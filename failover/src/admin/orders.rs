//! Orders that are no part of an operation.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use baton_cluster::Phase;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::App;
use super::cluster::status;
use super::requests::{hand_on, read};
use crate::act::plan::Outcome;
use crate::act::{Command, Picture};
use crate::http::ApiError;
use crate::model::{NodeFacts, OrderKind, ServerRole};

/// For the agent to take the order.
const PATIENCE: Duration = Duration::from_secs(20);

/// `POST /v1/rejoin`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RejoinBody {
    node: String,
    /// Whether the node's data may be replaced by a copy; otherwise it is only told to follow.
    #[serde(default)]
    clone: bool,
    /// Whose data are copied; default: the best replica, else the primary.
    #[serde(default)]
    donor: Option<String>,
}

/// 202.
#[derive(Debug, Serialize)]
struct Rejoining {
    node: String,
    relay: String,
    donor: Option<String>,
}

pub(super) async fn rejoin(State(app): State<App>, body: Result<Bytes, BytesRejection>) -> Result<Response, ApiError> {
    let raw = body.as_ref().map(Clone::clone).unwrap_or_default();
    let body: RejoinBody = read(body, "{\"node\":\"db-1\",\"clone\":true}")?;
    if !app.leads() {
        return hand_on(&app, "/v1/rejoin", raw, PATIENCE).await;
    }
    let picture = app.picture()?;
    let (kind, answer) = order(&picture, &body)?;
    give(&app, &body.node, kind).await?;
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

/// Has the loop give an order, and waits until it was obeyed.
pub(super) async fn give(app: &App, node: &str, kind: OrderKind) -> Result<(), ApiError> {
    let (reply, outcome) = oneshot::channel();
    let command = Command::Order { node: node.to_owned(), kind, reply };
    let busy = || ApiError::unavailable("the controller is busy", "ask again in a moment");
    app.commands.try_send(command).map_err(|_| busy())?;
    match timeout(PATIENCE, outcome).await {
        Ok(Ok(Outcome::Done(_))) => Ok(()),
        Ok(Ok(Outcome::Refused(why) | Outcome::Failed(why))) => {
            Err(ApiError::conflict(why, "see the log of that node's agent, or of its server"))
        }
        Ok(Ok(Outcome::Unreachable(why))) => {
            Err(ApiError::unavailable(why, "see whether that node and its agent run, and ask again"))
        }
        _ => Err(busy()),
    }
}

/// The order for what is asked, if it can be given.
fn order(picture: &Picture, body: &RejoinBody) -> Result<(OrderKind, Rejoining), ApiError> {
    let facts = &picture.facts;
    let no = |error: String, hint: &str| Err(ApiError::conflict(error, hint));
    let Some(state) = facts.state.as_ref().filter(|s| s.phase == Phase::Steady) else {
        return no("no primary serves: nothing can be rejoined to it".to_owned(), "see batonctl status");
    };
    let name = &body.node;
    let Some(node) = facts.nodes.get(name) else {
        let known: Vec<&str> = facts.nodes.keys().map(String::as_str).collect();
        let hint = format!("known: {}", known.join(", "));
        return Err(ApiError::new(StatusCode::NOT_FOUND, format!("there is no node {name:?}"), hint));
    };
    if state.primary.as_ref() == Some(name) {
        return no(format!("{name} is the primary"), "switch over first: batonctl switchover");
    }
    let Some(own) = status(node) else {
        return no(format!("the agent of {name} does not answer"), "start it, then ask again");
    };
    // Where the node is to replicate from: near it, and not on its own host.
    let mut relays: Vec<_> = facts.relays.values().filter(|r| r.answers && !r.record.replication.is_empty()).collect();
    relays.sort_by_key(|r| (r.record.host == node.record.host, r.record.site != node.record.site));
    let Some(relay) = relays.first() else {
        return no("no relay answers: the node could follow nobody".to_owned(), "start a relay, then ask again");
    };
    let (source, relay) = (relay.record.replication.clone(), relay.record.name.clone());
    if body.clone && node.record.has_no_agent() {
        let hint = "restore it by hand from a copy of another server; it follows by itself then";
        return no(format!("{name} has no agent that could replace its data"), hint);
    }
    if !body.clone {
        if own.role == ServerRole::Diverged {
            let found = own.surplus.as_ref().map(|f| format!(" (they are saved in {f})")).unwrap_or_default();
            return no(
                format!("{name} has transactions that the cluster's log lacks{found}"),
                "replace its data by a copy: batonctl rejoin NODE --clone",
            );
        }
        let answer = Rejoining { node: name.clone(), relay: relay.clone(), donor: None };
        return Ok((OrderKind::Follow { source, relay }, answer));
    }
    let gives = |n: &&NodeFacts| status(n).is_some_and(|s| s.server.is_some()) && !n.record.has_no_agent();
    let usable = |name: &String| facts.nodes.get(name).filter(gives);
    let donor = match &body.donor {
        Some(donor) if donor == name => return no(format!("{name} can't be its own donor"), "name another one"),
        Some(donor) if usable(donor).is_none() => {
            return no(
                format!("{donor} can't be the donor: its agent or its server does not answer"),
                "name another one",
            );
        }
        Some(donor) => Some(donor.clone()),
        None => picture.decision.candidate.clone().filter(|c| c != name && usable(c).is_some()),
    };
    // The primary last: a copy costs it disk and network.
    let Some(donor) = donor.or_else(|| state.primary.clone().filter(|p| usable(p).is_some())) else {
        return no("nobody can give a copy: no other server answers".to_owned(), "start another one, then ask again");
    };
    let http = facts.nodes.get(&donor).map(|n| n.record.http.clone()).unwrap_or_default();
    let answer = Rejoining { node: name.clone(), relay, donor: Some(donor) };
    Ok((OrderKind::Clone { donor: http, source }, answer))
}
