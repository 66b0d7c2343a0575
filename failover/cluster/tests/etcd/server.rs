//! A real etcd of one member, in a directory of its own.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use baton_cluster::store::{EtcdConfig, Store};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// For anything that is waited for.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Etcd {
    dir: TempDir,
    client: u16,
    peer: u16,
    child: Option<Child>,
}

/// Two ports that nobody listens on.
fn free_ports() -> (u16, u16) {
    let listeners = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let port = |i: usize| listeners[i].local_addr().expect("its address").port();
    (port(0), port(1))
}

impl Etcd {
    pub(crate) async fn start() -> Self {
        let (client, peer) = free_ports();
        let mut etcd = Self { dir: tempfile::tempdir().expect("a directory"), client, peer, child: None };
        etcd.restart().await;
        etcd
    }

    pub(crate) async fn restart(&mut self) {
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer));
        let log = std::fs::File::options().create(true).append(true).open(self.log()).expect("a log file");
        let child = Command::new("etcd")
            .args(["--name", "m", "--data-dir"])
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("m={peer}")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd (package etcd-server) starts");
        self.child = Some(child);
        let store = self.store("any");
        wait("etcd to answer", || async { store.ping().await.is_ok() }).await;
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("etcd.log")
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    pub(crate) fn store(&self, cluster: &str) -> Store {
        let config =
            EtcdConfig { endpoints: vec![self.url()], lease_ttl: Duration::from_secs(2), ..EtcdConfig::default() };
        Store::new(cluster, &config).expect("a store")
    }

    /// A store that knows a member that does not exist, first.
    pub(crate) fn store_with_a_dead_member(&self, cluster: &str) -> Store {
        let (dead, _) = free_ports();
        let endpoints = vec![format!("http://127.0.0.1:{dead}"), self.url()];
        Store::new(cluster, &EtcdConfig { endpoints, ..EtcdConfig::default() }).expect("a store")
    }

    fn signal(&self, name: &str) {
        let id = self.child.as_ref().map(Child::id).expect("it runs").to_string();
        let done = Command::new("kill").args(["-s", name, &id]).status().expect("kill");
        assert!(done.success(), "kill -s {name}");
    }

    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone_already = child.kill();
            let _status = child.wait();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `done`, or fails.
pub(crate) async fn wait<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let end = Instant::now() + DEADLINE;
    while !done().await {
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        sleep(Duration::from_millis(10)).await;
    }
}
