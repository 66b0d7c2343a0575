//! The log from outside: fed as an upstream feeds it, read as replicas read it, killed, damaged, filled up.

mod append;
mod failing_disk;
mod places;
mod recovery;
mod retention;
mod support;
