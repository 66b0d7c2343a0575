//! GTIDs of both families, and a position that is of either.

pub mod mariadb;
pub mod mysql;

use std::fmt;

use crate::error::Result;
use crate::event::Flavor;

/// The GTID of one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TransactionId {
    /// `domain-server-sequence`.
    MariaDb(mariadb::Gtid),
    /// `uuid[:tag]:number`.
    MySql(mysql::Gtid),
    /// MySQL without GTIDs.
    Anonymous,
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MariaDb(g) => g.fmt(f),
            Self::MySql(g) => g.fmt(f),
            Self::Anonymous => f.write_str("ANONYMOUS"),
        }
    }
}

/// What has been executed up to a place in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GtidPosition {
    /// The last GTID of each domain.
    MariaDb(mariadb::GtidList),
    /// The set of all GTIDs.
    MySql(mysql::GtidSet),
}

impl GtidPosition {
    /// Nothing executed yet.
    pub fn empty(flavor: Flavor) -> Self {
        match flavor {
            Flavor::MariaDb => Self::MariaDb(mariadb::GtidList::default()),
            Flavor::MySql => Self::MySql(mysql::GtidSet::default()),
        }
    }

    /// Reads a position as a server of the family prints it: `0-1-100,7-2-5`, or `uuid:1-5:7,...`. Empty text is the empty position.
    pub fn parse(flavor: Flavor, text: &str) -> Result<Self> {
        Ok(match flavor {
            Flavor::MariaDb => Self::MariaDb(text.parse()?),
            Flavor::MySql => Self::MySql(text.parse()?),
        })
    }

    /// The family.
    pub fn flavor(&self) -> Flavor {
        match self {
            Self::MariaDb(_) => Flavor::MariaDb,
            Self::MySql(_) => Flavor::MySql,
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::MariaDb(l) => l.is_empty(),
            Self::MySql(s) => s.is_empty(),
        }
    }

    /// Adds a transaction. One of the other family changes nothing.
    pub fn advance(&mut self, id: &TransactionId) {
        match (self, id) {
            (Self::MariaDb(l), TransactionId::MariaDb(g)) => l.set(*g),
            (Self::MySql(s), TransactionId::MySql(g)) => s.add(g),
            _ => {}
        }
    }

    /// Whether the transaction is in it; never for one of the other family.
    pub fn contains(&self, id: &TransactionId) -> bool {
        match (self, id) {
            (Self::MariaDb(l), TransactionId::MariaDb(g)) => l.contains(g),
            (Self::MySql(s), TransactionId::MySql(g)) => s.contains(g),
            _ => false,
        }
    }

    /// Whether all of `other` is in it; never for one of the other family.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::MariaDb(a), Self::MariaDb(b)) => a.covers(b),
            (Self::MySql(a), Self::MySql(b)) => a.covers(b),
            _ => false,
        }
    }

    /// Both positions together. One of the other family adds nothing.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::MariaDb(a), Self::MariaDb(b)) => Self::MariaDb(a.union(b)),
            (Self::MySql(a), Self::MySql(b)) => Self::MySql(a.union(b)),
            _ => self.clone(),
        }
    }

    /// The MySQL set, if it is one.
    pub fn mysql(&self) -> Option<&mysql::GtidSet> {
        match self {
            Self::MySql(s) => Some(s),
            Self::MariaDb(_) => None,
        }
    }

    /// The MariaDB position, if it is one.
    pub fn mariadb(&self) -> Option<&mariadb::GtidList> {
        match self {
            Self::MariaDb(l) => Some(l),
            Self::MySql(_) => None,
        }
    }
}

impl fmt::Display for GtidPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MariaDb(l) => l.fmt(f),
            Self::MySql(s) => s.fmt(f),
        }
    }
}
