//! The connection to the primary.
