//! Endpoints that are not of one cluster.

use baton_cluster::store::{EtcdConfig, Store};

use super::server::Etcd;

fn store(endpoints: &[String]) -> Store {
    Store::new("shop", &EtcdConfig { endpoints: endpoints.to_vec(), ..EtcdConfig::default() }).expect("a store")
}

#[tokio::test]
async fn endpoints_of_two_clusters_are_told() {
    let (one, other) = (Etcd::start().await, Etcd::start().await);
    let told = store(&[one.url(), other.url()]).endpoints_disagree().await.expect("they differ");
    let said = format!("etcd endpoints {} and {} belong to different clusters (cluster ids ", one.url(), other.url());
    assert!(told.starts_with(&said) && told.contains("ETCD_INITIAL_CLUSTER"), "{told}");
    let ids: Vec<_> = told.trim_start_matches(&said).split_once(')').expect("ids").0.split(" and ").collect();
    assert!(ids.len() == 2 && ids[0] != ids[1], "{told}");
}

#[tokio::test]
async fn two_clusters_that_were_started_with_the_same_settings_are_told_though_their_ids_are_the_same() {
    let one = Etcd::start().await;
    let other = Etcd::start_with_the_ids_of(&one).await;
    let told = store(&[one.url(), other.url()]).endpoints_disagree().await.expect("they differ");
    let said =
        format!("etcd endpoints {} and {} belong to different clusters (both with the id ", one.url(), other.url());
    assert!(told.starts_with(&said), "{told}");
    assert_eq!(one.by_hand().await.leases().await.expect("leases").leases().len(), 0, "nothing is left behind");
}

#[tokio::test]
async fn endpoints_of_one_cluster_agree() {
    let (one, other) = Etcd::start_two().await;
    assert_eq!(store(&[one.url(), other.url()]).endpoints_disagree().await, None, "two members");
    let by_name = one.url().replace("127.0.0.1", "localhost");
    assert_eq!(store(&[one.url(), by_name, other.url()]).endpoints_disagree().await, None, "one by two names");
}

#[tokio::test]
async fn nothing_is_said_of_endpoints_that_do_not_answer() {
    let (one, other) = (Etcd::start().await, Etcd::start().await);
    let both = store(&[one.url(), other.url()]);
    other.freeze();
    assert_eq!(both.endpoints_disagree().await, None, "one is frozen");
    assert_eq!(one.store_with_a_dead_member("shop").endpoints_disagree().await, None, "one is not there");
    one.freeze();
    assert_eq!(both.endpoints_disagree().await, None, "none answers");
    other.thaw();
    one.thaw();
    super::wait("that they differ", || async { both.endpoints_disagree().await.is_some() }).await;
}
