//! Every figure that the relay shows to Prometheus.
//!
//! Owns the names, which follow Prometheus' conventions (`_total` for counters, base units in the name). Counters and histograms are
//! handles that hot paths clone and touch without a lock; what others keep anyway (head, states, lag) is read when scraped, so it
//! is never counted twice and a replica that left for good vanishes. Does no I/O but reading `/proc/self`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry as Prometheus, TextEncoder,
};

use crate::clock::Micros;
use crate::fanout::{Registry, ReplicaState};
use crate::lag::LagReport;
use crate::log::{Head, LogStatus};
use crate::upstream::{UpstreamState, UpstreamStatus};

/// A replica that left is shown for this long.
pub const GONE_SHOWN: Duration = Duration::from_secs(600);

/// Upper bounds of the time buckets, in seconds: 100 µs to 10 s.
const SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const REPLICA_STATES: [ReplicaState; 5] =
    [ReplicaState::Connecting, ReplicaState::Streaming, ReplicaState::Held, ReplicaState::Stopped, ReplicaState::Gone];

const UPSTREAM_STATES: [UpstreamState; 5] = [
    UpstreamState::Connecting,
    UpstreamState::Streaming,
    UpstreamState::Stopped,
    UpstreamState::Diverged,
    UpstreamState::Refused,
];

/// The handles, by stage. Cloning one gives another handle to the same figure.
#[derive(Debug)]
pub struct Metrics {
    /// Bytes of events received from the primary.
    pub upstream_received_bytes: IntCounter,
    /// Events received.
    pub upstream_received_events: IntCounter,
    /// Whole transactions received.
    pub upstream_received_transactions: IntCounter,
    /// Connections to the primary after the first one.
    pub upstream_reconnects: IntCounter,
    /// Events refused because their checksum did not hold.
    pub upstream_checksum_failures: IntCounter,
    /// Acknowledgements sent to the primary.
    pub upstream_acks: IntCounter,
    /// From the arrival of the first event that an acknowledgement covers to its sending.
    pub upstream_ack_duration: Histogram,
    /// Bytes made durable; with [`log_syncs`](Self::log_syncs) and the duration by [`observe_sync`](Self::observe_sync).
    pub log_synced_bytes: IntCounter,
    /// Syncs that succeeded.
    pub log_syncs: IntCounter,
    /// Seconds that a sync took.
    pub log_sync_duration: Histogram,
    /// Writes and syncs that failed.
    pub log_write_errors: IntCounter,
    /// Connections open on the replication port, logged in or not.
    pub fanout_connections: IntGauge,
    /// Connections refused because the limit was reached.
    pub fanout_refused_connections: IntCounter,
    /// Bytes handed to replicas' sockets.
    pub fanout_sent_bytes: IntCounter,
    /// Events handed to replicas' sockets.
    pub fanout_sent_events: IntCounter,
    /// Times that a waiting replica's session was woken by a new head.
    pub fanout_wakeups: IntCounter,
    /// Acknowledgements of semi-synchronous replicas.
    pub fanout_acks: IntCounter,
    /// What such replicas sent that was no acknowledgement of what they had been sent.
    pub fanout_ignored_acks: IntCounter,
    /// Seconds from a transaction's arrival until it was handed to a replica's socket.
    pub fanout_delivery_duration: Histogram,
    /// Logins that failed: wrong name or password, no TLS where it is required, too slow.
    pub fanout_login_failures: IntCounter,
    /// Statements and commands that were refused.
    pub fanout_refused_queries: IntCounter,
    /// Replicas that lost a file they still needed to the hard byte limit.
    pub fanout_retention_cuts: IntCounter,
    /// Questions to replicas for what they have applied.
    pub lag_polls: IntCounter,
    /// Those that failed.
    pub lag_poll_errors: IntCounter,
    /// Sessions open to replicas for these questions.
    pub lag_sessions: IntGauge,
    /// Connections open on the HTTP port.
    pub http_connections: IntGauge,
    /// Requests answered.
    pub http_requests: IntCounter,
    /// Requests answered with an error (4xx, 5xx).
    pub http_errors: IntCounter,
    /// Watchers attached to the event stream.
    pub http_watchers: IntGauge,
    /// Watchers dropped because they did not read.
    pub http_dropped_watchers: IntCounter,
    handles: Prometheus,
}

/// What is read when scraped.
pub struct Sample<'a> {
    /// The last complete transaction.
    pub head: Option<&'a Head>,
    /// Health of the log.
    pub log: &'a LogStatus,
    /// The stream from the primary.
    pub upstream: &'a UpstreamStatus,
    /// Who is attached.
    pub registry: &'a Registry,
    /// How far each one lags.
    pub lag: &'a LagReport,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Arc<Self> {
        let handles = Prometheus::new();
        let r = &handles;
        let metrics = Self {
            upstream_received_bytes: counter(
                r,
                "upstream_received_bytes_total",
                "Bytes of events received from the primary.",
            ),
            upstream_received_events: counter(r, "upstream_received_events_total", "Events received from the primary."),
            upstream_received_transactions: counter(
                r,
                "upstream_received_transactions_total",
                "Whole transactions received from the primary.",
            ),
            upstream_reconnects: counter(
                r,
                "upstream_reconnects_total",
                "Streams from the primary, or attempts at one, that have ended.",
            ),
            upstream_checksum_failures: counter(
                r,
                "upstream_checksum_failures_total",
                "Events refused because their checksum did not hold.",
            ),
            upstream_acks: counter(r, "upstream_acks_total", "Acknowledgements sent to the primary."),
            upstream_ack_duration: seconds(
                r,
                "upstream_ack_duration_seconds",
                "From the arrival of the first event that an acknowledgement covers to its sending.",
            ),
            log_synced_bytes: counter(r, "log_synced_bytes_total", "Bytes made durable."),
            log_syncs: counter(r, "log_syncs_total", "Syncs of the log that succeeded."),
            log_sync_duration: seconds(r, "log_sync_duration_seconds", "Time that a sync of the log took."),
            log_write_errors: counter(r, "log_write_errors_total", "Writes and syncs of the log that failed."),
            fanout_connections: gauge(r, "fanout_connections", "Connections open on the replication port."),
            fanout_refused_connections: counter(
                r,
                "fanout_refused_connections_total",
                "Replication connections refused because the limit was reached.",
            ),
            fanout_sent_bytes: counter(r, "fanout_sent_bytes_total", "Bytes handed to replicas' sockets."),
            fanout_sent_events: counter(r, "fanout_sent_events_total", "Events handed to replicas' sockets."),
            fanout_wakeups: counter(
                r,
                "fanout_wakeups_total",
                "Times that a replica's session was woken by a new head.",
            ),
            fanout_acks: counter(r, "fanout_acks_total", "Acknowledgements of semi-synchronous replicas."),
            fanout_ignored_acks: counter(
                r,
                "fanout_ignored_acks_total",
                "What semi-synchronous replicas sent that was no acknowledgement of what they had been sent.",
            ),
            fanout_delivery_duration: seconds(
                r,
                "fanout_delivery_duration_seconds",
                "Time from a transaction's arrival until it was handed to a replica's socket.",
            ),
            fanout_login_failures: counter(
                r,
                "fanout_login_failures_total",
                "Logins to the replication port that failed.",
            ),
            fanout_refused_queries: counter(
                r,
                "fanout_refused_queries_total",
                "Statements and commands on the replication port that were refused.",
            ),
            fanout_retention_cuts: counter(
                r,
                "fanout_retention_cuts_total",
                "Replicas that lost a file they still needed to the hard byte limit.",
            ),
            lag_polls: counter(r, "lag_polls_total", "Questions to replicas for what they have applied."),
            lag_poll_errors: counter(r, "lag_poll_errors_total", "Questions to replicas that failed."),
            lag_sessions: gauge(r, "lag_sessions", "Sessions open to replicas to ask for what they have applied."),
            http_connections: gauge(r, "http_connections", "Connections open on the HTTP port."),
            http_requests: counter(r, "http_requests_total", "HTTP requests answered."),
            http_errors: counter(r, "http_errors_total", "HTTP requests answered with an error."),
            http_watchers: gauge(r, "http_watchers", "Watchers attached to the event stream."),
            http_dropped_watchers: counter(
                r,
                "http_dropped_watchers_total",
                "Watchers dropped because they did not read what was sent.",
            ),
            handles,
        };
        Arc::new(metrics)
    }

    /// Notes a sync that succeeded.
    pub fn observe_sync(&self, bytes: u64, took: Duration) {
        self.log_synced_bytes.inc_by(bytes);
        self.log_syncs.inc();
        self.log_sync_duration.observe(took.as_secs_f64());
    }

    /// All figures in Prometheus' text format, version 0.0.4.
    pub fn render(&self, sample: &Sample<'_>) -> String {
        // Counted by the log itself.
        for (counter, total) in
            [(&self.log_write_errors, sample.log.storage_errors), (&self.fanout_retention_cuts, sample.log.readers_cut)]
        {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        let scraped = Prometheus::new();
        log_figures(&scraped, sample);
        upstream_figures(&scraped, sample.upstream);
        session_figures(&scraped, sample.registry);
        lag_figures(&scraped, sample.lag);
        process_figures(&scraped);
        build_figure(&scraped);
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

fn register<C: Collector + Clone + 'static>(registry: &Prometheus, collector: prometheus::Result<C>) -> C {
    // Names are constants of this file; the tests make each of them.
    let collector = collector.expect("a metric's name is valid");
    registry.register(Box::new(collector.clone())).expect("a metric's name is unique");
    collector
}

fn name(short: &str) -> String {
    format!("baton_relay_{short}")
}

fn counter(registry: &Prometheus, short: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name(short), help))
}

fn gauge(registry: &Prometheus, short: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name(short), help))
}

fn seconds(registry: &Prometheus, short: &str, help: &str) -> Histogram {
    register(registry, Histogram::with_opts(HistogramOpts::new(name(short), help).buckets(SECONDS.to_vec())))
}

fn gauges(registry: &Prometheus, short: &str, help: &str, labels: &[&str]) -> GaugeVec {
    register(registry, GaugeVec::new(Opts::new(name(short), help), labels))
}

/// A gauge without labels, set once; `full` is the whole name.
fn set(registry: &Prometheus, full: &str, help: &str, value: f64) {
    register(registry, Gauge::new(full, help)).set(value);
}

/// Figures are exact up to 2^53, which is 8 PiB.
#[allow(clippy::cast_precision_loss)]
fn float(value: u64) -> f64 {
    value as f64
}

#[allow(clippy::cast_precision_loss)]
fn unix_seconds(at: Micros) -> f64 {
    at.0 as f64 / 1e6
}

fn log_figures(r: &Prometheus, sample: &Sample<'_>) {
    let log = sample.log;
    set(r, &name("log_files"), "Files of the log.", float(log.files));
    set(r, &name("log_bytes"), "Bytes of the log's files.", float(log.bytes));
    set(r, &name("log_writable"), "1 if the log can be written to.", f64::from(u8::from(log.writable)));
    set(r, &name("log_damaged"), "1 if durable data was found damaged.", f64::from(u8::from(log.damaged.is_some())));
    let dropped = float(log.recovered_bytes_dropped);
    set(r, &name("log_recovery_dropped_bytes"), "Bytes that recovery cut off at the last start.", dropped);
    if let Some(head) = sample.head {
        set(r, &name("log_head_file"), "Number of the file that holds the head.", float(head.pos.file));
        set(r, &name("log_head_position_bytes"), "Offset of the head in its file.", float(head.pos.offset));
        set(
            r,
            &name("log_head_transactions"),
            "Transactions in the log since its beginning.",
            float(head.transactions),
        );
        if head.arrived != Micros::default() {
            let help = "When the last transaction arrived, in seconds since 1970.";
            set(r, &name("log_head_arrival_timestamp_seconds"), help, unix_seconds(head.arrived));
        }
    }
}

fn upstream_figures(r: &Prometheus, upstream: &UpstreamStatus) {
    let states = gauges(r, "upstream_state", "1 for the state that the stream from the primary is in.", &["state"]);
    for state in UPSTREAM_STATES {
        states.with_label_values(&[state.name()]).set(f64::from(u8::from(state == upstream.state)));
    }
    let lag = float(upstream.lag_ms(Micros::now())) / 1000.0;
    let help = "Age of the oldest transaction that the primary is known to have and the relay has not.";
    set(r, &name("upstream_lag_seconds"), help, lag);
}

fn session_figures(r: &Prometheus, registry: &Registry) {
    let sessions = gauges(r, "fanout_sessions", "Replicas and readers of the log by state.", &["state"]);
    for state in REPLICA_STATES {
        sessions.with_label_values(&[state.name()]).set(0.0);
    }
    for replica in registry.list() {
        sessions.with_label_values(&[replica.state().name()]).inc();
    }
}

fn lag_figures(r: &Prometheus, lag: &LagReport) {
    let labels = &["replica", "server_id"];
    let figure = |what: &str, unit: &str, help: &str| gauges(r, &format!("replica_{what}_lag_{unit}"), help, labels);
    let received = [
        figure("received", "transactions", "Transactions of the head not sent to the replica."),
        figure("received", "bytes", "Bytes of log not sent to the replica."),
        figure("received", "seconds", "Age of the oldest transaction not sent to the replica."),
    ];
    let applied = [
        figure("applied", "transactions", "Transactions of the head that the replica has not applied."),
        figure("applied", "bytes", "Bytes of log that the replica has not applied."),
        figure("applied", "seconds", "Age of the oldest transaction that the replica has not applied."),
    ];
    let age =
        gauges(r, "replica_sample_age_seconds", "Age of what is known of the replica's applied position.", labels);
    let up = gauges(r, "replica_streaming", "1 if the replica is attached and streaming.", labels);
    let shown = u64::try_from(GONE_SHOWN.as_millis()).unwrap_or(u64::MAX);
    for replica in lag.replicas.iter().filter(|r| r.state != ReplicaState::Gone.name() || r.state_ms <= shown) {
        let id = replica.server_id.to_string();
        let who = &[replica.name.as_str(), id.as_str()];
        let put = |to: &[GaugeVec; 3], transactions, bytes, ms| {
            for (gauge, value) in to.iter().zip([float(transactions), float(bytes), float(ms) / 1000.0]) {
                gauge.with_label_values(who).set(value);
            }
        };
        if let Some(x) = &replica.received {
            put(&received, x.lag_transactions, x.lag_bytes, x.lag_ms);
        }
        if let Some(x) = &replica.applied {
            put(&applied, x.lag_transactions, x.lag_bytes, x.lag_ms);
            age.with_label_values(who).set(float(x.age_ms) / 1000.0);
        }
        let streaming = replica.state == ReplicaState::Streaming.name();
        up.with_label_values(who).set(f64::from(u8::from(streaming)));
    }
}

fn build_figure(r: &Prometheus) {
    let info = gauges(r, "build_info", "1, with the version as a label.", &["version"]);
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
}

/// What Prometheus' own clients tell of their process, from `/proc/self` (proc(5)); what can't be read is left out.
fn process_figures(r: &Prometheus) {
    // Linux shows times in units of 1/100 s whatever the kernel's own clock (USER_HZ).
    const TICKS: f64 = 100.0;
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).ok();
    if let Some(stat) = read("stat") {
        // The second field is the program's name in parentheses, which may itself hold spaces: `rest` begins with the third.
        let rest: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let field = |number: usize| rest.get(number - 3).and_then(|f| f.parse::<u64>().ok());
        if let (Some(user), Some(system)) = (field(14), field(15)) {
            let help = "User and system CPU time spent.";
            register(r, Counter::new("process_cpu_seconds_total", help)).inc_by(float(user + system) / TICKS);
        }
        if let Some(threads) = field(20) {
            set(r, "process_threads", "Threads of the process.", float(threads));
        }
        let boot = std::fs::read_to_string("/proc/stat")
            .ok()
            .and_then(|s| s.lines().find_map(|l| l.strip_prefix("btime ")).and_then(|b| b.trim().parse::<u64>().ok()));
        if let (Some(boot), Some(start)) = (boot, field(22)) {
            let help = "When the process started, in seconds since 1970.";
            set(r, "process_start_time_seconds", help, float(boot) + float(start) / TICKS);
        }
    }
    if let Some(status) = read("status") {
        for (key, full, help) in [
            ("VmRSS:", "process_resident_memory_bytes", "Resident memory."),
            ("VmSize:", "process_virtual_memory_bytes", "Virtual memory."),
        ] {
            let kib = status
                .lines()
                .find_map(|l| l.strip_prefix(key))
                .and_then(|v| v.split_whitespace().next()?.parse().ok());
            if let Some(kib) = kib {
                set(r, full, help, float(kib) * 1024.0);
            }
        }
    }
    if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
        // One of them is the directory that is being read.
        set(r, "process_open_fds", "Open file descriptors.", float(fds.count().saturating_sub(1) as u64));
    }
    let limit = read("limits").and_then(|l| {
        let line = l.lines().find_map(|l| l.strip_prefix("Max open files"))?.to_owned();
        line.split_whitespace().next()?.parse().ok()
    });
    if let Some(limit) = limit {
        set(r, "process_max_fds", "Open file descriptors allowed.", float(limit));
    }
}

#[cfg(test)]
mod tests;
