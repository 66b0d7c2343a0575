//! Where the programs under test are: `BATON_RELAY_BIN` and the like, else beside the running program or in its parent directory, where cargo puts them.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};

/// A program of this repository, such as `baton-failover`.
pub fn binary(name: &str) -> Result<PathBuf> {
    let variable = format!("{}_BIN", name.to_uppercase().replace('-', "_"));
    if let Some(path) = std::env::var_os(&variable) {
        return Ok(path.into());
    }
    let exe = std::env::current_exe().context("can't find the running program")?;
    let beside = exe.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    beside.ok_or_else(|| anyhow!("no {name} beside {}: run cargo build --bin {name}, or set {variable}", exe.display()))
}
