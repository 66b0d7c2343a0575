//! The routes and their handlers.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::AdminOptions;
use super::auth::{protect_reads, require_token};
use super::error::ApiError;
use super::status::Status;
use super::view::View;
use super::watch::watch;
use crate::config::Address;
use crate::lag::{LagReport, ReplicaReport};
use crate::log::Grant;
use crate::metrics::Sample;
use crate::upstream::{PromiseAnswer, PromiseError};

/// The document that describes all of this.
pub(super) const OPENAPI: &str = include_str!("../../openapi.json");

/// Bytes of an order, at most.
const MAX_BODY: usize = 16 * 1024;

/// What handlers share.
#[derive(Clone)]
pub(super) struct App {
    pub(super) view: Arc<dyn View>,
    pub(super) options: Arc<AdminOptions>,
    /// Where HTTP listens.
    pub(super) http_address: String,
    /// One permit a watcher.
    pub(super) watchers: Arc<Semaphore>,
    /// Ends event streams.
    pub(super) cancel: CancellationToken,
}

/// Every route: method, path as OpenAPI writes it, handler.
pub(super) fn routes() -> Vec<(Method, &'static str, MethodRouter<App>)> {
    vec![
        (Method::GET, "/v1/lag", get(lag)),
        (Method::GET, "/v1/lag/{replica}", get(lag_of_one)),
        (Method::GET, "/v1/status", get(status)),
        (Method::GET, "/v1/watch", get(watch)),
        (Method::POST, "/v1/promise", post(promise)),
        (Method::POST, "/v1/rescue", post(rescue)),
        (Method::GET, "/healthz", get(healthz)),
        (Method::GET, "/readyz", get(readyz)),
        (Method::GET, "/metrics", get(metrics)),
        (Method::GET, "/openapi.json", get(openapi)),
    ]
}

/// All of them behind their checks.
pub(super) fn router(app: App) -> Router {
    let mut router = Router::new();
    for (method, path, handler) in routes() {
        let handler = match method {
            Method::GET => handler,
            _ => handler.route_layer(from_fn_with_state(app.clone(), require_token)),
        };
        router = router.route(path, handler);
    }
    router
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), protect_reads))
        .layer(from_fn_with_state(app.clone(), count))
        .with_state(app)
}

async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let metrics = app.view.metrics();
    metrics.http_requests.inc();
    if response.status().is_client_error() || response.status().is_server_error() {
        metrics.http_errors.inc();
    }
    response
}

async fn unknown(uri: Uri) -> ApiError {
    let error = format!("there is nothing at {}", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, error, "GET /openapi.json lists all there is")
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let error = format!("{method} is not possible at {}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, error, "the Allow header names what is; /openapi.json tells more")
}

async fn lag(State(app): State<App>) -> Json<LagReport> {
    Json(app.view.lag_report().await)
}

async fn lag_of_one(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<ReplicaReport>, ApiError> {
    let Path(name) = name.map_err(|e| {
        let error = format!("the replica's name can't be read: {}", e.body_text());
        ApiError::new(StatusCode::BAD_REQUEST, error, "percent-encode the name as UTF-8")
    })?;
    // Of an old and a new connection of the same server, the newest.
    match app.view.lag_report().await.replicas.into_iter().rfind(|r| r.name == name) {
        Some(replica) => Ok(Json(replica)),
        None => {
            let error = format!("no replica is called {name:?}");
            Err(ApiError::new(StatusCode::NOT_FOUND, error, "GET /v1/lag lists all replicas by name"))
        }
    }
}

async fn status(State(app): State<App>) -> Json<Status> {
    Json(Status::new(&app))
}

/// The body of an order to promise.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PromiseOrder {
    /// The controller's term; a relay that stands alone has nothing to compare it with.
    term: u64,
    grant: Grant,
}

/// A body's JSON object. An array would be understood as the fields in their order.
fn object<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body)?;
    serde_json::from_value(serde_json::Value::Object(object))
}

async fn promise(State(app): State<App>, body: Result<Bytes, BytesRejection>) -> Result<Json<PromiseAnswer>, ApiError> {
    let bad = |error: String| {
        ApiError::new(StatusCode::BAD_REQUEST, error, "send a JSON object such as {\"term\":12,\"grant\":[7,1]}")
    };
    let body = body.map_err(|e| bad(format!("the order can't be read: {}", e.body_text())))?;
    let order: PromiseOrder = object(&body).map_err(|e| bad(format!("the order is not understood: {e}")))?;
    tracing::info!(term = order.term, grant = %order.grant, "asked to promise");
    promised(&app, app.view.promise(order.term, order.grant).await)
}

/// The body of an order to rescue.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RescueOrder {
    /// `host:port` of the agent beside the old primary.
    agent: String,
    term: u64,
    grant: Grant,
}

async fn rescue(State(app): State<App>, body: Result<Bytes, BytesRejection>) -> Result<Json<PromiseAnswer>, ApiError> {
    let bad = |error: String| {
        let hint = "send a JSON object such as {\"agent\":\"10.0.1.5:8092\",\"term\":12,\"grant\":[7,1]}";
        ApiError::new(StatusCode::BAD_REQUEST, error, hint)
    };
    let body = body.map_err(|e| bad(format!("the order can't be read: {}", e.body_text())))?;
    let order: RescueOrder = object(&body).map_err(|e| bad(format!("the order is not understood: {e}")))?;
    let agent: Address = order.agent.parse().map_err(|e| bad(format!("agent {:?}: {e}", order.agent)))?;
    tracing::info!(term = order.term, grant = %order.grant, %agent, "asked to complete the log");
    promised(&app, app.view.rescue(order.term, order.grant, agent).await)
}

/// The answer to an order to promise.
fn promised(app: &App, result: Result<PromiseAnswer, PromiseError>) -> Result<Json<PromiseAnswer>, ApiError> {
    match result {
        Ok(answer) => Ok(Json(answer)),
        Err(error @ PromiseError::Lower { promised, .. }) => {
            let hint = "ask with a higher grant, if the operation is still wanted";
            Err(ApiError::new(StatusCode::CONFLICT, error.to_string(), hint).promised(promised))
        }
        Err(error @ PromiseError::NotOrdered(_)) => {
            let promised = app.view.upstream().borrow().promised.grant;
            let hint = "nothing was promised; read the cluster's state anew before anything is ordered";
            Err(ApiError::new(StatusCode::CONFLICT, error.to_string(), hint).promised(promised))
        }
        Err(error @ PromiseError::Unasked(_)) => {
            let hint = "nothing was promised: the relay acknowledges on under the grant that it holds; ask again once etcd answers";
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string(), hint))
        }
        Err(error @ PromiseError::Rescue(_)) => {
            let hint = "the promise holds; see that the agent beside the old primary runs, then ask again";
            Err(ApiError::new(StatusCode::BAD_GATEWAY, error.to_string(), hint))
        }
        Err(error @ (PromiseError::Storage(_) | PromiseError::Stopping)) => {
            let hint = "no promise was given: the relay may acknowledge on; ask again, or revoke it on the primary";
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string(), hint))
        }
    }
}

#[derive(Serialize)]
struct Fine {
    status: &'static str,
}

async fn healthz() -> Json<Fine> {
    Json(Fine { status: "ok" })
}

async fn readyz(State(app): State<App>) -> Result<Json<Fine>, ApiError> {
    let log = app.view.log_status();
    let refused = |error: String, hint: &str| Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error, hint));
    if let Some(damage) = log.damaged {
        return refused(format!("the log is damaged: {damage}"), "see the relay's own log and GET /v1/status");
    }
    if !log.writable {
        let why = log.error.unwrap_or_else(|| "no cause is known".to_owned());
        return refused(
            format!("the log can't be written to: {why}"),
            "make room or mend the disk; the relay goes on by itself",
        );
    }
    if !app.view.listening() {
        let error = format!("replicas can't connect: {} is not listened on", app.options.replication_address);
        return refused(error, "the relay is starting or stopping; see its own log if this lasts");
    }
    Ok(Json(Fine { status: "ready" }))
}

async fn metrics(State(app): State<App>) -> Response {
    let lag = app.view.lag_report().await;
    let (head, log, registry) = (app.view.head(), app.view.log_status(), app.view.registry());
    let upstream = app.view.upstream().borrow().clone();
    let sample = Sample { head: head.as_ref(), log: &log, upstream: &upstream, registry: &registry, lag: &lag };
    let text = app.view.metrics().render(&sample);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}
