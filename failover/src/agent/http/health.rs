//! Health checks as load balancers know them: 200 or 503. What they say is decided by a pure function.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::routes::App;
use crate::config::parse_duration;
use crate::http::ApiError;
use crate::model::{AgentStatus, MysqldState, ServerRole};

/// What a node can be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Fitness {
    /// It takes writes.
    pub(super) primary: bool,
    /// It replicates without errors.
    pub(super) replica: bool,
    /// The server answers.
    pub(super) answers: bool,
    /// How far a replica is behind.
    pub(super) lag_ms: Option<u64>,
}

impl Fitness {
    /// Of what the agent tells, and whether writes are blocked. Pure.
    pub(super) fn of(status: &AgentStatus, blocked: bool, lag_ms: Option<u64>) -> Self {
        let answers = status.mysqld == MysqldState::Running;
        // Also of a server that was given up: load balancers are not to notice.
        let server = status.server.as_ref().filter(|_| answers);
        let writable = server.is_some_and(|s| !s.read_only);
        let replicates = server.and_then(|s| s.replication.as_ref()).is_some_and(|r| r.sql && r.io != "No");
        Self {
            primary: writable && status.used_as() == ServerRole::Primary && !blocked && !status.self_fenced,
            replica: replicates && status.used_as() == ServerRole::Replica,
            answers,
            lag_ms: lag_ms.filter(|_| replicates),
        }
    }

    fn lags_at_most(self, limit: Option<Duration>) -> bool {
        match limit {
            None => true,
            Some(limit) => self.lag_ms.is_some_and(|lag| u128::from(lag) <= limit.as_millis()),
        }
    }

    /// Whether a check is passed.
    fn passes(self, path: &str, limit: Option<Duration>) -> bool {
        match path {
            "/" | "/primary" | "/read-write" => self.primary,
            "/replica" => self.replica && self.lags_at_most(limit),
            "/read-only" | "/readiness" => self.primary || (self.replica && self.lags_at_most(limit)),
            "/health" => self.answers,
            // The agent itself: it answers.
            _ => true,
        }
    }
}

#[derive(Serialize)]
struct Body {
    node: String,
    role: ServerRole,
    mysqld: MysqldState,
    lag_ms: Option<u64>,
}

pub(super) async fn answer(State(app): State<App>, request: Request) -> Response {
    let limit = match lag(request.uri().query().unwrap_or_default()) {
        Ok(limit) => limit,
        Err(error) => return ApiError::bad_request(error, "write lag=500ms, lag=2s").into_response(),
    };
    let status = app.core.status();
    let fitness = Fitness::of(&status, app.core.duty.get().blocked.is_some(), app.core.lag_ms());
    let code =
        if fitness.passes(request.uri().path(), limit) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = Body { role: status.used_as(), node: status.node, mysqld: status.mysqld, lag_ms: fitness.lag_ms };
    (code, Json(body)).into_response()
}

/// The parameter `lag`; others are left to whoever sends them.
fn lag(query: &str) -> Result<Option<Duration>, String> {
    let mut values = query.rsplit('&').filter_map(|pair| pair.strip_prefix("lag="));
    values.next().map(|text| parse_duration(text).map_err(|e| format!("lag={text}: {e}"))).transpose()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{ReplicationStatus, ServerStatus};

    pub(in super::super) fn status(
        role: ServerRole,
        mysqld: MysqldState,
        read_only: bool,
        io: Option<&str>,
    ) -> AgentStatus {
        let replication =
            io.map(|io| ReplicationStatus { io: io.to_owned(), sql: true, ..ReplicationStatus::default() });
        AgentStatus {
            cluster: "shop".to_owned(),
            node: "db-1".to_owned(),
            mysqld,
            mysqld_ms: 0,
            role,
            server: Some(ServerStatus { read_only, replication, ..ServerStatus::default() }),
            server_age_ms: Some(0),
            error: None,
            disk_ok: None,
            address: None,
            address_error: None,
            carrier: None,
            etcd_ok: None,
            self_fenced: false,
            given_up: None,
            last_order: [0, 0, 0],
            clone: None,
            surplus: None,
        }
    }

    #[test]
    fn each_check_passes_where_the_node_can_be_used_so() {
        use MysqldState::{Dead, Running, Silent};
        use ServerRole::{Diverged, Fenced, Primary, Replica};
        let half_second = Some(Duration::from_millis(500));
        let ms = |n| Some(n);
        // primary, replica, replica?lag=500ms, read-only, readiness?lag=500ms, health, liveness
        for (name, status, blocked, lag, expected) in [
            ("primary", status(Primary, Running, false, None), false, None, "1001111"),
            ("primary not open yet", status(Primary, Running, true, None), false, None, "0000011"),
            ("primary blocked", status(Primary, Running, false, None), true, None, "0000011"),
            ("primary that does not answer", status(Primary, Silent, false, None), false, None, "0000001"),
            ("fresh replica", status(Replica, Running, true, Some("Yes")), false, ms(20), "0111111"),
            ("late replica", status(Replica, Running, true, Some("Yes")), false, ms(501), "0101011"),
            (
                "replica whose lag is not known",
                status(Replica, Running, true, Some("Connecting")),
                false,
                None,
                "0101011",
            ),
            ("replica that has stopped", status(Replica, Running, true, Some("No")), false, ms(0), "0000011"),
            ("diverged", status(Diverged, Running, true, Some("Yes")), false, ms(0), "0000011"),
            ("fenced", status(Fenced, Dead, true, None), false, None, "0000001"),
        ] {
            let fitness = Fitness::of(&status, blocked, lag);
            let found: String = [
                ("/primary", None),
                ("/replica", None),
                ("/replica", half_second),
                ("/read-only", None),
                ("/readiness", half_second),
                ("/health", None),
                ("/liveness", None),
            ]
            .map(|(path, limit)| if fitness.passes(path, limit) { '1' } else { '0' })
            .iter()
            .collect();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn the_lag_is_read_from_the_query() {
        assert_eq!(lag(""), Ok(None));
        assert_eq!(lag("x=1&lag=500ms"), Ok(Some(Duration::from_millis(500))));
        lag("lag=500").unwrap_err();
        lag("lag=").unwrap_err();
    }
}
