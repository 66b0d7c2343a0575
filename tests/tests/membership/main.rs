//! A relay in a cluster, whose state in etcd is written by hand here: whom it follows, what it acknowledges, and one log across primaries.

mod failover;
mod refusals;
mod rescue;
mod standby;
mod support;
