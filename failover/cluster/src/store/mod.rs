//! The one place that speaks to etcd.
//!
//! Promises: every call ends in bounded time, whatever etcd does; what is read is the newest that a majority has (linearizable); a change
//! happens whole, and only while what it was based on is still true. Watches, leases and the leader's key are kept by tasks of their own that
//! begin anew after every broken connection, since etcd's client does not.

mod agree;
mod announce;
mod campaign;
mod change;
mod config;
mod error;
mod key;
mod lease;
mod members;
mod snapshot;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp, TxnOpResponse};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use announce::Announcement;
pub use campaign::Leadership;
pub use change::Change;
pub use config::EtcdConfig;
pub use error::StoreError;
pub use snapshot::Snapshot;

use self::members::Members;
use crate::keys::Keys;
use crate::records::{EpochRecord, LeftRecord};
use crate::state::ClusterState;

/// A document with the revisions that changes of it are compared by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The document.
    pub value: T,
    /// Revision of its last change.
    pub mod_revision: i64,
    /// Revision of its creation.
    pub create_revision: i64,
}

/// One cluster's part of etcd. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    keys: Keys,
    members: Arc<Members>,
    ttl: Duration,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("prefix", &self.keys.prefix()).field("endpoints", &self.members.names()).finish()
    }
}

/// What a document's bytes say.
fn parse<T: DeserializeOwned>(kv: &KeyValue) -> Result<Versioned<T>, StoreError> {
    let value = serde_json::from_slice(kv.value()).map_err(|e| StoreError::Document {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        cause: e.to_string(),
    })?;
    Ok(Versioned { value, mod_revision: kv.mod_revision(), create_revision: kv.create_revision() })
}

fn encode<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|e| StoreError::Document { key: key.to_owned(), cause: e.to_string() })
}

impl Store {
    /// The part of `cluster`. Connects when it is first used.
    ///
    /// # Errors
    /// The configuration can't be used, or a file that it names can't be read.
    pub fn new(cluster: &str, config: &EtcdConfig) -> Result<Self, StoreError> {
        let options = config.options()?;
        let members = Arc::new(Members::new(&config.endpoints, options));
        Ok(Self { keys: Keys::new(cluster), members, ttl: config.lease_ttl })
    }

    /// Names of the cluster's keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Lifetime of leases.
    pub fn lease_ttl(&self) -> Duration {
        self.ttl
    }

    /// Reads one document.
    ///
    /// # Errors
    /// etcd does not answer or refuses, or the document can't be read.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Versioned<T>>, StoreError> {
        let answer = self.members.call(|mut c| async move { c.get(key, None).await }).await?;
        answer.kvs().first().map(parse).transpose()
    }

    /// Reads all documents below `prefix`: the rest of each key, and the document. In the order of the keys.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn list<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<(String, Versioned<T>)>, StoreError> {
        let options = Some(GetOptions::new().with_prefix());
        let answer = self
            .members
            .call(|mut c| {
                let options = options.clone();
                async move { c.get(prefix, options).await }
            })
            .await?;
        let name =
            |kv: &KeyValue| String::from_utf8_lossy(kv.key()).strip_prefix(prefix).unwrap_or_default().to_owned();
        answer.kvs().iter().map(|kv| Ok((name(kv), parse(kv)?))).collect()
    }

    /// Reads the cluster's state; `None`: it was not bootstrapped.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn state(&self) -> Result<Option<Versioned<ClusterState>>, StoreError> {
        self.get(&self.keys.state()).await
    }

    /// Reads state and leader at one moment: what an order is checked against. The leader comes as its term.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn state_and_term(&self) -> Result<(Option<Versioned<ClusterState>>, Option<u64>), StoreError> {
        let (state, leader) = (self.keys.state(), self.keys.leader());
        let txn = Txn::new().and_then([TxnOp::get(state, None), TxnOp::get(leader, None)]);
        let answer = self
            .members
            .call(|mut c| {
                let txn = txn.clone();
                async move { c.txn(txn).await }
            })
            .await?;
        let found = first_keys(answer.op_responses());
        let at = |i: usize| found.get(i).and_then(Option::as_ref);
        let term = at(1).and_then(|kv| u64::try_from(kv.create_revision()).ok());
        Ok((at(0).map(parse).transpose()?, term))
    }

    /// Asks whether a majority answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let key = &self.keys.leader();
        let options = Some(GetOptions::new().with_keys_only());
        self.members
            .call(|mut c| {
                let options = options.clone();
                async move { c.get(key.as_str(), options).await }
            })
            .await
            .map(drop)
    }

    /// Makes a change as the leader of `term`: it happens only if that one still leads and everything expected is still so. Gives the revision.
    ///
    /// # Errors
    /// [`StoreError::Deposed`], [`StoreError::Conflict`]: nothing was changed. [`StoreError::Unavailable`]: it may have been changed or not:
    /// read again.
    pub async fn commit(&self, term: u64, change: Change) -> Result<i64, StoreError> {
        let leads = i64::try_from(term).unwrap_or(i64::MAX);
        let mut compares = change.compares();
        compares.push(Compare::create_revision(self.keys.leader(), CompareOp::Equal, leads));
        match self.transact(&change, compares).await? {
            Outcome::Done(revision) => Ok(revision),
            Outcome::Failed => {
                let leader = self
                    .members
                    .call(|mut c| {
                        let key = self.keys.leader();
                        async move { c.get(key, None).await }
                    })
                    .await?;
                if leader.kvs().first().map(KeyValue::create_revision) != Some(leads) {
                    return Err(StoreError::Deposed { term });
                }
                self.explain(&change).await
            }
        }
    }

    /// Makes a change as somebody who does not lead: for requests, pauses and settings.
    ///
    /// # Errors
    /// As [`Store::commit`], without `Deposed`.
    pub async fn write(&self, change: Change) -> Result<i64, StoreError> {
        match self.transact(&change, change.compares()).await? {
            Outcome::Done(revision) => Ok(revision),
            Outcome::Failed => self.explain(&change).await,
        }
    }

    /// Writes the first state and epoch; or the first ones after the cluster was given up.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: there is a state already.
    pub async fn bootstrap(&self, state: &ClusterState, epoch: &EpochRecord) -> Result<i64, StoreError> {
        let change = Change::new().expect(self.keys.state(), 0).put(self.keys.state(), state);
        self.write(change.put(self.keys.epoch(epoch.epoch), epoch).delete(self.keys.left())).await
    }

    /// Gives the cluster up, as the leader of `term`: the state and what was asked for go, `left` takes their place. Epochs and history stay: a
    /// relay's log can't be read without them.
    ///
    /// # Errors
    /// As [`Store::commit`]; [`StoreError::Conflict`]: the state was changed since `state`.
    pub async fn leave(
        &self,
        term: u64,
        state: &Versioned<ClusterState>,
        left: &LeftRecord,
    ) -> Result<i64, StoreError> {
        let keys = &self.keys;
        let change = Change::new().expect(keys.state(), state.mod_revision).expect(keys.request(), 0);
        let change = change.put(keys.left(), left).delete(keys.state()).delete(keys.paused());
        self.commit(term, change).await
    }

    async fn transact(&self, change: &Change, compares: Vec<Compare>) -> Result<Outcome, StoreError> {
        change.checked()?;
        let txn = Txn::new().when(compares).and_then(change.operations());
        let answer = self
            .members
            .call(|mut c| {
                let txn = txn.clone();
                async move { c.txn(txn).await }
            })
            .await?;
        if answer.succeeded() {
            return Ok(Outcome::Done(answer.header().map_or(0, etcd_client::ResponseHeader::revision)));
        }
        Ok(Outcome::Failed)
    }

    /// Why a comparison failed. A request whose answer was lost is sent again: where what was to be written stands there, it was done by the
    /// first one.
    async fn explain(&self, change: &Change) -> Result<i64, StoreError> {
        let mut done = None;
        for (key, value) in change.puts() {
            let answer = self.members.call(|mut c| async move { c.get(key.as_str(), None).await }).await?;
            let Some(kv) = answer.kvs().first().filter(|kv| kv.value() == value.as_slice()) else {
                done = None;
                break;
            };
            done = Some(kv.mod_revision());
        }
        if let Some(revision) = done {
            return Ok(revision);
        }
        for (key, expected) in change.expected() {
            let answer = self.members.call(|mut c| async move { c.get(key.as_str(), None).await }).await?;
            if answer.kvs().first().map_or(0, KeyValue::mod_revision) != *expected {
                return Err(StoreError::Conflict { key: key.clone() });
            }
        }
        let key = change.expected().first().map(|(key, _)| key.clone()).unwrap_or_default();
        Err(StoreError::Conflict { key })
    }
}

enum Outcome {
    Done(i64),
    Failed,
}

/// The first key of each read of a transaction.
fn first_keys(responses: Vec<TxnOpResponse>) -> Vec<Option<KeyValue>> {
    responses
        .into_iter()
        .map(|r| match r {
            TxnOpResponse::Get(mut answer) => answer.take_kvs().into_iter().next(),
            _ => None,
        })
        .collect()
}
