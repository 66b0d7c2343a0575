//! Self-fencing: a primary that is cut off ends by itself; one that has only lost etcd serves on.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::ensure;
use baton_testbed::{DEADLINE, scenario, wait_for};
use serde_json::json;

use crate::stage::Stage;

#[test]
fn primary_cut_off_from_everything_fences_itself_and_serves_again_when_nothing_has_changed() {
    scenario("cut-off", |bed| {
        let stage = Stage::new(bed)?;
        let primary = stage.primary("")?;
        primary.wait_status("it holds the address", |s| s["address"].is_string())?;
        primary.host.isolate()?;
        wait_for("the server to be gone", DEADLINE, || Ok(primary.servers().is_empty().then_some(())))?;
        wait_for("the address to be gone", DEADLINE, || Ok((!primary.host.holds(stage.vip())?).then_some(())))?;
        primary.wait_status("it says so", |s| s["self_fenced"] == true && s["mysqld"] == "waiting")?;
        primary.host.rejoin()?;
        primary.wait_sql()?;
        primary.wait_value("SELECT @@read_only", "0")?;
        primary.wait_status("it serves", |s| s["self_fenced"] == false && s["address"].is_string())?;
        Ok(())
    });
}

#[test]
fn loss_of_etcd_alone_fences_nothing() {
    scenario("etcd-lost", |bed| {
        let stage = Stage::new(bed)?;
        let host = stage.net.host("controller")?;
        // A controller, as far as its health goes.
        let listener = host.inside(|| Ok(TcpListener::bind((host.ip(), 8091))?))?;
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    let mut request = [0; 4096];
                    while stream.read(&mut request).is_ok_and(|n| n > 0) {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
                    }
                });
            }
        });
        let http = format!("{}:8091", host.ip());
        let record = json!({"name": "controller-1", "http": http, "config": "", "version": "1"});
        stage.etcd.put("/baton/shop/controllers/controller-1", &record)?;
        let primary = stage.primary("")?;
        let known = primary.dir.join("agent/known.json");
        wait_for("the controller to be known", DEADLINE, || {
            Ok(std::fs::read_to_string(&known)?.contains(&http).then_some(()))
        })?;
        let before = primary.servers();
        stage.etcd_host.isolate()?;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(4) {
            ensure!(
                primary.servers() == before && primary.sql("SELECT @@read_only")? == "0",
                "fenced for want of etcd"
            );
        }
        ensure!(primary.host.holds(stage.vip())?, "the address went with etcd");
        // And the controller too: then it is cut off.
        host.isolate()?;
        wait_for("the server to be gone", DEADLINE, || Ok(primary.servers().is_empty().then_some(())))?;
        Ok(())
    });
}

#[test]
fn replica_that_is_cut_off_keeps_running() {
    scenario("cut-off-replica", |bed| {
        let stage = Stage::new(bed)?;
        stage.state(1, Some("db-2"), &json!({}))?;
        let replica = stage.started(1, "fence_after = \"200ms\"")?;
        let before = replica.servers();
        replica.host.isolate()?;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            ensure!(replica.servers() == before, "a replica was fenced");
        }
        Ok(())
    });
}
