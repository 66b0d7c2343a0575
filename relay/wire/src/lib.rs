//! The replication protocol of MySQL and MariaDB as bytes.
//!
//! Owns: packets, handshake and authentication, commands, text result sets, semi-sync, events, checksums and GTIDs of both
//! families. Promises: no input makes it panic; every error names what was being read. Never does: sockets, clocks, async.

#![forbid(unsafe_code)]

pub mod auth;
pub mod capabilities;
pub mod checksum;
pub mod command;
pub mod error;
pub mod event;
pub mod frame;
pub mod gtid;
pub mod handshake;
pub mod packet;
mod put;
pub mod read;
pub mod response;
pub mod resultset;
pub mod semisync;
mod varlen;

pub use checksum::ChecksumAlg;
pub use error::{Result, WireError};
pub use event::{EventHeader, EventKind, Flavor};
