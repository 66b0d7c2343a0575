//! `baton-relay events`: prints the events of binlog files, or of a living relay or server, one line of text or JSON each.
//!
//! Promises: whatever the bytes are, it neither panics nor takes memory without bound; what is readable is printed, and what is not
//! is told with file and offset. Never writes to a log.

mod describe;
mod file;
mod live;
mod position;
mod print;
mod rows;
mod table;
#[cfg(test)]
mod tests;
mod values;

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use baton_wire::event::EventKind;
use clap::Args;
use thiserror::Error;

use file::{EventFile, Format};
use live::{Live, Source};
use position::StreamPosition;
use print::Printer;

/// Arguments of `baton-relay events`.
#[derive(Debug, Clone, Args)]
pub struct EventsArgs {
    /// Print one JSON object a line instead of text
    #[arg(long)]
    pub json: bool,
    /// Read from this relay or server (host:port) instead of files, unencrypted
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "files", requires = "user")]
    pub relay: Option<String>,
    /// Account at the relay
    #[arg(long, requires = "relay")]
    pub user: Option<String>,
    /// File whose first line is the account's password
    #[arg(long, value_name = "FILE", requires = "relay")]
    pub password_file: Option<PathBuf>,
    /// Send the password to whoever holds the public key that comes over the connection (caching_sha2_password)
    #[arg(long, requires = "relay")]
    pub get_server_public_key: bool,
    /// Begin at FILE, FILE:POSITION or behind a GTID position [default: the oldest event]
    #[arg(long, value_name = "START", requires = "relay")]
    pub start: Option<String>,
    /// Wait for more at the end
    #[arg(long, requires = "relay")]
    pub follow: bool,
    /// Binlog files, or - for the standard input
    #[arg(value_name = "FILE", required_unless_present = "relay")]
    pub files: Vec<PathBuf>,
}

/// Prints all events to the standard output. The exit code is 1 if anything could not be read: each such thing is told on the standard
/// error, with file and offset.
///
/// # Errors
/// The output can't be written (a reader that closed the pipe is no error); the password file can't be read; the relay can't be reached,
/// refuses, or ends the stream with an error.
pub fn run(args: EventsArgs) -> anyhow::Result<ExitCode> {
    let out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let told = match &args.relay {
        Some(relay) => print_live(&args, relay, out, &mut io::stderr()),
        None => print_files(&args, out, &mut io::stderr()).map_err(|e| OutputError(e).into()),
    };
    match told {
        Ok(0) => Ok(ExitCode::SUCCESS),
        Ok(_) => Ok(ExitCode::FAILURE),
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    }
}

/// The output could not be written.
#[derive(Debug, Error)]
#[error("the events can't be written to the standard output: {0}")]
struct OutputError(#[from] io::Error);

/// Whether the output's reader has gone, as `head` does.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<OutputError>().is_some_and(|OutputError(e)| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Prints a stream to its end; returns the number of errors told.
fn print_live(args: &EventsArgs, relay: &str, out: impl Write, errors: &mut dyn Write) -> anyhow::Result<u64> {
    let password = match &args.password_file {
        Some(path) => {
            let text = std::fs::read(path).with_context(|| format!("the password file {}", path.display()))?;
            text.split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default().to_vec()
        }
        None => Vec::new(),
    };
    let mut live = Live::open(&Source {
        address: relay,
        user: args.user.as_deref().unwrap_or_default(),
        password: &password,
        take_public_key: args.get_server_public_key,
        start: args.start.as_deref(),
        follow: args.follow,
    })?;
    let mut printer = Printer::new(out, args.json);
    let (mut format, mut position, mut told) = (Format::of(live.flavor()), StreamPosition::default(), 0);
    loop {
        if live.is_drained() {
            printer.flush().map_err(OutputError)?;
        }
        let next = match live.next() {
            Ok(next) => next,
            Err(error) => {
                printer.flush().map_err(OutputError)?;
                return Err(error.context(format!("reading from {relay}")));
            }
        };
        let Some((header, bytes)) = next else { break };
        let mut event = format.take(0, header, bytes).map_err(anyhow::Error::new)?;
        if position.take(&mut event) {
            printer.begin(&position.file).map_err(OutputError)?;
        }
        if matches!(header.kind, EventKind::HEARTBEAT | EventKind::HEARTBEAT_V2) {
            continue;
        }
        if let Some(error) = printer.event(&position.file, &event).map_err(OutputError)? {
            told += 1;
            let at = event.offset;
            let _ = writeln!(errors, "{}: at offset {at}: {} event: {error}", position.file, header.kind);
        }
    }
    printer.flush().map_err(OutputError)?;
    Ok(told)
}

/// Prints all files; returns the number of errors told.
fn print_files(args: &EventsArgs, out: impl Write, errors: &mut dyn Write) -> io::Result<u64> {
    let mut printer = Printer::new(out, args.json);
    let mut told = 0;
    for path in &args.files {
        let name = display_name(path);
        let mut tell = |text: String| {
            told += 1;
            // Where the standard error is closed, the exit code still tells.
            let _ = writeln!(errors, "{}: {text}", path.display());
        };
        let input: Box<dyn Read> = match path.to_str() {
            Some("-") => Box::new(io::stdin().lock()),
            _ => match File::open(path) {
                Ok(file) => Box::new(BufReader::with_capacity(1 << 16, file)),
                Err(error) => {
                    tell(error.to_string());
                    continue;
                }
            },
        };
        printer.begin(&name)?;
        print_one(&mut printer, &name, input, &mut tell)?;
        printer.flush()?;
    }
    Ok(told)
}

fn print_one(
    printer: &mut Printer<impl Write>,
    name: &str,
    input: impl Read,
    tell: &mut dyn FnMut(String),
) -> io::Result<()> {
    let events = match EventFile::open(input) {
        Ok(events) => events,
        Err(error) => {
            tell(error.to_string());
            return Ok(());
        }
    };
    for event in events {
        match event {
            Ok(event) => {
                if let Some(error) = printer.event(name, &event)? {
                    tell(format!("at offset {}: {} event: {error}", event.offset, event.header.kind));
                }
            }
            Err(error) => tell(error.to_string()),
        }
    }
    Ok(())
}

/// A file as the output names it: its last component.
fn display_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
