//! When to acknowledge: pure. The primary marks the events that a commit waits for; what was reached on disk (or received) answers them.

use crate::clock::Micros;
use crate::log::LogPos;

/// What the primary waits for, and what it was told.
#[derive(Debug, Default)]
pub(super) struct AckGate {
    /// A position at or before the first event that waits.
    first: Option<LogPos>,
    /// The last event that waits.
    last: LogPos,
    /// When the first of them arrived.
    since: Micros,
}

/// An acknowledgement that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    /// Everything up to here is acknowledged.
    pub(super) pos: LogPos,
    /// When the first event that it covers arrived.
    pub(super) since: Micros,
}

impl AckGate {
    /// An event that ends at `pos` is waited for.
    pub(super) fn wanted(&mut self, pos: LogPos, now: Micros) {
        if self.first.is_none() {
            self.first = Some(pos);
            self.since = now;
        }
        self.last = self.last.max(pos);
    }

    /// Everything up to `pos` is durable (or received, where that counts): the acknowledgement that is due, if any. One answers all.
    pub(super) fn reached(&mut self, pos: LogPos, now: Micros) -> Option<Due> {
        if self.first? > pos {
            return None;
        }
        let due = Due { pos, since: self.since };
        // What waits behind `pos` is answered by whatever comes next.
        self.first = (self.last > pos).then_some(LogPos { file: pos.file, offset: pos.offset + 1 });
        self.since = now;
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(file: u64, offset: u64) -> LogPos {
        LogPos { file, offset }
    }

    fn reached(gate: &mut AckGate, pos: LogPos) -> Option<LogPos> {
        gate.reached(pos, Micros(9)).map(|d| d.pos)
    }

    #[test]
    fn nothing_is_acknowledged_that_nobody_waits_for() {
        assert_eq!(reached(&mut AckGate::default(), at(1, 500)), None);
    }

    #[test]
    fn nothing_is_acknowledged_before_it_is_reached() {
        let mut gate = AckGate::default();
        gate.wanted(at(1, 500), Micros(1));
        assert_eq!(reached(&mut gate, at(1, 499)), None);
        assert_eq!(gate.reached(at(1, 500), Micros(9)), Some(Due { pos: at(1, 500), since: Micros(1) }));
        assert_eq!(reached(&mut gate, at(1, 600)), None);
    }

    #[test]
    fn one_acknowledgement_answers_a_group_and_the_rest_is_answered_later() {
        let mut gate = AckGate::default();
        for offset in [100, 200, 300, 400] {
            gate.wanted(at(1, offset), Micros(1));
        }
        assert_eq!(reached(&mut gate, at(1, 300)), Some(at(1, 300)));
        assert_eq!(reached(&mut gate, at(1, 300)), None);
        assert_eq!(reached(&mut gate, at(1, 400)), Some(at(1, 400)));
        assert_eq!(reached(&mut gate, at(1, 500)), None);
    }

    #[test]
    fn a_rotation_between_event_and_sync_still_answers() {
        let mut gate = AckGate::default();
        gate.wanted(at(1, 500), Micros(1));
        assert_eq!(reached(&mut gate, at(2, 256)), Some(at(2, 256)));
    }
}
