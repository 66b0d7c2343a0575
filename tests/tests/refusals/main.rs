//! What a relay refuses, and what it answers to everything that is not a stream: as the primary does wherever it answers the same client.

mod answers;
mod sessions;
mod starts;
