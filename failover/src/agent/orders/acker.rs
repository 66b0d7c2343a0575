//! `revoke_acker` and `allow_acker`: a relay that does not answer is kept from acknowledging on the primary itself.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Refusal, must_live, note};
use crate::agent::core::Core;
use crate::agent::sql::status::sorted;
use crate::agent::sql::{Session, SqlError, literal};
use crate::model::{OrderNumber, OrderResult};

/// For a killed dump thread to end.
const END: Duration = Duration::from_secs(5);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(2);

/// Locks the account, ends its dump threads, and gives the end of what was written: everything up to there may have been acknowledged.
pub(super) async fn revoke(
    core: &Core,
    number: OrderNumber,
    user: &str,
    server_id: u32,
) -> Result<OrderResult, Refusal> {
    must_live(core)?;
    note(core, number, |_| ()).await?;
    lock_out(&mut core.db.connect().await?, user, server_id).await
}

/// As [`revoke`], over a session with the server.
pub(crate) async fn lock_out(session: &mut Session, user: &str, server_id: u32) -> Result<OrderResult, Refusal> {
    let accounts = accounts(session, user).await?;
    if accounts.is_empty() {
        return Err(Refusal::cannot(
            format!("there is no account {user:?} on this server"),
            "each relay needs an account of its own on the servers: correct the relay's upstream.user",
        ));
    }
    for host in &accounts {
        session.run(&format!("ALTER USER {}@{} ACCOUNT LOCK", literal(user), literal(host))).await?;
    }
    let deadline = Instant::now() + END;
    // A login that was under way may have come in behind the lock: until there is none.
    loop {
        let dumps = dumps(session, user).await?;
        if dumps.is_empty() {
            break;
        }
        if Instant::now() >= deadline {
            let error = format!("dump thread {dumps:?} of {user:?} (server_id {server_id}) does not end");
            return Err(Refusal::silent(error, "order it again"));
        }
        for id in dumps {
            match session.run(&format!("KILL CONNECTION {id}")).await {
                Err(e) if e.number() == Some(1094) => {}
                done => done?,
            }
        }
        sleep(LOOK).await;
    }
    // SHOW MASTER STATUS would block while commits wait.
    let gtid: String = session.value("SELECT @@GLOBAL.gtid_binlog_pos").await?;
    Ok(OrderResult { gtid: Some(sorted(&gtid)), ..OrderResult::default() })
}

/// Unlocks the account; one that is not there or not locked is fine.
pub(super) async fn allow(core: &Core, number: OrderNumber, user: &str) -> Result<OrderResult, Refusal> {
    must_live(core)?;
    note(core, number, |_| ()).await?;
    let_in(&mut core.db.connect().await?, user).await
}

/// As [`allow`], over a session with the server.
pub(crate) async fn let_in(session: &mut Session, user: &str) -> Result<OrderResult, Refusal> {
    for host in accounts(session, user).await? {
        if is_locked(session, user, &host).await? {
            session.run(&format!("ALTER USER {}@{} ACCOUNT UNLOCK", literal(user), literal(&host))).await?;
        }
    }
    Ok(OrderResult::default())
}

async fn accounts(session: &mut Session, user: &str) -> Result<Vec<String>, SqlError> {
    let hosts: Vec<(String,)> =
        session.rows(&format!("SELECT Host FROM mysql.global_priv WHERE User={}", literal(user))).await?;
    Ok(hosts.into_iter().map(|(host,)| host).collect())
}

async fn is_locked(session: &mut Session, user: &str, host: &str) -> Result<bool, SqlError> {
    let statement = format!(
        "SELECT COALESCE(JSON_VALUE(Priv, '$.account_locked'), '0') FROM mysql.global_priv WHERE User={} AND Host={}",
        literal(user),
        literal(host)
    );
    let locked: Option<(String,)> = session.first(&statement).await?;
    Ok(locked.is_some_and(|(locked,)| locked != "0" && locked != "false"))
}

async fn dumps(session: &mut Session, user: &str) -> Result<Vec<u64>, SqlError> {
    let statement = format!(
        "SELECT ID FROM information_schema.PROCESSLIST WHERE USER={} AND COMMAND LIKE 'Binlog Dump%'",
        literal(user)
    );
    let ids: Vec<(u64,)> = session.rows(&statement).await?;
    Ok(ids.into_iter().map(|(id,)| id).collect())
}
