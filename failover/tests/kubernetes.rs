//! The address provider `kubernetes` and `make-secret` against an API with optimistic concurrency and rights.
#![cfg(feature = "kubernetes")]

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use baton_failover::kubernetes::secret::{SecretArgs, make};
use baton_failover::kubernetes::{KubernetesError, Member, Publisher, Rank, Role, Services, Wanted, run};
use baton_testbed::kube::{ApiServer, Kind};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const NS: &str = "prod";
const PRIMARY: &str = "shop-primary";
const REPLICAS: &str = "shop-replicas";

/// An API with two Services, three pods `db-1` to `db-3`, and the rights that the chart gives the controllers.
fn cluster() -> ApiServer {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let api = ApiServer::start(listener, Ipv4Addr::LOCALHOST.into()).unwrap();
    for name in [PRIMARY, REPLICAS] {
        let spec = json!({"ipFamilies": ["IPv4"], "ports": [{"name": "mysql", "port": 3306}]});
        api.objects().create(Kind::Service, NS, json!({"metadata": {"name": name}, "spec": spec})).unwrap();
    }
    for number in 1..=3 {
        let (name, ip) = (format!("db-{number}"), format!("10.1.0.{number}"));
        let status = json!({"podIP": ip, "podIPs": [{"ip": ip}]});
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": "n1", "containers": []}, "status": status});
        api.objects().create(Kind::Pod, NS, pod).unwrap();
    }
    let (slices, group) = (json!([PRIMARY, REPLICAS]), json!(["discovery.k8s.io"]));
    let pods = json!(["db-1", "db-2", "db-3"]);
    allow(
        &api,
        "controller",
        &json!([
            {"apiGroups": group, "resources": ["endpointslices"], "verbs": ["create"]},
            {"apiGroups": group, "resources": ["endpointslices"], "resourceNames": slices, "verbs": ["get", "update"]},
            {"apiGroups": [""], "resources": ["services"], "resourceNames": slices, "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["pods"], "resourceNames": pods, "verbs": ["get", "patch"]},
            {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
        ]),
    );
    api
}

fn allow(api: &ApiServer, account: &str, rules: &Value) {
    let (metadata, subjects) = (json!({"name": account}), json!([{"name": account}]));
    let mut rights = api.rights();
    rights.add(&json!({"kind": "Role", "metadata": metadata, "rules": rules}));
    rights.add(&json!({"kind": "RoleBinding", "metadata": metadata, "roleRef": metadata, "subjects": subjects}));
}

fn access(api: &ApiServer, account: &str) -> kube::Config {
    let _there_is_one = rustls::crypto::ring::default_provider().install_default();
    let mut access = kube::Config::new(format!("https://{}", api.address()).parse().unwrap());
    access.default_namespace = NS.to_owned();
    access.root_cert = Some(vec![CertificateDer::from_pem_slice(api.ca().as_bytes()).unwrap().to_vec()]);
    access.auth_info.token = Some(api.rights().token(account).into());
    access
}

fn publisher(api: &ApiServer) -> Publisher {
    Publisher::with_access(&services(), access(api, "controller")).unwrap()
}

fn services() -> Services {
    Services { namespace: None, primary: Some(PRIMARY.to_owned()), replicas: Some(REPLICAS.to_owned()), port: 3306 }
}

fn member(node: &str) -> Member {
    Member { node: node.to_owned(), addresses: vec![format!("{node}.invalid:3306")] }
}

fn wanted(epoch: u64, term: u64, primary: Option<&str>, replicas: &[&str]) -> Wanted {
    let roles = (1..=3).map(|n| format!("db-{n}")).map(|node| {
        let role = if primary == Some(node.as_str()) { Role::Primary } else { Role::Replica };
        (node, role)
    });
    Wanted {
        rank: Rank { epoch, term },
        primary: primary.map(member),
        replicas: replicas.iter().map(|node| member(node)).collect(),
        roles: roles.collect(),
    }
}

fn addresses(api: &ApiServer, slice: &str) -> Vec<String> {
    let slice = api.objects().get(Kind::EndpointSlice, NS, slice).unwrap_or_default();
    let endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
    endpoints.iter().map(|endpoint| endpoint["addresses"][0].as_str().unwrap_or_default().to_owned()).collect()
}

fn role(api: &ApiServer, pod: &str) -> String {
    let pod = api.objects().get(Kind::Pod, NS, pod).unwrap();
    pod["metadata"]["labels"]["baton/role"].as_str().unwrap_or_default().to_owned()
}

/// Reasons of the Events, in the order in which they came.
fn reasons(api: &ApiServer) -> Vec<String> {
    let mut events = api.objects().list(Kind::Event, NS);
    events.sort_by_key(|event| event["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok()));
    events.iter().map(|event| event["reason"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn a_failover_empties_the_slice_and_then_names_the_new_primary() {
    let api = cluster();
    let publisher = publisher(&api);
    publisher.publish(&wanted(1, 5, Some("db-1"), &["db-2", "db-3"])).await.unwrap();
    assert_eq!(addresses(&api, PRIMARY), ["10.1.0.1"]);
    assert_eq!(addresses(&api, REPLICAS), ["10.1.0.2", "10.1.0.3"]);
    assert_eq!((role(&api, "db-1"), role(&api, "db-2")), ("primary".to_owned(), "replica".to_owned()));

    publisher.publish(&wanted(2, 5, None, &["db-2", "db-3"])).await.unwrap();
    assert_eq!(addresses(&api, PRIMARY), Vec::<String>::new());

    publisher.publish(&wanted(2, 5, Some("db-2"), &["db-3"])).await.unwrap();
    assert_eq!(addresses(&api, PRIMARY), ["10.1.0.2"]);
    assert_eq!(addresses(&api, REPLICAS), ["10.1.0.3"]);
    assert_eq!(role(&api, "db-2"), "primary");
    let slice = api.objects().get(Kind::EndpointSlice, NS, PRIMARY).unwrap();
    assert_eq!(slice["metadata"]["annotations"], json!({"baton/epoch": "2", "baton/term": "5"}));
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], PRIMARY);
    assert_eq!(slice["endpoints"][0]["targetRef"]["name"], "db-2");
    assert_eq!(slice["metadata"]["ownerReferences"][0]["name"], PRIMARY);
    assert_eq!(
        reasons(&api),
        ["PrimaryPublished", "ReplicasPublished", "PrimaryWithdrawn", "PrimaryPublished", "ReplicasPublished"]
    );
    assert_eq!(api.refused(), Vec::<String>::new(), "the chart's rights are enough");
}

#[tokio::test]
async fn the_same_again_writes_nothing() {
    let api = cluster();
    let publisher = publisher(&api);
    let same = wanted(1, 5, Some("db-1"), &["db-2"]);
    publisher.publish(&same).await.unwrap();
    let version =
        |name| api.objects().get(Kind::EndpointSlice, NS, name).unwrap()["metadata"]["resourceVersion"].clone();
    let before = (version(PRIMARY), version(REPLICAS), reasons(&api).len());
    publisher.publish(&same).await.unwrap();
    assert_eq!((version(PRIMARY), version(REPLICAS), reasons(&api).len()), before);
}

#[tokio::test]
async fn a_late_controller_changes_nothing() {
    let api = cluster();
    let (late, successor) = (publisher(&api), publisher(&api));
    late.publish(&wanted(1, 5, Some("db-1"), &[])).await.unwrap();
    successor.publish(&wanted(2, 9, Some("db-2"), &["db-3"])).await.unwrap();
    for stale in [wanted(1, 5, Some("db-1"), &["db-2"]), wanted(2, 5, None, &[]), wanted(2, 8, Some("db-3"), &[])] {
        let refused = late.publish(&stale).await.unwrap_err();
        assert!(matches!(refused, KubernetesError::Newer { .. }), "{refused}");
    }
    assert_eq!(addresses(&api, PRIMARY), ["10.1.0.2"]);
    assert_eq!(addresses(&api, REPLICAS), ["10.1.0.3"]);
    assert_eq!(role(&api, "db-2"), "primary", "labels are written only by who could write the slices");
}

#[tokio::test]
async fn two_controllers_that_write_at_once_end_with_the_newer_epochs_address() {
    for round in 0..20 {
        let api = cluster();
        let (one, two) = (publisher(&api), publisher(&api));
        let old = async {
            for _ in 0..3 {
                let _refused_or_overtaken = one.publish(&wanted(7, 5, Some("db-1"), &["db-2"])).await;
            }
        };
        let new = async {
            // Another beginning in each round, so that their requests mix in many ways.
            for _ in 0..round {
                let _slow_start = two.publish(&wanted(8, 6, None, &[])).await;
            }
            two.publish(&wanted(8, 6, Some("db-2"), &["db-3"])).await
        };
        let ((), last) = tokio::join!(old, new);
        last.unwrap();
        assert_eq!(addresses(&api, PRIMARY), ["10.1.0.2"], "round {round}");
        assert_eq!(addresses(&api, REPLICAS), ["10.1.0.3"], "round {round}");
    }
}

#[tokio::test]
async fn a_server_that_is_no_pod_is_published_by_its_address() {
    let api = cluster();
    let outside = Member { node: "outside".to_owned(), addresses: vec!["192.0.2.7:3306".to_owned()] };
    let wanted = Wanted { primary: Some(outside), ..wanted(1, 5, None, &[]) };
    publisher(&api).publish(&wanted).await.unwrap();
    assert_eq!(addresses(&api, PRIMARY), ["192.0.2.7"]);
}

#[tokio::test]
async fn a_primary_without_an_address_is_an_error_and_a_replica_without_one_is_left_out() {
    let api = cluster();
    api.objects().merge(Kind::Pod, NS, "db-3", &json!({"status": {"podIP": null, "podIPs": null}})).unwrap();
    let publisher = publisher(&api);
    publisher.publish(&wanted(1, 5, Some("db-1"), &["db-2", "db-3"])).await.unwrap();
    assert_eq!(addresses(&api, REPLICAS), ["10.1.0.2"]);
    let error = publisher.publish(&wanted(2, 5, Some("db-3"), &[])).await.unwrap_err();
    assert!(error.to_string().contains("db-3"), "{error}");
}

#[tokio::test]
async fn what_somebody_has_changed_by_hand_is_mended() {
    let api = cluster();
    let publisher = publisher(&api);
    let steady = wanted(1, 5, Some("db-1"), &[]);
    publisher.publish(&steady).await.unwrap();
    api.objects().merge(Kind::EndpointSlice, NS, PRIMARY, &json!({"endpoints": []})).unwrap();
    api.objects().merge(Kind::Pod, NS, "db-1", &json!({"metadata": {"labels": null}})).unwrap();
    publisher.publish(&steady).await.unwrap();
    assert_eq!((addresses(&api, PRIMARY), role(&api, "db-1")), (vec!["10.1.0.1".to_owned()], "primary".to_owned()));
}

#[tokio::test]
async fn without_a_service_account_it_goes_on_trying_and_ends_when_told_to() {
    let (_sender, receiver) = watch::channel(Some(Arc::new(wanted(1, 5, Some("db-1"), &[]))));
    let cancel = CancellationToken::new();
    let running = tokio::spawn(run(services(), receiver, cancel.clone()));
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(!running.is_finished());
    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(30), running).await.unwrap().unwrap();
}

fn secret_args(keys: &[&str]) -> SecretArgs {
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    SecretArgs { namespace: NS.to_owned(), name: "shop-secrets".to_owned(), keys }
}

fn allow_secret(api: &ApiServer) {
    let rules = json!([
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["shop-secrets"], "verbs": ["get", "update"]},
    ]);
    allow(api, "secrets", &rules);
}

#[tokio::test]
async fn passwords_are_made_once_and_an_upgrade_adds_only_what_is_missing() {
    let api = cluster();
    allow_secret(&api);
    assert_eq!(make(access(&api, "secrets"), &secret_args(&["token", "a"])).await.unwrap(), ["token", "a"]);
    let data = || api.objects().get(Kind::Secret, NS, "shop-secrets").unwrap()["data"].clone();
    let first = data();
    assert_ne!(first["token"], first["a"]);
    assert!(make(access(&api, "secrets"), &secret_args(&["token", "a"])).await.unwrap().is_empty());
    assert_eq!(data(), first);
    assert_eq!(make(access(&api, "secrets"), &secret_args(&["token", "b"])).await.unwrap(), ["b"]);
    let now = data();
    assert_eq!((&now["token"], &now["a"]), (&first["token"], &first["a"]), "also a key that is no longer asked for");
    assert_eq!(api.refused(), Vec::<String>::new());
}

#[tokio::test]
async fn two_jobs_at_once_make_one_secret() {
    let api = cluster();
    allow_secret(&api);
    let args = secret_args(&["token", "a", "b"]);
    let (one, two) = tokio::join!(make(access(&api, "secrets"), &args), make(access(&api, "secrets"), &args));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert!(one.len() + two.len() == 3 && (one.is_empty() || two.is_empty()), "{one:?} {two:?}");
}

#[tokio::test]
async fn without_the_right_it_says_what_was_refused() {
    let api = cluster();
    let error = make(access(&api, "nobody"), &secret_args(&["token"])).await.unwrap_err();
    assert!(format!("{error:#}").contains("403"), "{error:#}");
}
