//! Servers, relays and the cluster's documents, without any controller.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use baton_testbed::{Bed, Etcd, MariaDb, RelayBuilder, RelayProc, Source, wait_until};
use serde_json::{Value, json};

pub(crate) const TOKEN: &str = "0123456789abcdef";
const PREFIX: &str = "/baton/test/";

/// etcd, and servers that are ready to be primaries.
pub(crate) struct Cluster {
    pub(crate) bed: Bed,
    pub(crate) etcd: Etcd,
    pub(crate) servers: Vec<MariaDb>,
    token_file: PathBuf,
}

impl Cluster {
    /// `servers` servers, db-1 first: it alone may be written to.
    pub(crate) fn start(bed: &Bed, servers: u32) -> Result<Self> {
        let etcd = bed.etcd().start()?;
        let start = |id: u32| {
            let options = ["--gtid-strict-mode=1", "--skip-slave-start", "--rpl-semi-sync-master-timeout=4294967295"];
            let builder = bed.mariadb(&format!("db-{id}")).server_id(id).durable(true);
            options.iter().fold(builder, |b, option| b.option(option)).start()
        };
        let servers = (1..=servers).map(start).collect::<Result<Vec<_>>>()?;
        for server in &servers {
            server.sql("SET GLOBAL rpl_semi_sync_master_wait_point='AFTER_SYNC'")?;
        }
        let token_file = bed.path("token");
        std::fs::write(&token_file, TOKEN)?;
        etcd.put(&format!("{PREFIX}leader"), &json!({"name": "controller-1", "http": "127.0.0.1:1"}))?;
        Ok(Self { bed: bed.clone(), etcd, servers, token_file })
    }

    /// A relay of the cluster, not started yet.
    pub(crate) fn relay(&self, number: u32) -> RelayBuilder {
        let endpoints: Vec<_> = self.etcd.endpoints().iter().map(|e| format!("{e:?}")).collect();
        self.bed
            .relay(&format!("relay-{number}"))
            .server_id(9000 + number)
            .set("etcd", "endpoints", &format!("[{}]", endpoints.join(",")))
            .set("listen", "token_file", &format!("{:?}", self.token_file.display().to_string()))
            .set("advertise", "host", &format!("\"rack-{number}\""))
    }

    /// Semi-sync on, and writes allowed.
    pub(crate) fn open(&self, server: &MariaDb) -> Result<()> {
        server.sql("SET GLOBAL rpl_semi_sync_master_enabled=1")?;
        server.sql("SET GLOBAL read_only=0").map(drop)
    }

    /// Writes `epochs/<epoch>`.
    pub(crate) fn epoch(
        &self,
        epoch: u64,
        server: &MariaDb,
        first_file: Option<&str>,
        shift: i64,
        gtid: &str,
    ) -> Result<()> {
        let record = json!({
            "epoch": epoch, "node": server.name(), "mysql": [server.address().to_string()], "server_id": server.server_id(),
            "first_file": first_file, "shift": shift, "gtid": gtid,
        });
        self.etcd.put(&format!("{PREFIX}epochs/{epoch:010}"), &record)
    }

    /// Writes `state`: a steady primary, and who holds which grant.
    pub(crate) fn steady(&self, primary: &MariaDb, grant: [u64; 2], holder: Option<&RelayProc>) -> Result<()> {
        self.write(primary, grant, holder, &json!({}))
    }

    /// The same, with other values in some fields.
    pub(crate) fn write(
        &self,
        primary: &MariaDb,
        grant: [u64; 2],
        holder: Option<&RelayProc>,
        other: &Value,
    ) -> Result<()> {
        let log_id = holder.map(|relay| Ok::<_, anyhow::Error>(relay.status()?["log"]["id"].clone())).transpose()?;
        let mut state = json!({
            "epoch": grant[0], "phase": "steady", "kind": "failover", "primary": primary.name(), "old_primary": null,
            "candidate": null, "grant": grant, "grant_holder": holder.map(RelayProc::name), "grant_log_id": log_id,
            "grant_after": null, "asked": null, "tail": null, "cause": {"by": "test", "reason": "test"},
            "started": "2026-01-01T00:00:00Z",
        });
        for (key, value) in other.as_object().into_iter().flatten() {
            state[key] = value.clone();
        }
        self.etcd.put(&format!("{PREFIX}state"), &state)
    }

    /// The leader's term.
    pub(crate) fn term(&self) -> Result<u64> {
        Ok(self.etcd.get(&format!("{PREFIX}leader"))?.context("a leader")?.create_revision)
    }

    /// What a relay announces.
    pub(crate) fn announced(&self, relay: &RelayProc) -> Result<Value> {
        let entry = self.etcd.get(&format!("{PREFIX}relays/{}", relay.name()))?;
        Ok(entry.map_or(Value::Null, |e| e.value))
    }

    /// Epoch 1 with db-1, and the grant [1,1] for a relay that is there.
    pub(crate) fn bootstrap(&self, acker: &RelayProc) -> Result<()> {
        self.epoch(1, &self.servers[0], None, 0, "")?;
        self.steady(&self.servers[0], [1, 1], Some(acker))?;
        streams(acker, &self.servers[0], true)?;
        self.open(&self.servers[0])
    }

    /// Asks for a promise of `grant`, as a controller does, and gives the tail.
    pub(crate) fn promise(
        &self,
        relay: &RelayProc,
        primary: &MariaDb,
        in_force: [u64; 2],
        grant: [u64; 2],
    ) -> Result<Value> {
        let asked = json!({"phase": "fencing", "primary": null, "old_primary": primary.name(), "epoch": grant[0], "asked": grant});
        self.write(primary, in_force, Some(relay), &asked)?;
        let (status, body) = relay.post("/v1/promise", TOKEN, &json!({"term": self.term()?, "grant": grant}))?;
        ensure!(status == 200, "{status}: {body}");
        let answer: Value = serde_json::from_str(&body)?;
        ensure!(answer["complete"] == true && answer["promised"] == json!(grant), "{answer}");
        Ok(answer["tail"].clone())
    }

    /// Makes `server`, a replica that holds everything up to `tail`, the primary of `epoch`: its first file and the shift of its numbers.
    pub(crate) fn prepare(&self, server: &MariaDb, tail: &Value) -> Result<(String, i64)> {
        let gtid = tail["gtid"].as_str().unwrap_or_default();
        wait_until("the candidate to have the tail", || server.gtid_binlog_pos(), |pos| pos == gtid)?;
        server.sql("STOP SLAVE")?;
        server.sql("FLUSH BINARY LOGS")?;
        server.sql("SET GLOBAL rpl_semi_sync_master_enabled=1")?;
        let (first, _) = server.master_status()?;
        Ok((first.clone(), (number(tail["file"].as_str().unwrap_or_default())? + 1) as i64 - number(&first)? as i64))
    }

    /// The whole of a failover to `server`, with `acker` acknowledging on: promise, preparation, epoch, grant.
    pub(crate) fn fail_over(
        &self,
        acker: &RelayProc,
        from: &MariaDb,
        in_force: [u64; 2],
        server: &MariaDb,
    ) -> Result<()> {
        let grant = [in_force[0] + 1, 1];
        let tail = self.promise(acker, from, in_force, grant)?;
        let (first, shift) = self.prepare(server, &tail)?;
        self.epoch(grant[0], server, Some(&first), shift, tail["gtid"].as_str().unwrap_or_default())?;
        self.steady(server, grant, Some(acker))?;
        streams(acker, server, true)?;
        self.open(server)
    }
}

/// The number in a file's name.
pub(crate) fn number(file: &str) -> Result<u64> {
    file.rsplit_once('.').context("a file name")?.1.parse().with_context(|| format!("{file:?} has no number"))
}

/// Waits until a relay streams from a server, and acknowledges or does not.
pub(crate) fn streams(relay: &RelayProc, server: &MariaDb, acks: bool) -> Result<Value> {
    let address = server.address().to_string();
    wait_until(
        &format!("{} to follow {}", relay.name(), server.name()),
        || Ok(relay.status()?["upstream"].clone()),
        |u| u["state"] == "streaming" && u["address"] == address.as_str() && u["acking"] == acks,
    )
}

/// Waits until a relay's state is that, with an error that says `words`.
pub(crate) fn told(relay: &RelayProc, state: &str, words: &str) -> Result<Value> {
    let seen = wait_until(
        &format!("the state {state} with {words:?}"),
        || Ok(relay.status()?["upstream"].clone()),
        |upstream| upstream["state"] == state && upstream["error"].as_str().is_some_and(|text| text.contains(words)),
    )?;
    ensure!(seen["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "a hint was to come: {seen}");
    Ok(seen)
}

/// Attaches a server to a relay as its replica.
pub(crate) fn attach(replica: &MariaDb, relay: &RelayProc) -> Result<()> {
    replica.replicate_from(&Source::gtid(relay.port()))
}

/// Rows into `test.t`, one transaction each.
pub(crate) fn insert(server: &MariaDb, rows: u32) -> Result<()> {
    server.sql("CREATE TABLE IF NOT EXISTS test.t (id INT AUTO_INCREMENT PRIMARY KEY, filler VARCHAR(50))")?;
    for _ in 0..rows {
        server.sql("INSERT INTO test.t (filler) VALUES ('x')")?;
    }
    Ok(())
}
