//! What is refused at the start, and what is told when something is wrong at run time.

use anyhow::ensure;
use baton_testbed::cluster::{Ledger, TOKEN};
use baton_testbed::{DEADLINE, scenario, wait_for};

use crate::support::load;

#[test]
fn bootstrap_is_refused_where_there_is_a_state_or_another_node_has_more() {
    scenario("bootstrap", |bed| {
        let cluster = bed.cluster().without_bootstrap().start()?;
        let more = cluster.node("db-2")?;
        more.wait_answers()?;
        more.sql("CREATE TABLE test.mine (a INT)")?;
        wait_for("every agent to be announced", DEADLINE, || {
            Ok((cluster.etcd().list(&cluster.key("nodes/"))?.len() == 2).then_some(()))
        })?;
        // The agents' word of it may take a moment to come around.
        let refused = wait_for("the bootstrap to be refused", DEADLINE, || {
            ensure!(cluster.etcd().get(&cluster.key("state"))?.is_none(), "bootstrapped without db-2's transactions");
            let ended = cluster.ctl(&["bootstrap", "--primary", "db-1"])?;
            Ok((ended.code == 3 && ended.err.contains("db-2")).then_some(ended))
        })?;
        println!("{}", refused.err.trim());
        let unknown = cluster.ctl(&["bootstrap", "--primary", "db-9"])?;
        ensure!(unknown.code == 3 && unknown.err.contains("db-9"), "{unknown}");
        cluster.bootstrap("db-2")?;
        let again = cluster.ctl(&["bootstrap", "--primary", "db-1"])?;
        ensure!(again.code == 3, "{again}");
        ensure!(cluster.wait_settled()?.name() == "db-2", "{}", cluster.state()?);
        Ok(())
    });
}

#[test]
fn without_state_servers_stay_read_only_and_nobody_has_the_address() {
    scenario("no_state", |bed| {
        let cluster = bed.cluster().without_bootstrap().start()?;
        for node in cluster.nodes() {
            node.wait_answers()?;
            ensure!(node.read_only()? && !node.holds(cluster.vip())?, "{} serves without a cluster", node.name());
            ensure!(node.status()?["role"] == "unassigned", "{}", node.status()?);
        }
        let told = cluster.ctl(&["status"])?;
        ensure!(format!("{} {}", told.out, told.err).contains("bootstrap"), "it is not said what to type: {told}");
        Ok(())
    });
}

#[test]
fn wrong_password_at_run_time_is_told_and_not_taken_for_a_dead_server() {
    scenario("wrong_password", |bed| {
        let cluster = bed.cluster().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let epoch = cluster.epoch()?;
        cluster.primary()?.sql("SET PASSWORD FOR baton_probe@'%' = PASSWORD('another')")?;
        // Kept sessions stay: end them, so that the password is asked for.
        cluster.primary()?.sql(
            "BEGIN NOT ATOMIC FOR s IN (SELECT id FROM information_schema.processlist WHERE user='baton_probe') DO KILL s.id; END FOR; END",
        )?;
        let problem = cluster.wait_problem_of(&["probe_denied"])?;
        ensure!(problem["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{problem}");
        writers.wait_more(500)?;
        ensure!(cluster.epoch()? == epoch, "a failover because of a password: {}", cluster.state()?);
        writers.stop()?;
        Ok(())
    });
}

#[test]
fn rights_lost_at_run_time_are_told_with_the_statement_that_mends_them_and_are_no_reason_for_a_failover() {
    scenario("lost_grant", |bed| {
        let cluster = bed.cluster().start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (epoch, primary) = (cluster.epoch()?, cluster.primary()?.clone());
        let mut root = primary.session()?;
        root.query("SET SESSION sql_log_bin=0")?;
        root.query("REVOKE ALL PRIVILEGES, GRANT OPTION FROM baton@localhost")?;
        root.query("GRANT SELECT, PROCESS, RELOAD, REPLICATION SLAVE ADMIN ON *.* TO baton@localhost")?;
        let problem = cluster.wait_problem_of(&["primary_settings"])?;
        ensure!(problem["text"].to_string().contains("READ_ONLY ADMIN"), "{problem}");
        writers.wait_more(200)?;
        root.query("GRANT ALL ON *.* TO baton@localhost WITH GRANT OPTION")?;

        // The acker's own: its stream goes on until it has to connect anew.
        root.query("REVOKE REPLICATION SLAVE ON *.* FROM relay_1@'%'")?;
        root.query(
            "BEGIN NOT ATOMIC FOR s IN (SELECT id FROM information_schema.processlist WHERE user='relay_1') DO KILL s.id; END FOR; END",
        )?;
        cluster.wait_problem_of(&["relay_refused"])?;
        let status = cluster.relays()[0].json("/v1/status")?;
        ensure!(status["upstream"]["hint"].to_string().contains("GRANT REPLICATION SLAVE"), "{}", status["upstream"]);
        root.query("GRANT REPLICATION SLAVE ON *.* TO relay_1@'%'")?;
        writers.wait_more(200)?;
        cluster.wait_settled()?;
        ensure!(cluster.epoch()? == epoch, "a failover because of a right: {}", cluster.state()?);
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn primary_with_too_many_connections_is_alive() {
    scenario("too_many", |bed| {
        let cluster = bed.cluster().server_option("max_connections = 30").start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (epoch, primary) = (cluster.epoch()?, cluster.primary()?.clone());
        let mut open = Vec::new();
        while let Ok(session) = primary.app_session() {
            open.push(session);
        }
        ensure!(open.len() > 5, "{} sessions", open.len());
        writers.wait_more(500)?;
        ensure!(cluster.epoch()? == epoch, "a failover because of connections: {}", cluster.state()?);
        drop(open);
        cluster.wait_settled()?;
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}

#[test]
fn controllers_with_a_wrong_token_or_another_configuration_are_told() {
    scenario("another_configuration", |bed| {
        let cluster = bed.cluster().controllers(2).start()?;
        let second = &cluster.controllers()[1];
        second.term()?;
        let text = std::fs::read_to_string(second.config_file())?.replace("10.77.0.100", "10.77.0.101");
        std::fs::write(second.config_file(), text)?;
        second.start()?;
        let told = wait_for("the difference to be told, or the start to be refused", DEADLINE, || {
            let log = std::fs::read_to_string(second.log_file())?;
            let refused = !second.is_running();
            let problem = cluster.view()?["problems"].to_string();
            Ok((refused || problem.contains("config")).then_some((refused, log)))
        })?;
        println!("refused: {}", told.0);
        let (code, _) = cluster.controllers()[0].get("/healthz")?;
        ensure!(code == 200, "the first controller answers {code}");
        ensure!(
            !std::fs::read_to_string(cluster.controllers()[0].log_file())?.contains(TOKEN),
            "the token is in a log"
        );
        cluster.wait_settled().map(drop)
    });
}

#[test]
fn second_agent_under_the_primarys_name_keeps_its_server_from_writes_and_says_why() {
    scenario("namesake", |bed| {
        let cluster = bed.cluster().nodes(3).start()?;
        let ledger = Ledger::default();
        let writers = load(&cluster, &ledger)?;
        let (primary, other) = (cluster.primary()?.clone(), cluster.node("db-3")?);
        let file = other.agent().config_file();
        let right = std::fs::read_to_string(file)?;
        let wrong = right.replace("node = \"db-3\"", &format!("node = \"{}\"", primary.name()));
        ensure!(wrong != right, "no name to be changed in {right}");
        other.agent().term()?;
        std::fs::write(file, wrong)?;
        other.agent().start()?;
        wait_for("the namesake to say so", DEADLINE, || {
            let said = std::fs::read_to_string(other.agent().log_file())?;
            Ok(said.contains("is announced as node").then_some(()))
        })?;
        for _ in 0..10 {
            writers.wait_more(50)?;
            let writable = other.session().is_ok() && !other.read_only()?;
            ensure!(!writable && !other.holds(cluster.vip())?, "the namesake's server can be written to");
        }
        other.agent().term()?;
        std::fs::write(file, right)?;
        other.agent().start()?;
        ensure!(cluster.wait_settled()?.name() == primary.name(), "{}", cluster.state()?);
        writers.stop()?;
        cluster.check(&[&ledger])
    });
}
