//! The testbed's own network and etcd: what is cut is cut, what is frozen is silent, and nothing stays behind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_testbed::{DEADLINE, Host, Net, procs, scenario, wait_for, wait_until};
use serde_json::json;

/// Whether `from` gets a greeting from a listener on `to`.
fn greets(from: &Host, to: &Host) -> Result<bool> {
    let listener = to.inside(|| Ok(TcpListener::bind((to.ip(), 0))?))?;
    let at = listener.local_addr()?;
    let server = std::thread::spawn(move || -> Result<()> { Ok(listener.accept()?.0.write_all(b"hello")?) });
    let greeted = from.inside(|| Ok(greeting(at)))?;
    if !greeted {
        // The listener is still waiting: let it go.
        to.inside(|| Ok(TcpStream::connect(at)?)).map(drop)?;
    }
    server
        .join()
        .map_err(|_| anyhow::anyhow!("the listener panicked"))?
        .or_else(|error| if greeted { Err(error) } else { Ok(()) })?;
    Ok(greeted)
}

fn greeting(at: SocketAddr) -> bool {
    let mut text = [0; 5];
    let said = TcpStream::connect_timeout(&at, Duration::from_millis(300)).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        stream.read_exact(&mut text)
    });
    said.is_ok() && &text == b"hello"
}

#[test]
fn links_between_hosts_are_cut_and_mended_one_by_one() {
    scenario("links", |_| {
        let net = Net::new()?;
        let [a, b, c] = [net.host("a")?, net.host("b")?, net.host("c")?];
        ensure!(greets(&a, &b)? && greets(&b, &a)?, "hosts can't reach each other");
        net.cut(&a, &b)?;
        ensure!(!greets(&a, &b)? && !greets(&b, &a)?, "a cut link works");
        ensure!(greets(&a, &c)? && greets(&c, &b)?, "the wrong link is cut");
        net.mend(&a, &b)?;
        ensure!(greets(&a, &b)?, "a mended link does not work");
        c.isolate()?;
        ensure!(!greets(&a, &c)? && !greets(&c, &b)? && greets(&a, &b)?, "isolation cuts the wrong links");
        c.rejoin()?;
        c.unplug()?;
        ensure!(!greets(&a, &c)?, "there is no cable");
        c.plug()?;
        wait_for("the cable to work", DEADLINE, || Ok(greets(&a, &c)?.then_some(())))?;
        net.cut_one_way(&a, &b)?;
        ensure!(!greets(&a, &b)?, "half a link carries a conversation");
        net.mend_all()?;
        ensure!(greets(&a, &b)?, "everything was mended");
        let address = net.spare_ip(100);
        a.add_address(address)?;
        ensure!(a.holds(address)? && !b.holds(address)?, "an address is on the wrong host");
        a.remove_address(address)?;
        ensure!(!a.holds(address)?, "an address stays");
        Ok(())
    });
}

#[test]
fn what_runs_on_a_host_is_frozen_thawed_and_crashed_with_it_and_nothing_stays() {
    scenario("freeze_and_crash", |bed| {
        let net = Net::new()?;
        let host = net.host("a")?;
        // The inner shell leaves the process group, as a server under its own supervisor may.
        let script = "setsid sh -c 'while :; do date +%N >>beat; sleep 0.01; done' & wait";
        let proc = host.cmd("sh").args(["-c", script]).cwd(bed.root()).spawn(&bed.log("beat"), None)?;
        let beats = || Ok(std::fs::metadata(bed.path("beat")).map_or(0, |meta| meta.len()));
        wait_until("the first beat", beats, |beats| *beats > 0)?;
        host.freeze()?;
        let frozen = beats()?;
        std::thread::yield_now();
        ensure!(host.processes().len() >= 2, "{:?}", host.processes());
        ensure!(beats()? == frozen, "a frozen host's heart beats");
        host.thaw();
        wait_until("the next beat", beats, |beats| *beats > frozen)?;
        host.crash()?;
        ensure!(proc.wait_exit(DEADLINE).is_some() && host.processes().is_empty(), "{:?}", host.processes());
        let file = host.netns();
        drop(host);
        ensure!(!file.exists(), "{} stays", file.display());
        Ok(())
    });
}

#[test]
fn namespaces_of_dead_programs_are_swept_with_what_runs_in_them() {
    scenario("sweep", |_| {
        // It lives until all stands: every test that makes a network sweeps.
        let mut owner = Command::new("sleep").arg("600").spawn()?;
        let name = format!("batonbed-{}-0-db-1", owner.id());
        let ip = |args: &[&str]| -> Result<()> {
            ensure!(Command::new("ip").args(args).status()?.success(), "ip {args:?}");
            Ok(())
        };
        ip(&["netns", "add", &name])?;
        let mut orphan = Command::new("ip").args(["netns", "exec", &name, "sleep", "600"]).spawn()?;
        // Its name changes once it has entered the namespace.
        let comm = format!("/proc/{}/comm", orphan.id());
        wait_until("the orphan to sleep", || Ok(std::fs::read_to_string(&comm)?), |name| name == "sleep\n")?;
        owner.kill()?;
        owner.wait()?;
        let net = Net::new()?;
        // Another test may be at it at this moment.
        let stays = || Ok(Path::new("/run/netns").join(&name).exists());
        wait_until("the namespace to be gone", stays, |stays| !stays)?;
        orphan.wait()?;
        ensure!(!procs::exists(orphan.id()), "what ran in {name} stays");
        drop(net);
        Ok(())
    });
}

#[test]
fn etcd_on_a_port_keeps_and_watches_keys_and_hangs_while_it_is_frozen() {
    scenario("etcd_one", |bed| {
        let etcd = bed.etcd().start()?;
        ensure!(etcd.get("/baton/test/state")?.is_none(), "a new etcd is not empty");
        let changes = etcd.watch("/baton/test/")?;
        etcd.put("/baton/test/state", &json!({"epoch": 1}))?;
        etcd.put("/baton/other/state", &json!({"epoch": 9}))?;
        etcd.put("/baton/test/nodes/db-1", &json!({"name": "db-1"}))?;
        let state = etcd.get("/baton/test/state")?.context("what was put is not there")?;
        ensure!(state.value == json!({"epoch": 1}) && state.create_revision == state.mod_revision, "{state:?}");
        etcd.delete("/baton/test/state")?;
        let seen: Vec<_> =
            changes.iter().take(3).map(|change| (change.key, change.entry.map(|entry| entry.value))).collect();
        ensure!(seen[0] == ("/baton/test/state".into(), Some(json!({"epoch": 1}))), "{seen:?}");
        ensure!(seen[2] == ("/baton/test/state".into(), None), "{seen:?}");
        ensure!(etcd.list("/baton/test/")?.keys().eq(["/baton/test/nodes/db-1"]), "{:?}", etcd.list("/baton/")?);
        etcd.freeze()?;
        ensure!(etcd.get("/baton/test/state").is_err(), "a frozen etcd answers");
        etcd.thaw()?;
        etcd.members()[0].kill9()?;
        etcd.members()[0].restart()?;
        ensure!(etcd.list("/baton/")?.len() == 2, "a restart lost something");
        Ok(())
    });
}

#[test]
fn etcd_of_three_members_outlives_its_leader() {
    scenario("etcd_three", |bed| {
        let net = Net::new()?;
        let hosts = [net.host("e1")?, net.host("e2")?, net.host("e3")?];
        let etcd = bed.etcd().on(&[&hosts[0], &hosts[1], &hosts[2]]).start()?;
        etcd.put("a", &json!(1))?;
        let first = etcd.leader()?.clone();
        first.kill9()?;
        wait_for("another leader", DEADLINE, || Ok(etcd.get("a").ok().flatten()))?;
        ensure!(etcd.leader()?.name() != first.name(), "a dead member leads");
        first.restart()?;
        let leader = etcd.leader()?;
        leader.freeze()?;
        wait_for("a leader that is not frozen", DEADLINE, || Ok(etcd.put("a", &json!(2)).ok()))?;
        leader.thaw()
    });
}
