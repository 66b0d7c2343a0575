//! The process shell of `baton-failover`: arguments, logging, signals, exit codes. Everything else is in the library.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use baton_failover::agent;
use baton_failover::config::{ConfigError, ControllerConfig};
use baton_failover::{controller, setup};
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Exit code for a configuration that can't be used (`EX_CONFIG` of sysexits.h).
const EX_CONFIG: u8 = 78;

/// Keeps one database server writable: promotes the freshest replica when the primary stops answering.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, env = "BATON_LOG_FORMAT", global = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Stand beside a database server: watch it, hold the virtual IP, obey orders, fence.
    Agent(agent::AgentArguments),
    /// Watch over a cluster: decide, and order failovers and switchovers.
    Controller(ControllerArguments),
    #[command(flatten)]
    Setup(setup::Command),
}

#[derive(clap::Args)]
struct ControllerArguments {
    /// Configuration file (TOML); scalar keys can also be given as BATON_CONTROLLER_<SECTION>_<KEY>.
    #[arg(long, value_name = "FILE", env = "BATON_CONTROLLER_CONFIG")]
    config: Option<PathBuf>,
    /// Check the configuration and exit: 0 if it can be used, 78 if not.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Agent(args) => agent::main(args, || start_logging(arguments.log_format)),
        Command::Controller(a) => run_controller(&a, arguments.log_format),
        Command::Setup(command) => setup::run(command),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("baton-failover: {error:#}");
            if error.is::<ConfigError>() { ExitCode::from(EX_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

fn run_controller(arguments: &ControllerArguments, format: LogFormat) -> anyhow::Result<ExitCode> {
    let config = ControllerConfig::load(arguments.config.as_deref(), &|name| std::env::var(name).ok())?;
    if arguments.check {
        if let Err(error) = controller::check(&config) {
            eprintln!("baton-failover: {error:#}");
            return Ok(ExitCode::from(EX_CONFIG));
        }
        println!("the configuration can be used");
        return Ok(ExitCode::SUCCESS);
    }
    start_logging(format);
    until_told_to_stop(|cancel| controller::run(config, cancel))
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_env("BATON_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Where nobody reads the log any more, telling that there would panic.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    match format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Runs a part until SIGTERM or SIGINT.
fn until_told_to_stop<F>(part: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<ExitCode>
where
    F: std::future::Future<Output = anyhow::Result<()>>,
{
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
        part(cancel).await?;
        Ok(ExitCode::SUCCESS)
    })
}
