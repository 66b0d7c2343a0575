//! `POST /v1/leave`: the cluster is given up, and what runs goes on.
//!
//! One change in etcd: the state goes, `left` comes. The rest follows from that, also where somebody was away: controllers rest, since there is
//! no state; agents switch semi-sync off and let go of their servers; relays go on as the last state says, and acknowledge for as long as the
//! primary waits for it. So there is no moment at which a commit could hang, or a controller that dies could leave half of it behind.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use baton_cluster::store::StoreError;
use baton_cluster::{ClusterState, LeftRecord, Phase};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::App;
use super::cluster::status;
use super::orders::give;
use super::reads::etcd_error;
use super::requests::{hand_on, read};
use crate::act::history::now;
use crate::config::ControllerConfig;
use crate::config::controller::AddressProvider;
use crate::http::ApiError;
use crate::model::{ClusterFacts, NodeFacts, OrderKind};

/// For the agents to let go.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaveBody {
    /// Go on although agents of replicas do not answer.
    #[serde(default)]
    force: bool,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    by: Option<String>,
}

/// 200.
#[derive(Debug, Serialize)]
struct Leaving {
    dry_run: bool,
    /// Whether every server has been let go of.
    done: bool,
    epoch: u64,
    primary: Option<String>,
    by: String,
    nodes: Vec<NodeLeft>,
    /// What changes for whom, a sentence each.
    effects: Vec<String>,
}

#[derive(Debug, Serialize)]
struct NodeLeft {
    node: String,
    done: bool,
    /// What is missing.
    why: Option<String>,
}

pub(super) async fn leave(State(app): State<App>, body: Result<Bytes, BytesRejection>) -> Result<Response, ApiError> {
    let raw = body.as_ref().map(Clone::clone).unwrap_or_default();
    let body: LeaveBody = read(body, "{\"dry_run\":true}")?;
    if !app.leads() {
        return hand_on(&app, "/v1/leave", raw, PATIENCE).await;
    }
    let picture = app.picture()?;
    let by = format!("user {}", body.by.as_deref().unwrap_or("over HTTP"));
    // Asked for again: what is not done yet may be by now.
    let before = picture.etcd.left.as_ref().filter(|_| picture.facts.state.is_none()).map(|l| l.value.clone());
    let left = match before {
        Some(left) => left,
        None => LeftRecord { state: preflight(&picture.facts, body.force)?.clone(), by, at: now() },
    };
    if body.dry_run {
        return Ok(Json(answer(&app.config, &left, &picture.facts, true)).into_response());
    }
    if let Some(state) = &picture.etcd.state {
        let term = picture.leadership.term(Instant::now());
        let term = term.ok_or_else(|| ApiError::unavailable("this controller does not lead any more", "ask again"))?;
        app.store.leave(term, state, &left).await.map_err(|error| match error {
            StoreError::Conflict { .. } => {
                ApiError::conflict("the cluster was changed at this moment: nothing is given up", "ask again")
            }
            error => etcd_error(&error),
        })?;
        tracing::warn!(by = left.by, epoch = left.state.epoch, "the cluster is given up");
    }
    // Nobody there sees by himself that the cluster was given up.
    let without_agent = picture.facts.nodes.iter().filter(|(_, node)| node.record.has_no_agent());
    for (name, _) in without_agent {
        if let Err(error) = give(&app, name, OrderKind::Release {}).await {
            tracing::warn!(node = name, error = error.error(), "semi-sync can't be switched off there");
        }
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = answer(&app.config, &left, &app.picture()?.facts, false);
        if answer.done || Instant::now() >= deadline {
            return Ok(Json(answer).into_response());
        }
        sleep(LOOK).await;
    }
}

/// The state to be given up, if that can be done now.
fn preflight(facts: &ClusterFacts, force: bool) -> Result<&ClusterState, ApiError> {
    let no = |why: String, hint: &str| Err(ApiError::conflict(format!("not given up: {why}"), hint));
    let Some(state) = &facts.state else {
        return no("the cluster has no state".to_owned(), "there is nothing to leave: it was never bootstrapped");
    };
    if state.phase != Phase::Steady || state.asked.is_some() {
        let why = format!("epoch {} is under way ({})", state.epoch, state.cause.reason);
        return no(why, "wait for its end: batonctl status --watch");
    }
    if let Some(request) = &facts.request {
        return no(
            format!("a request by {} waits to be taken up", request.by),
            "wait for its end: batonctl status --watch",
        );
    }
    let answers = |name: &String| facts.nodes.get(name).and_then(status).is_some_and(|s| s.server.is_some());
    let primary = state.primary.as_ref().filter(|p| !answers(p));
    if let Some(primary) = primary {
        let why = format!(
            "{primary} does not answer its agent, or that does not answer: semi-sync could not be switched off"
        );
        return no(why, "its commits would hang once the relays are taken away: bring both into order, then ask again");
    }
    let silent: Vec<&str> = facts.nodes.keys().filter(|n| !answers(n)).map(String::as_str).collect();
    if !silent.is_empty() && !force {
        let why = format!("agent or server of {} does not answer", silent.join(" and of "));
        return no(why, "bring them back; or go on without: --force, then they are let go of when they return");
    }
    Ok(state)
}

/// What is so, or would be.
fn answer(config: &ControllerConfig, left: &LeftRecord, facts: &ClusterFacts, dry_run: bool) -> Leaving {
    let nodes: Vec<NodeLeft> = facts.nodes.iter().map(|(name, node)| node_left(name, node)).collect();
    let primary = left.state.primary.clone();
    let at = primary.as_deref().unwrap_or("the primary");
    let address = match (config.address.provider, &config.address.vip) {
        (AddressProvider::Agent, Some(vip)) => {
            format!("{vip} stays on {at} for good: it is yours to move, and gone when that host restarts")
        }
        (AddressProvider::Agent | AddressProvider::None, _) => format!("clients reach {at} as before"),
        (AddressProvider::Exec | AddressProvider::Kubernetes, _) => {
            format!("what leads clients to {at} stays as it is, and is not changed any more")
        }
    };
    Leaving {
        dry_run,
        done: !dry_run && nodes.iter().all(|n| n.done),
        epoch: left.state.epoch,
        primary: primary.clone(),
        by: left.by.clone(),
        nodes,
        effects: vec![
            format!("semi-sync is off on {at}: commits wait for no relay, and what a crash takes from its disk is lost"),
            "nothing fails over any more, and no agent fences its server".to_owned(),
            address,
            format!("replicas go on replicating from their relays, and the relays follow {at} for as long as they run"),
            "a server that its agent starts again starts as it is used now; without an agent its own options say how: mind read_only and \
             skip_slave_start there"
                .to_owned(),
        ],
    }
}

fn node_left(name: &str, node: &NodeFacts) -> NodeLeft {
    let (done, why) = match status(node) {
        Some(status) if status.given_up.is_some() => (true, None),
        _ if node.record.has_no_agent() => {
            (false, Some("SET GLOBAL rpl_semi_sync_master_enabled=OFF is to be run on it".to_owned()))
        }
        Some(_) => (false, Some("its agent has not let go of it".to_owned())),
        None => (false, Some("its agent does not answer: it lets go of it when it is back".to_owned())),
    };
    NodeLeft { node: name.to_owned(), done, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture;

    #[test]
    fn a_cluster_is_given_up_only_while_nothing_is_under_way_and_its_primary_can_be_told() {
        let refused = |facts: &ClusterFacts, force| {
            preflight(facts, force).err().map(|e| e.error().to_owned()).unwrap_or_default()
        };
        assert_eq!(refused(&fixture::healthy(), false), "");
        let mut facts = fixture::healthy();
        facts.state = None;
        assert!(refused(&facts, true).contains("no state"));
        let mut facts = fixture::healthy();
        facts.state.as_mut().unwrap().phase = Phase::Fencing;
        assert!(refused(&facts, true).contains("under way"));
        for (node, force, words) in
            [("db-1", true, "semi-sync"), ("db-2", false, "agent or server of db-2"), ("db-2", true, "")]
        {
            let mut facts = fixture::healthy();
            facts.nodes.get_mut(node).unwrap().agent = None;
            let refused = refused(&facts, force);
            assert!(refused.contains(words) && refused.is_empty() == words.is_empty(), "{node} {force}: {refused}");
        }
    }
}
