//! The process shell of `baton-failover`: arguments, logging, signals, exit codes. Everything else is in the library.

use std::process::ExitCode;

use baton_failover::agent;
use baton_failover::config::ConfigError;
use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

/// Exit code for a configuration that can't be used (`EX_CONFIG` of sysexits.h).
const EX_CONFIG: u8 = 78;

/// Keeps one primary writable: the controller decides, the agents beside the servers obey.
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
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Agent(args) => agent::main(args, || log(arguments.log_format)),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("baton-failover: {error:#}");
            if error.is::<ConfigError>() { ExitCode::from(EX_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("BATON_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Where nobody reads the log any more, telling that there would panic.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    match format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}
