//! The routes.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{backup, binlog, health, watch};
use crate::agent::contact::boottime;
use crate::agent::core::Core;
use crate::agent::orders::obey;
use crate::http::{ApiError, auth};
use crate::model::{AgentStatus, Order};

/// The document that describes all of this.
pub(super) const OPENAPI: &str = include_str!("../../../agent.openapi.json");

/// Bytes of an order, at most.
const MAX_BODY: usize = 16 * 1024;
/// Watchers at a time.
const WATCHERS: usize = 64;

/// What handlers share.
#[derive(Clone)]
pub(super) struct App {
    pub(super) core: Arc<Core>,
    /// One permit a watcher.
    pub(super) watchers: Arc<Semaphore>,
    /// One permit: one backup at a time.
    pub(super) backups: Arc<Semaphore>,
    /// Ends streams.
    pub(super) cancel: CancellationToken,
}

/// Paths that need no token: load balancers have none.
pub(super) const HEALTH: [&str; 9] =
    ["/", "/primary", "/read-write", "/replica", "/read-only", "/health", "/liveness", "/readiness", "/healthz"];

/// Every route that needs the token: method, path as OpenAPI writes it, handler.
pub(super) fn guarded() -> Vec<(Method, &'static str, MethodRouter<App>)> {
    vec![
        (Method::GET, "/v1/status", get(status)),
        (Method::GET, "/v1/watch", get(watch::watch)),
        (Method::POST, "/v1/order", post(order)),
        (Method::GET, "/v1/binlog", get(binlog::list)),
        (Method::GET, "/v1/binlog/{file}", get(binlog::serve)),
        (Method::GET, "/v1/backup", get(backup::serve)),
        (Method::GET, "/metrics", get(metrics)),
        (Method::GET, "/openapi.json", get(openapi)),
    ]
}

/// All of them.
pub(crate) fn router(core: Arc<Core>, cancel: CancellationToken) -> Router {
    let app = App { core, watchers: Arc::new(Semaphore::new(WATCHERS)), backups: Arc::new(Semaphore::new(1)), cancel };
    let mut router = Router::new();
    for (_, path, handler) in guarded() {
        router = router.route(path, handler.route_layer(from_fn_with_state(app.clone(), require_token)));
    }
    for path in HEALTH {
        router = router.route(path, get(health::answer).options(health::answer));
    }
    router
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), count))
        .with_state(app)
}

async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    app.core.metrics.request();
    next.run(request).await
}

/// Whoever has the token belongs to the cluster: being asked by it is being in touch.
async fn require_token(State(app): State<App>, request: Request, next: Next) -> Response {
    let arrived = boottime();
    if let Err(error) = auth::require_token(Some(&app.core.config.token), request.headers()) {
        return error.into_response();
    }
    app.core.contact.heard(arrived);
    next.run(request).await
}

async fn unknown(uri: Uri) -> ApiError {
    let error = format!("there is nothing at {}", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, error, "GET /openapi.json lists all there is")
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let error = format!("{method} is not possible at {}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, error, "the Allow header names what is; /openapi.json tells more")
}

async fn status(State(app): State<App>) -> Json<AgentStatus> {
    Json(app.core.status())
}

async fn order(State(app): State<App>, body: Result<Bytes, BytesRejection>) -> Response {
    let bad = |error: String| {
        let hint = "send a JSON object such as {\"term\":12,\"epoch\":8,\"step\":3,\"do\":\"prepare\"}";
        ApiError::bad_request(error, hint).into_response()
    };
    let body = match body {
        Ok(body) => body,
        Err(e) => return bad(format!("the order can't be read: {}", e.body_text())),
    };
    let order: Order = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(e) => return bad(format!("the order is not understood: {e}")),
    };
    let core = Arc::clone(&app.core);
    match obey(Arc::clone(&core), order).await {
        Ok(result) => Json(result).into_response(),
        Err(refusal) => {
            let (status, error) = refusal.answer(core.duty.get().last_order);
            (status, Json(error)).into_response()
        }
    }
}

async fn metrics(State(app): State<App>) -> Response {
    let lag = app.core.lag_ms().map(std::time::Duration::from_millis);
    let text = app.core.metrics.render(&app.core.status(), app.core.contact.silence(), lag);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_describes_every_route_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let mut described = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for method in operations.as_object().unwrap().keys() {
                described.insert(format!("{} {path}", method.to_ascii_uppercase()));
            }
        }
        let guarded = guarded().into_iter().map(|(method, path, _)| format!("{method} {path}"));
        let health = HEALTH.into_iter().flat_map(|path| [format!("GET {path}"), format!("OPTIONS {path}")]);
        assert_eq!(described, guarded.chain(health).collect());
    }
}
