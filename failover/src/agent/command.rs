//! `baton-failover agent`: its arguments, and what becomes of the process.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{may_start, run};
use crate::config::{AgentConfig, ConfigError, Problem};

/// Arguments of `baton-failover agent`.
#[derive(Debug, Args)]
pub struct AgentArguments {
    /// Configuration file (TOML); scalar keys can also be given as BATON_AGENT_<SECTION>_<KEY>.
    #[arg(long, value_name = "FILE", env = "BATON_AGENT_CONFIG")]
    config: Option<PathBuf>,
    /// Check the configuration and exit: 0 if it can be used, 78 if not.
    #[arg(long)]
    check: bool,
    /// Ask etcd whether the server may start now, write the role file, and exit: 0 (start), 10 (start in the replica role: the options to add are
    /// printed), 11 (do not start now).
    #[arg(long, conflicts_with_all = ["exec", "check"])]
    may_start: bool,
    /// Start the server with this command line, and start it again when it ends; has to be the last option.
    #[arg(long, num_args = 1.., allow_hyphen_values = true, value_name = "COMMAND")]
    exec: Option<Vec<String>>,
}

/// Does what the arguments say; `log` sets logging up.
///
/// # Errors
/// [`ConfigError`], or what can't be had at the start.
pub fn main(arguments: AgentArguments, log: impl FnOnce()) -> anyhow::Result<ExitCode> {
    let config = AgentConfig::load(arguments.config.as_deref(), &|name| std::env::var(name).ok())?;
    if arguments.exec.is_some() || arguments.may_start {
        needs_role_file(&config, arguments.may_start)?;
    }
    if arguments.check {
        println!("the configuration can be used");
        return Ok(ExitCode::SUCCESS);
    }
    log();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("can't start the runtime")?;
    let code = runtime.block_on(async {
        if arguments.may_start {
            return may_start(&config).await;
        }
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
        run(config, arguments.exec, cancel).await?;
        Ok(ExitCode::SUCCESS)
    });
    // A blocking call that hangs, on a dead disk say, holds nothing up.
    runtime.shutdown_background();
    code
}

/// With `--exec` the options are added to the command line too; who starts the server otherwise learns its role from the file.
fn needs_role_file(config: &AgentConfig, may_start: bool) -> Result<(), ConfigError> {
    if config.role_file.is_some() || !may_start {
        return Ok(());
    }
    Err(ConfigError {
        problems: vec![Problem {
            key: "role_file.path".to_owned(),
            value: None,
            message: "is required with --may-start: name a file that the server's option file includes".to_owned(),
            variable: None,
        }],
    })
}
