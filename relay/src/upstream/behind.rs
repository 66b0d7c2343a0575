//! How far the primary is known to be ahead, and since when: pure. Positions in, the age of what is missing out.

use baton_wire::gtid::mariadb::GtidList;

use crate::clock::Micros;

/// What the primary is known to have and the log has not.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// A position that the log has not reached yet, and when it was first heard of.
    due: Option<(GtidList, Micros)>,
}

impl Behind {
    /// Since when something is known to be missing.
    pub(super) fn since(&self) -> Option<Micros> {
        self.due.as_ref().map(|(_, since)| *since)
    }

    /// The primary, asked at `asked`, said that it is at `position`, while the log's head was at `head`.
    pub(super) fn heard(&mut self, position: &GtidList, head: &GtidList, asked: Micros) {
        if head.covers(position) {
            self.due = None;
            return;
        }
        // What was due stays so, unless the log has it by now, or the primary has lost it.
        let stays = self.due.as_ref().is_some_and(|(due, _)| !head.covers(due) && position.covers(due));
        if !stays {
            self.due = Some((position.clone(), asked));
        }
    }

    /// The log's head moved. True if it reached what was due: the primary, asked again, may have more.
    pub(super) fn moved(&mut self, head: &GtidList) -> bool {
        let reached = self.due.as_ref().is_some_and(|(due, _)| head.covers(due));
        if reached {
            self.due = None;
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Step {
        /// The primary's position, the head, when.
        Heard(&'static str, &'static str, i64),
        Moved(&'static str),
    }
    use Step::{Heard, Moved};

    fn list(text: &str) -> GtidList {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    fn since_after(steps: &[Step]) -> Option<i64> {
        let mut behind = Behind::default();
        for step in steps {
            match step {
                Heard(position, head, at) => behind.heard(&list(position), &list(head), Micros(*at)),
                Moved(head) => drop(behind.moved(&list(head))),
            }
        }
        behind.since().map(|at| at.0)
    }

    #[test]
    fn what_is_missing_is_as_old_as_the_first_time_that_it_was_heard_of() {
        for (case, steps, since) in [
            ("nothing there", vec![Heard("", "", 1)], None),
            ("all there", vec![Heard("0-1-5", "0-1-5", 1)], None),
            ("a head beyond what was asked a moment ago", vec![Heard("0-1-5", "0-1-6", 1)], None),
            ("something missing", vec![Heard("0-1-5", "0-1-4", 1)], Some(1)),
            ("an empty log", vec![Heard("0-1-5", "", 1)], Some(1)),
            ("still missing", vec![Heard("0-1-5", "0-1-3", 1), Moved("0-1-4"), Heard("0-1-9", "0-1-4", 2)], Some(1)),
            ("reached", vec![Heard("0-1-5", "0-1-4", 1), Moved("0-1-5")], None),
            (
                "reached, and told so only by the next answer",
                vec![Heard("0-1-5", "", 1), Heard("0-1-5", "0-1-5", 2)],
                None,
            ),
            (
                "reached between two answers, more is missing",
                vec![Heard("0-1-5", "", 1), Heard("0-1-9", "0-1-6", 2)],
                Some(2),
            ),
            ("one domain of two", vec![Heard("0-1-5,1-1-1", "0-1-5", 1), Moved("0-1-9")], Some(1)),
            ("the primary was reset", vec![Heard("0-1-500", "0-1-4", 1), Heard("0-1-4", "0-1-4", 2)], None),
            (
                "the primary lost its tail, and has other news",
                vec![Heard("0-1-9", "0-1-4", 1), Heard("0-1-6", "0-1-4", 2)],
                Some(2),
            ),
        ] {
            assert_eq!(since_after(&steps), since, "{case}");
        }
    }

    #[test]
    fn reaching_what_was_due_asks_for_more_and_nothing_else_does() {
        let mut behind = Behind::default();
        assert!(!behind.moved(&list("0-1-5")));
        behind.heard(&list("0-1-9"), &list("0-1-5"), Micros(1));
        assert!(!behind.moved(&list("0-1-8")));
        assert!(behind.moved(&list("0-1-9")));
        assert!(!behind.moved(&list("0-1-10")));
    }
}
