//! `batonctl`, run on the client's host.

use std::fmt;
use std::process::{Command, Output};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Cluster;
use crate::binaries::binary;
use crate::template::program;

/// How a `batonctl` ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code: 0 done, 2 bad usage, 3 refused, 4 not reachable, 5 not finished in time; -1: killed by a signal.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code {}: {} {}", self.code, self.out.trim(), self.err.trim())
    }
}

impl Ended {
    /// Its standard output as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("no JSON: {self}"))
    }
}

impl Cluster {
    /// Runs `batonctl` with the cluster's controllers and token, to its end.
    pub fn ctl(&self, args: &[&str]) -> Result<Ended> {
        let output = self.ctl_command(args)?.output().context("can't start batonctl")?;
        Ok(ended(&output))
    }

    /// Starts `batonctl` and does not wait; the thread gives how it ended.
    pub fn ctl_in_background(&self, args: &[&str]) -> Result<std::thread::JoinHandle<Result<Ended>>> {
        let mut command = self.ctl_command(args)?;
        Ok(std::thread::spawn(move || Ok(ended(&command.output().context("can't start batonctl")?))))
    }

    fn ctl_command(&self, args: &[&str]) -> Result<Command> {
        let endpoints: Vec<_> = self.controllers().iter().map(|c| format!("http://{}", c.http())).collect();
        let mut command = Command::new(program("nsenter")?);
        command.arg(format!("--net={}", self.client().netns().display())).arg("--").arg(binary("batonctl")?);
        command.env("BATON_ENDPOINTS", endpoints.join(",")).env("BATON_TOKEN_FILE", self.token_file());
        command.env("LC_ALL", "C").args(args).stdin(std::process::Stdio::null());
        Ok(command)
    }
}

fn ended(output: &Output) -> Ended {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}
