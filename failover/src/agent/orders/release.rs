//! `release`: the node is given up; the server stays as it is.

use super::{Refusal, note};
use crate::agent::core::Core;
use crate::agent::kept::Duty;
use crate::model::{OrderNumber, OrderResult};

/// Forgets the role and lets go of the address.
pub(super) async fn release(core: &Core, number: OrderNumber) -> Result<OrderResult, Refusal> {
    note(core, number, |duty| *duty = Duty { last_order: duty.last_order, released: true, ..Duty::default() }).await?;
    core.note_opened(None);
    core.address.drop_now().await;
    Ok(OrderResult::default())
}
