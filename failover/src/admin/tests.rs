//! The document and the server say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use baton_cluster::store::{EtcdConfig, Leadership, Store};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::routes::{OPENAPI, routes};
use super::*;
use crate::decide::{Memory, Refusal, decide};
use crate::http::client::Call;
use crate::http::{Limits, serve};
use crate::model::{Policy, fixture};

const LIMIT: Duration = Duration::from_secs(20);
const CONFIG: &str = "cluster = \"shop\"\nname = \"controller-1\"\n[etcd]\nendpoints = [\"http://127.0.0.1:1\"]\n[mysql]\nuser = \"p\"\n";

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

/// As much of JSON Schema as the document uses.
fn check(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(reference.trim_start_matches('#')).ok_or(format!("{reference} is not there"))?;
        return check(root, target, value, at);
    }
    if let Some(options) = schema["oneOf"].as_array() {
        let results: Vec<_> = options.iter().map(|s| check(root, s, value, at)).collect();
        return match results.iter().filter(|r| r.is_ok()).count() {
            1 => Ok(()),
            n => Err(format!("{at}: {n} of the kinds fit {value}: {results:?}")),
        };
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(t) => vec![t],
        Value::Array(t) => t.iter().filter_map(Value::as_str).collect(),
        _ => return Err(format!("{at}: the schema has no type")),
    };
    let actual = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !types.contains(&actual) {
        return Err(format!("{at}: {value} is no {types:?}"));
    }
    if schema["enum"].as_array().is_some_and(|e| !e.contains(value)) {
        return Err(format!("{at}: {value} is none of {}", schema["enum"]));
    }
    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
        check(root, &schema["items"], item, &format!("{at}[{i}]"))?;
    }
    let Some(fields) = value.as_object() else { return Ok(()) };
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(required) {
            return Err(format!("{at}: {required} is missing"));
        }
    }
    for (name, field) in fields {
        match schema["properties"].get(name) {
            Some(property) => check(root, property, field, &format!("{at}.{name}"))?,
            None if schema["additionalProperties"] == false => return Err(format!("{at}: {name} is not described")),
            None => {}
        }
    }
    Ok(())
}

struct Server {
    at: String,
    client: Client,
    stranger: Client,
    pictures: tokio::sync::watch::Sender<Option<Arc<Picture>>>,
    board: Arc<Board>,
    store: Store,
    _cancel: tokio_util::sync::DropGuard,
}

async fn server() -> Server {
    let environment = |name: &str| (name == "BATON_CONTROLLER_TOKEN").then(|| "0123456789".to_owned());
    let config = ControllerConfig::parse(CONFIG, "test", &environment).unwrap_or_else(|e| panic!("{e}"));
    let etcd = EtcdConfig { endpoints: config.etcd.endpoints.clone(), ..EtcdConfig::default() };
    let store = Store::new("shop", &etcd).unwrap();
    let client = Client::new(Some(&config.token));
    let board = Arc::new(Board::default());
    let pictures = tokio::sync::watch::Sender::new(None);
    let cancel = CancellationToken::new();
    let (commands, _) = mpsc::channel(1);
    let app = App::new(Parts {
        config: Arc::new(config),
        address: "127.0.0.1:8091".to_owned(),
        store: store.clone(),
        client: client.clone(),
        board: Arc::clone(&board),
        pictures: pictures.subscribe(),
        answers: broadcast::channel(1).0,
        commands,
        metrics: Metrics::new(),
        cancel: cancel.clone(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    tokio::spawn(serve(listener, router(app), Limits::default(), cancel.clone()));
    Server { at, client, stranger: Client::new(None), pictures, board, store, _cancel: cancel.drop_guard() }
}

impl Server {
    /// What the loop would show of `facts`.
    async fn show(&self, facts: crate::model::ClusterFacts) {
        let cancel = CancellationToken::new();
        let etcd = self.store.watch(cancel.clone()).borrow().clone();
        cancel.cancel();
        let policy = Policy::default();
        let memory = Memory::default().observe(&facts, &policy, Duration::from_millis(100));
        let decision = decide(&facts, &memory, &policy);
        let picture = Picture {
            at: Instant::now(),
            refusing: Some(Refusal { what: "failover".into(), why: "it is a test".into(), hint: "none".into() }),
            decision,
            memory,
            facts,
            leadership: Leadership::Leader { term: 7, valid_until: Instant::now() + LIMIT },
            etcd,
            policy,
            running: vec!["order db-2 to prepare".into()],
            own_problems: Vec::new(),
        };
        self.pictures.send_replace(Some(Arc::new(picture)));
    }

    async fn ask(&self, client: &Client, method: axum::http::Method, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let call = Call { at: &self.at, method, path, body: body.into(), repeatable: true };
        let answer = client.call(call, LIMIT).await.unwrap();
        (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
    }

    /// Asks, and holds the answer against the document.
    async fn fits(&self, method: &str, path: &str, body: Value, status: u16) -> Value {
        let (got, answer) = self.ask(&self.client, method.parse().unwrap(), path, body).await;
        assert_eq!(got, status, "{method} {path}: {answer}");
        let root = document();
        let documented = if path.starts_with("/v1/operations/") { "/v1/operations/{epoch}" } else { path };
        let response = &root["paths"][documented][method.to_lowercase()]["responses"][status.to_string()];
        let schema = &response["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{method} {path} answers {status}, which is not described");
        check(&root, schema, &answer, path).unwrap_or_else(|e| panic!("{e}"));
        answer
    }
}

#[test]
fn routes_and_document_agree() {
    let served: BTreeSet<(String, String)> =
        routes().into_iter().map(|(m, p, _)| (p.to_owned(), m.as_str().to_ascii_lowercase())).collect();
    let mut described = BTreeSet::new();
    for (path, operations) in document()["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            described.insert((path.clone(), method.clone()));
        }
    }
    assert_eq!(served, described);
}

#[tokio::test]
async fn answers_are_as_described() {
    let server = server().await;
    server.fits("GET", "/v1/cluster", Value::Null, 503).await;
    server.show(fixture::healthy()).await;
    let _ = &server.board;
    let report = server.fits("GET", "/v1/cluster", Value::Null, 200).await;
    assert_eq!(report["primary"], "db-1");
    let roles: BTreeMap<&str, &str> = report["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| (n["name"].as_str().unwrap(), n["role"].as_str().unwrap()))
        .collect();
    assert_eq!(roles["db-1"], "primary");
    server.fits("GET", "/v1/view", Value::Null, 200).await;
    server.fits("GET", "/healthz", Value::Null, 200).await;
    // Nothing is at the endpoint of etcd.
    server.fits("GET", "/readyz", Value::Null, 503).await;
    let would = server.fits("POST", "/v1/switchover", json!({"dry_run": true}), 200).await;
    assert_eq!(would["to"], "db-2");
    server.fits("POST", "/v1/switchover", json!({"to": "db-1", "dry_run": true}), 409).await;
    server.fits("POST", "/v1/switchover", json!({"too": "db-1"}), 400).await;
    server.fits("POST", "/v1/rejoin", json!({"node": "db-9"}), 404).await;
    server.fits("POST", "/v1/rejoin", json!({"node": "db-1"}), 409).await;
    server.fits("GET", "/v1/operations/seven", Value::Null, 400).await;
    let leaving = server.fits("POST", "/v1/leave", json!({"dry_run": true}), 200).await;
    assert_eq!((leaving["primary"].as_str(), leaving["done"].as_bool()), (Some("db-1"), Some(false)));

    let mut dead = fixture::healthy();
    dead.kill("db-1");
    server.show(dead).await;
    server.fits("GET", "/v1/cluster", Value::Null, 200).await;
    server.fits("POST", "/v1/leave", json!({}), 409).await;
    let mut empty = fixture::healthy();
    empty.state = None;
    server.show(empty).await;
    let report = server.fits("GET", "/v1/cluster", Value::Null, 200).await;
    assert_eq!(report["state"], Value::Null);
}

#[tokio::test]
async fn what_changes_something_needs_the_token_and_unknown_paths_say_so() {
    let server = server().await;
    for path in [
        "/v1/switchover",
        "/v1/failover",
        "/v1/pause",
        "/v1/resume",
        "/v1/bootstrap",
        "/v1/leave",
        "/v1/rejoin",
        "/v1/config",
    ] {
        let (status, answer) = server.ask(&server.stranger, axum::http::Method::POST, path, json!({})).await;
        assert_eq!(status, 401, "{path}: {answer}");
        assert!(answer["hint"].as_str().is_some_and(|h| h.contains("Bearer")), "{answer}");
    }
    let (status, answer) = server.ask(&server.stranger, axum::http::Method::GET, "/v2", Value::Null).await;
    assert_eq!((status, answer["error"].as_str()), (404, Some("there is nothing at /v2")));
    let (status, _) = server.ask(&server.stranger, axum::http::Method::GET, "/v1/pause", Value::Null).await;
    assert_eq!(status, 405);
}

#[tokio::test]
async fn a_watcher_gets_the_report_at_once_and_at_each_change() {
    let server = server().await;
    server.show(fixture::healthy()).await;
    let mut lines = server.client.lines(&server.at, "/v1/watch", LIMIT).await.unwrap();
    let root = document();
    let schema = &root["components"]["schemas"]["WatchLine"];
    let mut next = async || -> Value {
        let line: Value = serde_json::from_slice(&lines.next(LIMIT).await.unwrap().unwrap()).unwrap();
        check(&root, schema, &line, "line").unwrap_or_else(|e| panic!("{e}"));
        line
    };
    assert_eq!(next().await["cluster"]["paused"], Value::Null);
    let mut changed = fixture::healthy();
    changed.kill("db-1");
    server.show(changed).await;
    while next().await["cluster"]["nodes"][0]["mysqld"] != "dead" {}
}

#[tokio::test]
async fn figures_name_what_alerts_ask_for() {
    let server = server().await;
    server.show(fixture::healthy()).await;
    let call =
        Call { at: &server.at, method: axum::http::Method::GET, path: "/metrics", body: "".into(), repeatable: true };
    let text = String::from_utf8(server.client.call(call, LIMIT).await.unwrap().body.to_vec()).unwrap();
    for figure in [
        "baton_failover_leader 1",
        "baton_failover_epoch 1",
        "baton_failover_steady 1",
        "baton_failover_refusing 1",
        "baton_failover_paused 0",
        "baton_failover_etcd_age_seconds",
        "baton_failover_guard_left 2",
        "baton_failover_node_up{node=\"db-1\"} 1",
        "baton_failover_relay_up{relay=\"relay-1\"} 1",
        "baton_failover_operations_total{kind=\"failover\",outcome=\"done\"} 0",
    ] {
        assert!(text.contains(figure), "{figure} is not in\n{text}");
    }
}
