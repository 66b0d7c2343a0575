//! The process as its supervisor sees it.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(15);

#[test]
fn a_relay_whose_log_nobody_reads_any_more_still_ends_when_told_to() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut relay = Command::new(env!("CARGO_BIN_EXE_baton-relay"))
        .env("BATON_RELAY_CLUSTER", "shop")
        .env("BATON_RELAY_NAME", "relay-1")
        .env("BATON_RELAY_SERVER_ID", "9001")
        .env("BATON_RELAY_DATA_DIR", dir.path())
        // Nothing listens there: what is logged of that comes on top.
        .env("BATON_RELAY_UPSTREAM_ADDRESSES", "127.0.0.1:1")
        .env("BATON_RELAY_UPSTREAM_USER", "repl")
        .env("BATON_RELAY_UPSTREAM_PASSWORD", "secret")
        .env("BATON_RELAY_LISTEN_REPLICATION", "127.0.0.1:0")
        .env("BATON_RELAY_LISTEN_HTTP", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the relay starts");
    let mut log = BufReader::new(relay.stderr.take().expect("its log"));
    let mut line = String::new();
    while !line.contains("relay started") {
        line.clear();
        assert!(log.read_line(&mut line).expect("a line") > 0, "the relay ended before it had started");
    }
    drop(log);
    kill_process(Pid::from_child(&relay), Signal::TERM).expect("SIGTERM");
    let told = Instant::now();
    let ended: ExitStatus = loop {
        if let Some(status) = relay.try_wait().expect("its state") {
            break status;
        }
        if told.elapsed() > DEADLINE {
            let _ = relay.kill();
            panic!("the relay runs on");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(ended.success(), "{ended}");
}
