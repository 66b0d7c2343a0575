//! The virtual IP on this node's interface.
//!
//! Owns one thread that alone touches the address. Promises: it is taken only if nobody answers for it; it stays only while it is renewed (each
//! [`Keeper::hold`]), and the kernel takes it away after `valid_for` otherwise; once [`Keeper::drop_now`] has returned it is gone.
//! Only [`Keeper::leave`] lets it stay for good, where the cluster is given up.

mod frames;
mod keeper;
mod link;
mod netlink;
mod vip;

pub use keeper::{AddressStatus, Keeper};
pub use vip::Vip;
