//! The routes.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};

use super::{App, bootstrap, leave, orders, reads, requests, settings, watch};
use crate::http::{ApiError, auth};

/// The document that describes all of this.
pub(super) const OPENAPI: &str = include_str!("../../openapi.json");
/// Bytes of a request, at most.
const MAX_BODY: usize = 64 * 1024;
/// Paths that never need a token: load balancers and supervisors have none; the page asks for one itself.
const OPEN: [&str; 4] = ["/healthz", "/readyz", "/", "/openapi.json"];

/// Every route: method, path as OpenAPI writes it, handler.
pub(super) fn routes() -> Vec<(Method, &'static str, MethodRouter<App>)> {
    vec![
        (Method::GET, "/", get(reads::dashboard)),
        (Method::GET, "/v1/cluster", get(reads::cluster)),
        (Method::GET, "/v1/history", get(reads::history)),
        (Method::GET, "/v1/operations/{epoch}", get(reads::operation)),
        (Method::GET, "/v1/view", get(reads::view)),
        (Method::GET, "/v1/watch", get(watch::watch)),
        (Method::GET, "/v1/config", get(settings::show)),
        (Method::POST, "/v1/config", post(settings::change)),
        (Method::POST, "/v1/bootstrap", post(bootstrap::bootstrap)),
        (Method::POST, "/v1/leave", post(leave::leave)),
        (Method::POST, "/v1/switchover", post(requests::switchover)),
        (Method::POST, "/v1/failover", post(requests::failover)),
        (Method::POST, "/v1/pause", post(settings::pause)),
        (Method::POST, "/v1/resume", post(settings::resume)),
        (Method::POST, "/v1/rejoin", post(orders::rejoin)),
        (Method::GET, "/healthz", get(reads::healthz)),
        (Method::GET, "/readyz", get(reads::readyz)),
        (Method::GET, "/metrics", get(reads::metrics)),
        (Method::GET, "/openapi.json", get(reads::openapi)),
    ]
}

/// All of them behind their checks.
pub fn router(app: App) -> Router {
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

async fn require_token(State(app): State<App>, request: Request, next: Next) -> Response {
    match auth::require_token(Some(&app.config.token), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

async fn protect_reads(State(app): State<App>, request: Request, next: Next) -> Response {
    if app.config.protect_reads && !OPEN.contains(&request.uri().path()) {
        if let Err(error) = auth::require_token(Some(&app.config.token), request.headers()) {
            return error.into_response();
        }
    }
    next.run(request).await
}

async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    app.metrics.http_requests.inc();
    if response.status().is_client_error() || response.status().is_server_error() {
        app.metrics.http_errors.inc();
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

/// A text with its type.
pub(super) fn typed(kind: &'static str, text: impl IntoResponse) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
