//! What is read.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use baton_cluster::HistoryRecord;
use baton_cluster::store::StoreError;
use serde::Serialize;

use super::App;
use super::cluster::{ClusterReport, report};
use super::routes::{OPENAPI, typed};
use crate::http::ApiError;
use crate::probe::ControllerView;

/// The page.
const DASHBOARD: &str = include_str!("dashboard.html");

#[derive(Serialize)]
pub(super) struct Fine {
    status: &'static str,
}

/// `GET /v1/history`.
#[derive(Serialize)]
pub(super) struct HistoryReport {
    operations: Vec<HistoryRecord>,
}

pub(super) async fn dashboard() -> Response {
    // Nothing is fetched from elsewhere, and nobody may frame it.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let mut response = typed("text/html; charset=utf-8", DASHBOARD);
    response
        .headers_mut()
        .insert(axum::http::header::CONTENT_SECURITY_POLICY, axum::http::HeaderValue::from_static(policy));
    response
}

pub(super) async fn cluster(State(app): State<App>) -> Result<Json<ClusterReport>, ApiError> {
    let picture = app.picture()?;
    Ok(Json(report(&app, &picture)))
}

/// An outage of etcd, as an answer.
pub(super) fn etcd_error(error: &StoreError) -> ApiError {
    ApiError::unavailable(error.to_string(), "see whether etcd runs and has a quorum; service goes on meanwhile")
}

pub(super) async fn history(State(app): State<App>) -> Result<Json<HistoryReport>, ApiError> {
    let prefix = format!("{}history/", app.store.keys().prefix());
    // One that was spoilt by hand, or that a newer version wrote, does not hide the others.
    let records = app.store.list::<serde_json::Value>(&prefix).await.map_err(|e| etcd_error(&e))?;
    let readable = records.into_iter().rev().filter_map(|(key, found)| {
        serde_json::from_value::<HistoryRecord>(found.value)
            .inspect_err(|error| tracing::warn!(key, %error, "a document of the history can't be read"))
            .ok()
    });
    Ok(Json(HistoryReport { operations: readable.collect() }))
}

pub(super) async fn operation(
    State(app): State<App>,
    epoch: Result<Path<u64>, PathRejection>,
) -> Result<Json<HistoryRecord>, ApiError> {
    let Path(epoch) = epoch.map_err(|e| {
        ApiError::bad_request(
            format!("the epoch can't be read: {}", e.body_text()),
            "a number is wanted, such as /v1/operations/7",
        )
    })?;
    let key = app.store.keys().history(epoch);
    match app.store.get::<HistoryRecord>(&key).await.map_err(|e| etcd_error(&e))? {
        Some(record) => Ok(Json(record.value)),
        None => {
            let error = format!("no operation began epoch {epoch}");
            Err(ApiError::new(StatusCode::NOT_FOUND, error, "GET /v1/history lists all there are"))
        }
    }
}

pub(super) async fn view(State(app): State<App>) -> Json<ControllerView> {
    let primary = app.pictures.borrow().as_ref().and_then(|p| p.facts.state.as_ref()?.primary.clone());
    let seen = primary.as_deref().and_then(|p| app.board.own_view(p));
    Json(ControllerView {
        controller: app.config.name.clone(),
        primary,
        answers: seen.map(|(answers, _)| answers),
        age_ms: seen.map_or(0, |(_, age)| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
    })
}

pub(super) async fn healthz() -> Json<Fine> {
    Json(Fine { status: "ok" })
}

pub(super) async fn readyz(State(app): State<App>) -> Result<Json<Fine>, ApiError> {
    let picture = app.picture()?;
    if picture.etcd.revision == 0 {
        return Err(ApiError::unavailable(
            "etcd has not answered yet",
            "see whether etcd runs and is reached from here",
        ));
    }
    if !picture.etcd.healthy {
        return Err(ApiError::unavailable("etcd does not answer", "see whether etcd runs and has a quorum"));
    }
    Ok(Json(Fine { status: "ready" }))
}

pub(super) async fn metrics(State(app): State<App>) -> Response {
    let picture = app.pictures.borrow().clone();
    typed("text/plain; version=0.0.4; charset=utf-8", app.metrics.render(picture.as_deref()))
}

pub(super) async fn openapi() -> Response {
    typed("application/json", OPENAPI).into_response()
}
