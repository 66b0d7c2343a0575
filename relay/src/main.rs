//! The process shell of `baton-relay`: arguments, logging, signals, exit codes. Everything else is in the library.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use baton_relay::config::{Config, ConfigError};
use baton_relay::log::{DiskStorage, Grant, PromiseFile, Promised};
use baton_relay::{events, relay, reset};
use clap::{Parser, Subcommand, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Files that are open beside the clients' connections, at most: the log's, ports, the upstream, lag sessions, HTTP.
const OTHER_FILES: u64 = 512;

/// Exit code for a configuration that can't be used (`EX_CONFIG` of sysexits.h).
const EX_CONFIG: u8 = 78;

/// Tails a MariaDB primary's binlog, keeps it durably, fans it out to replicas, and tells how far each one lags.
#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    run: RunArguments,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Args)]
struct RunArguments {
    /// Configuration file (TOML); scalar keys can also be given as BATON_RELAY_<SECTION>_<KEY>.
    #[arg(long, value_name = "FILE", env = "BATON_RELAY_CONFIG")]
    config: Option<PathBuf>,
    /// Check the configuration and exit: 0 if it can be used, 78 if not.
    #[arg(long)]
    check: bool,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, env = "BATON_LOG_FORMAT")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Print binlog files, event by event.
    Events(events::EventsArgs),
    /// Move the relay's log aside, so that it begins a new one at `upstream.start`. The relay must not be running.
    ///
    /// This is what resolves the states `diverged` and `stopped` when the primary is right and the log is not: replicas that have
    /// more than the new log will be told so. Nothing is deleted: the old files stay under data_dir/old-<time>.
    ResetLog {
        /// Configuration file (TOML).
        #[arg(long, value_name = "FILE", env = "BATON_RELAY_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Take back the right to acknowledge, on a relay that stands alone and has promised it away. The relay must not be running.
    ///
    /// Only when it is certain that the primary in its configuration is the one and only that may commit: whoever asked for the promise
    /// may have made another server the primary since.
    TakeGrant {
        /// Configuration file (TOML).
        #[arg(long, value_name = "FILE", env = "BATON_RELAY_CONFIG")]
        config: Option<PathBuf>,
    },
}

fn take_grant(config: &Config) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        config.etcd.is_none(),
        "this relay is one of a cluster ([etcd] is configured): the leading controller gives it the right to acknowledge; see `batonctl status`"
    );
    let storage = DiskStorage::open(&config.data_dir)?;
    let mut promise = PromiseFile::open(&storage)?;
    let before = promise.current();
    if before.held {
        println!("this relay holds grant {} already", before.grant);
        return Ok(ExitCode::SUCCESS);
    }
    let grant = Grant { n: before.grant.n + 1, ..before.grant };
    promise.record(Promised { grant, held: true })?;
    println!(
        "this relay had promised {}; it holds grant {grant} now and follows its primary again at its next start",
        before.grant
    );
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Some(Command::Events(args)) => events::run(args),
        Some(Command::ResetLog { config }) => load(config).and_then(|config| {
            let old = reset::reset_log(&config.data_dir)?;
            println!("the log now lies in {}; the relay begins a new one at its next start", old.display());
            Ok(ExitCode::SUCCESS)
        }),
        Some(Command::TakeGrant { config }) => load(config).and_then(|config| take_grant(&config)),
        None => run(arguments.run),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("baton-relay: {error:#}");
            if error.is::<ConfigError>() { ExitCode::from(EX_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

fn load(path: Option<PathBuf>) -> anyhow::Result<Config> {
    Ok(Config::load(path.as_deref(), &|name| std::env::var(name).ok())?)
}

fn run(arguments: RunArguments) -> anyhow::Result<ExitCode> {
    let config = load(arguments.config)?;
    if arguments.check {
        relay::check(&config)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("can't start the runtime")?;
        for warning in runtime.block_on(relay::check_primary(&config)) {
            println!("warning: {warning}");
        }
        println!("the configuration can be used");
        return Ok(ExitCode::SUCCESS);
    }
    let filter = EnvFilter::try_from_env("BATON_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Where nobody reads the log any more, telling that there would panic.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    match arguments.log_format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
    raise_file_limit(u64::from(config.listen.max_connections));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("can't start the runtime")?;
    runtime.block_on(async {
        let cancel = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for SIGINT")?;
        let stop = cancel.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
            stop.cancel();
        });
        relay::run(config, cancel).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// The usual soft limit of 1024 open files is for programs that use `select`; a relay takes what it may have.
fn raise_file_limit(clients: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
            tracing::warn!(%error, "the limit of open files can't be raised");
        }
    }
    // No limit is told as none.
    if let Some(files) = getrlimit(Resource::Nofile).current.filter(|files| *files < clients + OTHER_FILES) {
        tracing::warn!(
            files,
            clients,
            "listen.max_connections needs more open files than the process may have: raise the hard limit (LimitNOFILE)"
        );
    }
}
