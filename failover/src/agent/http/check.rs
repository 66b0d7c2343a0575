//! HAProxy's agent-check: one line to everybody who connects. What it says is decided by a pure function.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::health::Fitness;
use crate::agent::core::Core;
use crate::model::{AgentStatus, MysqldState, ServerRole};

/// Connections at a time.
const CONNECTIONS: usize = 64;
/// For a client to take the line.
const PATIENCE: Duration = Duration::from_secs(2);
/// A replica's weight goes down to a tenth at this lag.
const LAG: u64 = 10_000;

/// Answers until cancelled.
pub(crate) async fn serve(listener: TcpListener, core: Arc<Core>, cancel: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((mut stream, _)) = accepted else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
        let line = now(&core);
        tokio::spawn(async move {
            let _permit = permit;
            // A client that does not take it gets nothing.
            let _ = timeout(PATIENCE, async {
                stream.write_all(line.as_bytes()).await?;
                stream.shutdown().await
            })
            .await;
        });
    }
}

fn now(core: &Core) -> String {
    let (status, duty) = (core.status(), core.duty.get());
    let fitness = Fitness::of(&status, duty.blocked.is_some(), core.lag_ms());
    let most = core.observed.get().answer.map_or(0, |a| a.max_connections);
    format!("{}\n", line(&status, fitness, duty.blocked.is_some(), most))
}

/// `up 75%`, `drain`, `maint` or `down`. Pure.
fn line(status: &AgentStatus, fitness: Fitness, blocked: bool, max_connections: u32) -> String {
    if status.is_cloning() {
        return "maint".to_owned();
    }
    match status.mysqld {
        MysqldState::Dead | MysqldState::Silent => return "down".to_owned(),
        MysqldState::Waiting => return "maint".to_owned(),
        MysqldState::Running => {}
    }
    if fitness.primary || fitness.replica {
        let connections = status.server.as_ref().map_or(0, |s| s.connections);
        return format!("up {}%", weight(fitness, connections, max_connections));
    }
    match status.used_as() {
        ServerRole::Primary if blocked => "drain",
        // Its data grow old: those who are connected may stay.
        ServerRole::Replica => "drain",
        ServerRole::Primary => "down",
        ServerRole::Fenced | ServerRole::Unassigned | ServerRole::Diverged => "maint",
    }
    .to_owned()
}

/// 100 for a server that is up to date and idle, less with lag and with connections in use, never less than 1.
fn weight(fitness: Fitness, connections: u32, max_connections: u32) -> u64 {
    let lag = fitness.lag_ms.unwrap_or_default().min(LAG);
    let by_lag = 100 - lag * 90 / LAG;
    let used = if max_connections == 0 { 0 } else { u64::from(connections) * 100 / u64::from(max_connections) };
    // Full weight up to half of the connections.
    let by_load = if used <= 50 { 100 } else { 200_u64.saturating_sub(used * 2) };
    (by_lag * by_load / 100).clamp(1, 100)
}

#[cfg(test)]
mod tests {
    use super::super::health::tests::status;
    use super::*;

    #[test]
    fn the_line_says_what_a_balancer_should_do() {
        use MysqldState::{Dead, Running, Silent, Waiting};
        use ServerRole::{Diverged, Fenced, Primary, Replica};
        for (name, status, blocked, lag, connections, expected) in [
            ("primary", status(Primary, Running, false, None), false, None, 1, "up 100%"),
            ("busy primary", status(Primary, Running, false, None), false, None, 75, "up 50%"),
            ("full primary", status(Primary, Running, false, None), false, None, 100, "up 1%"),
            ("blocked primary", status(Primary, Running, true, None), true, None, 1, "drain"),
            ("primary not open", status(Primary, Running, true, None), false, None, 1, "down"),
            ("fresh replica", status(Replica, Running, true, Some("Yes")), false, Some(0), 1, "up 100%"),
            ("late replica", status(Replica, Running, true, Some("Yes")), false, Some(5000), 1, "up 55%"),
            ("very late replica", status(Replica, Running, true, Some("Yes")), false, Some(999_999), 1, "up 10%"),
            ("stopped replica", status(Replica, Running, true, Some("No")), false, None, 1, "drain"),
            ("diverged", status(Diverged, Running, true, None), false, None, 1, "maint"),
            ("waiting", status(Fenced, Waiting, true, None), false, None, 1, "maint"),
            ("dead", status(Primary, Dead, true, None), false, None, 1, "down"),
            ("silent", status(Replica, Silent, true, None), false, None, 1, "down"),
        ] {
            let mut status = status;
            if let Some(server) = &mut status.server {
                server.connections = connections;
            }
            let fitness = Fitness::of(&status, blocked, lag);
            assert_eq!(line(&status, fitness, blocked, 100), expected, "{name}");
        }
    }
}
