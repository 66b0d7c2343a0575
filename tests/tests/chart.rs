//! The rendered chart, run: its containers' own commands as processes in a network namespace for each pod, with real MariaDB and etcd.
//!
//! Needs programs that were built with `--features baton-failover/kubernetes`, as scripts/test.sh does, and root or user namespaces.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_testbed::kube::runner::NAMESPACE;
use baton_testbed::kube::{Kind, Pod, Release};
use baton_testbed::sql::Address;
use baton_testbed::{DEADLINE, Host, Sql, scenario, wait_for, wait_until};
use rustix::process::Signal;
use serde_json::Value;

const NAME: &str = "baton";

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/baton/examples").join(format!("{name}.yaml"))
}

/// A client that writes through an address, connects again whenever it has to, and remembers what it was told is committed.
struct Writer {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Vec<u64>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(host: &Host, at: SocketAddr, password: String) -> Self {
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (host, stopped, note) = (host.clone(), Arc::clone(&stop), Arc::clone(&told));
        let thread = thread::spawn(move || {
            let mut n = 0;
            if host.enter().is_err() {
                return;
            }
            while !stopped.load(Ordering::Relaxed) {
                // A connection that breaks leaves its last number unknown: it is never used again.
                let _broken = write_on(at, &password, &mut n, &note, &stopped);
                thread::sleep(Duration::from_millis(10));
            }
        });
        Self { stop, told, thread: Some(thread) }
    }

    fn told(&self) -> Vec<u64> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for `more` further commits.
    fn goes_on(&self, more: usize) -> Result<()> {
        let goal = self.told().len() + more;
        wait_for("further commits through the Service", DEADLINE, || Ok((self.told().len() >= goal).then_some(())))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn write_on(at: SocketAddr, password: &str, n: &mut u64, told: &Mutex<Vec<u64>>, stop: &AtomicBool) -> Result<()> {
    let within = Duration::from_secs(2);
    let mut sql = Sql::connect_within(&Address::Tcp(at), "app", password, within, within)?;
    while !stop.load(Ordering::Relaxed) {
        *n += 1;
        sql.query(&format!("INSERT INTO app.ledger VALUES ({n})"))?;
        told.lock().unwrap_or_else(PoisonError::into_inner).push(*n);
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// `GET` from a host; the body of a success.
fn get(from: &Host, at: SocketAddr, path: &str) -> Result<Value> {
    let text = from.inside(|| {
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(head.contains(" 200 "), "{head}\n{body}");
    Ok(serde_json::from_str(body)?)
}

/// Every value of the ledger on a server, as seen by the app's account at the server's own address.
fn ledger(release: &Release, pod: &Pod) -> Result<Vec<u64>> {
    let password = release.secret("app-password")?;
    let at = Address::Tcp((pod.ip(), 3306).into());
    let rows = release
        .client()
        .inside(|| Sql::connect(&at, "app", &password, Some(DEADLINE))?.query("SELECT n FROM app.ledger ORDER BY n"))?;
    Ok(rows.into_iter().filter_map(|row| row.first()?.as_deref()?.parse().ok()).collect())
}

/// How each relay stands to what it follows.
fn fed(release: &Release) -> Result<Vec<String>> {
    let state = |number: u8| {
        let relay = release.pod(&format!("relay-{number}"))?;
        let status = get(release.client(), (relay.ip(), 8090).into(), "/v1/status")?;
        Ok(status["upstream"]["state"].as_str().unwrap_or_default().to_owned())
    };
    (0..2).map(state).collect()
}

/// The data of the release's Secret.
fn passwords(release: &Release) -> Value {
    release.api().objects().get(Kind::Secret, NAMESPACE, "baton-secrets").unwrap_or_default()["data"].clone()
}

fn role(release: &Release, pod: &Pod) -> Result<String> {
    let object = release.api().objects().get(Kind::Pod, NAMESPACE, pod.name());
    let object = object.map_err(|refused| anyhow::anyhow!("{}", refused.message))?;
    Ok(object["metadata"]["labels"]["baton/role"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn minimal_values_become_a_cluster_whose_writes_survive_a_switchover_and_the_primarys_death() {
    scenario("chart_minimal", |bed| {
        let mut release = Release::install(bed, NAME, &[&example("minimal")])?;
        release.wait_ready()?;
        let first =
            wait_until("a published primary", || Ok(release.primary()), Option::is_some)?.context("a primary")?;
        ensure!(first.name() == "baton-db-0", "{} was not asked to be primary", first.name());

        // helm test: asks for the lag, writes through the primary Service.
        let tested = release.test()?;
        ensure!(tested.contains("\"relay\":\"baton-relay-"), "helm test shows the lag: {tested}");

        wait_until("both relays to be fed", || fed(&release), |states| *states == ["streaming", "streaming"])?;

        // What NOTES.txt says to type first.
        let endpoints = "baton-controller:8091";
        let status = release.run_like("bootstrap", "status", &["batonctl", "--endpoints", endpoints, "status"])?;
        ensure!((0..3).all(|n| status.contains(&format!("baton-db-{n}"))), "batonctl status: {status}");

        let password = release.secret("app-password")?;
        let primary: SocketAddr = (release.cluster_ip("primary")?, 3306).into();
        release.client().inside(|| {
            let mut sql = Sql::connect(&Address::Tcp(primary), "app", &password, Some(DEADLINE))?;
            sql.query("CREATE TABLE app.ledger (n BIGINT PRIMARY KEY)")
        })?;
        let writer = Writer::start(release.client(), primary, password.clone());
        writer.goes_on(50)?;

        // The lag is answered at the lag Service, by whichever relay; together the relays know both replicas'.
        let service: SocketAddr = (release.cluster_ip("lag")?, 8090).into();
        get(release.client(), service, "/v1/lag")?;
        let relays = [release.pod("relay-0")?, release.pod("relay-1")?];
        let lags = || -> Result<BTreeMap<String, u64>> {
            let mut known = BTreeMap::new();
            for relay in &relays {
                let lag = get(release.client(), (relay.ip(), 8090).into(), "/v1/lag")?;
                for replica in lag["replicas"].as_array().map(Vec::as_slice).unwrap_or_default() {
                    let (host, lag_ms) = (replica["name"].as_str(), replica["applied"]["lag_ms"].as_u64());
                    known.extend(host.map(str::to_owned).zip(lag_ms));
                }
            }
            Ok(known)
        };
        let both =
            |known: &BTreeMap<String, u64>| ["baton-db-1", "baton-db-2"].iter().all(|db| known.contains_key(*db));
        wait_until("both replicas' applied lag", lags, both)?;
        wait_until("replicas that may be read from", || Ok(release.published("replicas").len()), |n| *n == 2)?;

        // A switchover moves the EndpointSlice; writes go on.
        let token = "/etc/baton/secrets/token";
        let batonctl =
            ["/usr/local/bin/batonctl", "--endpoints", endpoints, "--token-file", token, "switchover", "--yes"];
        release.run_like("bootstrap", "switchover", &batonctl)?;
        let second = release.wait_other_primary(&first)?;
        writer.goes_on(50)?;
        wait_until(
            "the labels of the pods",
            || Ok((role(&release, &first)?, role(&release, &second)?)),
            |roles| *roles == ("replica".to_owned(), "primary".to_owned()),
        )?;

        // SIGKILL of the primary's server: another one serves, and nothing that was told is lost.
        ensure!(second.host().signal("mariadbd", Signal::KILL) == 1, "one server runs in {}", second.name());
        let third = release.wait_other_primary(&second)?;
        writer.goes_on(50)?;
        let told = writer.told();
        drop(writer);
        let kept = ledger(&release, &third)?;
        let lost: Vec<_> = told.iter().filter(|n| kept.binary_search(n).is_err()).collect();
        ensure!(lost.is_empty(), "told and lost: {lost:?}");
        for number in 0..3 {
            let pod = release.pod(&format!("db-{number}"))?;
            let all = |rows: &Vec<u64>| told.iter().all(|n| rows.binary_search(n).is_ok());
            wait_until(&format!("{} to hold all that was told", pod.name()), || ledger(&release, &pod), all)?;
        }

        wait_until("both relays to be fed again", || fed(&release), |states| *states == ["streaming", "streaming"])?;

        // The rights of the chart were enough, and each change was told.
        ensure!(release.api().refused().is_empty(), "refused: {:?}", release.api().refused());
        let events = release.api().objects().list(Kind::Event, NAMESPACE);
        let published = events.iter().filter(|event| event["reason"] == "PrimaryPublished").count();
        ensure!(published >= 3, "{published} Events of a published primary");

        // An upgrade makes no password anew.
        let before = passwords(&release);
        release.upgrade_hooks(&[&example("production")])?;
        ensure!(before.is_object() && before == passwords(&release), "the upgrade has changed the Secret");
        Ok(())
    });
}
