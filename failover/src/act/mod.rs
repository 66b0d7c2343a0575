//! From a decision to its effects. `plan` is pure: state, facts and what came of earlier steps, to the next steps.

pub mod plan;
