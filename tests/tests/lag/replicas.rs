//! The words for a replica's state, what can't be asked, and names.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_testbed::{DEADLINE, Source, scenario, wait_caught_up};
use serde_json::Value;

use crate::support::{Fake, Told, told_current, told_until};

#[test]
fn a_replica_that_erred_stopped_or_left_says_so() {
    scenario("lag_words", |bed| {
        let primary = bed.mariadb("primary").server_id(1).start()?;
        let relay = bed.relay("relay").set("lag", "poll", "\"50ms..500ms\"").upstream(&primary).start()?;
        let replica = bed.mariadb("replica").server_id(2).option("--report-host=db").start()?;
        replica.replicate_from(&Source::gtid(relay.port()))?;
        primary.sql("CREATE TABLE test.t (a INT PRIMARY KEY)")?;
        wait_caught_up(&primary, &replica)?;
        let told = told_current(&relay, "db")?;
        ensure!(told.json["address"] == format!("127.0.0.1:{}", replica.port()) && told.json["server_id"] == 2);

        replica.sql("SET sql_log_bin=0; INSERT INTO test.t VALUES (17)")?;
        primary.sql("INSERT INTO test.t VALUES (17)")?;
        let told = told_until(&relay, "db", "its error", |told| Ok(told.word("bottleneck") == "error"))?;
        ensure!(told.word("state") == "streaming", "its receiving thread goes on: {}", told.json);
        for part in ["applying thread", "1062", "Duplicate entry '17'"] {
            ensure!(told.word("error").contains(part), "{part} is missing: {}", told.json);
        }
        told_until(&relay, "db", "to lag by one", |told| Ok(told.number("applied", "lag_transactions")? == 1))?;

        replica.sql("SET sql_log_bin=0; DELETE FROM test.t WHERE a=17; START SLAVE SQL_THREAD")?;
        let told = told_until(&relay, "db", "to be well again", |told| {
            Ok(told.is_current()? && told.json["bottleneck"].is_null())
        })?;
        ensure!(told.json["error"].is_null(), "{}", told.json);

        replica.sql("STOP SLAVE SQL_THREAD")?;
        let told = told_until(&relay, "db", "stopped applying", |told| Ok(told.word("bottleneck") == "stopped"))?;
        ensure!(told.is_current()?, "it stopped at the head: {}", told.json);
        replica.sql("START SLAVE SQL_THREAD")?;
        told_until(&relay, "db", "to be well again", |told| Ok(told.json["bottleneck"].is_null()))?;

        replica.stop_slave()?;
        let told = told_until(&relay, "db", "to be gone", |told| Ok(told.word("state") == "gone"))?;
        ensure!(told.word("bottleneck") == "stopped", "{}", told.json);
        primary.sql("INSERT INTO test.t VALUES (18)")?;
        relay.wait_head(&primary)?;
        // It left, and is asked all the same.
        let left = told_until(&relay, "db", "to lag", |told| Ok(told.number("applied", "lag_transactions")? == 1))?;
        let older = told_until(&relay, "db", "to be gone for longer", |told| {
            Ok(told.json["state_ms"].as_u64() > left.json["state_ms"].as_u64())
        })?;
        ensure!(older.number("applied", "lag_ms")? >= left.number("applied", "lag_ms")?);
        ensure!(older.number("received", "lag_transactions")? == 1, "{}", older.json);

        replica.start_slave()?;
        let told = told_current(&relay, "db")?;
        ensure!(told.word("state") == "streaming", "{}", told.json);

        replica.kill9()?;
        told_until(&relay, "db", "to be gone and not to answer", |told| {
            Ok(told.word("state") == "gone" && told.word("error").contains("refused"))
        })
        .map(drop)
    });
}

#[test]
fn a_client_that_does_not_read_is_held_back_by_the_network_and_holds_back_nobody() {
    scenario("lag_network", |bed| {
        let primary = bed.mariadb("primary").server_id(1).start()?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        let replica = bed.mariadb("replica").server_id(2).option("--report-host=db").start()?;
        replica.replicate_from(&Source::gtid(relay.port()))?;
        let _lazy = Fake::attach(&relay, 3, "lazy", 0)?;
        primary.sql("CREATE TABLE test.t (a INT AUTO_INCREMENT PRIMARY KEY, filler LONGTEXT)")?;
        for _ in 0..6 {
            primary.sql("INSERT INTO test.t (filler) VALUES (REPEAT('x', 4 << 20))")?;
        }
        let lazy = told_until(&relay, "lazy", "network", |told| Ok(told.word("bottleneck") == "network"))?;
        ensure!(lazy.number("received", "lag_transactions")? > 0 && lazy.number("received", "lag_ms")? > 0);
        ensure!(lazy.word("state") == "streaming", "{}", lazy.json);
        wait_caught_up(&primary, &replica)?;
        told_current(&relay, "db").map(drop)
    });
}

#[test]
fn a_replica_that_cannot_be_asked_says_why() {
    scenario("lag_unasked", |bed| {
        let primary = bed.mariadb("primary").server_id(1).start()?;
        primary.sql("CREATE USER nobody@'%' IDENTIFIED BY 'monitor-secret'")?;
        let relay = |name: &str, id, user: &str, password: &str| -> Result<_> {
            let file = bed.path(format!("{name}.monitor"));
            std::fs::write(&file, password)?;
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            let relay = bed.relay(name).server_id(id).upstream(&primary).set("lag", "user", &format!("\"{user}\""));
            relay.set("lag", "password_file", &format!("\"{}\"", file.display())).start()
        };
        let good = relay("relay", 9001, "monitor", "monitor-secret")?;
        let refused = relay("relay-refused", 9002, "monitor", "not the password")?;
        let powerless = relay("relay-powerless", 9003, "nobody", "monitor-secret")?;

        // Every replica here is a conversation, and the server that is asked is the primary's.
        let nowhere = bed.port()?;
        let _replicas = [
            Fake::attach(&good, 11, "silent", 0)?,
            Fake::attach(&good, 12, "nowhere", nowhere.number())?,
            Fake::attach(&refused, 13, "wrong-password", primary.port())?,
            Fake::attach(&powerless, 14, "no-grant", primary.port())?,
        ];
        for (relay, name, parts) in [
            (&good, "silent", ["registered no port", "set report_port"]),
            (&good, "nowhere", ["can't be asked", "refused"]),
            (&refused, "wrong-password", ["error 1045", "Access denied for user 'monitor'"]),
        ] {
            let told = told_until(relay, name, "why it can't be asked", |told| {
                let why = parts.iter().all(|part| told.word("error").contains(part));
                Ok(why && told.json["received"].is_object())
            })?;
            ensure!(told.json["applied"].is_null(), "{}", told.json);
            ensure!(!told.word("error").contains("not the password"), "the password is told: {}", told.json);
        }
        // Positions may be read by everybody, the threads' state may not.
        let told = told_until(&powerless, "no-grant", "what may not be asked", |told| {
            Ok(told.word("error").contains("SLAVE MONITOR"))
        })?;
        ensure!(told.word("error").contains("1227") && told.json["applied"].is_object(), "{}", told.json);
        let errors = |relay: &baton_testbed::RelayProc| relay.metric("baton_relay_lag_poll_errors_total");
        ensure!(errors(&refused)?.is_some_and(|count| count > 0.0), "failed questions are counted");
        ensure!(errors(&powerless)? == Some(0.0), "its position is asked without a failure");
        Ok(())
    });
}

#[test]
fn replicas_are_named_by_report_host_and_found_by_name() {
    scenario("lag_names", |bed| {
        let primary = bed.mariadb("primary").server_id(1).start()?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        let one = Fake::attach(&relay, 11, "twin", 3306)?;
        told_until(&relay, "twin", "to be listed", |told| Ok(told.word("state") == "streaming"))?;
        let _others = [
            Fake::attach(&relay, 12, "twin", 3307)?,
            Fake::attach(&relay, 13, "", 3306)?,
            Fake::attach(&relay, 14, "straße/db 1", 3306)?,
        ];
        for (name, id) in [("twin:3306", 11), ("twin:3307", 12), ("server-13", 13), ("stra%C3%9Fe%2Fdb%201", 14)] {
            let told = told_until(&relay, name, "to be listed", |told| Ok(told.word("state") == "streaming"))?;
            ensure!(told.json["server_id"] == id, "{name} is {}", told.json);
        }
        let listed = relay.lag()?;
        let names: Vec<&str> =
            listed["replicas"].as_array().into_iter().flatten().filter_map(|r| r["name"].as_str()).collect();
        ensure!(names == ["twin:3306", "twin:3307", "server-13", "straße/db 1"], "{names:?}");

        for unknown in ["twin", "nobody", "server-11", "twin:3308"] {
            let (code, body) = relay.get(&format!("/v1/lag/{unknown}"))?;
            let error: Value = serde_json::from_str(&body)?;
            ensure!(code == 404 && error["hint"].is_string(), "{unknown}: {code} {body}");
            ensure!(error["error"].as_str().is_some_and(|text| text.contains(unknown)), "{body}");
        }

        // It leaves, stays listed, and is itself again when it comes back.
        drop(one);
        let gone = told_until(&relay, "twin:3306", "to be gone", |told| Ok(told.word("state") == "gone"))?;
        ensure!(gone.json["state_ms"].as_u64().context("no age")? <= DEADLINE.as_millis() as u64);
        let _again = Fake::attach(&relay, 11, "twin", 3306)?;
        told_until(&relay, "twin:3306", "to be back", |told| Ok(told.word("state") == "streaming"))?;
        let listed = relay.lag()?;
        let count = listed["replicas"].as_array().map_or(0, Vec::len);
        ensure!(count == 4, "{count} replicas are listed: {listed}");

        // The same server from elsewhere, while its older connection still stands.
        let _newer = Fake::attach(&relay, 11, "twin", 3306)?;
        told_until(&relay, "twin:3306", "to have one connection", |told| {
            Ok(told.json["state_ms"].as_u64().is_some_and(|ms| ms < Duration::from_secs(3600).as_millis() as u64))
        })?;
        let told = Told::of(&relay, "twin:3306")?;
        ensure!(told.word("state") != "gone" && told.json["server_id"] == 11, "{}", told.json);
        Ok(())
    });
}
