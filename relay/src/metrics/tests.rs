//! Names, text format, and what is shown of replicas.

use std::collections::{HashMap, HashSet};

use super::*;
use crate::lag::{AppliedReport, ReceivedReport, ReplicaReport, UpstreamReport};
use crate::log::LogPos;
use baton_wire::event::Flavor;
use baton_wire::gtid::GtidPosition;

fn replica(name: &str, state: &'static str, state_ms: u64) -> ReplicaReport {
    let gtid = "0-1-5".to_owned();
    ReplicaReport {
        name: name.to_owned(),
        server_id: 2,
        address: "10.0.1.6:3306".to_owned(),
        state,
        state_ms,
        received: Some(ReceivedReport { gtid: gtid.clone(), lag_transactions: 1, lag_bytes: 200, lag_ms: 30 }),
        applied: Some(AppliedReport { gtid, lag_transactions: 11, lag_bytes: 5120, lag_ms: 37, age_ms: 12 }),
        bottleneck: None,
        error: None,
    }
}

fn render(metrics: &Metrics, replicas: Vec<ReplicaReport>) -> String {
    let upstream = UpstreamStatus { state: UpstreamState::Streaming, ..UpstreamStatus::default() };
    let lag = LagReport {
        cluster: "shop".into(),
        relay: "relay-1".into(),
        head: None,
        upstream: UpstreamReport { state: "streaming", address: None, server_id: None, lag_ms: 0 },
        replicas,
    };
    let head = Head {
        pos: LogPos { file: 2, offset: 918 },
        gtid: GtidPosition::empty(Flavor::MariaDb),
        transactions: 4711,
        arrived: Micros::now(),
    };
    let log = LogStatus { writable: true, files: 2, bytes: 1918, ..LogStatus::default() };
    let sample =
        Sample { head: Some(&head), log: &log, upstream: &upstream, registry: &Registry::default(), lag: &lag };
    metrics.render(&sample)
}

/// Samples by name with labels; asserts that each family has help and type, and its name follows the conventions.
fn parse(text: &str) -> HashMap<String, f64> {
    let mut samples = HashMap::new();
    let (mut helped, mut types) = (HashSet::new(), HashMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("help text");
            assert!(help.ends_with('.'), "{line}");
            assert!(helped.insert(name.to_owned()), "{name} twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            types.insert(name.to_owned(), kind.to_owned());
        } else {
            let (key, value) = line.rsplit_once(' ').unwrap();
            let base = key.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|s| base.strip_suffix(s))
                .filter(|f| types.contains_key(*f));
            assert!(types.contains_key(family.unwrap_or(base)), "{line}");
            assert!(samples.insert(key.to_owned(), value.parse().unwrap()).is_none(), "{key} twice");
        }
    }
    for (name, kind) in &types {
        assert!(helped.contains(name), "{name} has no help");
        assert!(name.starts_with("baton_relay_") || name.starts_with("process_"), "{name}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
        assert!(!name.contains("_ms") && !name.contains("milli"), "{name} is not in base units");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert!(kind != "histogram" || name.ends_with("_seconds"), "{name}");
    }
    samples
}

#[test]
fn names_follow_the_conventions_and_the_text_parses() {
    let metrics = Metrics::new();
    metrics.observe_sync(4096, Duration::from_micros(300));
    metrics.upstream_received_transactions.inc_by(7);
    metrics.fanout_delivery_duration.observe(0.002);
    let samples = parse(&render(&metrics, vec![replica("db-2", "streaming", 5)]));
    for (key, value) in [
        ("baton_relay_upstream_received_transactions_total", 7.0),
        ("baton_relay_log_synced_bytes_total", 4096.0),
        ("baton_relay_log_sync_duration_seconds_count", 1.0),
        ("baton_relay_log_sync_duration_seconds_bucket{le=\"0.0005\"}", 1.0),
        ("baton_relay_log_head_transactions", 4711.0),
        ("baton_relay_log_writable", 1.0),
        ("baton_relay_upstream_state{state=\"streaming\"}", 1.0),
        ("baton_relay_upstream_state{state=\"diverged\"}", 0.0),
        ("baton_relay_fanout_sessions{state=\"held\"}", 0.0),
        ("baton_relay_replica_applied_lag_seconds{replica=\"db-2\",server_id=\"2\"}", 0.037),
        ("baton_relay_replica_received_lag_bytes{replica=\"db-2\",server_id=\"2\"}", 200.0),
    ] {
        assert_eq!(samples.get(key), Some(&value), "{key}");
    }
    for key in ["process_resident_memory_bytes", "process_open_fds", "process_max_fds", "process_start_time_seconds"] {
        assert!(samples.get(key).is_some_and(|v| *v > 0.0), "{key}");
    }
    assert!(samples.contains_key("process_cpu_seconds_total"));
}

#[test]
fn a_replica_that_left_is_shown_for_a_while_and_then_vanishes() {
    let metrics = Metrics::new();
    let text = render(&metrics, vec![replica("just-left", "gone", 1000), replica("long-gone", "gone", 700_000)]);
    assert!(text.contains("just-left") && !text.contains("long-gone"));
    assert!(!render(&metrics, Vec::new()).contains("just-left"));
}

#[test]
fn a_hostile_name_stays_inside_its_label() {
    let text = render(&Metrics::new(), vec![replica("a\"} 1\nb{x=\"", "streaming", 1)]);
    assert!(text.contains(r#"replica="a\"} 1\nb{x=\"""#), "{text}");
}

#[test]
fn the_manual_names_every_metric_with_its_type() {
    const OPERATIONS: &str = include_str!("../../../docs/operations.md");
    let (_, after) = OPERATIONS.split_once("\n## Metrics\n").expect("a section on metrics");
    let section = after.split("\n## ").next().unwrap_or_default();
    let told: HashSet<(&str, &str)> = section
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            Some((cells.next()?.trim().strip_suffix('`')?, cells.next()?.trim()))
        })
        .collect();
    let text = render(&Metrics::new(), vec![replica("db-2", "streaming", 5)]);
    let rendered: HashSet<(&str, &str)> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let missing: Vec<_> = rendered.difference(&told).collect();
    let unknown: Vec<_> = told.difference(&rendered).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing: {missing:?}; unknown: {unknown:?}");
}
