//! Plans, played on a small stage: the world answers orders as servers, relays and agents would.

mod interrupted;
mod stage;
mod story;
