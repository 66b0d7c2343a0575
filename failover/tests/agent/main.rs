//! The agent against a real server and etcd, each on a host of its own. The tests play the controller: they write the state and give the orders.

mod address;
mod clone;
mod cut_off;
mod orders;
mod process;
mod stage;
mod switchover;
