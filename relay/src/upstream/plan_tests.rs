use super::*;

fn list(text: &str) -> GtidList {
    text.parse().unwrap_or_default()
}

fn end() -> LogEnd {
    LogEnd {
        pos: LogPos { file: 3, offset: 500 },
        upstream_file: "mysql-bin.000003".into(),
        server_id: 1,
        epoch: 1,
        gtid: list("0-1-50"),
    }
}

fn facts(at_head: Option<&str>, now: &str) -> ServerFacts {
    ServerFacts { server_id: 1, gtid_binlog_pos: list(now), gtid_at_head: at_head.map(list), ..ServerFacts::default() }
}

#[test]
fn an_empty_log_begins_where_it_is_told_to() {
    let f = facts(None, "0-1-9");
    let earliest = Plan::Dump { file: String::new(), position: 4 };
    let plan_of = |start: Start, f: &ServerFacts| plan(9, &Aim::Fixed, &start, None, f).ok();
    assert_eq!(plan_of(Start::Earliest, &f), Some(earliest.clone()));
    assert_eq!(plan_of(Start::Latest, &f), Some(Plan::LearnFile(list("0-1-9"))));
    assert_eq!(plan_of(Start::Latest, &facts(None, "")), Some(earliest));
    assert_eq!(plan_of(Start::Gtid(GtidPosition::MariaDb(list("0-1-5"))), &f), Some(Plan::LearnFile(list("0-1-5"))));
    assert_eq!(
        plan_of(Start::File { name: "b.000002".into(), position: 900 }, &f),
        Some(Plan::Dump { file: "b.000002".into(), position: 4 })
    );
}

#[test]
fn the_same_server_goes_on_by_file_and_position() {
    let got = plan(9, &Aim::Fixed, &Start::Earliest, Some(&end()), &facts(Some("0-1-50"), "0-1-70")).ok();
    assert_eq!(got, Some(Plan::Dump { file: "mysql-bin.000003".into(), position: 500 }));
}

#[test]
fn another_history_is_never_merged() {
    for (case, f) in [
        ("same place, other position", facts(Some("0-1-49"), "0-1-70")),
        ("same place, other server", facts(Some("0-2-50"), "0-2-70")),
        ("tail lost in a crash", facts(None, "0-1-40")),
        ("RESET MASTER", facts(None, "")),
        ("tail lost, others written since", ServerFacts { has_file: true, ..facts(None, "0-1-70") }),
        ("another server", ServerFacts { server_id: 2, ..facts(Some("0-1-50"), "0-1-70") }),
    ] {
        let got = plan(9, &Aim::Fixed, &Start::Earliest, Some(&end()), &f);
        assert!(matches!(got, Err(StreamError::Diverged { .. })), "{case}: {got:?}");
    }
}

#[test]
fn a_purged_position_is_no_silent_gap() {
    let got = plan(9, &Aim::Fixed, &Start::Earliest, Some(&end()), &facts(None, "0-1-70"));
    assert!(matches!(&got, Err(StreamError::Purged { cause, .. }) if cause.contains("mysql-bin.000003")), "{got:?}");
}

#[test]
fn a_place_that_the_protocol_cannot_name_is_told_as_that() {
    let far = LogEnd { pos: LogPos { file: 3, offset: 1 << 32 }, ..end() };
    let got = plan(9, &Aim::Fixed, &Start::Earliest, Some(&far), &facts(None, "0-1-70"));
    assert!(matches!(&got, Err(StreamError::Refused { cause, .. }) if cause.contains("4294967296")), "{got:?}");
}

#[test]
fn the_primarys_own_server_id_is_refused() {
    let got = plan(1, &Aim::Fixed, &Start::Earliest, None, &facts(None, ""));
    assert!(matches!(got, Err(StreamError::Refused { .. })), "{got:?}");
}

/// Epoch 2 begins with db-2's mysql-bin.000009, number 4 in the log.
fn second() -> Origin {
    Origin {
        epoch: 2,
        node: "db-2".into(),
        server_id: 2,
        first_file: Some("mysql-bin.000009".into()),
        shift: -5,
        gtid: list("0-1-50"),
    }
}

fn second_says(at_first: Option<&str>, now: &str) -> ServerFacts {
    let (gtid_binlog_pos, gtid_at_first) = (list(now), at_first.map(list));
    ServerFacts { server_id: 2, gtid_binlog_pos, gtid_at_first, ..ServerFacts::default() }
}

#[test]
fn a_new_epoch_begins_with_its_first_file_if_that_continues_the_log() {
    let begins = Plan::BeginEpoch { file: "mysql-bin.000009".into() };
    let aim = Aim::Epoch(second());
    let facts = second_says(Some("0-1-50"), "0-2-60");
    for (case, end) in [("behind the epoch before", Some(end())), ("in an empty log", None)] {
        assert_eq!(plan(9, &aim, &Start::Latest, end.as_ref(), &facts).ok(), Some(begins.clone()), "{case}");
    }
    // Once it is in that epoch, it goes on by file and position.
    let within = LogEnd {
        pos: LogPos { file: 4, offset: 900 },
        upstream_file: "mysql-bin.000009".into(),
        server_id: 2,
        epoch: 2,
        gtid: list("0-2-55"),
    };
    let facts = ServerFacts { gtid_at_head: Some(list("0-2-55")), ..facts };
    let got = plan(9, &aim, &Start::Latest, Some(&within), &facts).ok();
    assert_eq!(got, Some(Plan::Dump { file: "mysql-bin.000009".into(), position: 900 }));
}

#[test]
fn a_new_epoch_that_does_not_continue_the_log_is_never_begun() {
    let state = |result: Result<Plan, StreamError>| result.map_err(|e| (e.state().name(), e.to_string()));
    for (case, origin, facts, expected, words) in [
        ("lacks the tail", second(), second_says(Some("0-1-50"), "0-1-49"), "diverged", "lacks what the log holds"),
        ("began too early", second(), second_says(Some("0-1-49"), "0-2-60"), "diverged", "the log ends at '0-1-50'"),
        ("another history", second(), second_says(Some("0-3-50"), "0-2-60"), "diverged", "'0-3-50'"),
        ("first file purged", second(), second_says(None, "0-2-60"), "stopped", "mysql-bin.000009"),
        (
            "another server at the address",
            second(),
            ServerFacts { server_id: 3, ..second_says(Some("0-1-50"), "0-2-60") },
            "refused",
            "server_id 2, the server that answers has 3",
        ),
        (
            "numbers that do not grow",
            Origin { shift: -6, ..second() },
            second_says(Some("0-1-50"), "0-2-60"),
            "diverged",
            "that ends in 3 already",
        ),
    ] {
        let got = state(plan(9, &Aim::Epoch(origin), &Start::Earliest, Some(&end()), &facts));
        assert!(matches!(&got, Err((s, text)) if *s == expected && text.contains(words)), "{case}: {got:?}");
    }
    let later = LogEnd { epoch: 3, ..end() };
    let got = state(plan(9, &Aim::Epoch(second()), &Start::Earliest, Some(&later), &second_says(Some("0-1-50"), "")));
    assert!(matches!(&got, Err(("diverged", _))), "{got:?}");
}

#[test]
fn a_mirror_goes_on_where_the_relay_agrees_and_waits_where_it_is_ahead() {
    let mirror = |needs: Option<&str>| Aim::Mirror { server_id: 9002, needs: needs.map(list) };
    let relay = |at_head: Option<&str>, now: &str| ServerFacts { server_id: 9002, ..facts(at_head, now) };
    let of = |aim: &Aim, f: &ServerFacts| plan(9001, aim, &Start::Earliest, Some(&end()), f);
    let on = Plan::Dump { file: "mysql-bin.000003".into(), position: 500 };
    assert_eq!(of(&mirror(None), &relay(Some("0-1-50"), "0-1-70")).ok(), Some(on));
    for (case, aim, f, state) in [
        ("the acker is behind", mirror(None), relay(None, "0-1-40"), "connecting"),
        ("the acker went on otherwise", mirror(None), relay(None, "0-2-60"), "stopped"),
        (
            "the acker's file is another",
            mirror(None),
            ServerFacts { has_file: true, ..relay(None, "0-2-60") },
            "diverged",
        ),
        ("same place, other position", mirror(None), relay(Some("0-2-50"), "0-2-60"), "diverged"),
        ("lacks what is wanted of it", mirror(Some("0-1-80")), relay(Some("0-1-50"), "0-1-70"), "connecting"),
        ("a server in place of the relay", mirror(None), facts(Some("0-1-50"), "0-1-70"), "refused"),
    ] {
        let got = of(&aim, &f).map_err(|e| e.state().name());
        assert_eq!(got, Err(state), "{case}");
    }
}
