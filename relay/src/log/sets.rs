//! Comparing GTID positions of either family.

use baton_wire::gtid::GtidPosition;
use baton_wire::gtid::mysql::{Gtid, GtidSet, Source};

/// Whether everything in `part` is in `whole`; never across families.
pub(super) fn covers(whole: &GtidPosition, part: &GtidPosition) -> bool {
    match (whole, part) {
        (GtidPosition::MariaDb(w), GtidPosition::MariaDb(p)) => w.covers(p),
        (GtidPosition::MySql(w), GtidPosition::MySql(p)) => {
            p.iter().all(|(source, intervals)| intervals.iter().all(|(s, e)| interval_in(w, source, *s, *e)))
        }
        _ => false,
    }
}

/// Number of GTIDs in `set` that are not in `other`.
pub(super) fn count_without(set: &GtidSet, other: &GtidSet) -> u64 {
    // |set \ other| = |set u other| - |other|
    let mut union = other.clone();
    for (source, intervals) in set.iter() {
        for (start, end) in intervals {
            union.add_interval(source, *start, *end);
        }
    }
    count(&union).saturating_sub(count(other))
}

fn count(set: &GtidSet) -> u64 {
    set.iter().flat_map(|(_, intervals)| intervals).map(|(start, end)| end.saturating_sub(*start)).sum()
}

fn interval_in(set: &GtidSet, source: &Source, start: u64, end: u64) -> bool {
    // Intervals are disjoint and not adjacent: one that holds both ends' GTIDs holds all between if it is the same one.
    let gtid = Gtid { source: source.clone(), number: start };
    set.contains(&gtid)
        && set.iter().any(|(s, intervals)| s == source && intervals.iter().any(|(a, b)| *a <= start && end <= *b))
}
