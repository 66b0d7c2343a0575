//! The agent's metrics, in Prometheus' text format: every name stands here.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Encoder, Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::model::{AgentStatus, MysqldState, ServerRole};

/// All of them.
pub struct Metrics {
    registry: Registry,
    orders: IntCounterVec,
    deaths: IntCounter,
    fenced: IntCounter,
    requests: IntCounter,
    state: IntGaugeVec,
    role: IntGaugeVec,
    address: IntGauge,
    silence: Gauge,
    read_only: IntGauge,
    waiting_commits: IntGauge,
    ackers: IntGauge,
    unmet: IntGauge,
    disk_ok: IntGauge,
    lag: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// With nothing counted yet.
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help));
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
        let float = |name: &str, help: &str| register(&registry, Gauge::new(name, help));
        let gauges = |name: &str, help: &str, label: &str| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), &[label]))
        };
        let orders = Opts::new("baton_agent_orders_total", "Orders taken, by kind and by whether they were obeyed");
        Self {
            orders: register(&registry, IntCounterVec::new(orders, &["order", "result"])),
            deaths: counter("baton_agent_server_deaths_total", "Ends of the server's process that were seen"),
            fenced: counter(
                "baton_agent_self_fences_total",
                "Times that the server was fenced because this node was cut off",
            ),
            requests: counter("baton_agent_http_requests_total", "HTTP requests"),
            state: gauges("baton_agent_server_state", "1 for the state that the server's process is in", "state"),
            role: gauges("baton_agent_server_role", "1 for what the server is for", "role"),
            address: gauge("baton_agent_address_held", "1 while the virtual IP is held"),
            silence: float("baton_agent_silence_seconds", "Time since etcd, a controller or a relay was last in touch"),
            read_only: gauge("baton_agent_server_read_only", "1 while the server is read-only; -1: not known"),
            waiting_commits: gauge("baton_agent_waiting_commits", "Commits that wait for an acknowledgement"),
            ackers: gauge("baton_agent_semi_sync_clients", "Connections that can acknowledge commits"),
            unmet: gauge("baton_agent_unmet_requirements", "What the server lacks of what Baton needs"),
            disk_ok: gauge(
                "baton_agent_disk_ok",
                "1 while the data directory's disk takes writes in time; -1: not known",
            ),
            lag: float("baton_agent_lag_seconds", "How far a replica is behind; -1: not known or no replica"),
            registry,
        }
    }

    /// Counts an order.
    pub fn order(&self, name: &str, obeyed: bool) {
        self.orders.with_label_values(&[name, if obeyed { "obeyed" } else { "failed" }]).inc();
    }

    /// Counts the end of a server.
    pub fn death(&self) {
        self.deaths.inc();
    }

    /// Counts a fencing that nobody ordered.
    pub fn self_fence(&self) {
        self.fenced.inc();
    }

    /// Counts a request.
    pub fn request(&self) {
        self.requests.inc();
    }

    /// All of them as text, with the present state.
    pub fn render(&self, status: &AgentStatus, silence: Duration, lag: Option<Duration>) -> String {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let yes = |b: Option<bool>| b.map_or(-1, i64::from);
        for (state, name) in [
            (MysqldState::Running, "running"),
            (MysqldState::Silent, "silent"),
            (MysqldState::Dead, "dead"),
            (MysqldState::Waiting, "waiting"),
        ] {
            self.state.with_label_values(&[name]).set(i64::from(status.mysqld == state));
        }
        for (role, name) in [
            (ServerRole::Primary, "primary"),
            (ServerRole::Replica, "replica"),
            (ServerRole::Fenced, "fenced"),
            (ServerRole::Unassigned, "unassigned"),
            (ServerRole::Diverged, "diverged"),
        ] {
            self.role.with_label_values(&[name]).set(i64::from(status.role == role));
        }
        let server = status.server.as_ref();
        self.address.set(i64::from(status.address.is_some()));
        self.silence.set(silence.as_secs_f64());
        self.read_only.set(yes(server.map(|s| s.read_only)));
        self.waiting_commits.set(server.map_or(0, |s| i64::from(s.waiting_commits)));
        self.ackers.set(server.map_or(0, |s| i64::from(s.semi_sync_clients)));
        self.unmet.set(server.map_or(0, |s| number(s.unmet.len() as u64)));
        self.disk_ok.set(yes(status.disk_ok));
        self.lag.set(lag.map_or(-1.0, |l| l.as_secs_f64()));
        let mut text = Vec::new();
        // Texts and numbers only: this can't fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: prometheus::Result<C>) -> C {
    // Names are constants of this file; the test makes each of them.
    let collector = collector.expect("a metric's name is valid");
    registry.register(Box::new(collector.clone())).expect("a metric's name is unique");
    collector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_on_the_page() {
        let metrics = Metrics::new();
        metrics.order("fence", true);
        metrics.death();
        metrics.self_fence();
        metrics.request();
        let status = AgentStatus {
            cluster: "shop".to_owned(),
            node: "db-1".to_owned(),
            mysqld: MysqldState::Dead,
            mysqld_ms: 3,
            role: ServerRole::Fenced,
            server: None,
            server_age_ms: None,
            error: None,
            disk_ok: Some(true),
            address: None,
            address_error: None,
            carrier: None,
            etcd_ok: None,
            self_fenced: true,
            given_up: None,
            last_order: [0, 0, 0],
            clone: None,
            surplus: None,
        };
        let page = metrics.render(&status, Duration::from_millis(250), None);
        for line in [
            "baton_agent_orders_total{order=\"fence\",result=\"obeyed\"} 1",
            "baton_agent_server_deaths_total 1",
            "baton_agent_self_fences_total 1",
            "baton_agent_http_requests_total 1",
            "baton_agent_server_state{state=\"dead\"} 1",
            "baton_agent_server_role{role=\"fenced\"} 1",
            "baton_agent_address_held 0",
            "baton_agent_silence_seconds 0.25",
            "baton_agent_server_read_only -1",
            "baton_agent_disk_ok 1",
            "baton_agent_lag_seconds -1",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
        }
    }
}
