//! Whatever comes from clients, from the primary, from files or from the user: a clear answer, no panic, nothing lost, memory bounded.

mod cli;
mod fake;
mod garbage;
mod liars;
mod truncated;
mod upstream_tls;
