//! MariaDB's GTIDs: `domain-server-sequence`, and positions with one GTID a domain.
//!
//! Source: "Global Transaction ID" in MariaDB's manual; `rpl_slave_state` and `slave_connection_state` in `sql/rpl_gtid.cc`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::error::{Result, WireError};

/// One transaction's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gtid {
    /// `gtid_domain_id`: transactions of one domain are totally ordered by their sequence number.
    pub domain: u32,
    /// `server_id` of the server that first committed it.
    pub server_id: u32,
    /// Grows within the domain.
    pub sequence: u64,
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server_id, self.sequence)
    }
}

impl FromStr for Gtid {
    type Err = WireError;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            WireError::invalid("gtid", format!("{text:?} is not of the form domain-server-sequence, such as 0-1-100"))
        };
        let mut parts = text.trim().split('-');
        let mut next =
            || parts.next().filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit())).ok_or_else(bad);
        let (domain, server_id, sequence) = (next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(Self {
            domain: domain.parse().map_err(|_| bad())?,
            server_id: server_id.parse().map_err(|_| bad())?,
            sequence: sequence.parse().map_err(|_| bad())?,
        })
    }
}

/// A position: the last GTID of each domain. Printed sorted by domain, as `0-1-100,7-2-5`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct GtidList(BTreeMap<u32, Gtid>);

impl GtidList {
    /// Whether no domain has a GTID.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of domains.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The GTID of `domain`.
    pub fn get(&self, domain: u32) -> Option<Gtid> {
        self.0.get(&domain).copied()
    }

    /// The sequence number of `domain`, 0 if it has none.
    pub fn sequence(&self, domain: u32) -> u64 {
        self.get(domain).map_or(0, |g| g.sequence)
    }

    /// Makes `gtid` the position of its domain, whatever stood there.
    pub fn set(&mut self, gtid: Gtid) {
        self.0.insert(gtid.domain, gtid);
    }

    /// Takes a domain out.
    pub fn remove(&mut self, domain: u32) {
        self.0.remove(&domain);
    }

    /// The GTIDs, sorted by domain.
    pub fn iter(&self) -> impl Iterator<Item = Gtid> + '_ {
        self.0.values().copied()
    }

    /// Whether `gtid` lies at or before this position in its domain.
    pub fn contains(&self, gtid: &Gtid) -> bool {
        self.get(gtid.domain).is_some_and(|g| g.sequence >= gtid.sequence)
    }

    /// Whether everything in `other` lies at or before this position.
    pub fn covers(&self, other: &Self) -> bool {
        other.iter().all(|g| self.contains(&g))
    }

    /// The furthest position of both, domain by domain.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        for g in other.iter() {
            if !out.contains(&g) {
                out.set(g);
            }
        }
        out
    }

    /// The GTIDs of this position that lie beyond `other`, domain by domain.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        Self(self.0.iter().filter(|(_, g)| !other.contains(g)).map(|(d, g)| (*d, *g)).collect())
    }
}

impl FromIterator<Gtid> for GtidList {
    fn from_iter<I: IntoIterator<Item = Gtid>>(iter: I) -> Self {
        let mut list = Self::default();
        for g in iter {
            list.set(g);
        }
        list
    }
}

impl fmt::Display for GtidList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, g) in self.0.values().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{g}")?;
        }
        Ok(())
    }
}

impl FromStr for GtidList {
    type Err = WireError;

    /// Parses comma-separated GTIDs in any order; the empty string is the empty position. A domain named twice is an error.
    fn from_str(text: &str) -> Result<Self> {
        let mut list = Self::default();
        for part in text.split(',').map(str::trim) {
            if part.is_empty() && text.trim().is_empty() {
                continue;
            }
            let gtid: Gtid = part.parse()?;
            if list.get(gtid.domain).is_some() {
                return Err(WireError::invalid(
                    "gtid position",
                    format!("domain {} is named twice in {text:?}", gtid.domain),
                ));
            }
            list.set(gtid);
        }
        Ok(list)
    }
}
