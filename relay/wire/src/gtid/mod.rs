//! GTIDs of both families, and a position that is of either.

pub mod mariadb;
pub mod mysql;

use std::fmt;

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

    /// The MariaDB position, if it is one.
    pub fn mariadb(&self) -> Option<&mariadb::GtidList> {
        match self {
            Self::MariaDb(l) => Some(l),
            Self::MySql(_) => None,
        }
    }
}
