//! Which orders are obeyed. Pure.

use crate::model::OrderNumber;

/// Why an order is not obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotObeyed {
    /// A later one was obeyed already.
    Lower,
    /// Whoever gave it does not lead any more.
    Deposed {
        /// Term of the present leader.
        leader: u64,
    },
}

/// Compares an order's number with the last one obeyed and the present leader's term, as far as it is known. The same number again is obeyed
/// again: every order is idempotent.
pub fn admit(last: OrderNumber, leader: Option<u64>, number: OrderNumber) -> Result<(), NotObeyed> {
    if number < last {
        return Err(NotObeyed::Lower);
    }
    match leader {
        Some(leader) if number.term < leader => Err(NotObeyed::Deposed { leader }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number((term, epoch, step): (u64, u64, u64)) -> OrderNumber {
        OrderNumber { term, epoch, step }
    }

    #[test]
    fn late_orders_are_refused_whichever_part_of_their_number_is_lower() {
        let deposed = |leader| Err(NotObeyed::Deposed { leader });
        for (last, leader, new, expected) in [
            ((0, 0, 0), None, (5, 1, 1), Ok(())),
            ((5, 8, 3), Some(5), (5, 8, 4), Ok(())),
            ((5, 8, 3), Some(5), (5, 8, 3), Ok(())),
            ((5, 8, 3), Some(5), (5, 8, 2), Err(NotObeyed::Lower)),
            ((5, 8, 3), Some(5), (5, 7, 9), Err(NotObeyed::Lower)),
            ((5, 8, 3), Some(5), (4, 9, 9), Err(NotObeyed::Lower)),
            ((5, 8, 3), Some(6), (6, 8, 1), Ok(())),
            // The new leader has not ordered anything yet, and the old one does not know of it.
            ((5, 8, 3), Some(6), (5, 8, 4), deposed(6)),
            // This agent has not heard of the new leader yet: the order says so.
            ((5, 8, 3), Some(5), (6, 8, 1), Ok(())),
        ] {
            assert_eq!(admit(number(last), leader, number(new)), expected, "{last:?} {leader:?} {new:?}");
        }
    }
}
