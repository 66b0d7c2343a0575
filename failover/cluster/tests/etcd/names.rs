//! Announcements, changed by somebody who should not; and names that two processes want.

use std::time::Duration;

use baton_cluster::NodeRecord;
use baton_cluster::store::{Announcement, Store};
use etcd_client::{EventType, KeyValue, PutOptions, WatchOptions};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::server::{Etcd, wait};
use super::{LONG, node};

async fn announced(store: &Store, http: &str) -> Announcement {
    let key = store.keys().node("db-1");
    let announced = store.announce(key, &node(http), &CancellationToken::new()).expect("announce");
    timeout(LONG, announced.healthy().wait_for(|h| *h)).await.expect("in time").expect("lives");
    announced
}

async fn taken_by(announced: &Announcement, other: Option<&str>) {
    let mut taken = announced.taken_by();
    let told = timeout(LONG, taken.wait_for(|by| by.as_deref() == other)).await;
    told.unwrap_or_else(|_| panic!("not taken by {other:?} in time")).expect("lives");
}

fn json(record: &NodeRecord) -> Vec<u8> {
    serde_json::to_vec(record).expect("JSON")
}

#[tokio::test]
async fn an_announcement_that_is_removed_or_overwritten_comes_back_under_its_lease() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    let key = store.keys().node("db-1");
    let announced = announced(&store, "here:1").await;
    let mut hand = etcd.by_hand().await;
    let get = || async { etcd.by_hand().await.get(key.as_str(), None).await.ok()?.kvs().first().cloned() };
    let lease = get().await.expect("there").lease();
    assert_ne!(lease, 0);
    let ours = |kv: Option<KeyValue>| kv.is_some_and(|kv| kv.value() == json(&node("here:1")) && kv.lease() == lease);

    hand.delete(key.as_str(), None).await.expect("delete");
    wait("what was removed", || async { ours(get().await) }).await;
    for value in [b"garbage".to_vec(), json(&node("there:1")), json(&node("here:1"))] {
        hand.put(key.as_str(), value, None).await.expect("put");
        wait("what was overwritten", || async { ours(get().await) }).await;
    }
    // Even what is written under its own lease.
    hand.put(key.as_str(), "garbage", Some(PutOptions::new().with_lease(lease))).await.expect("put");
    wait("what was overwritten", || async { ours(get().await) }).await;
    assert!(*announced.healthy().borrow(), "it never was without its lease");
    assert_eq!(*announced.taken_by().borrow(), None);
}

#[tokio::test]
async fn a_record_that_nobody_keeps_does_not_hold_a_name() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    let key = store.keys().node("db-1");
    etcd.by_hand().await.put(key.as_str(), json(&node("there:1")), None).await.expect("put");
    let _announced = announced(&store, "here:1").await;
    assert_eq!(store.get::<NodeRecord>(&key).await.expect("read").expect("there").value, node("here:1"));
}

#[tokio::test]
async fn a_name_that_another_process_takes_is_told_and_left_to_it_until_it_goes() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    let key = store.keys().node("db-1");
    let announced = announced(&store, "here:1").await;
    let mut hand = etcd.by_hand().await;
    let lease = hand.lease_grant(600, None).await.expect("a lease").id();
    let options = Some(PutOptions::new().with_lease(lease));
    let put = hand.put(key.as_str(), json(&node("there:1")), options).await.expect("put");
    let from = put.header().expect("a header").revision();
    taken_by(&announced, Some("there:1")).await;
    timeout(LONG, announced.healthy().wait_for(|h| !h)).await.expect("in time").expect("lives");
    let ours = NodeRecord { priority: 7, ..node("here:1") };
    announced.update(&ours).expect("update");
    // Time to do what it must not.
    sleep(Duration::from_secs(1)).await;
    hand.lease_revoke(lease).await.expect("revoke");
    taken_by(&announced, None).await;
    timeout(LONG, announced.healthy().wait_for(|h| *h)).await.expect("in time").expect("lives");

    let mut events =
        hand.watch(key.as_str(), Some(WatchOptions::new().with_start_revision(from))).await.expect("watch");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let message = timeout(LONG, events.message()).await.expect("in time").expect("no error").expect("no end");
        let value = |e: &etcd_client::Event| (e.event_type(), e.kv().map(|kv| kv.value().to_vec()).unwrap_or_default());
        seen.extend(message.events().iter().map(value));
    }
    let story =
        [(EventType::Put, json(&node("there:1"))), (EventType::Delete, Vec::new()), (EventType::Put, json(&ours))];
    assert_eq!(seen, story);
}

#[tokio::test]
async fn who_waits_for_a_name_knows_who_has_it() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    let first = announced(&store, "here:1").await;
    let second =
        store.announce(store.keys().node("db-1"), &node("there:1"), &CancellationToken::new()).expect("announce");
    taken_by(&second, Some("here:1")).await;
    drop(first);
    taken_by(&second, None).await;
    timeout(LONG, second.healthy().wait_for(|h| *h)).await.expect("in time").expect("lives");
}

#[tokio::test]
async fn of_two_at_one_address_the_later_one_has_the_name() {
    let etcd = Etcd::start().await;
    let store = etcd.store("shop");
    let before = announced(&store, "here:1").await;
    let after = announced(&store, "here:1").await;
    taken_by(&before, Some("here:1")).await;
    assert_eq!(*after.taken_by().borrow(), None);
    assert!(*after.healthy().borrow());
    drop(after);
    taken_by(&before, None).await;
}
