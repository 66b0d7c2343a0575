//! The virtual IP on this node's interface.

mod vip;

pub use vip::Vip;
