//! Starts the server and starts it again (`--exec`), or watches one that others start.
//!
//! Promises: never two servers: one that lives already, of before a restart of the agent, is taken over. Each start is preceded by a question
//! to etcd and by writing the role. A server outlives its agent, unless that is told to end. Never restarts a server that died before a failover
//! had the time to happen.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_cluster::store::Snapshot;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::core::Core;
use super::host::Wanted;
use super::process::Process;
use super::role::Start;
use super::starting::{adopt_role, ask, is_deposed};
use super::{rolefile, unfinished};
use crate::model::ServerRole;

/// Programs that a pid file may name.
pub const SERVERS: [&str; 2] = ["mariadbd", "mysqld"];
/// How often a server that others start is looked for, and etcd is asked again while a server waits for its role.
const LOOK: Duration = Duration::from_millis(100);
/// A server that ends sooner than this after its start is started again more and more slowly.
const SHORT_LIFE: Duration = Duration::from_secs(10);
/// The longest pause between two starts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Watches the server that the pid file names, until cancelled. Leaves it running.
pub async fn watch_server(core: Arc<Core>, cancel: CancellationToken) {
    while !cancel.is_cancelled() {
        let Some(process) = find(&core).await else {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = sleep(LOOK) => continue,
            }
        };
        let process = Arc::new(process);
        let identity = process.identity().clone();
        let begun = core.known.get().child.as_ref() != Some(&identity);
        core.host.runs(Arc::clone(&process), begun, false);
        let ended = async {
            if begun {
                note_role_of_new(&core).await;
                let noted = core.known.change(|k| {
                    k.child = Some(identity);
                    k.unfinished = true;
                });
                if let Err(error) = noted.await {
                    tracing::warn!(%error, "the server's process can't be noted");
                }
            }
            process.ended().await;
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = process.ended() => {}
            () = ended => {}
        }
        core.host.died("ended".to_owned());
        core.metrics.death();
    }
}

/// The server that the pid file names, else the one that listens at the socket.
async fn find(core: &Core) -> Option<Process> {
    let config = &core.config.mysql;
    match Process::of_pid_file(&config.pid_file, &SERVERS) {
        Ok(process) => Some(process),
        Err(_) => Process::of_socket(&config.socket).await.ok(),
    }
}

/// The role of a server that others have started: the same question that was answered to whoever started it.
async fn note_role_of_new(core: &Core) {
    loop {
        match ask(core).await {
            (Start::Wait(why), _) => tracing::warn!(why, "the server was started, though it should have waited"),
            (start, epoch) => return adopt_role(core, &start, epoch).await,
        }
        sleep(LOOK * 5).await;
    }
}

/// Starts and restarts `command` until cancelled, then ends it cleanly.
pub async fn supervise(core: Arc<Core>, command: Vec<String>, cancel: CancellationToken) {
    let mut pause = Duration::ZERO;
    while !cancel.is_cancelled() {
        let begun = Instant::now();
        let how = if let Some(process) = take_over(&core, &command) {
            let process = Arc::new(process);
            core.host.runs(Arc::clone(&process), false, false);
            attend(&core, &process, None, &cancel).await
        } else {
            if !stay_stopped(&core, &cancel).await {
                return;
            }
            let Some((start, quiet)) = role(&core, &cancel).await else { return };
            match launch(&core, &command, &start, quiet).await {
                Ok((process, child)) => {
                    core.host.runs(Arc::clone(&process), true, start == Start::Replica);
                    end_if_fenced(&core, &process, &start);
                    attend(&core, &process, Some(child), &cancel).await
                }
                Err(why) => format!("could not be started: {why}"),
            }
        };
        core.host.died(how);
        core.metrics.death();
        if cancel.is_cancelled() {
            return;
        }
        pause = if begun.elapsed() < SHORT_LIFE {
            (pause * 2).clamp(core.config.restart_after, LONGEST_PAUSE.max(core.config.restart_after))
        } else {
            core.config.restart_after
        };
        wait_for_change(&core, pause, &cancel).await;
    }
}

/// A server that lives already: of before a restart of the agent, or started by hand.
fn take_over(core: &Core, command: &[String]) -> Option<Process> {
    let known = core.known.get().child;
    if let Some(process) = known.and_then(|identity| Process::reopen(&identity).ok()) {
        return Some(process);
    }
    let mut names: Vec<&str> = SERVERS.to_vec();
    let program = command.first().and_then(|c| std::path::Path::new(c).file_name()).and_then(|n| n.to_str());
    names.extend(program);
    Process::of_pid_file(&core.config.mysql.pid_file, &names).ok()
}

/// Returns once the server may run; false if cancelled.
async fn stay_stopped(core: &Core, cancel: &CancellationToken) -> bool {
    let mut wanted = core.host.wanted();
    if *wanted.borrow_and_update() == Wanted::Stopped {
        core.host.waits("its data are being replaced".to_owned());
    }
    tokio::select! {
        () = cancel.cancelled() => false,
        running = wanted.wait_for(|w| *w != Wanted::Stopped) => running.is_ok(),
    }
}

/// Asks for the role until there is one; none if cancelled or to be stopped.
async fn role(core: &Core, cancel: &CancellationToken) -> Option<(Start, bool)> {
    let mut snapshots = core.snapshots.clone();
    loop {
        let (start, epoch) = tokio::select! {
            () = cancel.cancelled() => return None,
            answer = ask(core) => answer,
        };
        if let Start::Wait(why) = start {
            core.host.waits(why);
            tokio::select! {
                () = cancel.cancelled() => return None,
                _ = snapshots.changed() => {}
                () = sleep(LOOK * 5) => {}
            }
            continue;
        }
        let quiet = is_deposed(&start, core.duty.get().role);
        adopt_role(core, &start, epoch).await;
        return Some((start, quiet));
    }
}

async fn launch(core: &Core, command: &[String], start: &Start, quiet: bool) -> Result<(Arc<Process>, Child), String> {
    if let Some(path) = &core.config.role_file {
        rolefile::write(path, start, quiet)
            .map_err(|e| format!("the role file {} can't be written: {e}", path.display()))?;
    }
    let known = core.known.get();
    let _mended = tokio::task::spawn_blocking(move || unfinished::mend(&known)).await;
    core.contact.forget();
    let (program, arguments) = command.split_first().ok_or("there is no command")?;
    // Beside the file: options on the command line win over all files.
    let mut options = rolefile::arguments(start, quiet);
    if *core.host.wanted().borrow() == Wanted::RolledBack {
        // `using_heuristic_recover` in MariaDB's sql/log.cc: done before anybody can connect, and the server exits with status 1.
        options.push("--tc-heuristic-recover=ROLLBACK".to_owned());
    }
    let mut spawned = Command::new(program)
        .args(arguments)
        .args(&options)
        .stdin(Stdio::null())
        // Signals from a terminal are the agent's to pass on.
        .process_group(0)
        .spawn()
        .map_err(|e| format!("{program}: {e}"))?;
    tracing::info!(program, pid = spawned.id(), role = ?start, "the server is started");
    let opened = i32::try_from(spawned.id()).map_err(|e| e.to_string()).and_then(|pid| {
        Process::open(pid).map_err(|e| match spawned.try_wait() {
            Ok(Some(status)) => format!("it ended at once: {}", said(status)),
            _ => format!("its process can't be opened: {e}"),
        })
    });
    let process = match opened {
        Ok(process) => Arc::new(process),
        Err(why) => {
            // Its own child, not waited for yet: the id can't be another's.
            let _gone = spawned.kill();
            let _reaped = spawned.wait();
            return Err(why);
        }
    };
    let identity = process.identity().clone();
    let noted = core.known.change(|k| {
        k.child = Some(identity);
        k.unfinished = true;
    });
    if let Err(error) = noted.await {
        tracing::warn!(%error, "the server's process can't be noted: a restarted agent finds it by its pid file only");
    }
    Ok((process, spawned))
}

/// A fence that came while the server was being started found nothing to kill.
fn end_if_fenced(core: &Core, process: &Process, start: &Start) {
    if *start == Start::Primary && core.duty.get().role != ServerRole::Primary {
        if let Err(error) = process.kill() {
            tracing::error!(%error, "a server that was fenced while it was being started can't be killed");
        }
    }
}

/// Waits for the server's end, ending it if that is wanted. How it ended.
async fn attend(core: &Core, process: &Arc<Process>, child: Option<Child>, cancel: &CancellationToken) -> String {
    let mut wanted = core.host.wanted();
    tokio::select! {
        () = process.ended() => {}
        () = cancel.cancelled() => stop(core, process).await,
        _ = wanted.wait_for(|w| *w == Wanted::Stopped) => stop(core, process).await,
    }
    match child {
        // It has ended: this does not block.
        Some(mut child) => child.wait().map_or_else(|e| format!("ended, and can't be waited for: {e}"), said),
        None => "ended".to_owned(),
    }
}

/// Ends the server cleanly. The address goes first: nobody is to connect to a server that is going.
async fn stop(core: &Core, process: &Process) {
    core.address.drop_now().await;
    if let Err(error) = process.signal(Signal::TERM) {
        tracing::error!(%error, "the server can't be told to end");
    }
    // A clean end takes as long as it takes; whoever runs the agent has a limit of his own.
    process.ended().await;
}

/// Leaves the server dead for `pause`, or until the cluster's state changes.
async fn wait_for_change(core: &Core, pause: Duration, cancel: &CancellationToken) {
    let deadline = tokio::time::Instant::now() + pause;
    let mut snapshots = core.snapshots.clone();
    let before = state_revision(&snapshots);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep_until(deadline) => return,
            changed = snapshots.changed() => {
                if changed.is_err() || state_revision(&snapshots) != before {
                    return;
                }
            }
        }
    }
}

fn state_revision(snapshots: &watch::Receiver<Arc<Snapshot>>) -> Option<i64> {
    snapshots.borrow().state.as_ref().map(|s| s.mod_revision)
}

/// Passes the signals on that mean something to a server.
pub async fn pass_signals(core: Arc<Core>, cancel: CancellationToken) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())?;
    let mut user1 = signal(SignalKind::user_defined1())?;
    let mut user2 = signal(SignalKind::user_defined2())?;
    loop {
        let passed = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            _ = hangup.recv() => Signal::HUP,
            _ = user1.recv() => Signal::USR1,
            _ = user2.recv() => Signal::USR2,
        };
        if let Some(process) = core.host.alive() {
            if let Err(error) = process.signal(passed) {
                tracing::warn!(%error, signal = ?passed, "a signal could not be passed on to the server");
            }
        }
    }
}

fn said(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(0)) => "ended cleanly".to_owned(),
        (None, Some(code)) => format!("exited with status {code}"),
        (None, None) => "ended".to_owned(),
    }
}
