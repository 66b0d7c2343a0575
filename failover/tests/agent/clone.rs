//! `clone`: a node gets its data from another one's agent.

use anyhow::{Result, ensure};
use baton_testbed::scenario;
use serde_json::json;

use crate::stage::Stage;

#[test]
fn node_without_data_is_cloned_from_a_replica_and_follows() {
    scenario("clone", |bed| -> Result<()> {
        let stage = Stage::new(bed)?;
        let primary = stage.primary("")?;
        primary.sql("SET GLOBAL rpl_semi_sync_master_enabled=OFF")?;
        primary.sql("CREATE TABLE test.t (a INT PRIMARY KEY)")?;
        primary.sql("INSERT INTO test.t VALUES (1), (2), (3)")?;
        // What went before is not to be had from its binlog any more.
        primary.sql("FLUSH BINARY LOGS")?;
        let last = primary
            .session()?
            .query("SHOW BINARY LOGS")?
            .pop()
            .and_then(|r| r.into_iter().next().flatten())
            .unwrap_or_default();
        primary.sql(&format!("PURGE BINARY LOGS TO '{last}'"))?;
        let source = format!("{}:3306", primary.host.ip());
        let donor = format!("{}:8092", primary.host.ip());
        let node = stage.started(3, "")?;
        let (code, body) = primary.order((1, 1, 1), &json!({"do": "clone", "donor": donor, "source": source}))?;
        ensure!(code == 422, "the primary's data are not replaced: {code} {body}");
        node.obeys((1, 1, 1), &json!({"do": "clone", "donor": donor, "source": source}))?;
        let status =
            node.wait_status("the clone ends", |s| s["clone"].as_str().is_some_and(|c| !c.starts_with("running")))?;
        ensure!(status["clone"].as_str().is_some_and(|c| c.starts_with("done")), "{status}");
        node.wait_value("SELECT COUNT(*) FROM test.t", "3")?;
        primary.sql("INSERT INTO test.t VALUES (4)")?;
        node.wait_value("SELECT COUNT(*) FROM test.t", "4")?;
        ensure!(node.sql("SELECT @@gtid_binlog_pos")? == primary.sql("SELECT @@gtid_binlog_pos")?);
        ensure!(node.sql("SELECT @@read_only")? == "1" && node.status()?["role"] == "replica");
        ensure!(!node.dir.join("data.before-clone").exists(), "the old data are left behind");
        Ok(())
    });
}
