//! The document and the server say the same.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::routes::{OPENAPI, routes};
use super::*;
use crate::fanout::ReplicaState;

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
        Value::Number(n) if n.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !types.contains(&actual) {
        return Err(format!("{at}: {value} is no {types:?}"));
    }
    if schema.get("const").is_some_and(|c| c != value) {
        return Err(format!("{at}: {value} is not {}", schema["const"]));
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

/// Holds an answer against what the document says of path, method and status.
fn fits(path: &str, method: &str, answer: &Answer) {
    let root = document();
    let response = &root["paths"][path][method]["responses"][answer.status.to_string()];
    let schema = &response["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "{method} {path} answers {}, which is not described", answer.status);
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    check(&root, schema, &answer.json(), path).unwrap_or_else(|e| panic!("{e}"));
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
    let view = Scripted::new();
    let replica = view.attach(7, "db-2");
    replica.set_state(ReplicaState::Streaming);
    replica.note_sent(LogPos { file: 2, offset: 700 }, 700);
    view.attach(8, "").set_error("it went wrong");
    let mut options = options();
    options.token = Some("0123456789".into());
    let server = start(&view, options).await;

    for path in ["/v1/lag", "/v1/status", "/healthz", "/readyz", "/openapi.json"] {
        let answer = get(server.at, path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        fits(path, "get", &answer);
    }
    for (name, status) in [("db-2", 200), ("server-108", 200), ("db-9", 404), ("%ff", 400)] {
        let answer = get(server.at, &format!("/v1/lag/{name}")).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        fits("/v1/lag/{replica}", "get", &answer);
    }
    let token = "authorization: Bearer 0123456789\r\n";
    for (header, order, status) in [
        ("", "{}", 401),
        (token, "", 400),
        (token, "{\"grant\":[7]}", 400),
        (token, "{\"term\":1,\"grant\":[6,9]}", 409),
        (token, "{\"term\":1,\"grant\":[7,1]}", 200),
    ] {
        let answer = post(server.at, "/v1/promise", header, order).await;
        assert_eq!(answer.status, status, "{order}: {}", answer.body);
        fits("/v1/promise", "post", &answer);
    }
    for (order, status) in [
        ("{\"term\":1,\"grant\":[7,1]}", 400),
        ("{\"agent\":\"nowhere\",\"term\":1,\"grant\":[7,1]}", 400),
        ("{\"agent\":\"127.0.0.1:2\",\"term\":1,\"grant\":[6,9]}", 409),
        ("{\"agent\":\"127.0.0.1:1\",\"term\":1,\"grant\":[7,1]}", 502),
        ("{\"agent\":\"127.0.0.1:2\",\"term\":1,\"grant\":[7,1]}", 200),
    ] {
        let answer = post(server.at, "/v1/rescue", token, order).await;
        assert_eq!(answer.status, status, "{order}: {}", answer.body);
        fits("/v1/rescue", "post", &answer);
    }
    view.head.send_replace(None);
    view.upstream.send_replace(UpstreamStatus::default());
    fits("/v1/status", "get", &get(server.at, "/v1/status").await);
    view.listening.store(false, Ordering::Release);
    fits("/readyz", "get", &get(server.at, "/readyz").await);
}

#[tokio::test]
async fn the_lines_of_the_stream_are_as_described() {
    let view = Scripted::new();
    view.attach(7, "db-2").note_sent(LogPos { file: 2, offset: 700 }, 700);
    let server = start(&view, options()).await;
    let mut watcher = Watcher::attach(server.at).await;
    let root = document();
    let mut wanted =
        BTreeSet::from(["hello", "head", "upstream", "replicas", "lag", "heartbeat", "end"].map(str::to_owned));
    while let Some(line) = watcher.next().await {
        check(&root, &root["components"]["schemas"]["WatchLine"], &line, "line").unwrap_or_else(|e| panic!("{e}"));
        wanted.remove(line["type"].as_str().unwrap());
        if wanted.len() == 1 {
            server.cancel.cancel();
        }
    }
    assert!(wanted.is_empty(), "never seen: {wanted:?}");
}
