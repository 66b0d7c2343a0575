//! `POST /v1/bootstrap`: the first state, which names the first primary.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use baton_cluster::store::StoreError;
use baton_cluster::{ClusterState, EpochRecord};
use serde::{Deserialize, Serialize};

use super::App;
use super::cluster::status;
use super::reads::etcd_error;
use super::requests::read;
use crate::act::history::now;
use crate::decide::position;
use crate::http::ApiError;
use crate::model::{ClusterFacts, NodeFacts};

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
    let picture = app.picture()?;
    let epoch = first_epoch(&picture.facts, &body)?;
    let by = format!("user {}", body.by.as_deref().unwrap_or("over HTTP"));
    let state = ClusterState::bootstrap(&body.primary, &by, now());
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

/// The first epoch with `body.primary` serving, if that is safe.
fn first_epoch(facts: &ClusterFacts, body: &BootstrapBody) -> Result<EpochRecord, ApiError> {
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
    let own = position::union(&server.gtid_binlog, &server.gtid_slave);
    for (other, facts) in facts.nodes.iter().filter(|(other, _)| *other != name) {
        match gtid_of(facts) {
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
    Ok(EpochRecord {
        epoch: 1,
        node: name.clone(),
        mysql: node.record.mysql.clone(),
        server_id: server.server_id,
        first_file: None,
        shift: 0,
        gtid: own,
    })
}

fn gtid_of(node: &NodeFacts) -> Option<String> {
    let server = status(node)?.server.as_ref()?;
    Some(position::union(&server.gtid_binlog, &server.gtid_slave))
}
