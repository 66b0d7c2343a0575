//! `POST /v1/bootstrap`: the first state, which names the first primary; also of a cluster that was given up.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use baton_cluster::store::StoreError;
use baton_cluster::{ClusterState, EpochRecord};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::App;
use super::cluster::status;
use super::reads::etcd_error;
use super::requests::read;
use crate::act::history::now;
use crate::decide::position;
use crate::http::ApiError;
use crate::model::{ClusterFacts, NodeFacts};

/// It is not refused before its reason has lasted for so long.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// A server that answers its agent has been asked anew within this time, and the agent's word of it has come.
const ASKED_ANEW: Duration = Duration::from_secs(3);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BootstrapBody {
    primary: String,
    /// Go on although other nodes can't be asked what they have.
    #[serde(default)]
    force: bool,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    by: Option<String>,
}

#[derive(Debug, Serialize)]
struct Bootstrapped {
    state: ClusterState,
}

pub(super) async fn bootstrap(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body: BootstrapBody = read(body, "{\"primary\":\"db-1\"}")?;
    let before = app.store.state().await.map_err(|e| etcd_error(&e))?;
    if let Some(before) = before {
        return Err(already(&before.value));
    }
    if let Some(disagree) = app.store.endpoints_disagree().await {
        return Err(ApiError::conflict(disagree, "one cluster of etcd has to be behind all endpoints"));
    }
    let epoch = first_epoch_soon(&app, &body).await?;
    let picture = app.picture()?;
    if let Some(error) = younger(&picture.facts, picture.etcd.term()) {
        return Err(error);
    }
    let by = format!("user {}", body.by.as_deref().unwrap_or("over HTTP"));
    let state = ClusterState::bootstrap(&body.primary, &by, now()).in_epoch(epoch.epoch);
    if body.dry_run {
        return Ok(Json(Bootstrapped { state }).into_response());
    }
    match app.store.bootstrap(&state, &epoch).await {
        Ok(_) => {
            tracing::info!(primary = body.primary, by, gtid = epoch.gtid, "the cluster is bootstrapped");
            Ok((StatusCode::CREATED, Json(Bootstrapped { state })).into_response())
        }
        Err(StoreError::Conflict { .. }) => match app.store.state().await.map_err(|e| etcd_error(&e))? {
            Some(before) => Err(already(&before.value)),
            None => Err(ApiError::conflict("somebody else bootstraps at this moment", "see batonctl status")),
        },
        Err(error) => Err(etcd_error(&error)),
    }
}

fn already(state: &ClusterState) -> ApiError {
    let primary = state.primary.as_deref().or(state.candidate.as_deref()).unwrap_or("nobody");
    let error = format!("the cluster is bootstrapped already: epoch {}, primary {primary}", state.epoch);
    ApiError::conflict(error, "another primary is had by batonctl switchover --to NODE").with("state", state)
}

/// [`first_epoch`], once every server that answers has been asked anew: what it committed a moment ago is not known yet. If that is refused, then again in
/// a moment: servers are asked one after the other, so under load a replica that is only up to date seems to be ahead of the primary.
async fn first_epoch_soon(app: &App, body: &BootstrapBody) -> Result<EpochRecord, ApiError> {
    let begun = Instant::now();
    let mut noted = BTreeMap::new();
    loop {
        let picture = app.picture()?;
        note(&picture.facts, picture.at, begun, &mut noted);
        let nodes = &picture.facts.nodes;
        let asked = nodes.iter().all(|(name, node)| gtid_of(node).is_none() || noted.contains_key(name));
        match first_epoch(&picture.facts, &noted, &picture.etcd.epochs, body) {
            Err(_) if begun.elapsed() < SECOND_LOOK => {}
            Ok(_) if !asked && begun.elapsed() < ASKED_ANEW => {}
            done => return done,
        }
        sleep(LOOK).await;
    }
}

/// Notes what each server had when it was first asked after `begun`. `at`: when the facts were gathered.
fn note(facts: &ClusterFacts, at: Instant, begun: Instant, noted: &mut BTreeMap<String, String>) {
    for (name, node) in &facts.nodes {
        if let Some(gtid) = gtid_of(node).filter(|_| age_of(node).is_some_and(|age| begun + age <= at)) {
            noted.entry(name.clone()).or_insert(gtid);
        }
    }
}

/// How long before the facts were gathered the server was asked.
fn age_of(node: &NodeFacts) -> Option<Duration> {
    Some(node.agent.as_ref()?.age + Duration::from_millis(status(node)?.server_age_ms?))
}

/// The first epoch with `body.primary` serving, if that is safe. `noted`: what each server had when it was asked anew, which takes a moment; `before`: the
/// epochs that there were.
fn first_epoch(
    facts: &ClusterFacts,
    noted: &BTreeMap<String, String>,
    before: &BTreeMap<u64, EpochRecord>,
    body: &BootstrapBody,
) -> Result<EpochRecord, ApiError> {
    let name = &body.primary;
    let Some(node) = facts.nodes.get(name) else {
        let known: Vec<&str> = facts.nodes.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let hint = format!("known nodes: {known}; an agent that runs announces its node");
        return Err(ApiError::new(StatusCode::NOT_FOUND, format!("there is no node {name:?}"), hint));
    };
    let server = status(node).and_then(|s| s.server.as_ref()).ok_or_else(|| {
        let error = format!("{name} can't be asked what it has: its agent or its server does not answer");
        ApiError::conflict(error, "start both, then ask again")
    })?;
    if let Some(unmet) = server.unmet.first() {
        let error = format!("{name} lacks what Baton needs: {unmet}");
        return Err(ApiError::conflict(error, "mend it on the server, then ask again").with("unmet", &server.unmet));
    }
    if let Some(source) = server.replication.as_ref().filter(|r| r.io != "No" || r.sql).map(|r| &r.source) {
        let error = format!("{name} is a replica: it replicates from {source}");
        let hint = format!(
            "name the server that is written to; if it is to be {name}: STOP SLAVE; RESET SLAVE ALL on it, then ask again"
        );
        return Err(ApiError::conflict(error, hint));
    }
    let own = position::union(&server.gtid_binlog, &server.gtid_slave);
    for (other, facts) in facts.nodes.iter().filter(|(other, _)| *other != name) {
        // What it has by now may include what the primary, asked before, did not have yet.
        match noted.get(other).cloned().or_else(|| gtid_of(facts)) {
            Some(theirs) => {
                if let Some(more) = position::beyond(&theirs, &own) {
                    let error = format!("{other} has transactions that {name} lacks: {more}");
                    let hint = "name that one as the primary, or take it out of the cluster";
                    return Err(ApiError::conflict(error, hint));
                }
            }
            None if body.force => {
                tracing::warn!(node = other, "bootstraps without knowing what this node has");
            }
            None => {
                let error = format!("{other} can't be asked what it has: it may have more than {name}");
                return Err(ApiError::conflict(error, "start it and its agent, or go on without knowing: --force"));
            }
        }
    }
    let mysql = node.record.mysql.clone();
    let epoch = 1 + last_epoch(facts, before);
    let log = facts.relays.values().find(|r| !r.head.is_empty());
    match (before.values().next_back(), log) {
        // The log goes on in the primary's present file.
        (Some(last), Some(_)) if last.server_id == server.server_id => {
            Ok(EpochRecord { epoch, node: name.clone(), mysql, ..last.clone() })
        }
        (Some(last), Some(relay)) => {
            let error = format!(
                "the log of {} is that of {}, the primary of epoch {}: {name} can't continue it",
                relay.record.name, last.node, last.epoch
            );
            let hint = format!(
                "name {}, then switch over; or begin new logs: baton-relay reset-log on every relay",
                last.node
            );
            Err(ApiError::conflict(error, hint))
        }
        _ => {
            let server_id = server.server_id;
            Ok(EpochRecord { epoch, node: name.clone(), mysql, server_id, first_file: None, shift: 0, gtid: own })
        }
    }
}

/// Refused where etcd is younger than orders that were obeyed: its data were lost, and agents refuse the orders of its leaders as late.
fn younger(facts: &ClusterFacts, term: Option<u64>) -> Option<ApiError> {
    let ordered = facts.nodes.iter().filter_map(|(name, node)| Some((name, status(node)?.last_order[0])));
    let (node, ordered) =
        ordered.filter(|(_, ordered)| term.is_some_and(|term| *ordered > term)).max_by_key(|o| o.1)?;
    let error = format!(
        "{node} has obeyed orders of term {ordered}, and the leader's is {}: etcd has lost its data since",
        term.unwrap_or_default()
    );
    let hint = "restore etcd's data; or stop each agent, remove role.json in its data_dir, and start it: operations.md, etcd's data";
    Some(ApiError::conflict(error, hint))
}

/// The highest epoch that anybody knows of; 0: none. Agents and relays obey nothing that is not above it.
fn last_epoch(facts: &ClusterFacts, before: &BTreeMap<u64, EpochRecord>) -> u64 {
    let promised = facts.relays.values().map(|r| r.promised.epoch);
    let ordered = facts.nodes.values().filter_map(status).map(|s| s.last_order[1]);
    before.keys().copied().chain(promised).chain(ordered).max().unwrap_or(0)
}

fn gtid_of(node: &NodeFacts) -> Option<String> {
    let server = status(node)?.server.as_ref()?;
    Some(position::union(&server.gtid_binlog, &server.gtid_slave))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture::healthy;

    #[test]
    fn a_replica_is_not_the_first_primary() {
        let body = |primary: &str| BootstrapBody { primary: primary.to_owned(), force: true, dry_run: false, by: None };
        let (facts, none) = (healthy(), BTreeMap::new());
        assert!(first_epoch(&facts, &none, &BTreeMap::new(), &body("db-1")).is_ok());
        let refused = first_epoch(&facts, &none, &BTreeMap::new(), &body("db-2")).unwrap_err();
        assert!(format!("{refused:?}").contains("it replicates from relay-1:3307"), "{refused:?}");
    }

    #[test]
    fn an_etcd_that_is_younger_than_the_orders_that_were_obeyed_is_told() {
        let mut facts = healthy();
        facts.status("db-3").last_order = [185, 43, 2];
        assert!(younger(&facts, Some(186)).is_none() && younger(&facts, None).is_none());
        let refused = younger(&facts, Some(2)).unwrap();
        assert!(format!("{refused:?}").contains("db-3 has obeyed orders of term 185"), "{refused:?}");
    }

    #[test]
    fn only_what_a_server_answered_to_a_question_asked_since_is_noted() {
        let begun = Instant::now();
        let mut facts = healthy();
        let (name, first) = facts.nodes.iter().find_map(|(n, f)| Some((n.clone(), gtid_of(f)?))).unwrap();
        let age = age_of(&facts.nodes[&name]).unwrap();
        assert!(age > Duration::ZERO);
        let mut noted = BTreeMap::new();
        note(&facts, begun + age - Duration::from_millis(1), begun, &mut noted);
        assert!(!noted.contains_key(&name), "it was asked before");
        note(&facts, begun + age, begun, &mut noted);
        assert_eq!(noted[&name], first);
        facts.nodes.get_mut(&name).unwrap().agent = None;
        note(&facts, begun + age, begun, &mut noted);
        assert_eq!(noted[&name], first, "the first answer stays");
    }
}
