//! A change of several keys that happens whole or not at all.

use etcd_client::{Compare, CompareOp, TxnOp};
use serde::Serialize;

use super::error::StoreError;

/// What is to be written, and what must still be true for that.
#[derive(Debug, Clone, Default)]
pub struct Change {
    expected: Vec<(String, i64)>,
    puts: Vec<(String, Vec<u8>)>,
    deletes: Vec<String>,
    problem: Option<StoreError>,
}

impl Change {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// `key` must still have this modification revision; 0: it must not be there.
    pub fn expect(mut self, key: impl Into<String>, mod_revision: i64) -> Self {
        self.expected.push((key.into(), mod_revision));
        self
    }

    /// Writes a document.
    pub fn put<T: Serialize>(mut self, key: impl Into<String>, value: &T) -> Self {
        let key = key.into();
        match serde_json::to_vec(value) {
            Ok(bytes) => self.puts.push((key, bytes)),
            Err(e) => self.problem = Some(StoreError::Document { key, cause: e.to_string() }),
        }
        self
    }

    /// Removes a key.
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.deletes.push(key.into());
        self
    }

    /// Whether nothing would be written.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }

    pub(super) fn checked(&self) -> Result<(), StoreError> {
        self.problem.clone().map_or(Ok(()), Err)
    }

    pub(super) fn compares(&self) -> Vec<Compare> {
        self.expected
            .iter()
            .map(|(key, revision)| Compare::mod_revision(key.as_str(), CompareOp::Equal, *revision))
            .collect()
    }

    pub(super) fn operations(&self) -> Vec<TxnOp> {
        let puts = self.puts.iter().map(|(key, value)| TxnOp::put(key.as_str(), value.clone(), None));
        puts.chain(self.deletes.iter().map(|key| TxnOp::delete(key.as_str(), None))).collect()
    }

    pub(super) fn expected(&self) -> &[(String, i64)] {
        &self.expected
    }

    pub(super) fn puts(&self) -> &[(String, Vec<u8>)] {
        &self.puts
    }
}
