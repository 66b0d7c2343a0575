//! `follow`: the server becomes, or stays, a replica of a relay.

use std::time::Duration;

use mysql_async::Row;
use secrecy::{ExposeSecret, SecretString};

use super::{Refusal, events, must_live, note};
use crate::agent::core::Core;
use crate::agent::kept::Following;
use crate::agent::position::beyond;
use crate::agent::sql::status::{columns, sorted};
use crate::agent::sql::{Session, literal};
use crate::agent::surplus;
use crate::config::{Address, ReplicationTls};
use crate::model::{OrderNumber, OrderResult, ServerRole};

/// For statements that sync files.
const DISK: Duration = Duration::from_secs(10);

/// See the module.
pub(super) async fn follow(
    core: &Core,
    number: OrderNumber,
    source: String,
    relay: String,
) -> Result<OrderResult, Refusal> {
    must_live(core)?;
    let address: Address = source.parse().map_err(|e: String| {
        Refusal::cannot(format!("source {source:?}: {e}"), "order it again with the relay's address")
    })?;
    let account = account(core)?;
    let before = core.duty.get();
    note(core, number, |duty| {
        duty.opened = None;
        duty.prepared = None;
    })
    .await?;
    core.address.drop_now().await;
    let mut session = core.db.connect().await?;
    give_up_writing(core, &mut session).await?;
    let own = sorted(&session.value::<String>("SELECT @@GLOBAL.gtid_binlog_pos").await?);
    if let Some(common) = begin_of_next_epoch(core, before.role, before.role_epoch) {
        if let Some(surplus) = beyond(&own, &common) {
            return Err(diverged(core, &own, &common, &surplus).await);
        }
    }
    replicate(&mut session, &address, &account, &own).await?;
    let following = Following { source: source.clone(), relay: relay.clone() };
    note(core, number, move |duty| {
        duty.role = ServerRole::Replica;
        duty.role_epoch = duty.role_epoch.max(number.epoch);
        duty.following = Some(following);
        duty.blocked = None;
        duty.self_fenced = false;
        duty.surplus = None;
    })
    .await?;
    core.note_opened(None);
    tracing::info!(source, relay, "the server follows");
    Ok(OrderResult::default())
}

/// The GTID position up to which the cluster's log has what this server wrote as the primary: where the next epoch begins.
fn begin_of_next_epoch(core: &Core, role: ServerRole, role_epoch: u64) -> Option<String> {
    if !matches!(role, ServerRole::Primary | ServerRole::Fenced | ServerRole::Diverged) {
        return None;
    }
    let snapshot = core.snapshot();
    snapshot.epochs.values().find(|e| e.epoch > role_epoch && e.node != core.config.node).map(|e| e.gtid.clone())
}

async fn diverged(core: &Core, own: &str, common: &str, surplus: &str) -> Refusal {
    surplus::found(core, common).await;
    Refusal::cannot(
        format!(
            "this server has {surplus}, which the cluster's log lacks: it ends at {own}, and the log went on from {common}"
        ),
        "see the agent's status for the file that holds it; then batonctl rejoin NODE --clone",
    )
}

/// Read-only, semi-sync off, events off. In that order: semi-sync switched off lets waiting commits pass.
async fn give_up_writing(core: &Core, session: &mut Session) -> Result<(), Refusal> {
    refuse_while_commits_wait(session).await?;
    session.run("SET GLOBAL read_only=1").await?;
    session.run("SET GLOBAL rpl_semi_sync_master_enabled=OFF").await?;
    let count = events::disable(session).await?;
    if count > 0 {
        tracing::info!(count, "events are disabled: this server is a replica");
    }
    if core.known.get().scheduler == Some(true) {
        events::scheduler(session, true).await?;
    }
    Ok(())
}

/// An error while commits wait for an acknowledgement: as a replica's they would complete without one.
pub(crate) async fn refuse_while_commits_wait(session: &mut Session) -> Result<(), Refusal> {
    let waiting: Option<(String, String)> =
        session.first("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_wait_sessions'").await?;
    if let Some((_, count)) = waiting.filter(|(_, n)| n != "0") {
        return Err(Refusal::cannot(
            format!(
                "{count} commits wait for an acknowledgement here: switched to a replica now, they would complete without one"
            ),
            "order fence first; without an agent, restart the server",
        ));
    }
    Ok(())
}

/// Account on relays, and how it is protected.
pub(crate) struct Account {
    pub(crate) user: String,
    pub(crate) password: SecretString,
    pub(crate) tls: ReplicationTls,
    pub(crate) ca_file: Option<String>,
}

fn account(core: &Core) -> Result<Account, Refusal> {
    let config = &core.config.mysql;
    let Some(user) = &config.replication_user else {
        return Err(Refusal::cannot(
            "this agent has no account on relays: mysql.replication_user is not configured",
            "set mysql.replication_user and mysql.replication_password_file in agent.toml, and restart the agent",
        ));
    };
    Ok(Account {
        user: user.clone(),
        password: config.replication_password.clone(),
        tls: config.replication_tls,
        ca_file: config.replication_ca_file.as_ref().map(|f| f.display().to_string()),
    })
}

/// Replicates from there by GTID; if it does already, it is left alone.
///
/// Of one that was a primary, transactions of its own may come back that it had lost when it started in the replica role. A server takes events
/// of its own id only as a semi-sync replica in strict GTID mode; without that it would skip them and say nothing.
pub(crate) async fn replicate(
    session: &mut Session,
    to: &Address,
    account: &Account,
    own: &str,
) -> Result<(), Refusal> {
    let slave = session.first::<Row>("SHOW SLAVE STATUS").await?.map(columns);
    let get = |name: &str| slave.as_ref().and_then(|s| s.get(name)).map_or("", String::as_str);
    let same = get("Master_Host") == to.host
        && get("Master_Port") == to.port.to_string()
        && get("Master_User") == account.user
        && get("Using_Gtid") == "Slave_Pos";
    let running = |name: &str| !matches!(get(name), "" | "No");
    if same && running("Slave_IO_Running") && running("Slave_SQL_Running") {
        return Ok(());
    }
    if slave.is_some() {
        session.run_within("STOP SLAVE", DISK).await?;
    }
    // What it wrote itself as a primary counts as applied.
    let applied = sorted(&session.value::<String>("SELECT @@GLOBAL.gtid_slave_pos").await?);
    if beyond(own, &applied).is_some() {
        session.run_within(&format!("SET GLOBAL gtid_slave_pos={}", literal(own)), DISK).await?;
    }
    session.run("SET GLOBAL gtid_strict_mode=1").await?;
    session.run("SET GLOBAL rpl_semi_sync_slave_enabled=ON").await?;
    let change = change_master(to, account);
    if let Err(error) = session.run_secret(&change, "CHANGE MASTER TO the relay").await {
        // A server that was killed while it wrote down whom it follows can't read that any more.
        if error.number() != Some(SOURCE_UNREADABLE) {
            return Err(error.into());
        }
        tracing::warn!(%error, "what the server noted of its source is spoilt: it is told anew");
        session.run_within("RESET SLAVE ALL", DISK).await?;
        session.run_secret(&change, "CHANGE MASTER TO the relay").await?;
    }
    session.run_within("START SLAVE", DISK).await?;
    let slave = session.first::<Row>("SHOW SLAVE STATUS").await?.map(columns).unwrap_or_default();
    let get = |name: &str| slave.get(name).map_or("", String::as_str);
    if get("Slave_SQL_Running") != "Yes" {
        let error = format!("replication does not run: {} {}", get("Last_SQL_Errno"), get("Last_SQL_Error"));
        return Err(Refusal::cannot(error, "see the server's error log"));
    }
    Ok(())
}

/// `ER_MASTER_INFO` (MariaDB's list of error codes).
const SOURCE_UNREADABLE: u16 = 1201;

fn change_master(to: &Address, account: &Account) -> SecretString {
    let tls = match account.tls {
        ReplicationTls::Off => "MASTER_SSL=0".to_owned(),
        ReplicationTls::Require => "MASTER_SSL=1, MASTER_SSL_VERIFY_SERVER_CERT=0".to_owned(),
        ReplicationTls::Verify => format!(
            "MASTER_SSL=1, MASTER_SSL_VERIFY_SERVER_CERT=1, MASTER_SSL_CA={}",
            literal(account.ca_file.as_deref().unwrap_or_default())
        ),
    };
    // A relay that is gone for long is tried every second; one that is silent is noticed after a few.
    SecretString::from(format!(
        "CHANGE MASTER TO MASTER_HOST={}, MASTER_PORT={}, MASTER_USER={}, MASTER_PASSWORD={}, MASTER_CONNECT_RETRY=1, \
         MASTER_HEARTBEAT_PERIOD=1, MASTER_USE_GTID=slave_pos, {tls}",
        literal(&to.host),
        to.port,
        literal(&account.user),
        literal(account.password.expose_secret())
    ))
}

/// Replicates on after a restart of the server, as it was told before.
pub async fn resume(core: &Core) -> Result<(), Refusal> {
    let Some(following) = core.duty.get().following else { return Ok(()) };
    let address: Address = following.source.parse().map_err(|e: String| Refusal::cannot(e, "order follow again"))?;
    let account = account(core)?;
    let mut session = core.db.connect().await?;
    let own = sorted(&session.value::<String>("SELECT @@GLOBAL.gtid_binlog_pos").await?);
    replicate(&mut session, &address, &account, &own).await?;
    tracing::info!(source = following.source, "the server follows again");
    Ok(())
}
