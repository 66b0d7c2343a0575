//! Whole clusters on hosts of their own lose parts, and keep their promises: no commit that a client was told of is lost, never two servers commit, and in
//! the end there is one writable primary, or none with the reason told.

mod agentless;
mod agents;
mod candidates;
mod clocks;
mod deaths;
mod disks;
mod etcd;
mod hooks;
mod isolated;
mod leaders;
mod links;
mod members;
mod orders;
mod relays;
mod returns;
mod starts;
mod steps;
mod support;
mod switchovers;
