//! Orders to MariaDB over SQL: the statements are those that an agent uses.

use std::time::Duration;

use mysql_async::Row;

use super::{Family, Server};
use crate::agent::kept::Prepared;
use crate::agent::orders::{Refusal, acker, block, events, follow, promote};
use crate::agent::sql::Session;
use crate::agent::sql::status::sorted;
use crate::config::{Address, ReplicationTls};
use crate::model::OrderResult;
use crate::probe::sql::Account;

/// For a fence: what can't be had in this time waits for the acker, which has promised.
const FENCE: u64 = 1000;

/// MariaDB 10.6 and later.
pub(super) struct MariaDb;

impl Family for MariaDb {
    async fn fence(&self, server: &Server<'_>) -> Result<OrderResult, Refusal> {
        // Commits that wait for the acker hold it up: they can't complete, which is what matters.
        let blocked = self.block(server, FENCE / 2, FENCE).await;
        if let Err(refusal @ Refusal::Silent { .. }) = blocked {
            return Err(refusal);
        }
        Ok(OrderResult { killed: Some(false), ..OrderResult::default() })
    }

    async fn block(&self, server: &Server<'_>, drain_ms: u64, timeout_ms: u64) -> Result<OrderResult, Refusal> {
        let (control, blocker) = tokio::join!(server.session(), server.session());
        let (mut control, mut blocker) = (control?, blocker?);
        let bounds = block::Bounds::new(drain_ms, timeout_ms);
        block::stop_writes(&mut control, &mut blocker, bounds, &server.superseded).await?;
        let ours = [control.id(), blocker.id()];
        while block::cut(&mut control, &ours).await? > 0 && !bounds.over() {
            tokio::time::sleep(block::LOOK / 5).await;
        }
        events::disable(&mut control).await?;
        Ok(OrderResult { gtid: Some(written(&mut control).await?), ..OrderResult::default() })
    }

    async fn unblock(&self, server: &Server<'_>) -> Result<OrderResult, Refusal> {
        let mut session = server.session().await?;
        session.run("SET GLOBAL rpl_semi_sync_master_enabled=ON").await?;
        session.run("SET GLOBAL read_only=0").await?;
        events::enable(&mut session).await?;
        Ok(OrderResult::default())
    }

    async fn catch_up(&self, server: &Server<'_>, position: &str, limit: Duration) -> Result<OrderResult, Refusal> {
        let (watcher, waiter) = tokio::join!(server.session(), server.session());
        promote::apply_all(&mut watcher?, &mut waiter?, position, limit, &server.superseded).await
    }

    async fn prepare(&self, server: &Server<'_>, before: Option<Prepared>) -> Result<OrderResult, Refusal> {
        let (session, second) = tokio::join!(server.session(), server.session());
        let (mut session, mut second) = (session?, second?);
        let is_replica = session.first::<Row>("SHOW SLAVE STATUS").await?.is_some();
        if !is_replica {
            if let Some(told) = promote::told_before(&mut session, before).await? {
                return promote::answer(&mut session, told).await;
            }
        }
        let prepared = promote::make_ready(&mut session, &mut second, is_replica).await?;
        promote::answer(&mut session, prepared).await
    }

    async fn open(&self, server: &Server<'_>, acker: Duration) -> Result<OrderResult, Refusal> {
        let mut session = server.session().await?;
        promote::refuse_a_replica(&mut session).await?;
        let serves: u8 =
            session.value("SELECT @@GLOBAL.read_only=0 AND @@GLOBAL.rpl_semi_sync_master_enabled=0").await?;
        if !promote::wait_for_acker(&mut session, acker).await? && serves != 0 {
            return Err(Refusal::cannot(
                format!("{} serves already and no acker is connected: its commits would hang", server.node.name),
                "semi-sync is switched on as soon as a relay is attached",
            ));
        }
        session.run("SET GLOBAL rpl_semi_sync_master_enabled=ON").await?;
        session.run("SET GLOBAL read_only=0").await?;
        events::enable(&mut session).await?;
        Ok(OrderResult::default())
    }

    async fn follow(&self, server: &Server<'_>, source: &str, user: &Account) -> Result<OrderResult, Refusal> {
        let to: Address = source.parse().map_err(|e: String| {
            Refusal::cannot(format!("source {source:?}: {e}"), "correct [advertise] replication of that relay")
        })?;
        let mut session = server.session().await?;
        follow::refuse_while_commits_wait(&mut session).await?;
        let own = written(&mut session).await?;
        let server_id: u32 = session.value("SELECT @@GLOBAL.server_id").await?;
        if let Some(surplus) = server.surplus(&own, server_id) {
            return Err(Refusal::cannot(
                format!("{} has {surplus}, which the cluster's log lacks", server.node.name),
                "save that from its binlog, then restore the server from a copy of another one",
            ));
        }
        session.run("SET GLOBAL read_only=1").await?;
        session.run("SET GLOBAL rpl_semi_sync_master_enabled=OFF").await?;
        events::disable(&mut session).await?;
        let account = follow::Account {
            user: user.user.clone(),
            password: user.password.clone(),
            tls: ReplicationTls::Off,
            ca_file: None,
        };
        follow::replicate(&mut session, &to, &account, &own).await?;
        Ok(OrderResult::default())
    }

    async fn revoke(&self, server: &Server<'_>, user: &str, server_id: u32) -> Result<OrderResult, Refusal> {
        acker::lock_out(&mut server.session().await?, user, server_id).await
    }

    async fn allow(&self, server: &Server<'_>, user: &str) -> Result<OrderResult, Refusal> {
        acker::let_in(&mut server.session().await?, user).await
    }

    async fn release(&self, server: &Server<'_>) -> Result<OrderResult, Refusal> {
        server.session().await?.run("SET GLOBAL rpl_semi_sync_master_enabled=OFF").await?;
        Ok(OrderResult::default())
    }
}

async fn written(session: &mut Session) -> Result<String, Refusal> {
    Ok(sorted(&session.value::<String>("SELECT @@GLOBAL.gtid_binlog_pos").await?))
}
