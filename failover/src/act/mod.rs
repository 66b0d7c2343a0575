//! (act)
