//! The controller: its parts, wired together, started and stopped.
//!
//! Promises: whatever of it ends unasked takes the others with it (a supervisor restarts the whole); told to stop, it gives the lead back at
//! once, so that another one leads within milliseconds.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use baton_cluster::store::{EtcdConfig, Leadership, Snapshot, Store};
use baton_cluster::{ControllerRecord, LeaderRecord};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::act::{Hands, Runner, RunnerOptions, Servers, address};
use crate::admin;
use crate::config::ControllerConfig;
use crate::config::controller::AddressProvider;
use crate::http::{Client, Limits, serve};
use crate::metrics::Metrics;
use crate::probe::{self, Board};

/// For connections and tasks to end.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// Orders that wait for the loop, at most.
const COMMANDS: usize = 64;
/// Answers that wait for whoever asked, at most.
const ANSWERS: usize = 256;

/// How etcd is reached, for the store.
pub fn etcd_config(section: &crate::config::EtcdSection) -> EtcdConfig {
    EtcdConfig {
        endpoints: section.endpoints.clone(),
        ca_file: section.ca_file.clone(),
        cert_file: section.cert_file.clone(),
        key_file: section.key_file.clone(),
        user: section.user.clone(),
        password: section.password.clone(),
        lease_ttl: section.lease_ttl,
    }
}

/// What `--check` looks at beyond the configuration itself.
///
/// # Errors
/// A file of the configuration can't be used, or a program of it can't be run.
pub fn check(config: &ControllerConfig) -> anyhow::Result<()> {
    Store::new(&config.cluster, &etcd_config(&config.etcd))?;
    let programs = [
        ("address.command", &config.address.command),
        ("hooks.before_failover", &config.hooks.before_failover),
        ("hooks.after_failover", &config.hooks.after_failover),
        ("hooks.before_switchover", &config.hooks.before_switchover),
        ("hooks.after_switchover", &config.hooks.after_switchover),
    ];
    for (key, command) in programs {
        if let Some(program) = command.first() {
            let found = std::fs::metadata(program).with_context(|| format!("{key} = {program:?}"))?;
            anyhow::ensure!(found.is_file(), "{key} = {program:?}: is no file");
        }
    }
    Ok(())
}

/// Runs until cancelled.
///
/// # Errors
/// It can't be started, or a part of it ended by itself.
pub async fn run(config: ControllerConfig, cancel: CancellationToken) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let store = Store::new(&config.cluster, &etcd_config(&config.etcd))?;
    let listener = TcpListener::bind(config.http.to_string()).await.with_context(|| {
        format!("http = {}: can't listen there; is the port taken by another process?", config.http)
    })?;
    let advertised = advertised(&config, &listener)?;
    let client = Client::new(Some(&config.token));
    let metrics = Metrics::new();
    let board = Arc::new(Board::default());
    let record = ControllerRecord {
        name: config.name.clone(),
        http: advertised.clone(),
        config: config.digest(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    // Parts other than the lead are stopped only once the lead has been given back: they tell about it.
    let parts = CancellationToken::new();
    let etcd = store.watch(parts.clone());
    refuse_a_namesake(&config, &store, &client, &advertised).await?;
    let _announced = store.announce(store.keys().controller(&config.name), &record, &parts)?;
    let (leadership, campaign) =
        campaign(&store, &config, LeaderRecord { name: config.name.clone(), http: advertised.clone() }, &etcd, &cancel);
    let (commands, commanded) = mpsc::channel(COMMANDS);
    let (answers, _) = broadcast::channel(ANSWERS);
    let pictures = watch::Sender::new(None);
    tracing::info!(
        cluster = %config.cluster, controller = %config.name, version = env!("CARGO_PKG_VERSION"), http = %listener.local_addr()?,
        advertised, config = record.config, "controller started"
    );

    let looking = tokio::spawn(probe::watch(
        probe::Options {
            cluster: config.cluster.clone(),
            controller: config.name.clone(),
            nodes: config.nodes.clone(),
            relays: config.relays.clone(),
            account: probe::sql::Account { user: config.mysql.user.clone(), password: config.mysql.password.clone() },
            interval: config.probe.interval,
            timeout: config.probe.timeout,
            latency: metrics.probe_latency.clone(),
        },
        client.clone(),
        Arc::clone(&board),
        etcd.clone(),
        parts.clone(),
    ));
    let app = admin::App::new(admin::Parts {
        config: Arc::clone(&config),
        address: advertised,
        store: store.clone(),
        client: client.clone(),
        board: Arc::clone(&board),
        pictures: pictures.subscribe(),
        answers: answers.clone(),
        commands,
        metrics: Arc::clone(&metrics),
        cancel: parts.clone(),
    });
    let serving = tokio::spawn(serve(listener, admin::router(app), Limits::default(), parts.clone()));
    let _comparing = tokio::spawn(compare_endpoints(store.clone(), parts.clone()));
    if config.address.provider == AddressProvider::Exec {
        tokio::spawn(address::keep(Arc::clone(&config), pictures.subscribe(), parts.clone()));
    }
    #[cfg(feature = "kubernetes")]
    let _publishing = tokio::spawn(crate::kubernetes::follow(Arc::clone(&config), pictures.subscribe(), parts.clone()));
    let runner = Runner::new(RunnerOptions {
        config: Arc::clone(&config),
        store,
        board,
        hands: Hands { client, servers: Servers::new(&config.mysql, leadership.clone(), etcd.clone()) },
        leadership,
        etcd,
        commands: commanded,
        pictures,
        answers,
        metrics,
    });
    let mut running = tokio::spawn(runner.run(cancel.clone()));
    let mut looking = looking;
    let mut serving = serving;
    tokio::select! {
        // First: parts that ended because they were told to did not end by themselves.
        biased;
        () = cancel.cancelled() => {}
        ended = &mut running => tracing::error!(?ended, "the loop ended by itself"),
        ended = &mut looking => tracing::error!(?ended, "the probes ended by themselves"),
        ended = &mut serving => tracing::error!(?ended, "the HTTP port ended by itself"),
    }
    let asked = cancel.is_cancelled();
    cancel.cancel();
    let all = async {
        let _ = campaign.await;
        parts.cancel();
        for part in [running, looking, serving] {
            if !part.is_finished() {
                let _ = part.await;
            }
        }
    };
    if tokio::time::timeout(STOP_LIMIT, all).await.is_err() {
        tracing::warn!(limit = ?STOP_LIMIT, "some parts did not end in time");
    }
    parts.cancel();
    anyhow::ensure!(asked, "a part of the controller ended by itself; see the log lines before");
    tracing::info!("controller stopped");
    Ok(())
}

/// `host:port` for others; where the port was left to the system, the one in use.
fn advertised(config: &ControllerConfig, listener: &TcpListener) -> anyhow::Result<String> {
    let mut address = config.advertise_http.clone();
    if address.port == 0 {
        address.port = listener.local_addr()?.port();
    }
    Ok(address.to_string())
}

/// Two controllers of one name would take each other's place in etcd again and again.
async fn refuse_a_namesake(
    config: &ControllerConfig,
    store: &Store,
    client: &Client,
    advertised: &str,
) -> anyhow::Result<()> {
    let Ok(Some(other)) = store.get::<ControllerRecord>(&store.keys().controller(&config.name)).await else {
        return Ok(());
    };
    let other = other.value;
    if other.http == advertised {
        return Ok(());
    }
    let view: Result<serde_json::Value, _> = client.get(&other.http, "/v1/view", config.probe.timeout).await;
    if let Ok(view) = view {
        let problem = crate::config::Problem::of(
            "name",
            &config.name,
            format!("is the name of the controller at {} too, which runs: names have to differ", other.http),
        );
        if view.get("controller").and_then(|n| n.as_str()) == Some(config.name.as_str()) {
            return Err(crate::config::ConfigError { problems: vec![problem] }.into());
        }
    }
    Ok(())
}

/// Stands for leader, but not against a leader that is configured otherwise.
fn campaign(
    store: &Store,
    config: &Arc<ControllerConfig>,
    record: LeaderRecord,
    etcd: &watch::Receiver<Arc<Snapshot>>,
    cancel: &CancellationToken,
) -> (watch::Receiver<Leadership>, tokio::task::JoinHandle<()>) {
    let (told, leadership) = watch::channel(Leadership::Unknown);
    let (store, config, mut etcd, cancel) = (store.clone(), Arc::clone(config), etcd.clone(), cancel.clone());
    let task = tokio::spawn(async move {
        let digest = config.digest();
        while !cancel.is_cancelled() {
            // A leader of another mind: wait until it has gone or agrees.
            let differs = |etcd: &Snapshot| {
                let leader = etcd.leader.as_ref().map(|l| &l.value).filter(|l| l.name != config.name)?;
                let other = etcd.controllers.get(&leader.name).filter(|c| c.config != digest)?;
                Some((leader.clone(), other.config.clone()))
            };
            let now = differs(&etcd.borrow_and_update());
            if let Some((leader, other)) = now {
                tracing::error!(
                    leader = leader.name,
                    its_config = other,
                    own_config = digest,
                    "this controller does not stand for leader: its configuration is not the leader's"
                );
                told.send_replace(Leadership::Follower { leader: Some(leader) });
                tokio::select! {
                    () = cancel.cancelled() => return,
                    agreed = etcd.wait_for(|e| differs(e).is_none()) => if agreed.is_err() { return },
                }
                continue;
            }
            let standing = cancel.child_token();
            let (mut news, ended) = store.campaign(record.clone(), standing.clone());
            loop {
                tokio::select! {
                    () = cancel.cancelled() => break,
                    changed = news.changed() => {
                        if changed.is_err() { break }
                        told.send_replace(news.borrow_and_update().clone());
                    }
                    differ = etcd.wait_for(|e| differs(e).is_some()) => {
                        let _ = differ.map(drop);
                        break;
                    }
                }
            }
            standing.cancel();
            let _ = ended.await;
            told.send_replace(Leadership::Unknown);
        }
    });
    (leadership, task)
}

/// Between two looks.
const COMPARE: Duration = Duration::from_secs(60);

/// Tells where the endpoints of etcd are not of one cluster, until cancelled.
async fn compare_endpoints(store: Store, cancel: CancellationToken) {
    let mut told = None;
    loop {
        let found = tokio::select! {
            () = cancel.cancelled() => return,
            found = store.endpoints_disagree() => found,
        };
        if let Some(text) = found.as_ref().filter(|_| found != told) {
            tracing::error!("{text}");
        }
        told = found;
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(COMPARE) => {}
        }
    }
}
