//! A real etcd of one member, in a directory of its own.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use baton_cluster::store::{EtcdConfig, Store};
use etcd_client::Client;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// For anything that is waited for.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Etcd {
    dir: TempDir,
    client: u16,
    peer: u16,
    /// The port that it tells others to be its peer port; its ids are made of this.
    told: u16,
    /// Its name, and all members as it is told them.
    name: &'static str,
    members: String,
    child: Option<Child>,
}

/// Two ports that nobody listens on.
fn free_ports() -> (u16, u16) {
    let listeners = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let port = |i: usize| listeners[i].local_addr().expect("its address").port();
    (port(0), port(1))
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

impl Etcd {
    pub(crate) async fn start() -> Self {
        let mut etcd = Self::new();
        etcd.restart().await;
        etcd
    }

    /// Another cluster of one member that has the ids of the first one's.
    pub(crate) async fn start_with_the_ids_of(other: &Self) -> Self {
        let mut etcd = Self::new();
        etcd.told = other.told;
        etcd.members.clone_from(&other.members);
        etcd.restart().await;
        etcd
    }

    /// Two members of one cluster.
    pub(crate) async fn start_two() -> (Self, Self) {
        let (mut first, mut second) = (Self::new(), Self::new());
        second.name = "n";
        let members = format!("m={},n={}", url(first.told), url(second.told));
        first.members.clone_from(&members);
        second.members = members;
        first.spawn();
        second.spawn();
        first.ready().await;
        second.ready().await;
        (first, second)
    }

    fn new() -> Self {
        let (client, peer) = free_ports();
        let dir = tempfile::tempdir().expect("a directory");
        Self { dir, client, peer, told: peer, name: "m", members: format!("m={}", url(peer)), child: None }
    }

    pub(crate) async fn restart(&mut self) {
        self.spawn();
        self.ready().await;
    }

    async fn ready(&self) {
        let store = self.store("any");
        wait("etcd to answer", || async { store.ping().await.is_ok() }).await;
    }

    fn spawn(&mut self) {
        let client = self.url();
        let log = std::fs::File::options().create(true).append(true).open(self.log()).expect("a log file");
        let child = Command::new("etcd")
            .args(["--name", self.name, "--data-dir"])
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &url(self.peer), "--initial-advertise-peer-urls", &url(self.told)])
            .args(["--initial-cluster", &self.members])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd (package etcd-server) starts");
        self.child = Some(child);
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("etcd.log")
    }

    pub(crate) fn url(&self) -> String {
        url(self.client)
    }

    /// What somebody has who changes keys by hand.
    pub(crate) async fn by_hand(&self) -> Client {
        Client::connect([self.url()], None).await.expect("a client")
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

    pub(crate) fn store_with_a_long_lease(&self, cluster: &str) -> Store {
        let (endpoints, lease_ttl) = (vec![self.url()], Duration::from_secs(60));
        Store::new(cluster, &EtcdConfig { endpoints, lease_ttl, ..EtcdConfig::default() }).expect("a store")
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
