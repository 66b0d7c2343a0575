//! Puts the parts together, and takes them apart at the end.

use std::sync::Arc;

use anyhow::Context as _;
use baton_cluster::store::Store;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::core::Core;
use super::http::{router, serve_agent_check};
use super::{announce, disk, guard, lag, poll, supervise, surplus, watchdog};
use crate::config::{Address, AgentConfig};
use crate::http::{Limits, serve};

/// Runs the agent until `cancel`; with a `command` it starts the server, and ends it at the end.
///
/// # Errors
/// What can't be had at the start: a port, a directory, a file that can't be read.
pub async fn run(config: AgentConfig, command: Option<Vec<String>>, cancel: CancellationToken) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("data_dir = {}: can't be made", config.data_dir.display()))?;
    let store = Store::new(&config.cluster, &config.etcd.store())?;
    // What watches the cluster goes on while the server is being ended.
    let late = CancellationToken::new();
    let snapshots = store.watch(late.clone());
    let http = listen("http", &config.http).await?;
    let check = match &config.agent_check {
        Some(address) => Some(listen("agent_check", address).await?),
        None => None,
    };
    let core = Arc::new(Core::new(config, store, snapshots, command.is_some())?);
    tracing::info!(
        cluster = core.config.cluster,
        node = core.config.node,
        http = %http.local_addr().map(|a| a.to_string()).unwrap_or_default(),
        supervises = command.is_some(),
        version = env!("CARGO_PKG_VERSION"),
        "the agent runs"
    );

    let mut parts = JoinSet::new();
    parts.spawn(guard::guard(Arc::clone(&core), late.clone()));
    parts.spawn(guard::ask_around(Arc::clone(&core), late.clone()));
    parts.spawn(poll::poll(Arc::clone(&core), late.clone()));
    parts.spawn(watchdog::run(Arc::clone(&core), cancel.clone()));
    parts.spawn(announce::announce(Arc::clone(&core), cancel.clone()));
    parts.spawn(announce::know_peers(Arc::clone(&core), cancel.clone()));
    parts.spawn(surplus::watch(Arc::clone(&core), cancel.clone()));
    parts.spawn(disk::check(Arc::clone(&core), cancel.clone()));
    parts.spawn(lag::ask(Arc::clone(&core), cancel.clone()));
    parts.spawn(serve(http, router(Arc::clone(&core), cancel.clone()), Limits::default(), cancel.clone()));
    if let Some(check) = check {
        parts.spawn(serve_agent_check(check, Arc::clone(&core), cancel.clone()));
    }
    match command {
        Some(command) => {
            let signals = supervise::pass_signals(Arc::clone(&core), cancel.clone());
            parts.spawn(async move {
                if let Err(error) = signals.await {
                    tracing::error!(%error, "signals can't be passed on to the server");
                }
            });
            supervise::supervise(Arc::clone(&core), command, cancel.clone()).await;
        }
        // The server stays, and so does the address for its lifetime: a restarted agent takes both over.
        None => supervise::watch_server(Arc::clone(&core), cancel.clone()).await,
    }
    late.cancel();
    while parts.join_next().await.is_some() {}
    Ok(())
}

async fn listen(key: &str, address: &Address) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind((address.host.as_str(), address.port)).await;
    listener.with_context(|| format!("{key} = {address}: can't be listened on"))
}
