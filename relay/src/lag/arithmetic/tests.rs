//! Tables of what is known and what is told of it.

use super::*;

const NOW: Micros = Micros(1_000_000_000);

fn ago(ms: i64) -> Micros {
    Micros(NOW.0 - ms * 1000)
}

fn gtid(text: &str) -> GtidPosition {
    GtidPosition::MariaDb(text.parse().unwrap())
}

fn place(transactions: u64, bytes: u64, oldest_ms: Option<i64>) -> Place {
    Place {
        pos: LogPos { file: 1, offset: 10_000 - bytes },
        gtid: gtid("0-1-10"),
        missing_transactions: transactions,
        missing_bytes: bytes,
        oldest_missing: oldest_ms.map(ago),
    }
}

fn sample(age_ms: i64) -> Sample {
    Sample { gtid: gtid("0-1-10"), taken_at: ago(age_ms), head: Some(LogPos { file: 1, offset: 10_000 }) }
}

fn missing(transactions: u64, bytes: u64, oldest_ms: Option<i64>) -> Missing {
    Missing { transactions, bytes, oldest: oldest_ms.map(ago) }
}

fn threads() -> Threads {
    Threads {
        taken_at: ago(50),
        sent: Some(LogPos { file: 1, offset: 10_000 }),
        io: ThreadState::Running,
        sql: ThreadState::Running,
        io_error: None,
        sql_error: None,
        delay: Duration::ZERO,
        received: None,
        applied: None,
    }
}

fn view<'a>(unsent: Option<Missing>, unapplied: Option<Missing>) -> View<'a> {
    View {
        stream: ReplicaState::Streaming,
        stream_since: ago(60_000),
        stream_error: None,
        unsent,
        sent_moved: Some(ago(10)),
        unapplied,
        silent_since: None,
        threads: None,
        asking: None,
        now: NOW,
    }
}

#[test]
fn while_samples_come_in_time_lag_is_what_was_missing_when_the_replica_was_asked() {
    const DUE: Duration = Duration::from_millis(300);
    let nothing = Missing::NOTHING;
    // (what it is: the sample's age in ms, missing now, arrived since, expected)
    let table = [
        ("at the head, and nothing came", 4000, place(0, 0, None), place(0, 0, None), nothing),
        ("at the head when asked, 29 came since", 80, place(29, 2900, Some(79)), place(29, 2900, Some(79)), nothing),
        (
            "the same, of an idle replica that is about to be asked",
            4000,
            place(1, 90, Some(3)),
            place(1, 90, Some(3)),
            nothing,
        ),
        ("the last ones were just being applied", 80, place(31, 3100, Some(99)), place(29, 2900, Some(79)), nothing),
        (
            "the last ones should have been applied",
            80,
            place(31, 3100, Some(101)),
            place(29, 2900, Some(79)),
            missing(2, 200, Some(101)),
        ),
        ("behind, and nothing came", 80, place(5, 500, Some(9000)), place(0, 0, None), missing(5, 500, Some(9000))),
        (
            "behind while the primary is dead for a day",
            5000,
            place(1, 1, Some(86_400_000)),
            place(0, 0, None),
            missing(1, 1, Some(86_400_000)),
        ),
        ("due, not overdue", 300, place(29, 2900, Some(299)), place(29, 2900, Some(299)), nothing),
        ("overdue", 302, place(29, 2900, Some(301)), place(29, 2900, Some(301)), missing(29, 2900, Some(301))),
        (
            "overdue, and behind before",
            302,
            place(31, 3100, Some(900)),
            place(29, 2900, Some(301)),
            missing(31, 3100, Some(900)),
        ),
        (
            "idle, then frozen for long",
            60_000,
            place(1, 90, Some(400)),
            place(1, 90, Some(400)),
            missing(1, 90, Some(400)),
        ),
    ];
    for (what, age, applied, since, expected) in table {
        assert_eq!(unapplied(&sample(age), &applied, Some(&since), DUE, NOW), expected, "{what}");
    }
    // Looked up an instant apart, while more arrived.
    let (applied, since) =
        (place(5, 500, Some(200)), Place { pos: LogPos { file: 1, offset: 9_600 }, ..place(6, 600, Some(79)) });
    assert_eq!(unapplied(&sample(80), &applied, Some(&since), DUE, NOW), missing(1, 0, Some(200)));
    let gone = place(31, 3100, Some(5));
    assert_eq!(
        unapplied(&sample(9), &gone, None, DUE, NOW),
        missing(31, 3100, Some(5)),
        "where it ended is not kept any more"
    );
}

#[test]
fn no_figure_is_wrong_by_more_than_the_samples_age_and_20_ms() {
    // Everything that a replica can miss: the oldest missing one arrived `oldest` ms ago, and so did what came since the sample, or later.
    for age in [0, 1, 19, 80, 299, 301, 5000] {
        for oldest in (0..=400).chain([5000, 5019, 5020, 5021]) {
            let (applied, since) =
                (place(9, 900, Some(oldest)), place(5, 500, (age > 0).then_some(oldest.min(age - 1).max(0))));
            let told = unapplied(&sample(age), &applied, Some(&since), Duration::from_millis(300), NOW).millis(NOW);
            let truth = u64::try_from(oldest).unwrap();
            assert!(told == truth || (told == 0 && truth <= age.unsigned_abs() + 20), "{age} {oldest}: {told}");
        }
    }
}

#[test]
fn what_was_not_sent_lags_unless_it_has_only_just_arrived() {
    let table = [
        (place(0, 0, None), Missing::NOTHING),
        // Not a transaction: the end of a file.
        (place(0, 44, None), Missing::NOTHING),
        (place(3, 300, Some(10)), Missing::NOTHING),
        (place(3, 300, Some(11)), missing(3, 300, Some(11))),
        (place(1, 1, Some(86_400_000)), missing(1, 1, Some(86_400_000))),
    ];
    for (sent, expected) in table {
        assert_eq!(unsent(&sent, NOW), expected, "{sent:?}");
    }
}

#[test]
fn lag_is_the_age_of_the_oldest_missing_transaction_and_0_at_the_head() {
    for (missing, ms) in [(Missing::NOTHING, 0), (missing(11, 5120, Some(37)), 37), (missing(1, 1, Some(-5)), 0)] {
        let report = received(&place(0, 0, None), missing, NOW);
        assert_eq!(
            (report.lag_transactions, report.lag_bytes, report.lag_ms),
            (missing.transactions, missing.bytes, ms)
        );
        let report = applied(&sample(12), missing, NOW);
        assert_eq!(
            (report.lag_transactions, report.lag_bytes, report.lag_ms),
            (missing.transactions, missing.bytes, ms)
        );
        assert_eq!((report.age_ms, report.gtid.as_str()), (12, "0-1-10"));
    }
}

#[test]
fn the_bottleneck_is_where_most_of_what_is_missing_waits() {
    let none = Missing::NOTHING;
    // (unsent, unapplied, last taken ms ago) -> bottleneck
    let table = [
        (none, Some(none), 0, None),
        (none, None, 0, None),
        (none, Some(missing(5, 900, Some(40))), 0, Some(Bottleneck::Apply)),
        (missing(1, 100, Some(12)), Some(missing(90, 9000, Some(400))), 0, Some(Bottleneck::Apply)),
        (missing(50, 5000, Some(400)), Some(missing(60, 6000, Some(400))), 10, Some(Bottleneck::Receive)),
        (missing(50, 5000, Some(400)), Some(none), 10, Some(Bottleneck::Receive)),
        (missing(50, 5000, Some(400)), Some(missing(60, 6000, Some(400))), 250, Some(Bottleneck::Network)),
        (missing(50, 5000, Some(400)), None, 250, Some(Bottleneck::Network)),
        // Nothing was taken for long, but then there was nothing to take until 50 ms ago.
        (missing(1, 100, Some(50)), Some(missing(1, 100, Some(50))), 60_000, Some(Bottleneck::Receive)),
    ];
    for (unsent, unapplied, moved_ms, expected) in table {
        let view = View { sent_moved: Some(ago(moved_ms)), ..view(Some(unsent), unapplied) };
        assert_eq!(bottleneck(&view), (expected, None), "{unsent:?} {unapplied:?}");
    }
}

#[test]
fn a_replica_that_leaves_questions_unanswered_is_held_back_by_the_network_if_it_lags() {
    let behind = Some(missing(5, 500, Some(400)));
    let none = Some(Missing::NOTHING);
    for (unapplied, silent_ms, expected) in [
        (behind, None, Some(Bottleneck::Apply)),
        (behind, Some(150), Some(Bottleneck::Apply)),
        (behind, Some(250), Some(Bottleneck::Network)),
        (none, Some(250), None),
    ] {
        let view = View { silent_since: silent_ms.map(ago), ..view(none, unapplied) };
        assert_eq!(bottleneck(&view).0, expected, "{unapplied:?} {silent_ms:?}");
    }
}

#[test]
fn what_was_sent_but_not_received_is_the_receiving_threads() {
    let at = |file, offset| Some(LogPos { file, offset });
    // (received, applied) by the threads; 1:10000 was sent
    let table = [
        (at(1, 9_100), at(1, 9_100), Bottleneck::Receive),
        (at(1, 9_900), at(1, 9_100), Bottleneck::Apply),
        (at(1, 10_000), at(1, 9_100), Bottleneck::Apply),
        (at(0, 9_000), at(0, 10), Bottleneck::Receive),
        (at(1, 20), at(0, 10), Bottleneck::Apply),
        (at(1, 11_000), at(1, 10_500), Bottleneck::Apply), // asked a little later than the sample
        (None, None, Bottleneck::Apply),
    ];
    for (received, applied, expected) in table {
        let threads = Threads { received, applied, ..threads() };
        let view = View { threads: Some(&threads), ..view(Some(Missing::NOTHING), Some(missing(9, 900, Some(40)))) };
        assert_eq!(bottleneck(&view).0, Some(expected), "{received:?} {applied:?}");
    }
}

#[test]
fn a_replica_that_left_or_whose_threads_stopped_is_stopped_even_at_the_head() {
    let none = Some(Missing::NOTHING);
    for (stream, io, sql) in [
        (ReplicaState::Gone, ThreadState::Running, ThreadState::Running),
        (ReplicaState::Stopped, ThreadState::Running, ThreadState::Running),
        (ReplicaState::Streaming, ThreadState::Stopped, ThreadState::Running),
        (ReplicaState::Streaming, ThreadState::Running, ThreadState::Stopped),
    ] {
        let threads = Threads { io, sql, ..threads() };
        let view = View { stream, threads: Some(&threads), ..view(none, none) };
        assert_eq!(bottleneck(&view), (Some(Bottleneck::Stopped), None), "{stream:?} {io:?} {sql:?}");
    }
}

#[test]
fn an_error_is_told_with_its_text_and_before_anything_else() {
    let behind = Some(missing(5, 500, Some(900)));
    let failed = Threads {
        sql: ThreadState::Stopped,
        sql_error: Some("1062 Duplicate entry '1'".into()),
        io: ThreadState::Connecting,
        io_error: Some("2003 can't connect".into()),
        ..threads()
    };
    let sql = View { threads: Some(&failed), stream: ReplicaState::Gone, ..view(behind, None) };
    let text = Some("its applying thread stopped: 1062 Duplicate entry '1'".to_owned());
    assert_eq!(bottleneck(&sql), (Some(Bottleneck::Error), text));

    let failed = Threads { sql: ThreadState::Running, sql_error: None, ..failed.clone() };
    let io = View { threads: Some(&failed), ..sql.clone() };
    let text = Some("its receiving thread stopped: 2003 can't connect".to_owned());
    assert_eq!(bottleneck(&io), (Some(Bottleneck::Error), text));

    let purged = View { stream: ReplicaState::Stopped, stream_error: Some("1236 purged"), ..io };
    assert_eq!(bottleneck(&purged), (Some(Bottleneck::Error), Some("1236 purged".to_owned())));
}

#[test]
fn an_answer_from_before_it_attached_says_nothing_about_its_receiving_thread() {
    let old = Threads {
        taken_at: ago(70_000),
        io: ThreadState::Connecting,
        io_error: Some("2003 can't connect".into()),
        ..threads()
    };
    let view = View { threads: Some(&old), ..view(Some(Missing::NOTHING), None) };
    assert_eq!(bottleneck(&view), (None, None));
}

#[test]
fn why_it_cannot_be_asked_and_a_delay_on_purpose_are_told() {
    let view = View { asking: Some("connection refused"), ..view(Some(Missing::NOTHING), None) };
    assert_eq!(bottleneck(&view), (None, Some("connection refused".to_owned())));

    let delayed = Threads { delay: Duration::from_secs(3600), ..threads() };
    let behind = Some(missing(5, 500, Some(900)));
    let view = View { asking: None, threads: Some(&delayed), unapplied: behind, ..view };
    let text = Some("its replication is delayed on purpose by 3600 s".to_owned());
    assert_eq!(bottleneck(&view), (Some(Bottleneck::Apply), text));
}
