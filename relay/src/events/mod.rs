//! `baton-relay events`: prints the events of binlog files, one line of text or JSON each.
//!
//! Promises: whatever the bytes are, it neither panics nor takes memory without bound; what is readable is printed, and what is not
//! is told with file and offset. Never writes to a log.

mod describe;
mod file;
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

use clap::Args;

use file::EventFile;
use print::Printer;

/// Arguments of `baton-relay events`.
#[derive(Debug, Clone, Args)]
pub struct EventsArgs {
    /// Print one JSON object a line instead of text
    #[arg(long)]
    pub json: bool,
    /// Binlog files, or - for the standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

/// Prints all events of all files to the standard output. The exit code is 1 if anything could not be read: each such thing is told on
/// the standard error, with file and offset.
///
/// # Errors
/// The output can't be written (a reader that closed the pipe is no error).
pub fn run(args: EventsArgs) -> anyhow::Result<ExitCode> {
    let out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    match print_files(&args, out, &mut io::stderr()) {
        Ok(0) => Ok(ExitCode::SUCCESS),
        Ok(_) => Ok(ExitCode::FAILURE),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(anyhow::Error::new(error).context("the events can't be written to the standard output")),
    }
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
