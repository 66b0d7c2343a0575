//! HTTP as all programs of this crate speak it: one client, one bounded server, one form of errors, one check of tokens.
//!
//! Knows nothing of clusters. Every call and every connection has a time limit; every answer that is read has a size limit.

pub mod auth;
pub mod client;
pub mod error;
mod guard;
pub mod serve;

pub use client::{Answer, Call, Client, ClientError, Lines, Pieces, Refusal};
pub use error::ApiError;
pub use serve::{Limits, serve};
