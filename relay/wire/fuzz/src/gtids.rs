//! GTIDs as text and as bytes: reading what was printed gives the same, and the sets' arithmetic agrees with itself.

use std::fmt;
use std::str::FromStr;

use baton_wire::gtid::mariadb::{self, GtidList};
use baton_wire::gtid::mysql::{self, GtidSet, Uuid};

/// Input: one text, or two with `|` between them.
pub fn gtid_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (a, b) = text.split_once('|').unwrap_or((text, ""));
    printed_and_read::<mariadb::Gtid>(a);
    printed_and_read::<mysql::Gtid>(a);
    printed_and_read::<Uuid>(a);
    let lists = (printed_and_read::<GtidList>(a), printed_and_read::<GtidList>(b));
    if let (Some(a), Some(b)) = &lists {
        let both = a.union(b);
        assert!(both.covers(a) && both.covers(b));
        assert_eq!(b.covers(a), a.subtract(b).is_empty());
        assert!(b.union(&a.subtract(b)).covers(a));
    }
    let sets = (printed_and_read::<GtidSet>(a), printed_and_read::<GtidSet>(b));
    if let (Some(a), Some(b)) = &sets {
        arithmetic(a, b);
    }
}

/// Input: an encoded set.
pub fn gtid_set(data: &[u8]) {
    let Ok(set) = GtidSet::decode(data) else { return };
    encoded_and_read(&set);
    printed_and_read::<GtidSet>(&set.to_string()).expect("a printed set is read");
    arithmetic(&set, &set.clone());
    let first = set.iter().next().map(|(source, _)| set.of_server(source.uuid)).unwrap_or_default();
    arithmetic(&set, &first);
    assert!(set.covers(&first));
}

/// What `text` means, if anything; the same is meant by how that is printed, which is also how it is printed again.
fn printed_and_read<T: FromStr + fmt::Display + fmt::Debug + PartialEq>(text: &str) -> Option<T> {
    let value: T = text.parse().ok()?;
    let printed = value.to_string();
    let Ok(again) = printed.parse::<T>() else { panic!("{text:?} is printed as {printed:?}, which is not read") };
    assert_eq!(again, value, "{text:?}");
    assert_eq!(again.to_string(), printed);
    Some(value)
}

fn encoded_and_read(set: &GtidSet) {
    let mut bytes = Vec::new();
    set.encode(&mut bytes);
    assert_eq!(GtidSet::decode(&bytes).as_ref(), Ok(set));
}

fn arithmetic(a: &GtidSet, b: &GtidSet) {
    let (both, left, right) = (a.union(b), a.subtract(b), b.subtract(a));
    assert!(both.covers(a) && both.covers(b) && a.covers(&left));
    assert_eq!(both, b.union(a));
    assert_eq!(both, b.union(&left));
    assert!(!left.intersects(b) && !right.intersects(a));
    assert_eq!(a.intersects(b), left != *a);
    assert_eq!(b.covers(a), left.is_empty());
    assert_eq!(a.covers(b) && b.covers(a), a == b);
    for set in [&both, &left, &right] {
        encoded_and_read(set);
    }
    // One by one, through the way that a running relay adds them.
    let mut grown = b.clone();
    for (source, intervals) in a.iter() {
        for &(start, end) in intervals {
            assert!(start < end && a.contains(&mysql::Gtid { source: source.clone(), number: end - 1 }));
            grown.add_interval(source, start, end);
        }
    }
    assert_eq!(grown, both);
}
