//! `GET /v1/backup`: a copy of the server's data as `mariadb-backup` streams it, for a clone.

use std::fs::Permissions;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use tokio::sync::OwnedSemaphorePermit;

use super::routes::App;
use crate::agent::core::Core;
use crate::agent::stream;
use crate::http::ApiError;

pub(super) async fn serve(State(app): State<App>) -> Result<Response, ApiError> {
    let permit = Arc::clone(&app.backups).try_acquire_owned().map_err(|_| {
        ApiError::conflict(
            "a backup is being taken from this server already",
            "wait for it to end, or clone from another node",
        )
    })?;
    if app.core.host.alive().is_none() {
        return Err(ApiError::unavailable("the server does not run", "clone from another node"));
    }
    let failed =
        |e: io::Error| ApiError::unavailable(format!("mariadb-backup can't be started: {e}"), "install mariadb-backup");
    let core = Arc::clone(&app.core);
    let started = tokio::task::spawn_blocking(move || Backup::start(&core, permit)).await;
    let backup = started.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(failed)?;
    let headers = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((headers, stream::body(backup, Backup::end)).into_response())
}

/// A running backup; it ends when this is dropped.
struct Backup {
    child: Child,
    out: ChildStdout,
    /// Holds the password for as long as the tool runs.
    options: PathBuf,
    work: PathBuf,
    _permit: OwnedSemaphorePermit,
}

impl Backup {
    fn start(core: &Core, permit: OwnedSemaphorePermit) -> io::Result<Self> {
        let config = &core.config.mysql;
        let options = core.config.data_dir.join("backup.cnf");
        let work = core.config.data_dir.join("backup.tmp");
        let _leftover = std::fs::remove_dir_all(&work);
        std::fs::create_dir_all(&work)?;
        // Not on the command line, where everybody could read it.
        let _leftover = std::fs::remove_file(&options);
        let mut file = std::fs::File::create(&options)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        let escaped = config.password.expose_secret().replace('\\', "\\\\").replace('"', "\\\"");
        writeln!(file, "[client]\nuser=\"{}\"\npassword=\"{escaped}\"", config.user)?;
        let mut command = Command::new("mariadb-backup");
        command.arg(format!("--defaults-extra-file={}", options.display()));
        command.args(["--backup", "--stream=mbstream", "--slave-info"]);
        command.arg(format!("--socket={}", config.socket.display())).arg(format!("--target-dir={}", work.display()));
        if let Some(known) = core.known.get().server {
            command.arg(format!("--datadir={}", known.datadir.display()));
        }
        let log = std::fs::File::create(core.config.data_dir.join("backup.log"))?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let out = child.stdout.take().ok_or_else(|| io::Error::other("it has no output"))?;
        tracing::info!(pid = child.id(), "a backup of the server is streamed to another agent");
        Ok(Self { child, out, options, work, _permit: permit })
    }

    /// Whether the tool says that this was all.
    fn end(mut self) -> io::Result<()> {
        let status = self.child.wait()?;
        if status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!("mariadb-backup ended with {status}: see backup.log in data_dir")))
    }
}

impl Read for Backup {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.out.read(buffer)
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        let _options = std::fs::remove_file(&self.options);
        let _work = std::fs::remove_dir_all(&self.work);
    }
}
