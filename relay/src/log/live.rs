//! The head and the newest transactions, in memory: what makes lag near the head exact and cheap.
//!
//! Owns the published state as one piece under one lock, so that a head, its counts and the transactions before it always agree.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use baton_wire::gtid::{GtidPosition, TransactionId};

use super::tally::Tally;
use super::types::{Head, LogPos};
use crate::clock::Micros;

/// Transactions kept.
pub(super) const CAPACITY: usize = 64 * 1024;
/// Transactions between two remembered positions.
const CHECKPOINT: u64 = 256;

/// One transaction.
#[derive(Debug, Clone)]
pub(super) struct Recent {
    pub(super) id: TransactionId,
    pub(super) begins: LogPos,
    pub(super) ends: u64,
    pub(super) arrived: Micros,
}

/// What is published.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) head: Option<Arc<Head>>,
    /// Transactions of the log up to the head.
    pub(super) tally: Tally,
    recent: VecDeque<Recent>,
    /// Number of the oldest one kept: that many transactions of the log lie before it.
    first: u64,
    /// By domain: sequence number and number.
    domains: BTreeMap<u32, VecDeque<(u64, u64)>>,
    /// Positions before transactions; the first one belongs to the oldest kept, or to the next one to come.
    checkpoints: VecDeque<(u64, GtidPosition)>,
    /// All transactions from here on are kept.
    floor: LogPos,
}

/// What lies behind some place.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) missing: u64,
    /// The oldest missing one.
    pub(super) first: Option<Recent>,
}

impl Live {
    /// Nothing is there yet.
    pub(super) fn empty() -> Self {
        Self {
            head: None,
            tally: Tally::default(),
            recent: VecDeque::new(),
            first: 0,
            domains: BTreeMap::new(),
            checkpoints: VecDeque::new(),
            floor: LogPos::default(),
        }
    }

    /// Begins at a place behind which all transactions will be told.
    pub(super) fn begin(&mut self, at: LogPos, gtid: GtidPosition, tally: Tally) {
        let first = tally.total;
        *self = Self { first, tally, checkpoints: VecDeque::from([(first, gtid)]), floor: at, ..Self::empty() };
    }

    fn next(&self) -> u64 {
        self.first + self.recent.len() as u64
    }

    /// The position is now `gtid`, whatever the transactions so far say (a file's own list of GTIDs).
    pub(super) fn reset_gtid(&mut self, gtid: &GtidPosition) {
        let next = self.next();
        if self.checkpoints.back().is_some_and(|(n, _)| *n == next) {
            self.checkpoints.pop_back();
        }
        self.checkpoints.push_back((next, gtid.clone()));
    }

    /// Adds the next transaction; `before` is the position before it.
    pub(super) fn push(&mut self, transaction: Recent, before: &GtidPosition) {
        let n = self.next();
        if self.checkpoints.back().is_none_or(|(last, _)| n >= last + CHECKPOINT) {
            self.checkpoints.push_back((n, before.clone()));
        }
        if let TransactionId::MariaDb(gtid) = &transaction.id {
            self.domains.entry(gtid.domain).or_default().push_back((gtid.sequence, n));
        }
        self.tally.note(&transaction.id);
        self.recent.push_back(transaction);
        if self.recent.len() > CAPACITY {
            self.evict();
        }
    }

    fn evict(&mut self) {
        let Some(old) = self.recent.pop_front() else { return };
        if let TransactionId::MariaDb(gtid) = &old.id {
            if let Some(queue) = self.domains.get_mut(&gtid.domain) {
                queue.pop_front();
            }
        }
        self.first += 1;
        self.floor = LogPos { file: old.begins.file, offset: old.ends };
        if self.checkpoints.get(1).is_some_and(|(n, _)| *n <= self.first) {
            self.checkpoints.pop_front();
        } else if let Some((n, gtid)) = self.checkpoints.front_mut() {
            gtid.advance(&old.id);
            *n = self.first;
        }
    }

    /// The position before the oldest one kept.
    fn floor_gtid(&self) -> Option<&GtidPosition> {
        self.checkpoints.front().map(|(_, gtid)| gtid)
    }

    /// What somebody at `gtid` misses; `None` if that reaches further back than is kept.
    pub(super) fn behind_gtid(&self, gtid: &GtidPosition) -> Option<Behind> {
        match (gtid, self.floor_gtid()?, &self.head.as_ref()?.gtid) {
            (GtidPosition::MariaDb(asked), GtidPosition::MariaDb(floor), GtidPosition::MariaDb(head)) => {
                let mut missing = 0;
                let mut oldest: Option<u64> = None;
                for last in head.iter() {
                    let sequence = asked.sequence(last.domain);
                    if sequence >= last.sequence {
                        continue;
                    }
                    if sequence < floor.sequence(last.domain) {
                        return None;
                    }
                    let Some(queue) = self.domains.get(&last.domain) else { continue };
                    let at = queue.partition_point(|(s, _)| *s <= sequence);
                    missing += (queue.len() - at) as u64;
                    if let Some((_, n)) = queue.get(at) {
                        oldest = Some(oldest.map_or(*n, |o| o.min(*n)));
                    }
                }
                Some(Behind { missing, first: oldest.and_then(|n| self.recent(n).cloned()) })
            }
            (GtidPosition::MySql(_), floor @ GtidPosition::MySql(_), _) if super::sets::covers(gtid, floor) => {
                let mut lacking = self.recent.iter().filter(|t| !gtid.contains(&t.id)).peekable();
                let first = lacking.peek().map(|t| (*t).clone());
                Some(Behind { missing: lacking.count() as u64, first })
            }
            _ => None,
        }
    }

    /// What lies behind `pos`, with the position there; `None` if that is further back than is kept. A transaction around `pos` counts as
    /// missing.
    pub(super) fn behind_pos(&self, pos: LogPos) -> Option<(Behind, GtidPosition)> {
        if pos < self.floor {
            return None;
        }
        let at = self.recent.partition_point(|t| LogPos { file: t.begins.file, offset: t.ends } <= pos);
        let n = self.first + at as u64;
        let behind = Behind { missing: (self.recent.len() - at) as u64, first: self.recent.get(at).cloned() };
        Some((behind, self.gtid_before(n)?))
    }

    /// When the first transaction that is kept, and begins at or behind `pos`, arrived.
    pub(super) fn arrived_behind(&self, pos: LogPos) -> Option<Micros> {
        self.recent.get(self.recent.partition_point(|t| t.begins < pos)).map(|t| t.arrived)
    }

    fn recent(&self, n: u64) -> Option<&Recent> {
        self.recent.get(usize::try_from(n.checked_sub(self.first)?).ok()?)
    }

    /// The position before the transaction of that number.
    fn gtid_before(&self, n: u64) -> Option<GtidPosition> {
        let at = self.checkpoints.partition_point(|(m, _)| *m <= n);
        let (from, gtid) = self.checkpoints.get(at.checked_sub(1)?)?;
        let mut gtid = gtid.clone();
        for m in *from..n {
            gtid.advance(&self.recent(m)?.id);
        }
        Some(gtid)
    }
}
