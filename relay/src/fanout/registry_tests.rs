//! Who is listed, who replaces whom, and how many of those that left are kept.

use super::*;

fn identity(connection: u32, server_id: u32) -> ReplicaIdentity {
    ReplicaIdentity {
        connection,
        server_id,
        uuid: None,
        report_host: String::new(),
        report_port: 3306,
        user: "repl".into(),
        peer: SocketAddr::from(([127, 0, 0, 1], 40_000)),
        registered: true,
        relay: false,
    }
}

fn attach(registry: &Registry, identity: ReplicaIdentity) -> (Arc<Replica>, Vec<u32>) {
    let (replica, older) = registry.attach(identity, CancellationToken::new());
    (replica, older.iter().map(|r| r.identity.connection).collect())
}

fn listed(registry: &Registry) -> Vec<(u32, &'static str)> {
    registry.list().iter().map(|r| (r.identity.connection, r.state().name())).collect()
}

#[test]
fn whoever_attaches_again_replaces_its_live_stream_and_its_trace() {
    let with_uuid = |c, id, uuid: &str| ReplicaIdentity { uuid: Some(uuid.into()), ..identity(c, id) };
    for (case, first, second, replaces) in [
        ("the same server id", identity(1, 7), identity(2, 7), true),
        ("another server id", identity(1, 7), identity(2, 8), false),
        ("no server id at all", identity(1, 0), identity(2, 0), false),
        ("the same uuid", with_uuid(1, 7, "a"), with_uuid(2, 8, "a"), true),
        ("another uuid", with_uuid(1, 7, "a"), with_uuid(2, 8, "b"), false),
    ] {
        let registry = Registry::new();
        let (old, _) = attach(&registry, first.clone());
        let (_, older) = attach(&registry, second.clone());
        assert_eq!(older, if replaces { vec![1] } else { vec![] }, "{case}, live");
        registry.detach(&old);
        let left: Vec<u32> = registry.list().iter().map(|r| r.identity.connection).collect();
        assert_eq!(left, if replaces { vec![2] } else { vec![1, 2] }, "{case}, after the old one ended");

        let registry = Registry::new();
        let (old, _) = attach(&registry, first);
        registry.detach(&old);
        let (_, older) = attach(&registry, second);
        assert!(older.is_empty(), "{case}: who is gone need not be ended");
        assert_eq!(registry.list().len(), if replaces { 1 } else { 2 }, "{case}, gone");
    }
}

#[test]
fn a_replica_that_left_stays_listed_and_a_mere_reader_does_not() {
    let registry = Registry::new();
    let (gone, _) = attach(&registry, identity(1, 7));
    let (stopped, _) = attach(&registry, identity(2, 8));
    let (reader, _) = attach(&registry, ReplicaIdentity { registered: false, ..identity(3, 0) });
    stopped.set_error("purged");
    stopped.set_state(ReplicaState::Stopped);
    for replica in [&gone, &stopped, &reader] {
        registry.detach(replica);
    }
    assert_eq!(listed(&registry), [(1, "gone"), (2, "stopped")]);
    assert_eq!(registry.get(2).and_then(|r| r.error()), Some("purged".into()));
}

#[test]
fn of_those_that_left_only_the_newest_are_kept_and_all_that_are_here() {
    let registry = Registry::new();
    let (here, _) = attach(&registry, identity(0, 1));
    for n in 1..=MAX_GONE as u32 + 10 {
        let (replica, _) = attach(&registry, identity(n, n + 1));
        registry.detach(&replica);
    }
    let left = listed(&registry);
    assert_eq!(left.len(), MAX_GONE + 1);
    assert_eq!((left[0].0, left[1].0), (here.identity.connection, 11));
}

#[test]
fn names_are_told_apart_by_the_port_only_where_they_must() {
    let registry = Registry::new();
    let host =
        |c, id, host: &str, port| ReplicaIdentity { report_host: host.into(), report_port: port, ..identity(c, id) };
    for replica in [host(1, 1, "db-1", 3306), host(2, 2, "db-2", 3306), host(3, 3, "db-2", 3307), identity(4, 9)] {
        attach(&registry, replica);
    }
    let names: Vec<String> = registry.named().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["db-1", "db-2:3306", "db-2:3307", "server-9"]);
}

#[test]
fn every_attach_and_detach_wakes_who_waits_for_changes() {
    let registry = Registry::new();
    let mut changes = registry.changes();
    let (replica, _) = attach(&registry, identity(1, 7));
    assert!(changes.has_changed().unwrap_or(false));
    changes.mark_unchanged();
    registry.detach(&replica);
    assert!(changes.has_changed().unwrap_or(false));
}

#[test]
fn the_age_of_a_state_is_that_of_its_last_change() {
    let registry = Registry::new();
    let (replica, _) = attach(&registry, identity(1, 7));
    replica.set_state(ReplicaState::Streaming);
    let since = replica.state_since();
    replica.set_state(ReplicaState::Streaming);
    assert_eq!(replica.state_since(), since);
    assert_eq!(replica.sent(), None);
    replica.note_sent(LogPos { file: 3, offset: 400 }, 10);
    replica.note_sent(LogPos { file: 4, offset: 4 }, 5);
    assert_eq!((replica.sent(), replica.sent_bytes()), (Some(LogPos { file: 4, offset: 4 }), 15));
}

fn named(registry: &Registry, server_id: u32, host: &str, port: u16, connection: u32) {
    attach(
        registry,
        ReplicaIdentity { report_host: host.to_owned(), report_port: port, ..identity(connection, server_id) },
    );
}

fn names_of(registry: &Registry) -> Vec<String> {
    registry.named().into_iter().map(|(name, _)| name).collect()
}

#[test]
fn a_name_is_the_report_host_and_gets_the_port_only_where_two_servers_share_it() {
    let registry = Registry::new();
    named(&registry, 2, "db", 3306, 1);
    named(&registry, 3, "", 3306, 2);
    named(&registry, 4, "other", 3306, 3);
    assert_eq!(names_of(&registry), ["db", "server-3", "other"]);
    // The same server on a new connection, while the old one has not ended yet.
    named(&registry, 2, "db", 3306, 4);
    assert_eq!(names_of(&registry), ["db", "server-3", "other", "db"]);
    named(&registry, 5, "db", 3307, 5);
    assert_eq!(names_of(&registry), ["db:3306", "server-3", "other", "db:3306", "db:3307"]);
}
