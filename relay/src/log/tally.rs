//! Counting transactions, in all and by MariaDB domain: differences of two tallies are what somebody misses.

use std::collections::BTreeMap;

use baton_wire::gtid::TransactionId;

/// How many transactions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tally {
    /// In all.
    pub(super) total: u64,
    /// By domain; MySQL's and anonymous ones are only in `total`.
    pub(super) domains: BTreeMap<u32, u64>,
}

impl Tally {
    pub(super) fn note(&mut self, id: &TransactionId) {
        self.total += 1;
        if let TransactionId::MariaDb(gtid) = id {
            *self.domains.entry(gtid.domain).or_default() += 1;
        }
    }

    pub(super) fn domain(&self, domain: u32) -> u64 {
        self.domains.get(&domain).copied().unwrap_or(0)
    }

    pub(super) fn plus(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        sum.total += other.total;
        for (domain, n) in &other.domains {
            *sum.domains.entry(*domain).or_default() += n;
        }
        sum
    }
}
