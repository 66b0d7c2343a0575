//! The log from outside: fed as an upstream feeds it, read as replicas read it, killed, damaged, filled up.

mod append;
mod clock;
mod crashes;
mod disk;
mod epochs;
mod failing_disk;
mod history;
mod places;
mod recovery;
mod retention;
mod rot;
mod support;
