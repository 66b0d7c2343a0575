//! The agent beside a database server: watches its process, holds the virtual IP, obeys orders, fences.

pub mod address;
