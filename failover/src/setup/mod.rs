//! What images, charts and compose files need done beside running: a health check where there is no shell, bringing the program into another
//! image's container, a first data directory, the first passwords.
//!
//! Each is a subcommand of `baton-failover` that can be run again without harm. Never starts a long-running part.

mod accounts;
pub mod database;
pub mod health;
pub mod install;

use std::path::PathBuf;
use std::process::ExitCode;

/// The subcommands.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Ask a URL and end with 0 if the answer is a success, with 1 if not: the health check of images without a shell.
    Health(health::HealthArgs),
    /// Copy this program into a directory, for a container of another image.
    Install {
        /// Where to; it has to exist.
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
    /// Make a server's first data directory with its accounts, if there is none. Nothing of it is in a binlog.
    InitDatabase {
        /// What to make (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Make a Kubernetes Secret with random passwords, or add keys that it lacks. Keys that it has stay as they are.
    #[cfg(feature = "kubernetes")]
    MakeSecret(crate::kubernetes::secret::SecretArgs),
}

/// Runs one.
///
/// # Errors
/// What could not be done, and why.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Health(args) => health::run(&args),
        Command::Install { directory } => {
            let to = install::install(&directory)?;
            println!("installed {}", to.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::InitDatabase { config } => {
            let made = database::init(&config)?;
            println!("{}", if made { "made the data directory" } else { "there is a data directory already" });
            Ok(ExitCode::SUCCESS)
        }
        #[cfg(feature = "kubernetes")]
        Command::MakeSecret(args) => crate::kubernetes::secret::run(&args),
    }
}
