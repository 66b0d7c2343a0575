//! The test bed itself: what every other end-to-end test relies on.

use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use anyhow::{Result, ensure};
use baton_testbed::sql::code_of;
use baton_testbed::{
    Bed, Certs, Cmd, DEADLINE, Direction, MariaDb, Proxy, RowWriter, Source, Ssl, Sysbench, Workload,
    assert_tables_equal, cmp_files, compare, procs, scenario, wait_caught_up, wait_until,
};

fn pair(bed: &Bed) -> Result<(MariaDb, MariaDb)> {
    Ok((bed.mariadb("primary").server_id(1).start()?, bed.mariadb("replica").server_id(2).start()?))
}

#[test]
fn replica_behind_a_proxy_survives_cuts_inside_the_handshake_and_inside_events() {
    scenario("replica_survives_cuts", |bed| {
        let (primary, replica) = pair(bed)?;
        let proxy = Proxy::start(primary.address())?;
        proxy.cut_next_connection_at(Direction::ToClient, 40);
        replica.replicate_from(&Source::gtid(proxy.port()).heartbeat(1.0))?;
        primary.sql("CREATE TABLE test.t (id INT AUTO_INCREMENT PRIMARY KEY, filler VARCHAR(500))")?;
        wait_caught_up(&primary, &replica)?;
        ensure!(proxy.struck() == 1 && proxy.accepted() >= 2, "the first connection was to be cut inside the greeting");
        for round in 0..3 {
            proxy.cut_after(Direction::ToClient, 777);
            proxy.reset_after(Direction::ToClient, 3777);
            for _ in 0..20 {
                primary.sql(&format!("INSERT INTO test.t (filler) VALUES (REPEAT('{round}', 400))"))?;
            }
            wait_caught_up(&primary, &replica)?;
        }
        ensure!(proxy.struck() == 7, "every armed cut was to strike, {} did", proxy.struck());
        assert_tables_equal(&primary, &replica);
        ensure!(replica.value("SELECT COUNT(*) FROM test.t")? == "60");
        Ok(())
    });
}

#[test]
fn stalled_proxy_lets_nothing_through_and_a_refusing_one_is_not_there() {
    scenario("stall_and_refuse", |bed| {
        let (primary, replica) = pair(bed)?;
        let proxy = Proxy::start(primary.address())?;
        primary.sql("CREATE TABLE test.t (id INT PRIMARY KEY)")?;
        replica.replicate_from(&Source::gtid(proxy.port()))?;
        wait_caught_up(&primary, &replica)?;
        proxy.stall();
        let before = proxy.forwarded(Direction::ToClient);
        primary.sql("INSERT INTO test.t VALUES (1)")?;
        ensure!(replica.value("SELECT COUNT(*) FROM test.t")? == "0", "a row came through a stalled proxy");
        ensure!(proxy.forwarded(Direction::ToClient) == before);
        proxy.resume();
        wait_caught_up(&primary, &replica)?;
        proxy.refuse(true);
        proxy.cut_now();
        wait_until("the port to be refused", || Ok(TcpStream::connect(proxy.address()).is_err()), |refused| *refused)?;
        primary.sql("INSERT INTO test.t VALUES (2)")?;
        ensure!(replica.value("SELECT COUNT(*) FROM test.t")? == "1");
        proxy.refuse(false);
        wait_caught_up(&primary, &replica)?;
        assert_tables_equal(&primary, &replica);
        Ok(())
    });
}

#[test]
fn flipped_bit_in_an_event_reaches_the_replica_which_notices() {
    scenario("flipped_bit", |bed| {
        let (primary, replica) = pair(bed)?;
        let proxy = Proxy::start(primary.address())?;
        primary.sql("CREATE TABLE test.t (id INT PRIMARY KEY, filler VARCHAR(1000))")?;
        replica.replicate_from(&Source::gtid(proxy.port()))?;
        wait_caught_up(&primary, &replica)?;
        proxy.flip_bit_after(Direction::ToClient, 700);
        primary.sql("INSERT INTO test.t VALUES (1, REPEAT('x', 1000))")?;
        let errno =
            wait_until("the replica to stop", || replica.slave_status(), |status| status["Slave_IO_Running"] == "No")?;
        ensure!(errno["Last_IO_Errno"] == "1595" && proxy.struck() == 1, "{errno:?}");
        Ok(())
    });
}

#[test]
fn servers_are_gone_after_the_test_and_so_is_their_directory() {
    let left = Mutex::new(None);
    scenario("gone_after_drop", |bed| {
        let (primary, replica) = pair(bed)?;
        replica.freeze()?;
        let pids = [primary.proc()?.pid(), replica.proc()?.pid()];
        ensure!(pids.iter().all(|pid| procs::exists(*pid)));
        *left.lock().unwrap() = Some((pids, bed.root().to_owned(), primary.socket().to_owned()));
        Ok(())
    });
    let (pids, root, socket) = left.into_inner().unwrap().unwrap();
    assert!(!pids.iter().any(|pid| procs::exists(*pid)), "processes {pids:?} are left");
    assert!(std::env::var("KEEP").is_ok_and(|keep| keep == "1") || !root.exists(), "{} is left", root.display());
    assert!(!socket.exists(), "{} is left", socket.display());
}

#[test]
fn child_outlives_the_thread_that_started_it_but_not_a_kill_of_the_program() {
    scenario("parent_death", |bed| {
        let log = bed.log("sleep");
        let inner_log = log.clone();
        let proc = std::thread::spawn(move || Cmd::new("sleep").arg("600").spawn(&inner_log, None)).join().unwrap()?;
        ensure!(proc.is_running() && procs::exists(proc.pid()), "the child ended with the thread that asked for it");
        // This test program once more, as a program that starts a child and is then killed with SIGKILL.
        let pid_file = bed.path("child.pid");
        let mut program = Command::new(std::env::current_exe()?);
        program
            .args(["--exact", "helper_that_starts_a_child_and_waits", "--nocapture"])
            .env("TESTBED_HELPER_PID_FILE", &pid_file);
        let mut program = program.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()?;
        let read = || Ok(fs::read_to_string(&pid_file)?.trim().parse::<u32>()?);
        let child = wait_until("the helper's child", read, |pid| procs::exists(*pid));
        program.kill()?;
        program.wait()?;
        let child = child?;
        wait_until("the helper's child to die with it", || Ok(procs::exists(child)), |there| !there)?;
        Ok(())
    });
}

#[test]
fn helper_that_starts_a_child_and_waits() {
    let Some(path) = std::env::var_os("TESTBED_HELPER_PID_FILE") else { return };
    let log = std::path::PathBuf::from(&path).with_extension("log");
    let proc = Cmd::new("sleep").arg("600").spawn(&log, None).unwrap();
    fs::write(&path, proc.pid().to_string()).unwrap();
    proc.wait_exit(DEADLINE);
}

#[test]
fn failed_scenario_keeps_its_directory() {
    let root = Mutex::new(None);
    let failed = std::panic::catch_unwind(|| {
        scenario("fails_on_purpose", |bed| {
            *root.lock().unwrap() = Some(bed.root().to_owned());
            anyhow::bail!("on purpose")
        });
    });
    assert!(failed.is_err());
    let root = root.into_inner().unwrap().unwrap();
    assert!(root.join("kept").exists(), "{} was to be kept", root.display());
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn sysbench_load_replicates_and_its_report_is_read() {
    scenario("sysbench", |bed| {
        let (primary, replica) = pair(bed)?;
        replica.replicate_from(&Source::gtid(primary.port()))?;
        let sysbench = Sysbench::new(&primary).tables(2).table_size(200).threads(2);
        sysbench.prepare()?;
        let report = sysbench.run(Workload::WriteOnly, Duration::from_secs(2))?;
        ensure!(
            report.transactions > 0 && report.queries > report.transactions && report.max_ms >= report.mean_ms,
            "{report:?}"
        );
        assert_tables_equal(&primary, &replica);
        ensure!(primary.checksum_tables("sbtest")?.len() == 2);
        sysbench.cleanup()?;
        ensure!(primary.checksum_tables("sbtest")?.is_empty());
        Ok(())
    });
}

#[test]
fn two_clusters_side_by_side_do_not_collide() {
    scenario("side_by_side", |bed| {
        let other = Bed::new("side_by_side_other")?;
        let (one, two) = std::thread::scope(|threads| {
            let first = threads.spawn(|| pair(bed));
            let second = threads.spawn(|| pair(&other));
            (first.join().unwrap(), second.join().unwrap())
        });
        let ((primary_1, replica_1), (primary_2, replica_2)) = (one?, two?);
        let mut ports: Vec<_> = [&primary_1, &replica_1, &primary_2, &replica_2].map(|db| db.port()).into();
        ports.sort_unstable();
        ports.dedup();
        ensure!(ports.len() == 4, "{ports:?}");
        for (primary, replica, text) in [(&primary_1, &replica_1, "one"), (&primary_2, &replica_2, "two")] {
            replica.replicate_from(&Source::gtid(primary.port()))?;
            primary.sql("CREATE TABLE test.t (a TEXT)")?;
            primary.sql(&format!("INSERT INTO test.t VALUES ('{text}')"))?;
        }
        for (primary, replica, text) in [(&primary_1, &replica_1, "one"), (&primary_2, &replica_2, "two")] {
            assert_tables_equal(primary, replica);
            ensure!(replica.value("SELECT a FROM test.t")? == text);
        }
        Ok(())
    });
}

#[test]
fn killed_and_restarted_server_has_what_it_confirmed() {
    scenario("kill_and_restart", |bed| {
        let db = bed.mariadb("db").start()?;
        let writer = RowWriter::start(&db, "rows", 2, Duration::ZERO)?;
        wait_until("some rows", || Ok(writer.confirmed()), |count| *count > 50)?;
        db.kill9()?;
        ensure!(db.sql("SELECT 1").is_err());
        db.restart()?;
        let so_far = writer.confirmed();
        wait_until("more rows", || Ok(writer.confirmed()), |count| *count > so_far + 50)?;
        let table = writer.table().to_owned();
        let written = writer.stop()?;
        ensure!(written.lost_on(&db, &table, 5)?.is_empty());
        ensure!(!written.unknown.is_empty(), "the kill was to leave rows whose fate is unknown");
        db.stop()
    });
}

#[test]
fn frozen_server_answers_nothing_until_it_is_thawed() {
    scenario("freeze", |bed| {
        let db = bed.mariadb("db").start()?;
        let mut session = db.session()?;
        db.freeze()?;
        let (sender, answers) = mpsc::channel();
        let asker = std::thread::spawn(move || sender.send(session.query("SELECT 42")));
        ensure!(answers.recv_timeout(Duration::from_millis(300)).is_err(), "a frozen server answered");
        db.thaw()?;
        ensure!(answers.recv_timeout(DEADLINE)??[0][0].as_deref() == Some("42"));
        asker.join().unwrap()?;
        Ok(())
    });
}

#[test]
fn replica_by_file_and_position_over_tls_gets_what_follows() {
    scenario("file_pos_tls", |bed| {
        let certs = Certs::create(bed.root(), "primary")?;
        let primary = bed.mariadb("primary").server_id(1).tls(&certs).start()?;
        let replica = bed.mariadb("replica").server_id(2).parallel_appliers(4).start()?;
        primary.sql("CREATE TABLE test.before_start (a INT PRIMARY KEY)")?;
        let (file, position) = primary.master_status()?;
        replica
            .replicate_from(&Source::file_pos(primary.port(), &file, position).ssl(Ssl::Verify(certs.ca.clone())))?;
        primary.sql("CREATE TABLE test.after_start (a INT PRIMARY KEY)")?;
        wait_until("the table", || replica.checksum_tables("test"), |tables| tables.contains_key("test.after_start"))?;
        ensure!(!replica.checksum_tables("test")?.contains_key("test.before_start"));
        ensure!(primary.value("SHOW STATUS LIKE 'Ssl_accepts'").is_ok());
        ensure!(replica.slave_status()?["Master_SSL_Allowed"] == "Yes");
        Ok(())
    });
}

#[test]
fn binlog_files_can_be_listed_compared_and_read() {
    scenario("binlogs", |bed| {
        let db = bed.mariadb("db").option("--binlog-annotate-row-events=1").start()?;
        db.sql("CREATE TABLE test.t (a INT PRIMARY KEY); INSERT INTO test.t VALUES (17); FLUSH BINARY LOGS")?;
        ensure!(db.binlogs()? == ["mysql-bin.000001", "mysql-bin.000002"]);
        let first = db.binlog_path("mysql-bin.000001");
        let copy = bed.path("copy");
        let mut bytes = fs::read(&first)?;
        fs::write(&copy, &bytes)?;
        cmp_files(&first, &copy)?;
        bytes[300] ^= 1;
        fs::write(&copy, &bytes)?;
        let error = cmp_files(&first, &copy).unwrap_err().to_string();
        ensure!(error.contains("offset 300"), "{error}");
        compare::cmp_prefix(&first, &copy, 300, &[])?;
        let text = compare::binlog_text(&bed.path("text"), &[&first], &["--verbose"])?;
        ensure!(text.contains("###   @1=17"), "{text}");
        ensure!(
            compare::binlog_text(&bed.path("text"), &[&copy], &[]).is_err(),
            "mariadb-binlog was to notice the flipped bit"
        );
        Ok(())
    });
}

#[test]
fn refused_statement_gives_the_servers_error_number_and_the_session_goes_on() {
    scenario("sql_errors", |bed| {
        let db = bed.mariadb("db").start()?;
        let mut session = db.session_as("app", baton_testbed::template::APP_PASSWORD)?;
        ensure!(session.query("SELECT nonsense").is_err_and(|error| code_of(&error) == Some(1054)));
        ensure!(session.query("SELECT NULL, '', 7; SELECT 8")? == [[Some("8".to_owned())]]);
        ensure!(session.query("SELECT NULL, ''")? == [[None, Some(String::new())]]);
        let long = "a".repeat(17 << 20);
        session.query("SET @x = 1")?;
        db.sql("SET GLOBAL max_allowed_packet = 64 << 20")?;
        let mut big = db.session()?;
        ensure!(
            big.query(&format!("SELECT '{long}'"))?[0][0].as_deref() == Some(&long),
            "a row of 17 MiB came back changed"
        );
        ensure!(db.session_as("app", "wrong").is_err_and(|error| code_of(&error) == Some(1045)));
        Ok(())
    });
}
