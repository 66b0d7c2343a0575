//! The store against a real etcd: what it promises while etcd is well, and while it is frozen, killed and restarted.

mod endpoints;
mod meddling;
mod names;
mod server;

use std::sync::Arc;
use std::time::Duration;

use baton_cluster::store::{Change, Leadership, Snapshot, Store, StoreError};
use baton_cluster::{ClusterState, EpochRecord, LeaderRecord, LeftRecord, NodeRecord};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use server::{Etcd, wait};

const LONG: Duration = Duration::from_secs(30);

fn state() -> ClusterState {
    ClusterState::bootstrap("db-1", "test", "2026-01-01T00:00:00Z".into())
}

fn epoch() -> EpochRecord {
    EpochRecord {
        epoch: 1,
        node: "db-1".into(),
        mysql: vec!["127.0.0.1:3306".into()],
        server_id: 1,
        first_file: None,
        shift: 0,
        gtid: String::new(),
    }
}

fn node(http: &str) -> NodeRecord {
    NodeRecord {
        name: "db-1".into(),
        mysql: vec!["127.0.0.1:3306".into()],
        http: http.into(),
        host: String::new(),
        site: String::new(),
        priority: 100,
        server_id: None,
        hardware: String::new(),
        fence_after_ms: None,
        valid_for_ms: None,
        version: "0".into(),
    }
}

fn leader(name: &str) -> LeaderRecord {
    LeaderRecord { name: name.into(), http: format!("{name}:1") }
}

/// Campaigns and waits until it leads.
async fn lead(store: &Store, name: &str) -> (u64, watch::Receiver<Leadership>, CancellationToken) {
    let cancel = CancellationToken::new();
    let (mut led, _task) = store.campaign(leader(name), cancel.clone());
    let term = lead_of(&mut led).await;
    (term, led, cancel)
}

async fn lead_of(led: &mut watch::Receiver<Leadership>) -> u64 {
    let found = timeout(LONG, led.wait_for(|l| l.term(Instant::now()).is_some())).await;
    found.expect("leads in time").expect("the campaign lives").term(Instant::now()).expect("a term")
}

async fn until(
    view: &mut watch::Receiver<Arc<Snapshot>>,
    what: &str,
    done: impl Fn(&Snapshot) -> bool,
) -> Arc<Snapshot> {
    let found = timeout(LONG, view.wait_for(|s| done(s))).await;
    found.unwrap_or_else(|_| panic!("{what}: not in time")).expect("the watch lives").clone()
}

#[tokio::test]
async fn a_cluster_is_bootstrapped_once() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    assert_eq!(store.state().await.expect("read"), None);
    store.bootstrap(&state(), &epoch()).await.expect("the first time");
    let other = ClusterState { primary: Some("db-2".into()), ..state() };
    let again = store.bootstrap(&other, &epoch()).await;
    assert!(matches!(again, Err(StoreError::Conflict { .. })), "{again:?}");
    assert_eq!(store.state().await.expect("read").map(|v| v.value), Some(state()));
    assert_eq!(etcd.store("other").state().await.expect("read"), None, "another cluster in the same etcd");
}

#[tokio::test]
async fn a_cluster_that_is_given_up_keeps_its_epochs_and_is_taken_up_again() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    store.bootstrap(&state(), &epoch()).await.expect("bootstrap");
    let (term, _led, cancel) = lead(&store, "a").await;
    let mut view = store.watch(cancel.clone());
    let read = store.state().await.expect("read").expect("there");
    let left = LeftRecord { state: state(), by: "test".into(), at: "2026-01-01T00:00:00Z".into() };
    let late = store.leave(term - 1, &read, &left).await;
    assert!(matches!(late, Err(StoreError::Deposed { .. })), "{late:?}");
    store.leave(term, &read, &left).await.expect("the leader may");
    let seen = until(&mut view, "given up", |s| s.left.is_some()).await;
    assert_eq!((seen.state.as_ref(), seen.epochs.len()), (None, 1));
    assert_eq!(seen.last_state(), Some(&state()));
    let again = state().in_epoch(2);
    store.bootstrap(&again, &EpochRecord { epoch: 2, ..epoch() }).await.expect("taken up");
    let seen = until(&mut view, "taken up", |s| s.state.is_some()).await;
    assert_eq!((seen.left.as_ref(), seen.epochs.len(), seen.last_state()), (None, 2, Some(&again)));
    cancel.cancel();
}

#[tokio::test]
async fn whoever_does_not_lead_any_more_changes_nothing() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    store.bootstrap(&state(), &epoch()).await.expect("bootstrap");
    let (old, _led, cancel) = lead(&store, "a").await;
    let read = store.state().await.expect("read").expect("there");
    let key = store.keys().state();
    let change =
        |epoch: u64, revision: i64| Change::new().expect(&key, revision).put(&key, &ClusterState { epoch, ..state() });
    let revision = store.commit(old, change(2, read.mod_revision)).await.expect("the leader may");

    let stale = store.commit(old, change(3, read.mod_revision)).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })), "{stale:?}");

    cancel.cancel();
    let (new, _led, _cancel) = lead(&store, "b").await;
    assert!(new > old);
    let late = store.commit(old, change(4, revision)).await;
    assert!(matches!(late, Err(StoreError::Deposed { term }) if term == old), "{late:?}");
    store.commit(new, change(5, revision)).await.expect("the new leader may");
    assert_eq!(store.state().await.expect("read").map(|v| v.value.epoch), Some(5));
    let (_, term) = store.state_and_term().await.expect("read");
    assert_eq!(term, Some(new));
}

#[tokio::test]
async fn a_change_that_was_sent_twice_is_no_conflict() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    store.bootstrap(&state(), &epoch()).await.expect("the first time");
    // The answer to the first one was lost: the same is sent again.
    store.bootstrap(&state(), &epoch()).await.expect("it stands as it was to be written");
}

#[tokio::test]
async fn one_leads_and_gives_the_lead_away_at_once_when_told_to() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    let (first, led, cancel) = lead(&store, "a").await;
    let cancel_b = CancellationToken::new();
    let (mut waiting, _task) = store.campaign(leader("b"), cancel_b);
    let follows = waiting.wait_for(|l| matches!(l, Leadership::Follower { leader: Some(l) } if l.name == "a"));
    timeout(LONG, follows).await.expect("in time").expect("lives");
    assert!(matches!(*led.borrow(), Leadership::Leader { .. }));
    cancel.cancel();
    assert!(lead_of(&mut waiting).await > first);
}

#[tokio::test]
async fn a_leader_that_is_restarted_at_the_same_address_leads_again_without_waiting_for_its_old_lease() {
    let etcd = Etcd::start().await;
    let (first, _led, _never_cancelled) = lead(&etcd.store("shop"), "a").await;
    let (second, _led, _cancel) = lead(&etcd.store("shop"), "a").await;
    assert!(second > first);
}

#[tokio::test]
async fn a_lead_ends_by_itself_while_etcd_is_frozen_and_comes_back_with_a_new_term() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    let (first, mut led, _cancel) = lead(&store, "a").await;
    etcd.freeze();
    let until = match &*led.borrow() {
        Leadership::Leader { valid_until, .. } => *valid_until,
        other => panic!("{other:?}"),
    };
    let ended = timeout(LONG, led.wait_for(|l| !matches!(l, Leadership::Leader { .. }))).await;
    ended.expect("ends").expect("lives");
    assert!(led.borrow().term(until + Duration::from_secs(2)).is_none());
    let frozen = store.ping().await;
    assert!(matches!(&frozen, Err(e) if e.is_outage()), "{frozen:?}");
    etcd.thaw();
    assert!(lead_of(&mut led).await > first);
}

#[tokio::test]
async fn the_view_follows_every_change_and_recovers_from_freeze_and_restart() {
    let mut etcd = Etcd::start().await;
    let store = etcd.store("shop");
    let mut view = store.watch(CancellationToken::new());
    until(&mut view, "a first view", |s| s.healthy).await;
    store.bootstrap(&state(), &epoch()).await.expect("bootstrap");
    let seen = until(&mut view, "the state", |s| s.state.is_some() && !s.epochs.is_empty()).await;
    assert_eq!(seen.primary(), Some("db-1"));

    etcd.freeze();
    until(&mut view, "that etcd is frozen", |s| !s.healthy).await;
    assert_eq!(view.borrow().primary(), Some("db-1"), "what was known stays");
    etcd.thaw();
    until(&mut view, "that it is back", |s| s.healthy).await;

    etcd.kill();
    until(&mut view, "that etcd is gone", |s| !s.healthy).await;
    etcd.restart().await;
    let key = store.keys().state();
    store.write(Change::new().put(&key, &ClusterState { epoch: 9, ..state() })).await.expect("write");
    until(&mut view, "a change behind the restart", |s| s.state.as_ref().is_some_and(|s| s.value.epoch == 9)).await;
    store.write(Change::new().delete(&key)).await.expect("delete");
    until(&mut view, "that the state is gone", |s| s.state.is_none()).await;
}

#[tokio::test]
async fn a_document_that_cannot_be_read_is_named_and_spoils_nothing_else() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    store.bootstrap(&state(), &epoch()).await.expect("bootstrap");
    store.write(Change::new().put(store.keys().node("odd"), &"not a node")).await.expect("write");
    let mut view = store.watch(CancellationToken::new());
    let seen = until(&mut view, "the error", |s| !s.errors.is_empty()).await;
    assert!(seen.errors.contains_key("nodes/odd"), "{:?}", seen.errors);
    assert_eq!(seen.primary(), Some("db-1"));
    let odd: Result<Option<_>, _> = store.get::<NodeRecord>(&store.keys().node("odd")).await;
    assert!(matches!(odd, Err(StoreError::Document { .. })), "{odd:?}");
}

#[tokio::test]
async fn an_announcement_stands_while_it_lives_and_is_renewed_after_an_outage() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    let mut view = store.watch(CancellationToken::new());
    let key = store.keys().node("db-1");
    let cancel = CancellationToken::new();
    let announced = store.announce(key.clone(), &node("here:1"), &cancel).expect("announce");
    until(&mut view, "the node", |s| s.nodes.contains_key("db-1")).await;
    announced.update(&NodeRecord { priority: 7, ..node("here:1") }).expect("update");
    until(&mut view, "the change", |s| s.nodes.get("db-1").is_some_and(|n| n.priority == 7)).await;

    // Longer than its lease lives.
    etcd.freeze();
    let mut healthy = announced.healthy();
    timeout(LONG, healthy.wait_for(|h| !h)).await.expect("noticed").expect("lives");
    etcd.thaw();
    timeout(LONG, healthy.wait_for(|h| *h)).await.expect("renewed").expect("lives");

    drop(announced);
    until(&mut view, "that it is gone", |s| !s.nodes.contains_key("db-1")).await;
}

#[tokio::test]
async fn two_processes_of_one_name_are_not_mixed_up() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    let key = store.keys().node("db-1");
    let cancel = CancellationToken::new();
    let first = store.announce(key.clone(), &node("here:1"), &cancel).expect("announce");
    timeout(LONG, first.healthy().wait_for(|h| *h)).await.expect("in time").expect("lives");
    let second = store.announce(key.clone(), &node("there:1"), &cancel).expect("announce");
    let found: NodeRecord = store.get(&key).await.expect("read").expect("there").value;
    assert_eq!(found.http, "here:1");
    drop(first);
    timeout(LONG, second.healthy().wait_for(|h| *h)).await.expect("in time").expect("lives");
    // Before a restart and after: the same address.
    let third = store.announce(key.clone(), &NodeRecord { priority: 1, ..node("there:1") }, &cancel).expect("announce");
    timeout(LONG, third.healthy().wait_for(|h| *h)).await.expect("in time").expect("lives");
}

#[tokio::test]
async fn a_dead_member_is_passed_over() {
    let etcd = Etcd::start().await;
    let store = etcd.store_with_a_dead_member("shop");
    store.bootstrap(&state(), &epoch()).await.expect("the other member answers");
    wait("a view", || async { store.state().await.is_ok_and(|s| s.is_some()) }).await;
    let listed = store.list::<EpochRecord>(&format!("{}epochs/", store.keys().prefix())).await.expect("list");
    assert_eq!(
        listed.into_iter().map(|(name, e)| (name, e.value.epoch)).collect::<Vec<_>>(),
        [("0000000001".to_owned(), 1)]
    );
}
