//! Pause, resume, and the part of the policy that is kept in etcd: written by whichever controller is asked.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use baton_cluster::PausedRecord;
use baton_cluster::store::{Change, StoreError, Versioned};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::App;
use super::reads::etcd_error;
use super::requests::read;
use crate::act::history::now;
use crate::config::controller::{Overrides, policy};
use crate::http::ApiError;

/// `POST /v1/pause`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PauseBody {
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    by: Option<String>,
}

/// What is so now.
#[derive(Debug, Serialize)]
pub(super) struct Paused {
    paused: Option<PausedRecord>,
}

/// `GET /v1/config`.
#[derive(Debug, Serialize)]
pub(super) struct Settings {
    provider: &'static str,
    vip: Option<String>,
    /// What is in force.
    policy: Map<String, Value>,
    /// What of it was changed in etcd.
    changed: Value,
    /// To be sent back with a change, so that nobody's is overwritten unseen.
    revision: i64,
}

/// `POST /v1/config`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsBody {
    /// All that is to differ from the controllers' files; null takes a key back.
    policy: Map<String, Value>,
    #[serde(default)]
    revision: Option<i64>,
}

pub(super) async fn pause(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Paused>, ApiError> {
    let body: PauseBody = read(body, "{\"reason\":\"maintenance\"}")?;
    let record = PausedRecord {
        by: format!("user {}", body.by.as_deref().unwrap_or("over HTTP")),
        reason: body.reason.unwrap_or_default(),
        since: now(),
    };
    let key = app.store.keys().paused();
    match app.store.write(Change::new().expect(key.clone(), 0).put(key.clone(), &record)).await {
        Ok(_) => {
            tracing::info!(by = record.by, reason = record.reason, "automatic failover is paused");
            Ok(Json(Paused { paused: Some(record) }))
        }
        // Paused already: whoever did it first stays named.
        Err(StoreError::Conflict { .. }) => {
            let before = app.store.get::<PausedRecord>(&key).await.map_err(|e| etcd_error(&e))?;
            Ok(Json(Paused { paused: before.map(|v| v.value) }))
        }
        Err(error) => Err(etcd_error(&error)),
    }
}

pub(super) async fn resume(State(app): State<App>) -> Result<Json<Paused>, ApiError> {
    let key = app.store.keys().paused();
    app.store.write(Change::new().delete(key)).await.map_err(|e| etcd_error(&e))?;
    tracing::info!("automatic failover is resumed");
    Ok(Json(Paused { paused: None }))
}

async fn present(app: &App) -> Result<Option<Versioned<Value>>, ApiError> {
    app.store.get::<Value>(&app.store.keys().config()).await.map_err(|e| etcd_error(&e))
}

fn settings(app: &App, config: Option<&Versioned<Value>>) -> Settings {
    let changed = config.and_then(|c| c.value.get("policy").cloned()).unwrap_or_else(|| json!({}));
    let overrides = Overrides::parse(&changed).unwrap_or_default();
    Settings {
        provider: app.config.address.provider.name(),
        vip: app.config.address.vip.clone(),
        policy: policy::describe(&app.config.policy.effective(app.config.probe.timeout, &overrides)),
        changed,
        revision: config.map_or(0, |c| c.mod_revision),
    }
}

pub(super) async fn show(State(app): State<App>) -> Result<Json<Settings>, ApiError> {
    let config = present(&app).await?;
    Ok(Json(settings(&app, config.as_ref())))
}

pub(super) async fn change(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Settings>, ApiError> {
    let body: SettingsBody = read(body, "{\"policy\":{\"max_lag\":\"5s\"}}")?;
    let wanted: Map<String, Value> = body.policy.into_iter().filter(|(_, value)| !value.is_null()).collect();
    let wanted = Value::Object(wanted);
    if let Err(problems) = Overrides::parse(&wanted) {
        return Err(ApiError::bad_request(
            problems.join("; "),
            "nothing was changed; GET /v1/config shows what is in force",
        ));
    }
    let before = present(&app).await?;
    let found = before.as_ref().map_or(0, |c| c.mod_revision);
    if body.revision.is_some_and(|r| r != found) {
        return Err(ApiError::conflict(
            "the settings were changed by somebody else meanwhile",
            "look at them and try again",
        ));
    }
    let mut value = before.map_or_else(|| json!({}), |c| c.value);
    match &mut value {
        Value::Object(map) => drop(map.insert("policy".to_owned(), wanted)),
        other => *other = json!({ "policy": wanted }),
    }
    let key = app.store.keys().config();
    match app.store.write(Change::new().expect(key.clone(), found).put(key, &value)).await {
        Ok(revision) => {
            tracing::info!(policy = %value["policy"], "the settings are changed");
            let config = Versioned { value, mod_revision: revision, create_revision: revision };
            Ok(Json(settings(&app, Some(&config))))
        }
        Err(StoreError::Conflict { .. }) => Err(ApiError::conflict(
            "the settings were changed by somebody else meanwhile",
            "look at them and try again",
        )),
        Err(error) => Err(etcd_error(&error)),
    }
}
