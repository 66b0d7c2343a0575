//! Events through packets and back, with real streams as the judge.
#![allow(missing_docs)]

mod common;

use baton_wire::event::{EventHeader, EventKind, build};
use baton_wire::frame::{Deframed, DeframerOptions, EventDeframer, EventFramer, MAX_PACKET, framed_len};
use baton_wire::{ChecksumAlg, WireError};
use common::{deframe, options};
use proptest::prelude::*;

/// An event of exactly `size` bytes.
fn event(size: usize, fill: u8) -> Vec<u8> {
    let header = EventHeader { timestamp: 1, kind: EventKind::QUERY, server_id: 1, size: 0, log_pos: 0, flags: 0 };
    build(header, &vec![fill; size - 19], ChecksumAlg::None)
}

fn reframe(events: &[(Vec<u8>, Option<bool>)], semi_sync: bool) -> Vec<u8> {
    let mut framer = EventFramer::new(1, semi_sync);
    let mut out = Vec::new();
    for (event, flag) in events {
        if *flag == Some(true) {
            framer.frame_wanting_ack(&mut out, event).unwrap();
        } else {
            framer.frame(&mut out, event).unwrap();
        }
    }
    out
}

#[test]
fn every_captured_stream_comes_out_in_events_and_goes_back_into_the_same_packets() {
    for (name, semi_sync) in common::STREAMS {
        let stream = common::stream(name);
        let whole = stream.len();
        let (events, eof, _) = deframe(&stream, options(name, *semi_sync), || whole);
        assert!(events.len() >= 3, "{name}");
        assert_eq!(eof, name.ends_with("raw") || name.ends_with("to-last"), "{name}: only those dumps do not block");
        if !name.contains("compressed") {
            let again = reframe(&events, *semi_sync);
            assert!(stream.starts_with(&again), "{name}");
            assert_eq!(stream.len() - again.len(), if eof { 9 } else { 0 }, "{name}");
        }
    }
}

#[test]
fn captured_streams_come_out_the_same_however_they_are_cut() {
    for (name, semi_sync) in common::STREAMS.iter().filter(|(n, _)| !n.starts_with('k')) {
        let stream = common::stream(name);
        let whole = deframe(&stream, options(name, *semi_sync), || stream.len()).0;
        for step in [1, 2, 3, 7, 50] {
            let (cut, _, _) = deframe(&stream, options(name, *semi_sync), || step);
            assert_eq!(cut, whole, "{name} in steps of {step}");
        }
    }
}

#[test]
fn semi_sync_stream_restarts_its_numbers_behind_each_event_that_wants_an_ack() {
    let events = common::events("d-mariadb-semisync", true);
    assert!(events.iter().filter(|(_, flag)| *flag == Some(true)).count() >= 2);
    assert!(events.iter().all(|(_, flag)| flag.is_some()));
}

#[test]
fn event_of_17_mb_comes_in_pieces_and_one_of_exactly_16_mib_ends_with_an_empty_packet() {
    for (name, size) in [("k-mariadb-17mb-event", 17_000_042), ("k-mariadb-exact-16mb", 16_777_214)] {
        let stream = common::stream(name);
        for step in [100_000, 1 << 20, stream.len()] {
            let (events, _, pieces) = deframe(&stream, options(name, false), || step);
            assert_eq!(events.iter().filter(|(e, _)| e.len() == size).count(), 1, "{name}");
            if step == stream.len() {
                assert_eq!(pieces, events.len() + 1, "{name}: every other event is one slice");
            }
            assert!(reframe(&events, false) == stream, "{name}");
        }
    }
}

#[test]
fn an_ack_asked_for_behind_the_fact_gives_the_same_packets_as_one_asked_for_at_once() {
    let sizes = [30, 70_000, 40, MAX_PACKET - 3, 25, 2 * MAX_PACKET + 10, 33];
    for wanted in 0..sizes.len() {
        let (mut late, mut expected) = (EventFramer::new(254, true), EventFramer::new(254, true));
        let (mut found, mut out, mut at) = (Vec::new(), Vec::new(), 0);
        for (n, size) in sizes.iter().enumerate() {
            if n == wanted {
                at = found.len();
                expected.frame_wanting_ack(&mut out, &event(*size, 7)).unwrap();
            } else {
                expected.frame(&mut out, &event(*size, 7)).unwrap();
            }
            late.frame(&mut found, &event(*size, 7)).unwrap();
        }
        let next = late.want_ack(&mut found[at..]).unwrap();
        assert!(found == out && next == expected.sequence(), "event {wanted}");
    }
    let (mut plain, mut out) = (EventFramer::new(1, false), Vec::new());
    plain.frame(&mut out, &event(40, 1)).unwrap();
    assert!(plain.want_ack(&mut out).is_err() && late_half().is_err());
}

/// Half a packet behind the event.
fn late_half() -> baton_wire::Result<u8> {
    let (mut framer, mut out) = (EventFramer::new(1, true), Vec::new());
    framer.frame(&mut out, &event(40, 1))?;
    framer.frame(&mut out, &event(40, 1))?;
    let half = out.len() - 10;
    framer.want_ack(&mut out[..half])
}

#[test]
fn sizes_around_a_full_packet_survive_with_and_without_semi_sync() {
    for semi_sync in [false, true] {
        let mut sizes: Vec<usize> = (MAX_PACKET - 5..=MAX_PACKET + 3).collect();
        sizes.extend([2 * MAX_PACKET - 3, 2 * MAX_PACKET - 1, 2 * MAX_PACKET]);
        for size in sizes {
            let events = [(event(40, 1), semi_sync.then_some(false)), (event(size, 7), semi_sync.then_some(true))];
            let stream = reframe(&events, semi_sync);
            assert_eq!(stream.len(), framed_len(40, semi_sync) + framed_len(size, semi_sync));
            let (back, _, _) = deframe(&stream, options("", semi_sync), || 5_000_000);
            assert!(back == events, "{size} bytes, semi-sync {semi_sync}");
        }
    }
}

#[test]
fn a_run_of_events_is_framed_as_each_of_them_would_be() {
    for semi_sync in [false, true] {
        let events: Vec<_> = (0..700).map(|i| event(19 + i % 90, i as u8)).chain([event(MAX_PACKET + 9, 3)]).collect();
        let (mut one_by_one, mut at_once) = (Vec::new(), vec![1, 2, 3]);
        let (mut a, mut b) = (EventFramer::new(250, semi_sync), EventFramer::new(250, semi_sync));
        for event in &events {
            a.frame(&mut one_by_one, event).unwrap();
        }
        assert_eq!(b.frame_all(&mut at_once, &events.concat()).unwrap(), events.len());
        assert!(at_once[3..] == one_by_one);
        assert_eq!(a.sequence(), b.sequence());
    }
}

#[test]
fn a_run_that_ends_inside_an_event_appends_nothing() {
    let mut events = [event(60, 1), event(60, 2)].concat();
    events.pop();
    let (mut framer, mut out) = (EventFramer::new(9, false), vec![5]);
    let error = framer.frame_all(&mut out, &events).unwrap_err().to_string();
    assert!(error.contains("event 1 of a run, at byte 60, has size 60; 59 bytes are there"), "{error}");
    assert_eq!((out, framer.sequence()), (vec![5], 9));
}

#[test]
fn framer_refuses_pieces_that_do_not_fit_the_announced_size() {
    let (mut framer, mut out) = (EventFramer::new(1, false), Vec::new());
    assert!(framer.push(&mut out, b"x").is_err(), "nothing was begun");
    assert!(framer.start(&mut out, 18).is_err(), "no event is this short");
    framer.start(&mut out, 30).unwrap();
    assert!(framer.start(&mut out, 30).is_err(), "the first lacks 30 bytes");
    assert!(framer.frame_all(&mut out, &event(30, 0)).is_err(), "the first lacks 30 bytes");
    let before = out.len();
    assert!(framer.push(&mut out, &[0; 31]).is_err());
    assert_eq!(out.len(), before);
    framer.push(&mut out, &[0; 30]).unwrap();
    assert!(!framer.inside_event());
}

fn first_error(stream: &[u8], options: DeframerOptions) -> String {
    let mut deframer = EventDeframer::new(options);
    let mut at = 0;
    loop {
        match deframer.next(&stream[at..]) {
            Err(WireError::Invalid { what, detail }) => return format!("{what}: {detail}"),
            Err(other) => return other.to_string(),
            Ok((_, Deframed::NeedMore(n))) => panic!("needs {n} bytes instead of failing"),
            Ok((n, _)) => at += n,
        }
    }
}

#[test]
fn a_lost_packet_is_an_error_unless_numbers_are_not_checked() {
    let mut framer = EventFramer::new(1, false);
    let mut stream = Vec::new();
    framer.frame(&mut stream, &event(40, 1)).unwrap();
    framer.set_sequence(3);
    framer.frame(&mut stream, &event(40, 2)).unwrap();
    let error = first_error(&stream, options("", false));
    assert!(error.contains("packet number 3 where 2 is due"), "{error}");
    let (events, _, _) = deframe(&stream, DeframerOptions { check_sequence: false, ..options("", false) }, || 9999);
    assert_eq!(events.len(), 2);
}

#[test]
fn numbers_may_restart_only_behind_an_event_that_wanted_an_ack() {
    let mut framer = EventFramer::new(7, true);
    let mut stream = Vec::new();
    framer.frame(&mut stream, &event(40, 1)).unwrap();
    framer.set_sequence(1);
    framer.frame(&mut stream, &event(40, 2)).unwrap();
    let error = first_error(&stream, DeframerOptions { first_sequence: 7, ..options("", true) });
    assert!(error.contains("packet number 1 where 8 is due"), "{error}");
}

#[test]
fn packets_that_lie_about_the_length_of_their_event_are_refused() {
    let frame = |event: &[u8]| {
        let mut out = Vec::new();
        EventFramer::new(1, false).frame(&mut out, event).unwrap();
        out
    };
    let mut short = event(60, 1);
    short[9] = 59;
    assert!(first_error(&frame(&short), options("", false)).contains("says it has 59 bytes, its packet has 60"));
    let mut long = event(60, 1);
    long[9] = 61;
    assert!(first_error(&frame(&long), options("", false)).contains("says it has 61 bytes, its packet has 60"));
    let mut huge = event(60, 1);
    huge[12] = 0x7f;
    assert!(first_error(&frame(&huge), options("", false)).contains("exceeds the limit"));
    let mut tiny = event(60, 1);
    tiny[9] = 18;
    assert!(first_error(&frame(&tiny), options("", false)).contains("below the header's own 19 bytes"));

    let mut split = frame(&event(MAX_PACKET + 10, 1));
    let second = 4 + MAX_PACKET;
    assert_eq!(split[second], 11);
    split[second] = 10;
    assert!(first_error(&split, options("", false)).contains("lacks 11 bytes, its next packet has 10"));
    let mut beyond = frame(&event(MAX_PACKET, 1));
    beyond[4 + 1 + 9] = 0xfd;
    assert!(first_error(&beyond, options("", false)).contains("its packet has"), "less than its first packet");
}

#[test]
fn foreign_packets_are_named() {
    let options = || options("", false);
    assert!(first_error(&[0, 0, 0, 1, 9], options()).contains("empty packet"));
    assert!(first_error(&[3, 0, 0, 1, 0x05, 1, 2], options()).contains("begins with 0x05"));
    assert!(first_error(&[3, 0, 0, 1, 0x00, 1, 2], options()).contains("too short for an event"));
    assert!(first_error(&[20, 0, 0, 1, 0xfe, 1, 2], options()).contains("begins with 0xfe"));
    let mut plain = Vec::new();
    EventFramer::new(1, false).frame(&mut plain, &event(60, 1)).unwrap();
    let semi_sync = DeframerOptions { semi_sync: true, ..options() };
    assert!(first_error(&plain, semi_sync).contains("semi-sync was negotiated"));
}

#[test]
fn an_error_packet_is_handed_on_whole_whatever_its_number() {
    let stream = [&[9, 0, 0, 77, 0xff, 0xd4, 0x04][..], b"#HY000", b"more"].concat();
    let mut deframer = EventDeframer::new(options("", false));
    for cut in 5..13 {
        assert_eq!(deframer.next(&stream[..cut]).unwrap(), (0, Deframed::NeedMore(13)));
    }
    assert_eq!(deframer.next(&stream).unwrap(), (13, Deframed::Error(&stream[4..13])));
}

#[test]
fn a_short_event_waits_to_be_whole_and_a_long_one_begins_with_the_promised_prefix() {
    let mut stream = Vec::new();
    EventFramer::new(1, false).frame(&mut stream, &event(5000, 1)).unwrap();
    let mut deframer = EventDeframer::new(DeframerOptions { whole_up_to: 5000, ..Default::default() });
    assert_eq!(deframer.next(&stream[..5004]).unwrap(), (0, Deframed::NeedMore(5005)));
    let mut deframer = EventDeframer::new(DeframerOptions { whole_up_to: 4999, ..Default::default() });
    assert_eq!(deframer.next(&stream[..100]).unwrap(), (0, Deframed::NeedMore(5004)));
    let (n, piece) = deframer.next(&stream[..5004]).unwrap();
    assert_eq!(n, 5004);
    assert!(matches!(piece, Deframed::EventData { first: true, last: false, data, .. } if data.len() == 4999));
    assert!(matches!(deframer.next(&stream[5004..]).unwrap().1, Deframed::EventData { first: false, last: true, .. }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn framed_and_deframed_in_random_slices_is_the_same(
        sizes in prop::collection::vec((19usize..3000, any::<bool>(), 1usize..400), 1..40),
        cuts in prop::collection::vec(1usize..4000, 1..20),
        whole_up_to in 0usize..2000,
        semi_sync in any::<bool>(),
        first_sequence in any::<u8>(),
    ) {
        let mut framer = EventFramer::new(first_sequence, semi_sync);
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for (size, ack, piece) in sizes {
            let event = event(size, size as u8);
            if ack { framer.start_wanting_ack(&mut stream, size).unwrap() } else { framer.start(&mut stream, size).unwrap() }
            for piece in event.chunks(piece) {
                framer.push(&mut stream, piece).unwrap();
            }
            expected.push((event, semi_sync.then_some(ack)));
        }
        let mut next_cut = cuts.iter().cycle();
        let options = DeframerOptions { semi_sync, first_sequence, whole_up_to, ..Default::default() };
        let (events, _, _) = deframe(&stream, options, || *next_cut.next().unwrap());
        prop_assert!(events == expected);
    }

    #[test]
    fn deframer_neither_panics_nor_stalls_on_noise(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        small_lengths in any::<bool>(),
        semi_sync in any::<bool>(),
    ) {
        if small_lengths && bytes.len() > 4 {
            bytes[1] = 0;
            bytes[2] = 0;
        }
        let mut deframer = EventDeframer::new(DeframerOptions { check_sequence: false, ..options("", semi_sync) });
        let mut at = 0;
        while let Ok((n, found)) = deframer.next(&bytes[at..]) {
            if let Deframed::NeedMore(wanted) = found {
                prop_assert!(n == 0 && wanted > bytes.len() - at && wanted <= deframer.min_buffer());
                break;
            }
            prop_assert!(n > 0);
            at += n;
        }
    }

    #[test]
    fn framer_survives_noise_as_events(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut out = Vec::new();
        let _ = EventFramer::new(1, true).frame_all(&mut out, &bytes);
    }
}
