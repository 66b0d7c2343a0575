//! Process shell.

fn main() {}
