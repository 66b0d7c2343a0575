//! The lag that a relay tells, against the truth: what real replicas have applied, measured by the test itself.

mod exact;
mod replicas;
mod sessions;
mod stream;
mod support;
mod truth;
mod upstream;
