//! The server's process: its death, its starts, its life without the agent.

use anyhow::ensure;
use baton_testbed::{DEADLINE, scenario, wait_for};
use rustix::process::Signal;
use serde_json::json;

use crate::stage::{Stage, TOKEN};

#[test]
fn server_killed_is_told_at_once_and_restarted_as_primary_of_the_same_epoch() {
    scenario("death", |bed| {
        let stage = Stage::new(bed)?;
        let node = stage.primary("")?;
        wait_for("the balancer to be told", DEADLINE, || Ok((node.agent_check()? == "up 100%").then_some(())))?;
        ensure!(node.get("/primary")?.0 == 200 && node.get("/replica")?.0 == 503);
        let watching = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let request = format!("GET /v1/watch HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
                node.host.inside(|| {
                    use std::io::{BufRead, BufReader, Write};
                    let mut stream = std::net::TcpStream::connect((node.host.ip(), 8092))?;
                    stream.write_all(request.as_bytes())?;
                    stream.set_read_timeout(Some(DEADLINE))?;
                    for line in BufReader::new(stream).lines() {
                        let line = line?;
                        if line.contains("mysqld_died") {
                            return Ok(line);
                        }
                    }
                    anyhow::bail!("the stream ended")
                })
            });
            // The first line is there before the death: killed until it was seen.
            let killed = wait_for("the death to be told", DEADLINE, || {
                if !watch.is_finished() {
                    node.host.signal("mariadbd", Signal::KILL);
                }
                Ok(watch.is_finished().then_some(()))
            });
            killed.and_then(|()| watch.join().map_err(|_| anyhow::anyhow!("it panicked"))?)
        })?;
        ensure!(watching.contains("killed by signal 9"), "{watching}");
        node.wait_sql()?;
        node.wait_value("SELECT @@read_only", "0")?;
        node.wait_value("SELECT @@rpl_semi_sync_master_enabled", "1")?;
        ensure!(node.status()?["role"] == "primary");
        Ok(())
    });
}

#[test]
fn agent_killed_leaves_the_server_running_and_its_successor_takes_over_the_same_one() {
    scenario("adopt", |bed| {
        let stage = Stage::new(bed)?;
        let node = stage.primary("")?;
        let before = node.servers();
        node.proc()?.kill9();
        ensure!(node.servers() == before, "the server went with its agent");
        node.start()?;
        let status = node.wait_status("the server runs", |s| s["mysqld"] == "running")?;
        ensure!(status["role"] == "primary", "{status}");
        ensure!(node.servers() == before && before.len() == 1, "{before:?} {:?}", node.servers());
        // SIGTERM ends the server cleanly, then the agent.
        let ended = node.proc()?.term(DEADLINE)?;
        ensure!(ended.success() && node.servers().is_empty(), "{ended}");
        Ok(())
    });
}

#[test]
fn without_etcd_or_while_a_failover_is_under_way_the_server_waits() {
    scenario("waits", |bed| {
        let stage = Stage::new(bed)?;
        let fencing = json!({"phase": "fencing", "old_primary": "db-1", "primary": null});
        stage.state(2, None, &fencing)?;
        let node = stage.node(1, "")?;
        node.start()?;
        let status = node.wait_status("it waits", |s| s["mysqld"] == "waiting")?;
        ensure!(status["error"].as_str().is_some_and(|e| e.contains("failover")), "{status}");
        ensure!(node.servers().is_empty() && node.agent_check()? == "maint");
        ensure!(node.agent_says("--may-start")?.0 == Some(11));
        stage.state(2, Some("db-2"), &json!({}))?;
        node.wait_sql()?;
        ensure!(node.sql("SELECT @@read_only")? == "1" && node.sql("SELECT @@rpl_semi_sync_master_enabled")? == "0");
        let (code, said) = node.agent_says("--may-start")?;
        ensure!(code == Some(10) && said.contains("--init-rpl-role=SLAVE"), "{code:?} {said}");
        stage.etcd.freeze()?;
        node.proc()?.term(DEADLINE)?;
        ensure!(node.agent_says("--may-start")?.0 == Some(10), "a replica may start without etcd");
        Ok(())
    });
}

#[test]
fn garbage_is_answered_with_what_is_wrong_and_nothing_needs_a_token_but_health() {
    scenario("garbage", |bed| {
        let stage = Stage::new(bed)?;
        let node = stage.started(1, "")?;
        let status = node.status()?;
        ensure!(status["role"] == "unassigned" && status["server"]["unmet"] == json!([]), "{status}");
        for (request, code) in [
            ("GET /v1/status HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(), 401),
            ("GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(), 200),
            ("OPTIONS /primary HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(), 503),
            ("GET /replica?lag=soon HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(), 400),
            ("GET /nothing HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(), 404),
            (
                format!(
                    "GET /v1/order HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\r\n"
                ),
                405,
            ),
            ("\u{1}\u{2}\r\n\r\n".to_owned(), 400),
        ] {
            let (found, body) = node.http(&request)?;
            ensure!(found == code, "{request}: {found} {body}");
        }
        for order in
            [json!({}), json!({"do": "dance"}), json!({"do": "catch_up"}), json!({"do": "open", "acker_ms": -1})]
        {
            let (code, body) = node.order((1, 1, 1), &order)?;
            ensure!(code == 400 && body["hint"].is_string(), "{order}: {code} {body}");
        }
        for path in ["/v1/binlog/..%2Fagent%2Frole.json", "/v1/binlog/mysql-bin.index", "/v1/binlog/mysql-bin.999999"] {
            ensure!(node.get(path)?.0 == 404, "{path}");
        }
        ensure!(node.get("/openapi.json")?.0 == 200 && node.get("/metrics")?.1.contains("baton_agent_server_state"));
        // The bytes of a dead server's binlog are still to be had.
        let files: serde_json::Value = serde_json::from_str(&node.get("/v1/binlog")?.1)?;
        let name = files[0]["file"].as_str().unwrap_or_default().to_owned();
        stage.etcd.freeze()?;
        node.host.signal("mariadbd", Signal::KILL);
        node.wait_status("it is dead", |s| s["mysqld"] != "running")?;
        let request = format!(
            "GET /v1/binlog/{name}?from=4 HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\r\n"
        );
        let (code, bytes) = node.raw(request.as_bytes())?;
        ensure!(code == 200 && bytes == std::fs::read(node.datadir.join(&name))?[4..], "{code}");
        Ok(())
    });
}
