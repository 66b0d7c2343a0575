//! A server without an agent: what its agent would tell, asked by SQL.

use std::sync::Arc;
use std::time::Duration;

use baton_cluster::store::Snapshot;
use baton_cluster::{OperationKind, Phase};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::sql::{Account, connect};
use crate::act::surplus;
use crate::agent::sql::Session;
use crate::agent::sql::status::{self, Answer};
use crate::model::{AgentFacts, AgentStatus, MysqldState, ServerRole};

/// How often is asked.
const LOOK: Duration = Duration::from_millis(250);

/// Which server, and how it is asked.
pub(super) struct Agentless {
    pub(super) cluster: String,
    pub(super) node: String,
    pub(super) paths: Vec<String>,
    pub(super) account: Account,
    pub(super) limit: Duration,
}

/// Asks until cancelled; at once when the cluster's state changes, since the server's role follows from that.
pub(super) async fn run(
    server: Agentless,
    board: Arc<Board>,
    mut etcd: watch::Receiver<Arc<Snapshot>>,
    cancel: CancellationToken,
) {
    let mut session: Option<Session> = None;
    loop {
        let begun = Instant::now();
        let answer = tokio::select! {
            () = cancel.cancelled() => return,
            answer = ask(&server, &mut session) => answer,
        };
        let facts = match answer {
            Some(answer) => {
                let etcd = Arc::clone(&etcd.borrow_and_update());
                AgentFacts::Answers(Box::new(as_an_agent(&server, answer, &etcd)))
            }
            None => AgentFacts::Silent,
        };
        board.saw_agent(&server.node, facts);
        tokio::select! {
            () = cancel.cancelled() => return,
            Ok(()) = etcd.changed() => {}
            () = sleep_until(begun + LOOK) => {}
        }
    }
}

/// Over the kept session, or over a new one if that one is broken: a new leader ends it.
async fn ask(server: &Agentless, session: &mut Option<Session>) -> Option<Answer> {
    if let Some(mut kept) = session.take() {
        if let Ok(answer) = status::ask(&mut kept).await {
            *session = Some(kept);
            return Some(answer);
        }
    }
    let mut new = login(server).await?;
    let answer = status::ask(&mut new).await.ok()?;
    *session = Some(new);
    Some(answer)
}

async fn login(server: &Agentless) -> Option<Session> {
    for path in &server.paths {
        if let Ok(Ok(conn)) = timeout(server.limit, connect(path, &server.account)).await {
            return Some(Session::over(conn, server.limit));
        }
    }
    None
}

fn as_an_agent(server: &Agentless, answer: Answer, etcd: &Snapshot) -> AgentStatus {
    let role = role(&server.node, &answer, etcd);
    let left = etcd.left.as_ref().filter(|_| etcd.state.is_none() && !answer.semi_sync_enabled);
    AgentStatus {
        cluster: server.cluster.clone(),
        node: server.node.clone(),
        mysqld: MysqldState::Running,
        mysqld_ms: 0,
        role,
        server: Some(answer.status),
        server_age_ms: Some(0),
        error: None,
        disk_ok: None,
        address: None,
        address_error: None,
        carrier: None,
        etcd_ok: None,
        self_fenced: false,
        given_up: left.map(|left| match left.value.state.primary.as_deref() == Some(server.node.as_str()) {
            true => ServerRole::Primary,
            false => ServerRole::Replica,
        }),
        last_order: [0, 0, 0],
        clone: None,
        surplus: None,
    }
}

/// What the state says that the server is, as far as the server agrees: nobody notes there what it was ordered. Pure.
fn role(node: &str, answer: &Answer, etcd: &Snapshot) -> ServerRole {
    let server = &answer.status;
    if server.replication.is_some() {
        return ServerRole::Replica;
    }
    let Some(state) = etcd.state.as_ref().map(|s| &s.value) else { return ServerRole::Unassigned };
    let is = |name: &Option<String>| name.as_deref() == Some(node);
    match state.phase {
        // Not so yet, or not any more: it is to be opened.
        Phase::Steady if is(&state.primary) && (server.read_only || !answer.semi_sync_enabled) => {
            ServerRole::Unassigned
        }
        Phase::Steady if is(&state.primary) => ServerRole::Primary,
        Phase::Steady => match surplus(&etcd.epochs, node, &server.gtid_binlog, server.server_id) {
            Some(_) => ServerRole::Diverged,
            None => ServerRole::Unassigned,
        },
        // A promotion or a switchover that was interrupted may have left it so.
        _ if is(&state.candidate) => ServerRole::Primary,
        _ if is(&state.old_primary) && state.kind == OperationKind::Switchover => ServerRole::Primary,
        _ => ServerRole::Unassigned,
    }
}
