//! Servers without an agent: the same orders, over SQL from the controller.
//!
//! There is no process to kill, no address to move, and nobody beside the server who compares numbers of orders. So a server that does not
//! answer can't be fenced from here: what keeps it from completing a commit is the acker's promise. Against late orders there are three guards: a
//! leader gives a server one order at a time, and none that is older than the last; nothing is sent unless the lead is certain at that moment; and
//! a leader's first order to a server ends every other session of the controllers' account there, so that what a former leader has under way ends
//! too. The same is done after an order that was given up in the middle.

mod mariadb;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use baton_cluster::store::{Leadership, Snapshot};
use baton_cluster::{EpochRecord, NodeRecord};
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::mariadb::MariaDb;
use super::plan::Outcome;
use crate::agent::kept::Prepared;
use crate::agent::orders::{Desk, Refusal, admit};
use crate::agent::sql::Session;
use crate::config::controller::ServersConfig;
use crate::decide::position;
use crate::model::{OrderKind, OrderNumber, OrderResult};
use crate::probe::sql::{Account, connect, told};

/// For a login.
const LOGIN: Duration = Duration::from_secs(2);
/// For a statement that should take no time, and for a session that was killed to end.
const STATEMENT: Duration = Duration::from_secs(3);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// How one family of servers does what is ordered. Each can be repeated; an error means that the effect is not known to be there. What each means
/// is told at [`OrderKind`].
trait Family {
    /// No writes any more, as far as that can be had. What is under way waits for the acker, which has promised.
    async fn fence(&self, server: &Server<'_>) -> Result<OrderResult, Refusal>;
    /// No writes any more, while the acker still acknowledges; or as before.
    async fn block(&self, server: &Server<'_>, drain_ms: u64, timeout_ms: u64) -> Result<OrderResult, Refusal>;
    /// Writes again.
    async fn unblock(&self, server: &Server<'_>) -> Result<OrderResult, Refusal>;
    /// Everything up to `position` is applied.
    async fn catch_up(&self, server: &Server<'_>, position: &str, limit: Duration) -> Result<OrderResult, Refusal>;
    /// Replication off, a fresh binlog file; `before`: what was told the last time.
    async fn prepare(&self, server: &Server<'_>, before: Option<Prepared>) -> Result<OrderResult, Refusal>;
    /// Writable, its commits waiting for the acker.
    async fn open(&self, server: &Server<'_>, acker: Duration) -> Result<OrderResult, Refusal>;
    /// A replica of the relay at `source`, whose account is `user`.
    async fn follow(&self, server: &Server<'_>, source: &str, user: &Account) -> Result<OrderResult, Refusal>;
    /// The relay with this account can't acknowledge any more.
    async fn revoke(&self, server: &Server<'_>, user: &str, server_id: u32) -> Result<OrderResult, Refusal>;
    /// It can again.
    async fn allow(&self, server: &Server<'_>, user: &str) -> Result<OrderResult, Refusal>;
    /// The server is given up: its commits wait for nobody.
    async fn release(&self, server: &Server<'_>) -> Result<OrderResult, Refusal>;
}

/// A server that is ordered: how to get in, while the lead lasts.
struct Server<'a> {
    all: &'a Servers,
    node: &'a NodeRecord,
    number: OrderNumber,
    /// Cancelled when a later order waits.
    superseded: CancellationToken,
    /// The cluster's epochs, as far as they are known.
    epochs: BTreeMap<u64, EpochRecord>,
}

/// Orders to one server.
#[derive(Default)]
struct Counter {
    desk: Desk,
    last: Mutex<Last>,
}

impl Counter {
    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was done last on a server.
#[derive(Default)]
struct Last {
    number: OrderNumber,
    /// The term in which other sessions were ended there, if nothing was given up in the middle since.
    alone_in: Option<u64>,
    prepared: Option<Prepared>,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Servers {
    account: Account,
    replication: Option<Account>,
    leadership: watch::Receiver<Leadership>,
    etcd: watch::Receiver<Arc<Snapshot>>,
    counters: Arc<Mutex<BTreeMap<String, Arc<Counter>>>>,
}

impl Servers {
    /// With the accounts of the configuration.
    pub fn new(
        config: &ServersConfig,
        leadership: watch::Receiver<Leadership>,
        etcd: watch::Receiver<Arc<Snapshot>>,
    ) -> Self {
        let account =
            |user: &String, password: &SecretString| Account { user: user.clone(), password: password.clone() };
        Self {
            account: account(&config.user, &config.password),
            replication: config.replication_user.as_ref().map(|user| account(user, &config.replication_password)),
            leadership,
            etcd,
            counters: Arc::default(),
        }
    }

    /// Has `node` do `kind`.
    pub async fn obey(&self, node: &NodeRecord, number: OrderNumber, kind: &OrderKind) -> Outcome {
        let counter = {
            let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(counters.entry(node.name.clone()).or_default())
        };
        match self.at_the_counter(&counter, node, number, kind).await {
            Ok(result) => Outcome::Done(result),
            Err(Refusal::Silent { error, .. }) => Outcome::Unreachable(error),
            Err(Refusal::Cannot { error, hint }) => Outcome::Failed(format!("{error} ({hint})")),
            Err(refusal @ (Refusal::Late { .. } | Refusal::Superseded)) => Outcome::Refused(refusal.to_string()),
        }
    }

    async fn at_the_counter(
        &self,
        counter: &Counter,
        node: &NodeRecord,
        number: OrderNumber,
        kind: &OrderKind,
    ) -> Result<OrderResult, Refusal> {
        let turn = counter.desk.turn(number).await;
        let (alone_in, prepared) = {
            let mut last = counter.last();
            if admit(last.number, None, number).is_err() {
                let why = format!("a later one was given to {}", node.name);
                return Err(Refusal::Late { why, last: last.number });
            }
            last.number = number;
            // Unless this one comes to its end, what it had begun has to be ended before the next one.
            (last.alone_in.take(), last.prepared.clone())
        };
        let epochs = self.etcd.borrow().epochs.clone();
        let server = Server { all: self, node, number, superseded: turn.superseded.clone(), epochs };
        if alone_in != Some(number.term) {
            server.end_other_sessions().await?;
        }
        let result = self.carry_out(&server, &MariaDb, prepared, kind).await;
        let mut last = counter.last();
        if !matches!(result, Err(Refusal::Silent { .. } | Refusal::Superseded)) {
            last.alone_in = Some(number.term);
        }
        if let (OrderKind::Prepare {}, Ok(OrderResult { first_file: Some(file), gtid: Some(gtid), .. })) =
            (kind, &result)
        {
            last.prepared = Some(Prepared { first_file: file.clone(), gtid: gtid.clone() });
        }
        drop(last);
        result
    }

    async fn carry_out(
        &self,
        s: &Server<'_>,
        family: &impl Family,
        prepared: Option<Prepared>,
        kind: &OrderKind,
    ) -> Result<OrderResult, Refusal> {
        match kind {
            OrderKind::Fence {} => family.fence(s).await,
            OrderKind::Block { drain_ms, timeout_ms } => family.block(s, *drain_ms, *timeout_ms).await,
            OrderKind::Unblock {} => family.unblock(s).await,
            OrderKind::CatchUp { gtid, timeout_ms } => {
                family.catch_up(s, gtid, Duration::from_millis(*timeout_ms)).await
            }
            OrderKind::Prepare {} => family.prepare(s, prepared).await,
            OrderKind::Open { acker_ms } => family.open(s, Duration::from_millis(*acker_ms)).await,
            OrderKind::Follow { source, .. } => match &self.replication {
                Some(account) => family.follow(s, source, account).await,
                None => Err(Refusal::cannot(
                    format!("{} has no agent, and the controllers have no account on relays", s.node.name),
                    "set mysql.replication_user and mysql.replication_password_file in controller.toml",
                )),
            },
            OrderKind::RevokeAcker { user, server_id } => family.revoke(s, user, *server_id).await,
            OrderKind::AllowAcker { user } => family.allow(s, user).await,
            OrderKind::Release {} => family.release(s).await,
            OrderKind::Clone { .. } => Err(Refusal::cannot(
                format!("{} has no agent that could replace its data", s.node.name),
                "restore it by hand from a copy of another server; it follows by itself then",
            )),
        }
    }
}

impl Server<'_> {
    /// A session over the first path that answers, whose statements are not binlogged.
    async fn session(&self) -> Result<Session, Refusal> {
        let mut failures = Vec::new();
        for path in &self.node.mysql {
            match timeout(LOGIN, connect(path, &self.all.account)).await {
                Ok(Ok(conn)) => {
                    let mut session = Session::over(conn, STATEMENT);
                    session.run("SET SESSION sql_log_bin=0, SESSION lock_wait_timeout=10").await?;
                    self.still_leads()?;
                    return Ok(session);
                }
                Ok(Err(error)) => failures.push(format!("{path}: {}", told(&error))),
                Err(_) => failures.push(format!("{path}: no login within {LOGIN:?}")),
            }
        }
        let error = format!("{} can't be reached by SQL: {}", self.node.name, failures.join("; "));
        Err(Refusal::silent(error, "order it again once it answers"))
    }

    /// Whoever was frozen meanwhile has to notice before it sends anything.
    fn still_leads(&self) -> Result<(), Refusal> {
        if self.all.leadership.borrow().term(Instant::now()) == Some(self.number.term) {
            return Ok(());
        }
        let why = format!("the lead of term {} is over", self.number.term);
        Err(Refusal::Late { why, last: OrderNumber::default() })
    }

    /// What an older leader has under way ends with its sessions, and so does what was given up in the middle. Returns when they are gone.
    async fn end_other_sessions(&self) -> Result<(), Refusal> {
        let mut session = self.session().await?;
        let statement = "SELECT ID FROM information_schema.PROCESSLIST WHERE USER=SUBSTRING_INDEX(CURRENT_USER(), '@', 1) \
                         AND ID <> CONNECTION_ID()";
        let others: Vec<(u64,)> = session.rows(statement).await?;
        for (id,) in &others {
            match session.run(&format!("KILL CONNECTION {id}")).await {
                // It has ended by itself.
                Err(e) if e.number() == Some(1094) => {}
                done => done?,
            }
        }
        let deadline = Instant::now() + STATEMENT;
        // Probes come again at once, under other numbers.
        while session.rows::<(u64,)>(statement).await?.iter().any(|id| others.contains(id)) {
            if Instant::now() >= deadline {
                let error = format!("other sessions of the controllers' account on {} do not end", self.node.name);
                return Err(Refusal::silent(error, "order it again"));
            }
            sleep(LOOK).await;
        }
        self.still_leads()
    }

    /// What this server wrote itself and the cluster's log lacks, having its end at `own`.
    fn surplus(&self, own: &str, server_id: u32) -> Option<String> {
        surplus(&self.epochs, &self.node.name, own, server_id)
    }
}

/// What the server of `node`, which ends at `own`, wrote itself beyond the place where somebody else's epoch took over from its last one. Pure.
pub fn surplus(epochs: &BTreeMap<u64, EpochRecord>, node: &str, own: &str, server_id: u32) -> Option<String> {
    let last = epochs.values().rev().find(|e| e.node == node)?;
    let next = epochs.values().find(|e| e.epoch > last.epoch && e.node != node)?;
    // What came from others came by the log.
    let written = |gtid: &&str| gtid.split('-').nth(1).and_then(|id| id.parse::<u32>().ok()) == Some(server_id);
    let own = own.split(',').map(str::trim).filter(written).collect::<Vec<_>>().join(",");
    position::beyond(&own, &next.gtid)
}

#[cfg(test)]
mod tests {
    use baton_cluster::store::{EtcdConfig, Store};

    use super::*;

    #[tokio::test]
    async fn an_order_that_is_older_than_the_last_is_refused_and_so_is_one_of_a_lead_that_is_over() {
        let etcd = EtcdConfig { endpoints: vec!["http://127.0.0.1:1".to_owned()], ..EtcdConfig::default() };
        let cancel = CancellationToken::new();
        let snapshots = Store::new("shop", &etcd).unwrap().watch(cancel.clone());
        let leads = |term| Leadership::Leader { term, valid_until: Instant::now() + Duration::from_secs(60) };
        let (lead, told) = watch::channel(leads(7));
        let config = ServersConfig {
            user: "baton".to_owned(),
            password: SecretString::default(),
            replication_user: None,
            replication_password: SecretString::default(),
        };
        let servers = Servers::new(&config, told, snapshots);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = listener.local_addr().unwrap().to_string();
        drop(listener);
        let node = NodeRecord {
            name: "db-1".to_owned(),
            mysql: vec![nobody],
            http: NodeRecord::NO_AGENT.to_owned(),
            host: String::new(),
            site: String::new(),
            priority: 100,
            server_id: None,
            hardware: String::new(),
            fence_after_ms: None,
            valid_for_ms: None,
            version: String::new(),
        };
        let order = |term, step| OrderNumber { term, epoch: 1, step };
        let release = OrderKind::Release {};
        assert!(matches!(servers.obey(&node, order(7, 2), &release).await, Outcome::Unreachable(_)));
        let late = servers.obey(&node, order(7, 1), &release).await;
        assert!(matches!(&late, Outcome::Refused(why) if why.contains("a later one")), "{late:?}");
        lead.send_replace(leads(8));
        let server = Server {
            all: &servers,
            node: &node,
            number: order(7, 3),
            superseded: CancellationToken::new(),
            epochs: BTreeMap::new(),
        };
        assert!(server.still_leads().is_err());
        cancel.cancel();
    }

    #[test]
    fn only_what_a_deposed_server_wrote_itself_beyond_the_next_epoch_is_surplus() {
        let epoch = |epoch: u64, node: &str, gtid: &str| EpochRecord {
            epoch,
            node: node.to_owned(),
            mysql: Vec::new(),
            server_id: 1,
            first_file: None,
            shift: 0,
            gtid: gtid.to_owned(),
        };
        let epochs = BTreeMap::from([(1, epoch(1, "db-1", "")), (2, epoch(2, "db-2", "0-1-100"))]);
        for (node, own, server_id, expected) in [
            ("db-1", "0-1-100", 1, None),
            ("db-1", "0-1-101", 1, Some("0-1-101")),
            // It has followed since.
            ("db-1", "0-2-150", 1, None),
            ("db-2", "0-2-150", 2, None),
            ("db-3", "0-3-150", 3, None),
        ] {
            assert_eq!(surplus(&epochs, node, own, server_id).as_deref(), expected, "{node} {own}");
        }
    }
}
