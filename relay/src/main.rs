//! `baton-relay`: see the library.

fn main() {}
