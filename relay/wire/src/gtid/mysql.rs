//! MySQL's GTIDs: `uuid[:tag]:number`, and sets of them.
//!
//! Source: "GTID Format and Storage" in MySQL's manual, `libs/mysql/gtid/` and `sql/rpl_gtid_set.cc`.

use std::collections::BTreeMap;
use std::fmt;

/// A server's `@@server_uuid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Who numbers the transactions: a server, and since 8.3 optionally a tag (empty: none).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Source {
    /// The server.
    pub uuid: Uuid,
    /// Up to 32 characters, lower case; empty for none.
    pub tag: String,
}

/// One transaction's identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gtid {
    /// Who numbered it.
    pub source: Source,
    /// 1 or more.
    pub number: u64,
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source.uuid)?;
        if !self.source.tag.is_empty() {
            write!(f, ":{}", self.source.tag)?;
        }
        write!(f, ":{}", self.number)
    }
}

/// A set of GTIDs: per source, disjoint half-open intervals in ascending order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct GtidSet(BTreeMap<Source, Vec<(u64, u64)>>);

impl GtidSet {
    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one GTID.
    pub fn add(&mut self, gtid: &Gtid) {
        self.add_interval(&gtid.source, gtid.number, gtid.number.saturating_add(1));
    }

    /// Adds `start..end` (end exclusive) of a source; an empty interval changes nothing.
    pub fn add_interval(&mut self, source: &Source, start: u64, end: u64) {
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
        self.0.get(&gtid.source).is_some_and(|i| {
            let at = i.partition_point(|i| i.1 <= gtid.number);
            i.get(at).is_some_and(|i| i.0 <= gtid.number)
        })
    }

    /// Sources with their intervals (end exclusive), sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&Source, &[(u64, u64)])> {
        self.0.iter().map(|(s, i)| (s, i.as_slice()))
    }
}
