//! The bytes of one file: what is on the platter, what the page cache shows, and what of it a sync would still write.
//!
//! Sectors are independent of each other: a loss of power keeps, loses or tears each unsynced one by itself. After a failed sync the
//! unsynced ones count as clean although the platter may lack them ([`Content::ghosts`]): no later sync writes them, and a read gives
//! the new bytes until the page is evicted, then the old ones.

use std::collections::BTreeSet;

use crate::support::Random;

pub(crate) const SECTOR: usize = 512;

/// How a loss of power treats what was not synced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Odds {
    /// Chance in 100 that an unsynced change survives.
    pub(crate) kept: u64,
    /// Chance in 100 that a surviving sector is torn.
    pub(crate) torn: u64,
}

impl Odds {
    pub(crate) fn random(random: &mut Random) -> Self {
        Self { kept: [0, 10, 50, 90, 100][random.below(5)], torn: [0, 0, 30][random.below(3)] }
    }

    pub(crate) fn keeps(self, random: &mut Random) -> bool {
        random.next() % 100 < self.kept
    }
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Content {
    pub(crate) durable: Vec<u8>,
    pub(crate) cache: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// Clean by the system's account, but not on the platter.
    ghosts: BTreeSet<usize>,
    /// Sizes since the last sync, in order.
    sizes: Vec<usize>,
}

impl Content {
    pub(crate) fn write(&mut self, data: &[u8], at: usize) {
        if data.is_empty() {
            return;
        }
        let end = at + data.len();
        if end > self.cache.len() {
            self.cache.resize(end, 0);
            self.sizes.push(end);
        }
        self.cache[at..end].copy_from_slice(data);
        for sector in at / SECTOR..=(end - 1) / SECTOR {
            self.ghosts.remove(&sector);
            self.dirty.insert(sector);
        }
    }

    pub(crate) fn set_len(&mut self, len: usize) {
        if len == self.cache.len() {
            return;
        }
        self.cache.resize(len, 0);
        self.sizes.push(len);
        let beyond = len.div_ceil(SECTOR);
        self.dirty.split_off(&beyond);
        self.ghosts.split_off(&beyond);
    }

    /// Reads, after evicting some of the pages that a failed sync left behind.
    pub(crate) fn read(&mut self, buf: &mut [u8], at: usize, random: &mut Random) -> usize {
        let end = (at + buf.len()).min(self.cache.len());
        if at >= end {
            return 0;
        }
        let ghosts: Vec<usize> = self.ghosts.range(at / SECTOR..=(end - 1) / SECTOR).copied().collect();
        for sector in ghosts {
            if random.one_in(8) {
                self.evict(sector);
            }
        }
        buf[..end - at].copy_from_slice(&self.cache[at..end]);
        end - at
    }

    pub(crate) fn sync(&mut self) {
        if let Some(size) = self.sizes.last() {
            self.durable.resize(*size, 0);
        }
        self.sizes.clear();
        for sector in std::mem::take(&mut self.dirty) {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(self.cache.len());
            if range.end > self.durable.len() {
                self.durable.resize(range.end, 0);
            }
            self.durable[range.clone()].copy_from_slice(&self.cache[range]);
        }
    }

    /// Some of it reached the platter; the rest is never written, and will be forgotten.
    pub(crate) fn fail_sync(&mut self, random: &mut Random) {
        let cached = self.cache.len();
        if !self.sizes.is_empty() && random.one_in(2) {
            self.durable.resize(cached, 0);
        }
        self.sizes.clear();
        for sector in std::mem::take(&mut self.dirty) {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(cached);
            if random.one_in(3) && range.end <= self.durable.len() {
                self.durable[range.clone()].copy_from_slice(&self.cache[range]);
                continue;
            }
            self.ghosts.insert(sector);
            if random.one_in(3) {
                self.evict(sector);
            }
        }
    }

    pub(crate) fn has_ghosts(&self) -> bool {
        !self.ghosts.is_empty()
    }

    /// The page is read again from the platter.
    fn evict(&mut self, sector: usize) {
        self.ghosts.remove(&sector);
        for at in sector * SECTOR..((sector + 1) * SECTOR).min(self.cache.len()) {
            self.cache[at] = self.durable.get(at).copied().unwrap_or(0);
        }
    }

    /// A new process: memory was short meanwhile, or not.
    pub(crate) fn forget_some(&mut self, random: &mut Random) {
        let evict = random.one_in(2);
        for sector in self.ghosts.clone() {
            if evict && random.one_in(2) {
                self.evict(sector);
            }
        }
    }

    /// What the platter has after a loss of power.
    pub(crate) fn lose_power(&mut self, odds: Odds, random: &mut Random) {
        let mut sizes = vec![self.durable.len()];
        sizes.append(&mut self.sizes);
        let len = match odds.kept {
            0 => sizes[0],
            100 => sizes[sizes.len() - 1],
            _ => sizes[random.below(sizes.len())],
        };
        let mut out = std::mem::take(&mut self.durable);
        out.resize(len.max(self.cache.len()), 0);
        for sector in std::mem::take(&mut self.dirty) {
            if !odds.keeps(random) {
                continue;
            }
            let mut range = sector * SECTOR..((sector + 1) * SECTOR).min(self.cache.len());
            if random.next() % 100 < odds.torn {
                range.end = range.start + random.below(range.len());
            }
            out[range.clone()].copy_from_slice(&self.cache[range]);
        }
        out.truncate(len);
        self.ghosts.clear();
        self.cache.clone_from(&out);
        self.durable = out;
    }

    /// A bit flips on the platter; no page of it is in memory.
    pub(crate) fn rot(&mut self, at: usize, bits: u8) {
        self.durable[at] ^= bits;
        self.cache[at] = self.durable[at];
    }
}
