//! Every figure that the controller shows to Prometheus.
//!
//! Owns the names, which follow Prometheus' conventions (`_total` for counters, base units in the name). Counters and histograms are handles;
//! what the loop keeps anyway is read from its last picture when scraped, so that a member that left vanishes.

use std::fmt::Write as _;
use std::sync::Arc;

use baton_cluster::store::Leadership;
use baton_cluster::{HistoryRecord, OperationKind, Phase};
use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry as Prometheus,
    TextEncoder,
};
use tokio::time::Instant;

use crate::act::Picture;
use crate::model::{AgentFacts, SqlFacts};

/// Upper bounds of the time buckets, in seconds: 0.5 ms to 60 s.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0,
    60.0,
];

/// The handles. Cloning one gives another handle to the same figure.
#[derive(Debug)]
pub struct Metrics {
    /// Time that a probe took, by node.
    pub probe_latency: HistogramVec,
    /// Turns of the loop.
    pub turns: IntCounter,
    /// Operations that were not begun because a hook said no.
    pub vetoes: IntCounter,
    /// Requests answered over HTTP.
    pub http_requests: IntCounter,
    /// Those answered with an error.
    pub http_errors: IntCounter,
    etcd_age: Histogram,
    operations: IntCounterVec,
    stages: HistogramVec,
    handles: Prometheus,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Arc<Self> {
        let handles = Prometheus::new();
        let r = &handles;
        let metrics = Self {
            probe_latency: seconds(r, "probe_duration_seconds", "Time that a successful SQL probe took.", &["node"]),
            turns: counter(r, "decisions_total", "Decisions made."),
            vetoes: counter(r, "hook_vetoes_total", "Operations that were not begun because a hook said no."),
            http_requests: counter(r, "http_requests_total", "HTTP requests answered."),
            http_errors: counter(r, "http_errors_total", "HTTP requests answered with an error."),
            etcd_age: register(
                r,
                Histogram::with_opts(
                    HistogramOpts::new(name("facts_age_seconds"), "Age of etcd's last sign of life at each decision.")
                        .buckets(SECONDS.to_vec()),
                ),
            ),
            operations: register(
                r,
                IntCounterVec::new(
                    Opts::new(name("operations_total"), "Operations that this controller ended, by kind and outcome."),
                    &["kind", "outcome"],
                ),
            ),
            stages: seconds(
                r,
                "operation_stage_seconds",
                "Time from the beginning of an operation until a stage was reached.",
                &["kind", "stage"],
            ),
            handles,
        };
        for kind in [OperationKind::Failover, OperationKind::Switchover] {
            for outcome in ["done", "taken_back", "superseded"] {
                metrics.operations.with_label_values(&[kind_name(kind), outcome]);
            }
        }
        Arc::new(metrics)
    }

    /// Notes a turn of the loop.
    pub fn observe(&self, picture: &Picture) {
        self.turns.inc();
        self.etcd_age.observe(picture.facts.etcd_age.as_secs_f64());
    }

    /// Notes an operation that has ended.
    pub fn operation_ended(&self, record: &HistoryRecord) {
        let kind = kind_name(record.kind);
        self.operations.with_label_values(&[kind, record.outcome.as_str()]).inc();
        for stage in &record.stages {
            self.stages.with_label_values(&[kind, stage.name.as_str()]).observe(float(stage.at_ms) / 1000.0);
        }
    }

    /// All figures in Prometheus' text format, version 0.0.4.
    pub fn render(&self, picture: Option<&Picture>) -> String {
        let scraped = Prometheus::new();
        if let Some(picture) = picture {
            cluster_figures(&scraped, picture);
            member_figures(&scraped, picture);
        }
        gauges(&scraped, "build_info", "1, with the version as a label.", &["version"])
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1.0);
        let mut families = self.handles.gather();
        families.extend(scraped.gather());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
            // Prometheus takes comments; and what was written so far is of use.
            let _ = writeln!(text, "# not complete: {error}");
        }
        text
    }
}

fn cluster_figures(r: &Prometheus, p: &Picture) {
    let leads = matches!(p.leadership, Leadership::Leader { valid_until, .. } if Instant::now() < valid_until);
    set(r, "leader", "1 if this controller leads.", flag(leads));
    set(r, "etcd_healthy", "1 if etcd answers.", flag(p.etcd.healthy));
    set(r, "etcd_age_seconds", "Time since etcd gave its last sign of life.", p.etcd.heard.elapsed().as_secs_f64());
    set(r, "paused", "1 if automatic failover is paused.", flag(p.facts.paused));
    if let Some(state) = &p.facts.state {
        set(r, "epoch", "Number of the last change of primary.", float(state.epoch));
        set(r, "steady", "1 while a primary serves and nothing is under way.", flag(state.phase == Phase::Steady));
        let primary = gauges(r, "primary", "1 for the node that the state names primary.", &["node"]);
        let acker = gauges(r, "acker", "1 for the relay that holds the grant.", &["relay"]);
        if let Some(node) = &state.primary {
            primary.with_label_values(&[node.as_str()]).set(1.0);
        }
        if let Some(relay) = &state.grant_holder {
            acker.with_label_values(&[relay.as_str()]).set(1.0);
        }
    }
    if leads {
        let used = u32::try_from(p.facts.recent_failovers.len()).unwrap_or(u32::MAX);
        let left = p.policy.guard_max.saturating_sub(used);
        set(r, "guard_left", "Automatic failovers that the guard still allows in its window.", f64::from(left));
    }
    set(r, "refusing", "1 while something that is due is not done.", flag(p.refusing.is_some()));
    let reason = gauges(r, "refusing_reason", "1, with what is not done and why as labels.", &["what", "why"]);
    if let Some(refusal) = &p.refusing {
        reason.with_label_values(&[refusal.what.as_str(), refusal.why.as_str()]).set(1.0);
    }
    let problems = gauges(r, "problems", "Problems by code.", &["code", "severity"]);
    for problem in p.problems() {
        problems.with_label_values(&[problem.code, problem.severity.name()]).inc();
    }
}

fn member_figures(r: &Prometheus, p: &Picture) {
    let node_up = gauges(r, "node_up", "1 if the node's server answers this controller.", &["node"]);
    let agent_up = gauges(r, "agent_up", "1 if the node's agent answers this controller.", &["node"]);
    for (name, node) in &p.facts.nodes {
        let sql = matches!(node.sql.as_ref().map(|s| &s.value), Some(SqlFacts::Answers { .. } | SqlFacts::Alive(_)));
        let agent = matches!(node.agent.as_ref().map(|s| &s.value), Some(AgentFacts::Answers(_)));
        node_up.with_label_values(&[name.as_str()]).set(flag(sql));
        agent_up.with_label_values(&[name.as_str()]).set(flag(agent));
    }
    let relay_up = gauges(r, "relay_up", "1 if the relay answers this controller.", &["relay"]);
    let lag = gauges(r, "replica_lag_seconds", "Lag in applying, as the replica's relay tells it.", &["node", "relay"]);
    for (name, relay) in &p.facts.relays {
        relay_up.with_label_values(&[name.as_str()]).set(flag(relay.answers));
        for (replica, (_, _, lag_ms)) in &relay.replicas {
            if let Some(ms) = lag_ms {
                lag.with_label_values(&[replica.as_str(), name.as_str()]).set(float(*ms) / 1000.0);
            }
        }
    }
}

/// As it stands in JSON.
pub(crate) fn kind_name(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Bootstrap => "bootstrap",
        OperationKind::Failover => "failover",
        OperationKind::Switchover => "switchover",
    }
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// Figures are exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn float(value: u64) -> f64 {
    value as f64
}

fn register<C: Collector + Clone + 'static>(registry: &Prometheus, collector: prometheus::Result<C>) -> C {
    // Names are constants of this file; the tests make each of them.
    let collector = collector.expect("a metric's name is valid");
    registry.register(Box::new(collector.clone())).expect("a metric's name is unique");
    collector
}

fn name(short: &str) -> String {
    format!("baton_failover_{short}")
}

fn counter(registry: &Prometheus, short: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name(short), help))
}

fn seconds(registry: &Prometheus, short: &str, help: &str, labels: &[&str]) -> HistogramVec {
    register(registry, HistogramVec::new(HistogramOpts::new(name(short), help).buckets(SECONDS.to_vec()), labels))
}

fn gauges(registry: &Prometheus, short: &str, help: &str, labels: &[&str]) -> GaugeVec {
    register(registry, GaugeVec::new(Opts::new(name(short), help), labels))
}

fn set(registry: &Prometheus, short: &str, help: &str, value: f64) {
    register(registry, Gauge::new(name(short), help)).set(value);
}
