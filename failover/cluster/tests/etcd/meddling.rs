//! The leader's key, changed by somebody who should not.

use std::collections::HashSet;

use baton_cluster::LeaderRecord;
use baton_cluster::store::{Leadership, Store};
use etcd_client::{GetOptions, PutOptions};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::server::{Etcd, wait};
use super::{LONG, lead, lead_of, leader};

/// Waits until it does not lead in `term` any more.
async fn over(led: &mut watch::Receiver<Leadership>, term: u64) {
    let over = timeout(LONG, led.wait_for(|l| l.term(Instant::now()) != Some(term))).await;
    over.expect("steps down in time").expect("the campaign lives");
}

/// Waits until just one leads, in the term that etcd says.
async fn just_one(store: &Store, all: &[watch::Receiver<Leadership>]) -> u64 {
    let term = || async {
        let terms: HashSet<u64> = all.iter().filter_map(|led| led.borrow().term(Instant::now())).collect();
        let leaders = all.iter().filter(|led| matches!(*led.borrow(), Leadership::Leader { .. })).count();
        let (_, known) = store.state_and_term().await.ok()?;
        known.filter(|known| leaders == 1 && terms.contains(known))
    };
    wait("just one leader", || async { term().await.is_some() }).await;
    term().await.expect("it leads on")
}

#[tokio::test]
async fn a_leader_whose_key_is_removed_steps_down_beside_the_next_one() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    let (first, mut led, _cancel) = lead(&store, "a").await;
    let (waiting, _task) = store.campaign(leader("b"), CancellationToken::new());
    etcd.by_hand().await.delete(store.keys().leader(), None).await.expect("delete");
    over(&mut led, first).await;
    assert!(just_one(&store, &[led, waiting]).await > first);
}

#[tokio::test]
async fn a_leader_that_is_alone_leads_again_however_often_its_key_is_removed() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    let (mut term, mut led, _cancel) = lead(&store, "a").await;
    let mut hand = etcd.by_hand().await;
    for _ in 0..3 {
        hand.delete(store.keys().leader(), None).await.expect("delete");
        over(&mut led, term).await;
        let next = lead_of(&mut led).await;
        assert!(next > term);
        term = next;
    }
}

#[tokio::test]
async fn what_stands_on_the_leaders_key_without_a_lease_ends_the_lead_and_is_replaced() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    let key = store.keys().leader();
    let (mut term, mut led, _cancel) = lead(&store, "a").await;
    let own = serde_json::to_vec(&leader("a")).expect("JSON");
    let other = serde_json::to_vec(&leader("x")).expect("JSON");
    let mut hand = etcd.by_hand().await;
    for value in [b"garbage".to_vec(), other, own] {
        hand.put(key.as_str(), value, None).await.expect("put");
        over(&mut led, term).await;
        let next = lead_of(&mut led).await;
        assert!(next > term);
        term = next;
        let answer = hand.get(key.as_str(), None).await.expect("get");
        let there = answer.kvs().first().expect("there");
        assert!(there.lease() != 0 && there.create_revision().unsigned_abs() == term, "{there:?}");
    }
}

#[tokio::test]
async fn what_nobody_keeps_on_the_leaders_key_does_not_stop_an_election() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    let other = serde_json::to_vec(&leader("x")).expect("JSON");
    for (name, value) in [("a", b"garbage".to_vec()), ("b", other)] {
        etcd.by_hand().await.put(store.keys().leader(), value, None).await.expect("put");
        let (_term, _led, cancel) = lead(&store, name).await;
        cancel.cancel();
    }
}

#[tokio::test]
async fn a_leader_gives_way_to_one_that_keeps_the_key_under_its_own_lease() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    let key = store.keys().leader();
    let (first, mut led, _cancel) = lead(&store, "a").await;
    let mut hand = etcd.by_hand().await;
    let lease = hand.lease_grant(600, None).await.expect("a lease").id();
    let other = serde_json::to_vec(&leader("x")).expect("JSON");
    hand.put(key.as_str(), other, Some(PutOptions::new().with_lease(lease))).await.expect("put");
    let follows = led.wait_for(|l| matches!(l, Leadership::Follower { leader: Some(l) } if l.name == "x"));
    timeout(LONG, follows).await.expect("in time").expect("lives");
    let only = || async { etcd.by_hand().await.leases().await.is_ok_and(|l| l.leases().len() == 1) };
    wait("that it has given its lease back", only).await;
    let there = store.get::<LeaderRecord>(&key).await.expect("read").expect("the other's key was left alone");
    assert_eq!(there.value, leader("x"));
    hand.lease_revoke(lease).await.expect("revoke");
    assert!(lead_of(&mut led).await > first);
}

#[tokio::test]
async fn a_lead_outlives_what_its_lease_outlives_and_is_watched_again_behind_that() {
    let mut etcd = Etcd::start().await;
    let store = etcd.store_with_a_long_lease("shop");
    let (first, mut led, _cancel) = lead(&store, "a").await;
    let mut told = led.clone();
    let all = tokio::spawn(async move {
        let mut seen = Vec::new();
        while told.changed().await.is_ok() {
            let now = told.borrow_and_update().clone();
            let ended = !matches!(now, Leadership::Leader { term, .. } if term == first);
            seen.push(now);
            if ended {
                break;
            }
        }
        seen
    });
    etcd.freeze();
    assert!(store.ping().await.is_err());
    etcd.thaw();
    wait("etcd", || async { store.ping().await.is_ok() }).await;
    etcd.kill();
    assert!(store.ping().await.is_err());
    etcd.restart().await;
    let mut hand = etcd.by_hand().await;
    // Revisions that a watch might begin at are gone.
    let revision = hand.put("/other", "1", None).await.expect("put").header().expect("a header").revision();
    hand.compact(revision, None).await.expect("compact");
    assert_eq!(led.borrow().term(Instant::now()), Some(first), "nobody has said that the key is not there");
    let before = hand.get(store.keys().leader(), Some(GetOptions::new())).await.expect("get");
    assert_eq!(before.kvs().first().map(|kv| kv.create_revision().unsigned_abs()), Some(first));
    hand.delete(store.keys().leader(), None).await.expect("delete");
    over(&mut led, first).await;
    let seen = timeout(LONG, all).await.expect("in time").expect("no panic");
    assert_eq!(seen.last(), Some(&Leadership::Follower { leader: None }), "{seen:?}");
    assert!(lead_of(&mut led).await > first);
}
