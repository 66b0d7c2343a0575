//! What clients get from a relay is what they get from the primary: replicas of every kind, tools, other languages, relays behind relays.

mod kinds;
mod moves;
mod semi_sync;
mod streams;
mod support;
mod tools;

mod trees;
