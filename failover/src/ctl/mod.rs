//! `batonctl`: asks the controllers, shows what they answer, and says what became of a request by its exit code.
//!
//! Knows the controllers' HTTP only: what it reads is their JSON, what it does not know of that it leaves alone. Exit codes: 0 done, 2 bad
//! usage, 3 refused (reason on stderr), 4 not reachable, 5 under way but not finished in `--timeout`.

mod args;
mod endpoints;
mod leave;
mod lists;
mod print;
mod requests;
mod settings;
mod status;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use serde_json::Value;

use args::{Arguments, Command};
use endpoints::Controllers;

/// Why `batonctl` does not end with 0.
#[derive(Debug)]
pub(crate) enum Failure {
    /// 2.
    Usage(String),
    /// 3.
    Refused(String),
    /// 4.
    Unreachable(String),
    /// 5.
    Unfinished(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Refused(_) => 3,
            Self::Unreachable(_) => 4,
            Self::Unfinished(_) => 5,
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Usage(t) | Self::Refused(t) | Self::Unreachable(t) | Self::Unfinished(t) => t,
        }
    }
}

/// Everything.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Command::Completion { shell } = arguments.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "batonctl", &mut script);
        print::out(&String::from_utf8_lossy(&script));
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("batonctl: can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("batonctl: {}", failure.text());
            ExitCode::from(failure.code())
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let controllers = Controllers::find(arguments)?;
    let style = print::Style::of_stdout();
    match &arguments.command {
        Command::Status { watch } => status::status(&controllers, arguments, *watch, style).await,
        Command::Topology { watch } => lists::topology(&controllers, arguments, *watch, style).await,
        Command::Lag { watch } => lists::lag(&controllers, arguments, *watch, style).await,
        Command::History { epoch } => lists::history(&controllers, arguments, *epoch, style).await,
        Command::Switchover { to, dry_run } => {
            requests::change(&controllers, arguments, "switchover", to.as_deref(), *dry_run, style).await
        }
        Command::Failover { to, dry_run } => {
            requests::change(&controllers, arguments, "failover", to.as_deref(), *dry_run, style).await
        }
        Command::Pause { reason } => requests::pause(&controllers, arguments, reason.as_deref(), style).await,
        Command::Resume => requests::resume(&controllers, arguments, style).await,
        Command::Rejoin { node, clone, donor } => {
            requests::rejoin(&controllers, arguments, node, *clone, donor.as_deref(), style).await
        }
        Command::Bootstrap { primary, force, if_needed, dry_run } => {
            let wish = requests::Bootstrap { primary, force: *force, if_needed: *if_needed, dry_run: *dry_run };
            requests::bootstrap(&controllers, arguments, &wish, style).await
        }
        Command::Leave { force, dry_run } => leave::leave(&controllers, arguments, *force, *dry_run, style).await,
        Command::ShowConfig => settings::show(&controllers, arguments, style).await,
        Command::EditConfig { set } => settings::edit(&controllers, arguments, set, style).await,
        Command::Completion { .. } => Ok(()),
    }
}

/// A field's text; empty where it is not there.
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A field's list; empty where it is not there.
pub(crate) fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Milliseconds as people read them.
pub(crate) fn duration(ms: u64) -> String {
    let time = Duration::from_millis(ms);
    match time.as_secs() {
        0 => format!("{ms} ms"),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        s @ 60..3600 => format!("{} min {} s", s / 60, s % 60),
        s @ 3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        s => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}
