//! Sets of MySQL GTIDs as intervals: what is in them, and their arithmetic.

use std::collections::BTreeMap;

use super::{Gtid, MAX_NUMBER, Source};

/// A set of GTIDs: per source, disjoint half-open intervals in ascending order that don't touch each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct GtidSet(BTreeMap<Source, Vec<(u64, u64)>>);

impl GtidSet {
    /// From intervals (end exclusive) in any order that may overlap; all within 1..=[`MAX_NUMBER`].
    pub(super) fn normalised(mut sources: BTreeMap<Source, Vec<(u64, u64)>>) -> Self {
        for intervals in sources.values_mut() {
            intervals.sort_unstable();
            coalesce(intervals);
        }
        sources.retain(|_, intervals| !intervals.is_empty());
        Self(sources)
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of GTIDs in the set, at most `u64::MAX`.
    pub fn len(&self) -> u64 {
        self.0.values().flatten().fold(0, |sum: u64, (start, end)| sum.saturating_add(end - start))
    }

    /// Whether a source has a tag, so that the set needs the newer encoding.
    pub fn has_tags(&self) -> bool {
        self.0.keys().any(|source| !source.tag.is_empty())
    }

    /// Adds one GTID.
    pub fn add(&mut self, gtid: &Gtid) {
        self.add_interval(&gtid.source, gtid.number, gtid.number.saturating_add(1));
    }

    /// Adds `start..end` (end exclusive) of a source; what lies outside of 1..=[`MAX_NUMBER`] is left out.
    pub fn add_interval(&mut self, source: &Source, start: u64, end: u64) {
        let (start, end) = (start.max(1), end.min(MAX_NUMBER + 1));
        if start >= end {
            return;
        }
        let intervals = match self.0.get_mut(source) {
            Some(i) => i,
            None => self.0.entry(source.clone()).or_default(),
        };
        // Transactions mostly arrive in order: extend the last interval in place.
        if let Some(last) = intervals.last_mut() {
            if last.1 == start {
                last.1 = end;
                return;
            }
        }
        let from = intervals.partition_point(|i| i.1 < start);
        let to = intervals.partition_point(|i| i.0 <= end);
        let merged = intervals[from..to].iter().fold((start, end), |m, i| (m.0.min(i.0), m.1.max(i.1)));
        intervals.splice(from..to, [merged]);
    }

    /// Whether the GTID is in the set.
    pub fn contains(&self, gtid: &Gtid) -> bool {
        self.0.get(&gtid.source).is_some_and(|own| reaching(own, gtid.number).is_some_and(|i| i.0 <= gtid.number))
    }

    /// Whether all of `other` is in the set.
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(source, intervals)| {
            let own = self.0.get(source).map_or(&[][..], Vec::as_slice);
            intervals.iter().all(|&(start, end)| reaching(own, start).is_some_and(|i| i.0 <= start && end <= i.1))
        })
    }

    /// Whether some GTID is in both sets.
    pub fn intersects(&self, other: &Self) -> bool {
        other.0.iter().any(|(source, intervals)| {
            let own = self.0.get(source).map_or(&[][..], Vec::as_slice);
            intervals.iter().any(|&(start, end)| reaching(own, start).is_some_and(|i| i.0 < end))
        })
    }

    /// What is in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        for (source, intervals) in &other.0 {
            let own = out.0.entry(source.clone()).or_default();
            own.extend_from_slice(intervals);
            own.sort_unstable(); // two ascending runs: linear
            coalesce(own);
        }
        out
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        let mut out = BTreeMap::new();
        for (source, intervals) in &self.0 {
            let left = match other.0.get(source) {
                Some(taken) => without(intervals, taken),
                None => intervals.clone(),
            };
            if !left.is_empty() {
                out.insert(source.clone(), left);
            }
        }
        Self(out)
    }

    /// The part of the set that one server numbered, with all its tags.
    #[must_use]
    pub fn of_server(&self, uuid: super::Uuid) -> Self {
        Self(self.0.iter().filter(|(s, _)| s.uuid == uuid).map(|(s, i)| (s.clone(), i.clone())).collect())
    }

    /// Sources with their intervals (end exclusive), sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&Source, &[(u64, u64)])> {
        self.0.iter().map(|(s, i)| (s, i.as_slice()))
    }
}

impl<'a> FromIterator<&'a Gtid> for GtidSet {
    fn from_iter<I: IntoIterator<Item = &'a Gtid>>(gtids: I) -> Self {
        let mut set = Self::default();
        for gtid in gtids {
            set.add(gtid);
        }
        set
    }
}

/// The first interval that ends beyond `number`.
fn reaching(intervals: &[(u64, u64)], number: u64) -> Option<&(u64, u64)> {
    intervals.get(intervals.partition_point(|i| i.1 <= number))
}

/// Joins sorted intervals that overlap or touch.
fn coalesce(intervals: &mut Vec<(u64, u64)>) {
    intervals.dedup_by(|next, kept| {
        let joined = next.0 <= kept.1;
        if joined {
            kept.1 = kept.1.max(next.1);
        }
        joined
    });
}

/// Both ascending; one pass over each.
fn without(intervals: &[(u64, u64)], taken: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut out = Vec::with_capacity(intervals.len());
    let mut at = 0;
    for &(mut start, end) in intervals {
        while let Some(&(from, to)) = taken.get(at) {
            if from >= end {
                break;
            }
            if start < from {
                out.push((start, from));
            }
            start = start.max(to);
            if to > end {
                break; // it reaches into the next interval too
            }
            at += 1;
        }
        if start < end {
            out.push((start, end));
        }
    }
    out
}
