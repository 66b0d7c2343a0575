//! Switchover and failover on request: looked at first, then written to etcd, where the leader takes it up or refuses it.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, http::Method};
use baton_cluster::store::{Change, Snapshot, StoreError};
use baton_cluster::{Phase, SwitchoverRequest};
use rand::Rng;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, timeout};

use super::App;
use super::reads::etcd_error;
use crate::act::history::now;
use crate::act::{Answer, Picture};
use crate::decide::{Action, decide, preflight};
use crate::http::ApiError;
use crate::http::client::Call;
use crate::model::ClusterFacts;

/// For a request to be taken up, beside what a hook may take.
const TAKEN_UP: Duration = Duration::from_secs(10);
/// A switchover is not refused before its reason has lasted for so long: right after another operation what is known of the nodes is a moment old.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// An answer that has not come so long after the request has left etcd is lost.
const LOST: Duration = Duration::from_millis(500);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// For the leader to answer a request that is handed on, beside what it may wait for.
const MARGIN: Duration = Duration::from_secs(3);

/// `POST /v1/switchover`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SwitchoverBody {
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    by: Option<String>,
}

/// `POST /v1/failover`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FailoverBody {
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    by: Option<String>,
}

/// 202: it is under way.
#[derive(Debug, Serialize)]
struct Accepted {
    operation: Operation,
}

#[derive(Debug, Serialize)]
struct Operation {
    epoch: u64,
    kind: &'static str,
    to: Option<String>,
    follow: String,
}

/// 200 to a dry run.
#[derive(Debug, Serialize)]
struct WouldDo {
    dry_run: bool,
    would: String,
    to: Option<String>,
    reason: String,
    rejected: Vec<Rejected>,
}

#[derive(Debug, Serialize)]
struct Rejected {
    node: String,
    why: String,
}

/// A body's JSON; an empty body is an empty object.
pub(super) fn read<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>, example: &str) -> Result<T, ApiError> {
    let hint = format!("send a JSON object such as {example}");
    let body =
        body.map_err(|e| ApiError::bad_request(format!("the request can't be read: {}", e.body_text()), &hint))?;
    let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
    // An array would be understood as the fields in their order.
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text)
        .map_err(|e| ApiError::bad_request(format!("the request is not understood: {e}"), &hint))?;
    serde_json::from_value(serde_json::Value::Object(object))
        .map_err(|e| ApiError::bad_request(format!("the request is not understood: {e}"), hint))
}

pub(super) async fn switchover(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let raw = body.as_ref().map(Clone::clone).unwrap_or_default();
    let body: SwitchoverBody = read(body, "{\"to\":\"db-2\",\"dry_run\":false}")?;
    let wish = Wish { to: body.to, by: body.by, force: false, dry_run: body.dry_run };
    wish.grant(&app, "/v1/switchover", raw).await
}

pub(super) async fn failover(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let raw = body.as_ref().map(Clone::clone).unwrap_or_default();
    let body: FailoverBody = read(body, "{\"to\":\"db-2\",\"dry_run\":false}")?;
    let wish = Wish { to: body.to, by: body.by, force: true, dry_run: body.dry_run };
    wish.grant(&app, "/v1/failover", raw).await
}

/// What somebody wants.
struct Wish {
    to: Option<String>,
    by: Option<String>,
    force: bool,
    dry_run: bool,
}

impl Wish {
    fn kind(&self) -> &'static str {
        if self.force { "failover" } else { "switchover" }
    }

    fn request(&self) -> SwitchoverRequest {
        SwitchoverRequest {
            id: format!("{:016x}", rand::rng().random::<u64>()),
            to: self.to.clone(),
            force: self.force,
            by: format!("user {}", self.by.as_deref().unwrap_or("over HTTP")),
            asked_at: now(),
        }
    }

    async fn grant(&self, app: &App, path: &str, raw: Bytes) -> Result<Response, ApiError> {
        let request = self.request();
        if self.dry_run {
            return Ok(Json(self.look_again(app, &request).await?).into_response());
        }
        if !app.leads() {
            return hand_on(app, path, raw, patience(app)).await;
        }
        // Said at once rather than by the loop: the reason is the same.
        self.look_again(app, &request).await?;
        let epoch = ask(app, &request).await?;
        let operation =
            Operation { epoch, kind: self.kind(), to: self.to.clone(), follow: format!("/v1/operations/{epoch}") };
        Ok((StatusCode::ACCEPTED, Json(Accepted { operation })).into_response())
    }

    /// What the loop would do with it, in a moment if not now.
    async fn look_again(&self, app: &App, request: &SwitchoverRequest) -> Result<WouldDo, ApiError> {
        let end = Instant::now() + SECOND_LOOK;
        loop {
            let picture = app.picture()?;
            match self.look(&picture, request) {
                Err(_) if self.may_pass(&picture.facts) && Instant::now() < end => sleep(LOOK).await,
                looked => return looked,
            }
        }
    }

    /// Whether what keeps it from being done may pass by itself in a moment.
    fn may_pass(&self, facts: &ClusterFacts) -> bool {
        let steady = facts.state.as_ref().filter(|s| s.phase == Phase::Steady && facts.request.is_none());
        let possible =
            |to: &String| facts.nodes.contains_key(to) && steady.is_some_and(|s| s.primary.as_ref() != Some(to));
        !self.force && steady.is_some() && self.to.as_ref().is_none_or(possible)
    }

    /// What the loop would do with it now.
    fn look(&self, picture: &Picture, request: &SwitchoverRequest) -> Result<WouldDo, ApiError> {
        let (kind, facts, policy) = (self.kind(), &picture.facts, &picture.policy);
        let no = |why: &str, hint: &str| ApiError::conflict(format!("no {kind}: {why}"), hint);
        let Some(state) = &facts.state else {
            return Err(no(
                "the cluster is not bootstrapped",
                "batonctl bootstrap --primary NODE names the first primary",
            ));
        };
        if state.phase != Phase::Steady {
            let why = format!("epoch {} is under way ({})", state.epoch, state.cause.reason);
            return Err(no(&why, "wait for its end: batonctl status --watch"));
        }
        if let Some(other) = facts.request.as_ref() {
            let why = format!("a request by {} waits to be taken up", other.by);
            return Err(no(&why, "wait for its end: batonctl status --watch"));
        }
        let asked = ClusterFacts { request: Some(request.clone()), ..facts.clone() };
        let decision = decide(&asked, &picture.memory, policy);
        let to = if self.force {
            match &decision.action {
                Action::Failover { to, .. } => to.clone().or_else(|| decision.candidate.clone()),
                Action::RefuseRequest { why, .. } => return Err(no(why, "see batonctl status")),
                _ => {
                    let refusal = decision.refusing.as_ref();
                    let why = refusal.map_or(decision.reason.as_str(), |r| r.why.as_str());
                    return Err(no(why, refusal.map_or("see batonctl status", |r| r.hint.as_str())));
                }
            }
        } else {
            let to = preflight(facts, &picture.memory, policy, self.to.as_deref()).map_err(|r| no(&r.why, &r.hint))?;
            Some(to)
        };
        Ok(WouldDo {
            dry_run: true,
            would: kind.to_owned(),
            to,
            reason: decision.reason,
            rejected: decision.rejected.into_iter().map(|r| Rejected { node: r.node, why: r.why }).collect(),
        })
    }
}

/// How long a request may take to be taken up.
fn patience(app: &App) -> Duration {
    TAKEN_UP + app.config.hooks.timeout
}

/// Writes the request and waits until it is taken up; gives the epoch.
async fn ask(app: &App, request: &SwitchoverRequest) -> Result<u64, ApiError> {
    let mut answers = app.answers.subscribe();
    let before = app.picture()?.etcd.last_state().map_or(0, |state| state.epoch);
    let key = app.store.keys().request();
    let revision = match app.store.write(Change::new().expect(key.clone(), 0).put(key.clone(), request)).await {
        Ok(revision) => revision,
        Err(StoreError::Conflict { .. }) => {
            let error = "another request came first and waits to be taken up";
            return Err(ApiError::conflict(error, "see what it does: batonctl status --watch"));
        }
        Err(error) => return Err(etcd_error(&error)),
    };
    let answered = async {
        let mut gone = false;
        loop {
            tokio::select! {
                answer = answers.recv() => match answer {
                    Ok(Answer { id, result }) if id == request.id => return Some(result),
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                },
                // An answer is lost with the lead of whoever took the request up. Who hears nothing asks again, and would have it done twice.
                () = sleep(LOST) => {
                    let told = app.picture().ok().and_then(|p| became_of(&p.etcd, &request.id, revision, before));
                    match told {
                        Some(told) if gone => return Some(told),
                        told => gone = told.is_some(),
                    }
                }
            }
        }
    };
    match timeout(patience(app), answered).await {
        Ok(Some(Ok(epoch))) => Ok(epoch),
        Ok(Some(Err(why))) => Err(ApiError::conflict(why, "nothing was changed; see batonctl status")),
        Ok(None) | Err(_) => {
            // Not to be taken up by surprise later.
            let withdrawn = app.store.write(Change::new().expect(key.clone(), revision).delete(key)).await;
            let (error, hint) = match withdrawn {
                Ok(_) => {
                    ("the request was not taken up in time and is withdrawn", "see batonctl status, and ask again")
                }
                Err(_) => ("the request was not taken up in time", "see batonctl status whether it is under way"),
            };
            Err(ApiError::unavailable(error, hint))
        }
    }
}

/// What etcd tells of a request that was written at a revision, in an epoch: none while it waits.
fn became_of(etcd: &Snapshot, id: &str, written: i64, before: u64) -> Option<Result<u64, String>> {
    let waits = etcd.request.as_ref().is_some_and(|request| request.value.id == id);
    if etcd.revision < written || waits {
        return None;
    }
    let epoch = etcd.last_state().map_or(0, |state| state.epoch);
    Some(if epoch > before { Ok(before + 1) } else { Err("it was refused, and the reason is lost".to_owned()) })
}

/// Has the leader answer.
pub(super) async fn hand_on(app: &App, path: &str, body: Bytes, patience: Duration) -> Result<Response, ApiError> {
    let mut waited = Duration::ZERO;
    loop {
        let leader = app.picture()?.leader().map(|l| l.value.clone());
        let Some(leader) = leader.filter(|l| l.name != app.config.name) else {
            // Between two leaders: moments.
            if waited >= Duration::from_secs(2) || app.leads() {
                let hint = "see whether etcd and the controllers run, and ask again";
                return Err(ApiError::unavailable("no controller leads at present", hint));
            }
            sleep(Duration::from_millis(100)).await;
            waited += Duration::from_millis(100);
            continue;
        };
        let call = Call { at: &leader.http, method: Method::POST, path, body, repeatable: false };
        let answer = app.client.call(call, patience + MARGIN).await.map_err(|e| {
            ApiError::unavailable(
                format!("the leader {} does not answer: {e}", leader.name),
                "if it has died, another one leads in seconds: ask again",
            )
        })?;
        let status = StatusCode::from_u16(answer.status.as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
        let kind = [(axum::http::header::CONTENT_TYPE, "application/json")];
        return Ok((status, kind, answer.body).into_response());
    }
}
