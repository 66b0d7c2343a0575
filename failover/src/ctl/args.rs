//! What can be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Shows and steers a Baton cluster.
#[derive(Debug, Parser)]
#[command(
    name = "batonctl",
    version,
    about,
    after_help = "The controllers are found by --endpoints, BATON_ENDPOINTS, or `endpoints = [\"host:port\"]` in ~/.config/baton/ctl.toml;\n\
                  the token by --token-file, BATON_TOKEN_FILE, or `token_file` there.\n\n\
                  Exit codes: 0 done, 2 bad usage, 3 refused, 4 not reachable, 5 under way but not finished in --timeout."
)]
pub(crate) struct Arguments {
    /// Controllers, `host:port`, separated by commas; the first that answers is asked.
    #[arg(long, value_name = "LIST", env = "BATON_ENDPOINTS", value_delimiter = ',', global = true)]
    pub(crate) endpoints: Vec<String>,
    /// File with the bearer token.
    #[arg(long, value_name = "FILE", env = "BATON_TOKEN_FILE", global = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// How answers look.
    #[arg(short, long, value_enum, default_value_t = Output::Table, global = true)]
    pub(crate) output: Output,
    /// How long to wait for a request's end: seconds, or a time with its unit such as 2m.
    #[arg(long, value_name = "TIME", default_value = "60", value_parser = seconds, global = true)]
    pub(crate) timeout: u64,
    /// Do not ask before something is changed.
    #[arg(short = 'y', long, global = true)]
    pub(crate) yes: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs: the controllers' own JSON.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Who serves, what is under way, what is wrong.
    Status {
        /// Show it anew at each change.
        #[arg(short, long)]
        watch: bool,
    },
    /// Who replicates from whom, as a tree.
    Topology {
        /// Show it anew at each change.
        #[arg(short, long)]
        watch: bool,
    },
    /// How far each replica lags, and why.
    Lag {
        /// Show it anew at each change.
        #[arg(short, long)]
        watch: bool,
    },
    /// Make another node the primary, without losing anything and with writes stalled for a moment.
    Switchover {
        /// The node; default: the best.
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Give the primary up without its cooperation and promote another node.
    Failover {
        /// The node; default: the best.
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Let automatic failover rest.
    Pause {
        /// Why: shown to everybody.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let automatic failover work again.
    Resume,
    /// What was done, by whom or why, and how long writes stood still.
    History {
        /// All about the operation that began this epoch.
        epoch: Option<u64>,
    },
    /// Bring a node back into the cluster.
    Rejoin {
        /// The node.
        node: String,
        /// Replace its data by a copy of another node's.
        #[arg(long)]
        clone: bool,
        /// Whose; default: the best replica, else the primary.
        #[arg(long, value_name = "NODE", requires = "clone")]
        donor: Option<String>,
    },
    /// Settings in force, and which of them were changed for all controllers.
    ShowConfig,
    /// Change settings for all controllers, in $EDITOR or by --set.
    EditConfig {
        /// `key=value`; an empty value takes the change back.
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Name the first primary.
    Bootstrap {
        /// The node.
        #[arg(long, value_name = "NODE")]
        primary: String,
        /// Go on although other nodes can't be asked what they have.
        #[arg(long)]
        force: bool,
        /// Succeed if there is a primary already; wait until controllers and node are there.
        #[arg(long)]
        if_needed: bool,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Give the cluster up and let everything run on as it is: semi-sync off, nothing fails over. `bootstrap` takes it up again.
    Leave {
        /// Go on although agents of replicas do not answer: they let go of their servers when they are back.
        #[arg(long)]
        force: bool,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Completion for a shell, to be sourced.
    Completion {
        /// Which.
        shell: Shell,
    },
}

/// Seconds of `20`, `20s` or `2m`.
fn seconds(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(seconds) => Ok(seconds),
        Err(_) => crate::config::parse_duration(text).map(|time| time.as_secs()),
    }
}
