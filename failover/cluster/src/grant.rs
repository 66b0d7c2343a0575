//! The right to acknowledge.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The right to acknowledge: held by one relay at a time, each change takes a higher one. Ordered by epoch, then by number. `[7,1]` in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub struct Grant {
    /// Number of the change of primary.
    pub epoch: u64,
    /// Number within the epoch.
    pub n: u64,
}

impl From<(u64, u64)> for Grant {
    fn from((epoch, n): (u64, u64)) -> Self {
        Self { epoch, n }
    }
}

impl From<Grant> for (u64, u64) {
    fn from(g: Grant) -> Self {
        (g.epoch, g.n)
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{},{}]", self.epoch, self.n)
    }
}
