//! One agent: its stream of events, which is also its sign of life.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::board::Board;
use crate::http::{Client, ClientError};
use crate::model::{AgentEvent, AgentFacts, ServerRole};

/// The longest pause between attempts to reach an agent.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Agents of replicas give a sign of life each second.
const BEAT: Duration = Duration::from_millis(2500);
/// The agent of the primary does so each 200 ms.
const PRIMARY_BEAT: Duration = Duration::from_millis(600);
/// How often the connection for orders is used, so that it is there when it is needed.
const WARM: Duration = Duration::from_secs(15);

/// Watches the agent of `node` at `at` until cancelled.
pub(super) async fn run(
    node: String,
    at: String,
    client: Client,
    limit: Duration,
    board: Arc<Board>,
    cancel: CancellationToken,
) {
    tokio::select! {
        () = cancel.cancelled() => {}
        () = watch(&node, &at, &client, limit, &board) => {}
        () = keep_warm(&at, &client, limit) => {}
    }
}

async fn watch(node: &str, at: &str, client: &Client, limit: Duration, board: &Board) {
    let mut backoff = Backoff::new(LONGEST_PAUSE);
    loop {
        let begun = Instant::now();
        let error = follow(node, at, client, limit, board).await.err();
        let lived = begun.elapsed() > LONGEST_PAUSE;
        match &error {
            // A stream that lived and broke is begun anew at once: what a fresh connect says counts.
            None => {}
            Some(ClientError::Broken { .. }) if lived => {}
            Some(ClientError::Refused { .. }) => board.saw_agent(node, AgentFacts::Refused),
            Some(error) => {
                if let ClientError::Status(refusal) = error {
                    let (error, hint) = (&refusal.error, &refusal.hint);
                    tracing::warn!(node, agent = at, error, hint, "the agent refuses to be watched");
                }
                board.saw_agent(node, AgentFacts::Silent);
            }
        }
        if lived {
            backoff.reset();
        } else {
            sleep(backoff.pause()).await;
        }
    }
}

/// One stream, to its end.
async fn follow(node: &str, at: &str, client: &Client, limit: Duration, board: &Board) -> Result<(), ClientError> {
    let mut lines = client.lines(at, "/v1/watch", limit).await?;
    let mut silence = limit.max(BEAT);
    while let Some(line) = lines.next(silence).await? {
        match serde_json::from_slice(&line) {
            Ok(AgentEvent::Status(status)) => {
                silence = limit.max(if status.role == ServerRole::Primary { PRIMARY_BEAT } else { BEAT });
                board.saw_agent(node, AgentFacts::Answers(status));
            }
            Ok(AgentEvent::MysqldDied { how }) => {
                tracing::warn!(node, how, "the agent says that the server has died");
                board.mysqld_died(node);
            }
            Ok(AgentEvent::Alive { server_age_ms }) => board.agent_lives(node, server_age_ms),
            // A newer agent may tell more; that it tells something is a sign of life.
            Err(error) => {
                tracing::debug!(node, %error, "a line of the agent is not understood");
                board.agent_lives(node, None);
            }
        }
    }
    Ok(())
}

/// Orders go over kept connections: this keeps one.
async fn keep_warm(at: &str, client: &Client, limit: Duration) {
    loop {
        let _: Result<serde_json::Value, _> = client.get(at, "/v1/status", limit).await;
        sleep(WARM).await;
    }
}
