//! MySQL's GTID sets against a set that simply holds every GTID.
#![allow(missing_docs)]

use std::collections::BTreeSet;

use baton_wire::event::Flavor;
use baton_wire::gtid::mysql::{Gtid, GtidSet, MAX_NUMBER, Source, Uuid};
use baton_wire::gtid::{GtidPosition, mariadb};
use proptest::prelude::*;

const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

type Model = BTreeSet<Gtid>;

fn gtids() -> impl Strategy<Value = Model> {
    let gtid = (0u8..2, prop::sample::select(vec!["", "a", "tag_2"]), 1u64..40)
        .prop_map(|(server, tag, number)| Gtid { source: Source::new(Uuid([server; 16]), tag).unwrap(), number });
    prop::collection::btree_set(gtid, 0..60)
}

fn set(model: &Model) -> GtidSet {
    model.iter().collect()
}

fn members(set: &GtidSet) -> Model {
    set.iter()
        .flat_map(|(source, intervals)| {
            intervals
                .iter()
                .flat_map(move |&(start, end)| (start..end).map(move |number| Gtid { source: source.clone(), number }))
        })
        .collect()
}

proptest! {
    #[test]
    fn arithmetic_agrees_with_the_model(a in gtids(), b in gtids()) {
        let (x, y) = (set(&a), set(&b));
        prop_assert_eq!(members(&x), a.clone());
        prop_assert_eq!(x.len(), a.len() as u64);
        prop_assert_eq!(x.is_empty(), a.is_empty());
        prop_assert_eq!(members(&x.union(&y)), &a | &b);
        prop_assert_eq!(members(&x.subtract(&y)), &a - &b);
        prop_assert_eq!(x.intersects(&y), !a.is_disjoint(&b));
        prop_assert_eq!(x.covers(&y), b.is_subset(&a));
        for gtid in a.iter().chain(&b) {
            prop_assert_eq!(x.contains(gtid), a.contains(gtid));
        }
        // Equal sets are equal values, however they came about.
        prop_assert_eq!(x.union(&y), set(&(&a | &b)));
        prop_assert_eq!(x.subtract(&y), set(&(&a - &b)));
        prop_assert_eq!(b.iter().rev().collect::<GtidSet>(), y);
    }

    #[test]
    fn text_and_bytes_give_the_set_back(a in gtids()) {
        let x = set(&a);
        let text = x.to_string();
        prop_assert_eq!(text.parse::<GtidSet>().unwrap(), x.clone());
        let loose = text.to_ascii_uppercase().replace(':', " :\n ").replace(',', " ,\r\n\t,");
        prop_assert_eq!(loose.parse::<GtidSet>().unwrap(), x.clone());
        for gtid in &a {
            prop_assert_eq!(&gtid.to_string().parse::<Gtid>().unwrap(), gtid);
        }
        let mut bytes = Vec::new();
        x.encode(&mut bytes);
        prop_assert_eq!(GtidSet::decode(&bytes).unwrap(), x);
        bytes.push(0);
        prop_assert!(GtidSet::decode(&bytes).is_err());
    }

    #[test]
    fn noise_never_panics(text in "[0-9a-fx:,\\- \n{}]{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..80), a in gtids(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let _ = text.parse::<GtidSet>();
        let _ = text.parse::<Gtid>();
        let _ = text.parse::<Uuid>();
        let _ = text.parse::<mariadb::GtidList>();
        let _ = GtidSet::decode(&bytes);
        let mut mutated = Vec::new();
        set(&a).encode(&mut mutated);
        let at = at.index(mutated.len());
        mutated[at] = byte;
        let _ = GtidSet::decode(&mutated);
        let mut text = format!("{A}:{}", set(&a)).into_bytes();
        let at = at % text.len();
        text[at] = byte;
        let _ = String::from_utf8_lossy(&text).parse::<GtidSet>();
    }
}

#[test]
fn sets_print_as_mysql_prints_them() {
    let text = format!(" {}:7:1-5:MyTag:1-3:9, \n{A}:6:mytag:4 ,,", A.to_ascii_uppercase());
    let set: GtidSet = text.parse().unwrap();
    assert_eq!(set.to_string(), format!("{A}:1-7:mytag:1-4:9"));
    assert_eq!(set.len(), 12);
    assert!(set.has_tags());
    assert_eq!("".parse::<GtidSet>().unwrap().to_string(), "");
    let only_tagged: GtidSet = format!("{A}:mytag:1").parse().unwrap();
    assert_eq!(only_tagged.to_string(), format!("{A}:mytag:1"));
}

#[test]
fn uuids_come_with_dashes_without_or_in_braces() {
    for text in [A.to_owned(), A.replace('-', ""), format!("{{{A}}}"), format!(" {} ", A.to_uppercase())] {
        assert_eq!(text.parse::<Uuid>().unwrap().to_string(), A);
    }
    let bad = ["", "3e11fa47", "3e11fa47-71ca-11e1-9e33-c80aa942956g", "3e11fa4-771ca-11e1-9e33-c80aa9429562", "{3e11"];
    for text in bad {
        assert!(text.parse::<Uuid>().unwrap_err().to_string().contains("is not of the form"), "{text}");
    }
}

#[test]
fn what_is_no_set_is_refused_with_its_reason() {
    for (tail, reason) in [
        ("", "an interval such as 1-5 is missing"),
        (":", "\"\" is not a number from 1 to"),
        (":0", "\"0\" is not a number"),
        (":5-3", "interval 5-3 ends before it begins"),
        (":+5", "\"+5\" is not a number"),
        (":9223372036854775807", "is not a number from 1 to 9223372036854775806"),
        (":tag", "an interval such as 1-5 is missing"),
        (":a:b:1", "tag \"a\" has no interval"),
        (":1-2-3", "\"2-3\" is not a number"),
    ] {
        let error = format!("{A}{tail}").parse::<GtidSet>().unwrap_err().to_string();
        assert!(error.contains(reason), "{tail}: {error}");
    }
    assert!("x:1".parse::<GtidSet>().is_err());
    let last: GtidSet = format!("{A}:{MAX_NUMBER}").parse().unwrap();
    assert_eq!(last.to_string(), format!("{A}:{MAX_NUMBER}"));
    for tail in ["", ":", "::1", ":1:2", ":tag", ":tag:0", ":tag:1:2", ":1-2"] {
        assert!(format!("{A}{tail}").parse::<Gtid>().is_err(), "{tail}");
    }
    assert!(Source::new(Uuid::default(), "1a").is_err());
    assert!(Source::new(Uuid::default(), &"a".repeat(33)).is_err());
}

#[test]
fn captured_encodings_of_both_forms_are_read_and_written() {
    // The set of a dump command: server id, no name, position 4, length, set.
    let cases =
        [("mysql-a-gtid-empty", ""), ("mysql-a-gtid-nonempty", ":1-7"), ("mysql-f-tagged-gtid-set", ":1-18:mytag:1")];
    for (name, expected) in cases {
        let path = format!("{}/tests/captures/{name}.c2s.bin", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(path).unwrap();
        let (mut at, mut dump) = (0, None);
        while at + 4 < bytes.len() {
            let len = usize::from(bytes[at]) | usize::from(bytes[at + 1]) << 8;
            let payload = &bytes[at + 4..at + 4 + len];
            // Login packets may begin with the same byte, but carry no sequence number 0.
            if bytes[at + 3] == 0 && payload[0] == 0x1e {
                dump = Some(payload.to_vec());
            }
            at += 4 + len;
        }
        let encoded = dump.unwrap()[1 + 2 + 4 + 4 + 8 + 4..].to_vec();
        let set = GtidSet::decode(&encoded).unwrap();
        let text = set.to_string();
        assert_eq!(text.get(36..).unwrap_or_default(), expected, "{name}");
        let mut again = Vec::new();
        set.encode(&mut again);
        assert_eq!(again, encoded, "{name}");
        assert_eq!(text.parse::<GtidSet>().unwrap(), set);
    }
}

#[test]
fn malformed_encodings_are_refused() {
    let set: GtidSet = format!("{A}:1-5:8:tag:1").parse().unwrap();
    let mut bytes = Vec::new();
    set.encode(&mut bytes);
    assert!(GtidSet::decode(&[]).is_err());
    for cut in 0..bytes.len() {
        assert!(GtidSet::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        GtidSet::decode(&bytes).unwrap_err().to_string()
    };
    assert!(with(7, 2).contains("format 2 is unknown"));
    assert!(with(0, 0).contains("format 1 is unknown"), "the first byte must say so too");
    let first_interval = 8 + 16 + 1 + 8;
    assert!(with(first_interval, 0).contains("interval 0..6"));
    assert!(with(first_interval, 6).contains("interval 6..6 is empty"));
    assert!(with(first_interval + 8, 9).contains("not behind the one before it"));
}

#[test]
fn hostile_numbers_of_intervals_cost_nothing() {
    let mut bytes = u64::to_le_bytes(1 << 50).to_vec();
    assert!(GtidSet::decode(&bytes).is_err());
    bytes[..8].copy_from_slice(&1u64.to_le_bytes());
    bytes.extend_from_slice(&[0; 16]);
    bytes.extend_from_slice(&u64::MAX.to_le_bytes());
    assert!(GtidSet::decode(&bytes).is_err());
}

#[test]
fn positions_of_either_family_are_parsed_compared_and_joined() {
    let position = |flavor, text: &str| GtidPosition::parse(flavor, text).unwrap();
    let (a, b) = (position(Flavor::MariaDb, "7-2-5, 0-1-100"), position(Flavor::MariaDb, "0-2-90,3-1-1"));
    assert_eq!(a.to_string(), "0-1-100,7-2-5");
    assert!(!a.covers(&b));
    assert_eq!(a.union(&b).to_string(), "0-1-100,3-1-1,7-2-5");
    assert!(a.union(&b).covers(&a) && a.union(&b).covers(&b));
    let (c, d) = (position(Flavor::MySql, &format!("{A}:1-5")), position(Flavor::MySql, &format!("{A}:4-9")));
    assert_eq!(c.union(&d).to_string(), format!("{A}:1-9"));
    assert!(!c.covers(&d) && c.union(&d).covers(&d));
    assert!(!a.covers(&c) && !c.covers(&a));
    assert_eq!(a.union(&c), a);
    assert!(GtidPosition::empty(Flavor::MySql).covers(&position(Flavor::MySql, " ")));
    assert!(GtidPosition::parse(Flavor::MariaDb, "0-1-1,0-2-3").is_err());
    assert!(c.mysql().is_some() && c.mariadb().is_none());
}
