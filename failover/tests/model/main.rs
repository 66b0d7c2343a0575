//! A model of the whole cluster, checked exhaustively within bounds: three servers with their agents, two relays, two controllers, etcd. Servers
//! die, hosts are lost or cut off, leases end and leaders freeze between any two steps, orders are lost or come late, relays crash or lose their
//! data. What controllers decide and plan is the shipped code; the invariants are those that controllers check at run time.
//!
//! `BATON_MODEL_SOAK=1` takes wider bounds, for hours; `BATON_MODEL_WALKS` that many random walks, from `BATON_MODEL_SEED` on.

mod actions;
mod view;
mod walk;
mod world;

use std::collections::BTreeMap;

use baton_cluster::{ClusterState, Grant, OperationKind, Phase, RelayAccount};
use stateright::{Checker, DiscoveryClassification, Model};

use actions::Action;
use world::{Controller, Etcd, Host, Left, Relay, Role, Server, World};

/// A rule that is broken on purpose, to see that the model notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    /// The acker's present end is taken for the tail, without its promise.
    TailWithoutPromise,
    /// A new acker within the epoch acknowledges before it has what its predecessor acknowledged.
    SuccessorAcksAtOnce,
}

type Reached = fn(&Cluster, &World) -> bool;

/// What is checked.
#[derive(Clone)]
pub(crate) struct Cluster {
    left: Left,
    /// Whether relays act by themselves at any moment, or only where something depends on it.
    lively_relays: bool,
    /// Whether servers die in the middle of an order too.
    deaths_in_orders: bool,
    rule: Option<Rule>,
    /// Operations of later epochs are not followed.
    epochs: u64,
    /// What has to be reached somewhere, or the model shows nothing.
    reached: Vec<(&'static str, Reached)>,
}

impl Cluster {
    fn beginning(&self) -> World {
        let mut state = ClusterState::bootstrap("db-1", "", String::new());
        let grant = Grant { epoch: 1, n: 1 };
        state.grant = grant;
        state.grant_holder = Some("relay-1".to_owned());
        state.grant_log_id = Some("log-0-0".to_owned());
        state.grant_account = Some(RelayAccount { user: "relay-1".to_owned(), server_id: 9001, host: String::new() });
        state.cause.reason = String::new();
        let server = |s: usize| Server {
            host: Host::Up,
            runs: true,
            starting: false,
            writable: s == 0,
            role: if s == 0 { Role::Primary } else { Role::Replica },
            log: Vec::new(),
            source: (s > 0).then(|| s - 1),
            address: s == 0,
            last: Default::default(),
            self_fenced: false,
            locked: [false; 2],
        };
        let relay = |r: usize| Relay {
            up: true,
            log: Vec::new(),
            log_number: 0,
            promised: grant,
            held: r == 0,
            acks_for: (r == 0).then_some(0),
            after: 0,
        };
        World {
            etcd: Etcd {
                state,
                revision: 1,
                leader: Some((0, 1)),
                terms: 1,
                epochs: BTreeMap::from([(1, 0)]),
                asked: false,
            },
            servers: (0..3).map(server).collect(),
            relays: (0..2).map(relay).collect(),
            controllers: vec![Controller { leading: Some(1), ..Controller::default() }, Controller::default()],
            net: Vec::new(),
            acked: Vec::new(),
            left: self.left,
            broken: None,
        }
    }
}

fn limit() -> usize {
    if soak() { usize::MAX } else { 300_000 }
}

fn soak() -> bool {
    std::env::var_os("BATON_MODEL_SOAK").is_some()
}

fn steady_of(kind: OperationKind) -> impl Fn(&World) -> bool {
    move |w| w.etcd.state.phase == Phase::Steady && w.etcd.state.kind == kind && w.etcd.state.epoch > 1
}

const FAILED_OVER: (&str, Reached) = ("a failover is finished", |_, w| {
    steady_of(OperationKind::Failover)(w) && w.etcd.state.primary.as_deref() != Some("db-1")
});
const SWITCHED_OVER: (&str, Reached) = ("a switchover is finished", |_, w| {
    steady_of(OperationKind::Switchover)(w) && w.etcd.state.primary.as_deref() != Some("db-1")
});
const TAKEN_BACK: (&str, Reached) = ("a switchover is taken back", |_, w| {
    steady_of(OperationKind::Switchover)(w) && w.etcd.state.primary.as_deref() == Some("db-1")
});
const ACKER_CHANGED: (&str, Reached) =
    ("another relay acknowledges", |_, w| w.etcd.state.grant == Grant { epoch: 1, n: 2 } && w.relays[1].held);

fn holds(name: &str, cluster: Cluster) {
    let started = std::time::Instant::now();
    let checker = cluster.checker().threads(1).target_state_count(limit()).spawn_bfs().join();
    println!(
        "{name}: {} states, {} different, depth {}, {:?}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed()
    );
    for (property, path) in checker.discoveries() {
        if matches!(checker.discovery_classification(property), DiscoveryClassification::Counterexample) {
            panic!("{name}: not so: {property}\n{}\n{:#?}", story(&path), path.last_state());
        }
    }
    checker.assert_properties();
}

/// Walks at random with a rule broken, until the model notices.
fn breaks(name: &str, cluster: Cluster) {
    for seed in 0..20_000 {
        let walk = walk::walk(&cluster, seed, 120);
        if let Some(fault) = walk::fault(&walk.world) {
            println!("{name}: {fault}; noticed in walk {seed}, after {} steps", walk.story.len());
            return;
        }
    }
    panic!("{name}: the model does not notice");
}

/// Walks at random with every kind of fault. Once they end, the cluster has to come into order by itself.
fn walks(name: &str, left: Left) {
    let cluster = Cluster { epochs: 100, lively_relays: true, deaths_in_orders: true, ..cluster(left, Vec::new()) };
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let first = number("BATON_MODEL_SEED").unwrap_or(0);
    let many = number("BATON_MODEL_WALKS").unwrap_or(1500);
    for seed in first..first + many {
        let mut walk = walk::walk(&cluster, seed, 150);
        if let Some(fault) = walk::settle(&cluster, &mut walk) {
            panic!("{name}, walk {seed}: {fault}\n{:#?}\n{:#?}", walk.story, walk.world);
        }
    }
}

fn story(path: &stateright::Path<World, Action>) -> String {
    path.clone().into_actions().iter().map(|a| format!("  {a:?}")).collect::<Vec<_>>().join("\n")
}

fn cluster(left: Left, reached: Vec<(&'static str, Reached)>) -> Cluster {
    let lively_relays = left.relay_crashes > 0;
    Cluster { left, rule: None, lively_relays, deaths_in_orders: false, epochs: 3, reached }
}

#[test]
fn a_primary_that_is_killed_and_restarted_is_replaced_or_serves_on() {
    let left = Left { writes: 2, crashes: 1, restarts: 1, ..Left::default() };
    holds("killed", cluster(left, vec![FAILED_OVER]));
}

#[test]
fn two_servers_killed_one_after_the_other_the_second_while_it_is_promoted() {
    let left = Left { writes: 2, crashes: 2, restarts: 1, ..Left::default() };
    holds("killed twice", cluster(left, vec![FAILED_OVER]));
}

#[test]
fn a_primary_whose_host_is_cut_off_serves_nobody_after_the_promotion() {
    let left = Left { writes: 2, cuts: 1, restarts: 1, ..Left::default() };
    holds("cut off", cluster(left, vec![FAILED_OVER]));
}

#[test]
fn leaders_lose_their_lease_between_any_two_steps() {
    let left = Left { writes: 1, crashes: 1, expiries: 1, ..Left::default() };
    holds("succession", cluster(left, vec![FAILED_OVER]));
}

#[test]
fn a_leader_is_frozen_and_thawed_after_its_successor_acted() {
    let left = Left { writes: 1, crashes: 1, expiries: 1, freezes: 1, ..Left::default() };
    holds("frozen", cluster(left, vec![FAILED_OVER]));
}

#[test]
fn orders_are_lost_or_come_late() {
    let left = Left { writes: 1, crashes: 1, timeouts: 2, retries: 1, ..Left::default() };
    holds("late", cluster(left, vec![FAILED_OVER]));
}

#[test]
fn a_switchover_is_finished_or_taken_back() {
    let left = Left { writes: 2, switchovers: 1, timeouts: 1, retries: 1, crashes: 1, ..Left::default() };
    holds("switchover", cluster(left, vec![SWITCHED_OVER, TAKEN_BACK]));
}

#[test]
fn a_switchover_survives_the_succession_of_its_leader() {
    let left = Left { writes: 1, switchovers: 1, expiries: 1, ..Left::default() };
    holds("switchover, succession", cluster(left, vec![SWITCHED_OVER, TAKEN_BACK]));
}

#[test]
fn the_acker_crashes_and_the_primary_too() {
    let left = Left { writes: 2, relay_crashes: 1, crashes: 1, ..Left::default() };
    holds("acker", Cluster { epochs: 2, ..cluster(left, vec![ACKER_CHANGED]) });
}

#[test]
fn the_acker_loses_its_data() {
    let left = Left { writes: 1, relay_crashes: 1, data_losses: 1, crashes: 1, ..Left::default() };
    holds("data lost", Cluster { epochs: 2, ..cluster(left, vec![ACKER_CHANGED]) });
}

#[test]
fn whatever_befalls_servers_and_leaders_nothing_acknowledged_is_lost_and_one_commits() {
    let servers = Left { writes: 4, crashes: 2, cuts: 1, host_losses: 1, restarts: 3, ..Left::default() };
    let left = Left { expiries: 2, freezes: 1, timeouts: 3, retries: 6, switchovers: 2, ..servers };
    walks("servers and leaders", left);
}

#[test]
fn whatever_befalls_relays_too_nothing_acknowledged_is_lost_and_one_commits() {
    let servers = Left { writes: 4, crashes: 2, relay_crashes: 2, restarts: 3, cuts: 1, ..Left::default() };
    let left = Left { expiries: 1, freezes: 1, timeouts: 2, retries: 6, switchovers: 1, ..servers };
    walks("relays", left);
}

#[test]
fn whatever_relays_lose_nothing_acknowledged_is_given_up() {
    let servers =
        Left { writes: 4, crashes: 1, relay_crashes: 2, data_losses: 1, restarts: 3, cuts: 1, ..Left::default() };
    let left = Left { expiries: 1, timeouts: 2, retries: 6, switchovers: 1, ..servers };
    walks("data", left);
}

#[test]
fn without_the_ackers_promise_the_model_finds_the_loss() {
    let left = Left { writes: 2, cuts: 1, crashes: 1, ..Left::default() };
    breaks("no promise", Cluster { rule: Some(Rule::TailWithoutPromise), ..cluster(left, Vec::new()) });
}

#[test]
fn without_the_wait_for_what_was_acknowledged_before_the_model_finds_the_loss() {
    let left = Left { writes: 2, relay_crashes: 1, crashes: 1, host_losses: 1, ..Left::default() };
    breaks("acks at once", Cluster { rule: Some(Rule::SuccessorAcksAtOnce), ..cluster(left, Vec::new()) });
}
