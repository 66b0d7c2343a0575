use super::super::origin::tests::records;
use super::*;

const NOBODY: Following = Following::Nothing { why: String::new(), hint: String::new() };

fn grant(epoch: u64, n: u64) -> Grant {
    Grant { epoch, n }
}

fn promised(epoch: u64, n: u64) -> Promised {
    Promised { grant: grant(epoch, n), held: false }
}

fn held(epoch: u64, n: u64) -> Promised {
    Promised { grant: grant(epoch, n), held: true }
}

fn relay(name: &str, promised: (u64, u64)) -> (String, RelayRecord) {
    let number: u32 = name.trim_start_matches("relay-").parse().unwrap_or(1);
    let record = RelayRecord {
        name: name.into(),
        replication: format!("10.0.1.{number}:3307"),
        http: format!("10.0.1.{number}:8090"),
        host: format!("rack-{number}"),
        site: String::new(),
        server_id: 9000 + number,
        user: format!("relay_{number}"),
        log_id: format!("log-{number}"),
        promised: promised.into(),
        held: false,
        version: "0".into(),
    };
    (name.into(), record)
}

/// A cluster with three relays and two epochs, in which `holder` has `grant`; seen by relay-1.
struct Scene {
    state: Option<ClusterState>,
    unreadable: Option<&'static str>,
    epochs: BTreeMap<u64, EpochRecord>,
    relays: BTreeMap<String, RelayRecord>,
    promised: Promised,
    end: Option<(u64, GtidList)>,
    before: Following,
}

impl Scene {
    fn new(holder: Option<&str>, grant: (u64, u64), promised: Promised) -> Self {
        let mut state = ClusterState::bootstrap("db-1", "t", "2026-01-01T00:00:00Z".into());
        state.epoch = grant.0;
        state.grant = grant.into();
        state.grant_holder = holder.map(str::to_owned);
        state.grant_log_id = holder.map(|h| h.replace("relay", "log"));
        Self {
            state: Some(state),
            unreadable: None,
            epochs: records(&[(1, 1, None, 0, ""), (2, 2, Some("mysql-bin.000002"), 5, "0-1-9")]),
            relays: ["relay-1", "relay-2", "relay-3"].iter().map(|r| relay(r, (1, 1))).collect(),
            promised,
            end: Some((6, "0-1-9".parse().unwrap_or_default())),
            before: NOBODY,
        }
    }

    fn step(&self) -> Step {
        follow(&Situation {
            state: self.state.as_ref(),
            unreadable: self.unreadable,
            epochs: &self.epochs,
            relays: &self.relays,
            name: "relay-1",
            log_id: "log-1",
            promised: self.promised,
            end: self.end.as_ref().map(|(file, gtid)| (*file, gtid)),
            before: &self.before,
        })
    }

    fn change(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// What was decided, in a few words.
fn told(step: &Step) -> String {
    match step {
        Step::Record(p) => format!("record {} {}", p.grant, if p.held { "held" } else { "given up" }),
        Step::Follow(Following::Primary { addresses, origin, grant, after }) => {
            let after = after.as_ref().map_or(String::new(), |a| format!(" after {a}"));
            format!("{} at {} under {grant}{after}", origin.node, addresses[0])
        }
        Step::Follow(Following::Relay(Mirrored { relays, until })) => {
            let names: Vec<&str> = relays.iter().map(|r| r.name.as_str()).collect();
            let until = until.as_ref().map_or(String::new(), |u| format!(" until {u}"));
            format!("{}{until}", names.join(","))
        }
        Step::Follow(Following::Nothing { why, hint }) => {
            assert!(!hint.is_empty(), "{why}");
            format!("nothing: {why}")
        }
    }
}

#[test]
fn the_holder_of_the_grant_records_it_and_then_follows_the_primary_of_its_epoch() {
    let me = Some("relay-1");
    for (case, scene, expected) in [
        ("given for the first time", Scene::new(me, (1, 1), held(0, 0)), "record [1,1] held"),
        ("held", Scene::new(me, (1, 1), held(1, 1)), "db-1 at 10.0.0.1:3306 under [1,1]"),
        ("promised for this operation before", Scene::new(me, (2, 1), promised(2, 1)), "record [2,1] held"),
        ("of the next epoch", Scene::new(me, (2, 1), held(2, 1)), "db-2 at 10.0.0.2:3306 under [2,1]"),
        ("promised a higher one", Scene::new(me, (1, 1), promised(2, 1)), "nothing: grant [2,1] was promised"),
        ("an older state of etcd", Scene::new(me, (1, 1), held(2, 1)), "nothing: grant [2,1] was promised"),
        (
            "taken over in the middle of an epoch",
            Scene::new(me, (1, 2), held(1, 2)).change(|s| {
                s.state.as_mut().unwrap_or_else(|| panic!("there")).grant_after = Some("0-1-12".into());
            }),
            "db-1 at 10.0.0.1:3306 under [1,2] after 0-1-12",
        ),
        (
            "the epoch is not recorded",
            Scene::new(me, (3, 1), held(3, 1)),
            "nothing: epochs/3, whose grant this relay holds, is not recorded",
        ),
        (
            "an empty log",
            Scene::new(me, (2, 1), held(2, 1)).change(|s| s.end = None),
            "db-2 at 10.0.0.2:3306 under [2,1]",
        ),
    ] {
        let got = told(&scene.step());
        assert!(got.starts_with(expected), "{case}: {got}");
    }
}

#[test]
fn whoever_does_not_hold_the_grant_gives_up_what_it_had_and_mirrors_the_holder() {
    let other = Some("relay-2");
    for (case, scene, expected) in [
        ("new in the cluster", Scene::new(other, (1, 1), held(0, 0)), "record [1,1] given up"),
        ("was the acker", Scene::new(other, (1, 2), held(1, 1)), "record [1,2] given up"),
        ("has promised it", Scene::new(other, (1, 2), promised(1, 2)), "relay-2"),
        ("two hold the same: impossible, so not here", Scene::new(other, (1, 2), held(1, 2)), "record [1,2] given up"),
        ("a promise of an operation that was given up", Scene::new(other, (1, 2), promised(2, 1)), "relay-2"),
        (
            "a promise of the operation that is under way",
            Scene::new(other, (1, 2), promised(2, 1)).change(|s| {
                s.state.as_mut().unwrap_or_else(|| panic!("there")).asked = Some(grant(2, 1));
            }),
            "nothing: grant [2,1] was promised",
        ),
        (
            "the holder is gone",
            Scene::new(other, (1, 2), promised(1, 2)).change(|s| drop(s.relays.remove("relay-2"))),
            "nothing: relay \"relay-2\", which holds the right to acknowledge, is not there",
        ),
        ("nobody holds it", Scene::new(None, (1, 0), promised(1, 0)), "nothing: no relay holds the right"),
    ] {
        let got = told(&scene.step());
        assert!(got.starts_with(expected), "{case}: {got}");
    }
}

#[test]
fn an_acker_whose_announcement_has_lapsed_is_followed_where_it_was() {
    let mut scene = Scene::new(Some("relay-2"), (1, 2), promised(1, 2));
    let Step::Follow(before) = scene.step() else { panic!("follows") };
    scene.before = before;
    scene.relays.clear();
    assert_eq!(told(&scene.step()), "relay-2");
    // But not one that holds nothing any more.
    scene.state = scene.state.map(|s| ClusterState { grant_holder: Some("relay-3".into()), ..s });
    assert!(told(&scene.step()).starts_with("nothing: relay \"relay-3\""));
}

#[test]
fn a_relay_that_lost_its_log_does_not_acknowledge_for_it() {
    let scene = Scene::new(Some("relay-1"), (1, 1), held(0, 0)).change(|s| {
        s.state.as_mut().unwrap_or_else(|| panic!("there")).grant_log_id = Some("log-of-yesterday".into());
    });
    let got = told(&scene.step());
    assert!(got.contains("log-of-yesterday") && got.contains("this is log log-1"), "{got}");
}

#[test]
fn without_a_state_nothing_is_followed() {
    let scene = Scene::new(Some("relay-1"), (1, 1), held(1, 1)).change(|s| s.state = None);
    assert!(told(&scene.step()).starts_with("nothing: etcd has no state"));
}

#[test]
fn a_state_that_a_newer_version_wrote_changes_nothing_for_whoever_follows_already() {
    let unreadable = |s: &mut Scene| (s.state, s.unreadable) = (None, Some("unknown field"));
    for (holder, promise) in [("relay-1", held(1, 1)), ("relay-2", promised(1, 1))] {
        let scene = Scene::new(Some(holder), (1, 1), promise);
        let step = scene.step();
        let Step::Follow(before) = &step else { panic!("{step:?}") };
        let scene = scene.change(unreadable).change(|s| s.before = before.clone());
        assert_eq!(scene.step(), step);
    }
    let fresh = Scene::new(Some("relay-1"), (1, 1), held(1, 1)).change(unreadable);
    assert!(told(&fresh.step()).starts_with("nothing: the cluster's state can't be understood: unknown field"));
    // The right was promised away meanwhile.
    let acker = Scene::new(Some("relay-1"), (1, 1), held(1, 1));
    let Step::Follow(before) = acker.step() else { panic!("it records something") };
    let gone = acker.change(unreadable).change(|s| (s.before, s.promised) = (before, promised(2, 1)));
    assert!(told(&gone.step()).starts_with("nothing: "));
}

#[test]
fn what_an_earlier_epoch_lacks_is_fetched_from_another_relay_before_the_new_one_begins() {
    let short = |s: &mut Scene| s.end = Some((6, "0-1-7".parse().unwrap_or_default()));
    let scene = Scene::new(Some("relay-1"), (2, 1), held(2, 1)).change(short).change(|s| {
        s.relays.get_mut("relay-3").unwrap_or_else(|| panic!("there")).promised = grant(2, 1);
    });
    assert_eq!(told(&scene.step()), "relay-3,relay-2 until 0-1-9");
    // In the epoch itself the primary has what is missing.
    let within = Scene::new(Some("relay-1"), (2, 1), held(2, 1)).change(|s| {
        s.end = Some((7, "0-1-9".parse().unwrap_or_default()));
    });
    assert_eq!(told(&within.step()), "db-2 at 10.0.0.2:3306 under [2,1]");
    let alone = Scene::new(Some("relay-1"), (2, 1), held(2, 1)).change(short).change(|s| s.relays.clear());
    assert!(told(&alone.step()).starts_with("nothing: the log lacks what lies before epoch 2 ('0-1-9')"));
}

#[test]
fn addresses_that_cannot_be_read_are_named() {
    let scene = Scene::new(Some("relay-1"), (1, 1), held(1, 1)).change(|s| {
        s.epochs.get_mut(&1).unwrap_or_else(|| panic!("there")).mysql = vec!["db-1".into()];
    });
    let got = told(&scene.step());
    assert!(got.contains("epochs/1") && got.contains("\"db-1\""), "{got}");
}
