//! Whom to follow: the cluster's state in, the source of the log out. Pure.
//!
//! Promises: acknowledging follows only from a grant that this relay holds and has recorded; whoever does not hold it follows the relay that does,
//! so that it is never ahead of that; a grant that was promised away, or a lower one, is never taken again.

use std::collections::BTreeMap;

use baton_cluster::{ClusterState, EpochRecord, Phase, RelayRecord};
use baton_wire::gtid::mariadb::GtidList;

use super::origin::{Origin, origin_of};
use crate::config::Address;
use crate::log::{Grant, Promised};

/// What the decision is made from.
pub(super) struct Situation<'a> {
    /// The cluster's state; `None` if there is none, or etcd has not been asked yet.
    pub(super) state: Option<&'a ClusterState>,
    /// There is one, and why it can't be read.
    pub(super) unreadable: Option<&'a str>,
    pub(super) epochs: &'a BTreeMap<u64, EpochRecord>,
    /// Relays that are alive.
    pub(super) relays: &'a BTreeMap<String, RelayRecord>,
    /// This relay.
    pub(super) name: &'a str,
    pub(super) log_id: &'a str,
    pub(super) promised: Promised,
    /// Number of the log's last file and its position; `None` for an empty log.
    pub(super) end: Option<(u64, &'a GtidList)>,
    /// What was followed before: an acker whose announcement has lapsed is still asked where it was.
    pub(super) before: &'a Following,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Make this durable, and decide again.
    Record(Promised),
    /// Follow this.
    Follow(Following),
}

/// The log's source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Following {
    /// The primary of an epoch, whose commits are acknowledged under `grant`.
    Primary {
        addresses: Vec<Address>,
        origin: Origin,
        grant: Grant,
        /// Nothing is acknowledged before the log holds this.
        after: Option<GtidList>,
    },
    /// Another relay.
    Relay(Mirrored),
    /// Nobody.
    Nothing { why: String, hint: String },
}

/// Relays to follow: the first that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mirrored {
    pub(super) relays: Vec<Peer>,
    /// Followed only until the log holds this; a relay that does not have it is of no use.
    pub(super) until: Option<GtidList>,
}

/// A relay, and how it is told from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) address: Address,
    pub(super) server_id: u32,
}

impl Peer {
    /// Errors: its address can't be read.
    fn of(relay: &RelayRecord) -> Result<Self, String> {
        let address = relay.replication.parse().map_err(|e| format!("relays/{}: {e}", relay.name))?;
        Ok(Self { name: relay.name.clone(), address, server_id: relay.server_id })
    }
}

impl Following {
    /// Whether a stream that was begun for this is the one for `other` too.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            // What a grant waits for is fixed when it is given.
            (
                Self::Primary { addresses, origin, grant, .. },
                Self::Primary { addresses: others, origin: other, grant: last, .. },
            ) => addresses == others && origin == other && grant == last,
            (this, other) => this == other,
        }
    }

    /// Nobody, for a reason.
    fn nothing(why: impl Into<String>, hint: &str) -> Self {
        Self::Nothing { why: why.into(), hint: hint.to_owned() }
    }
}

/// A newer version may have written the state. That is as if etcd were silent: what was followed is followed on, and a right to acknowledge ends by a promise or
/// by what is done on the primary, never by what can't be understood.
fn as_before(s: &Situation<'_>, error: &str) -> Following {
    match s.before {
        Following::Primary { grant, .. } if s.promised == (Promised { grant: *grant, held: true }) => s.before.clone(),
        Following::Relay(_) => s.before.clone(),
        Following::Primary { .. } | Following::Nothing { .. } => Following::nothing(
            format!("the cluster's state can't be understood: {error}"),
            "finish the upgrade on this host too",
        ),
    }
}

/// Decides.
pub(super) fn follow(s: &Situation<'_>) -> Step {
    if let (None, Some(error)) = (s.state, s.unreadable) {
        return Step::Follow(as_before(s, error));
    }
    let Some(state) = s.state else {
        let hint = "`batonctl bootstrap --primary NODE` makes one; see that [etcd] endpoints and cluster are right";
        return Step::Follow(Following::nothing("etcd has no state of this cluster, as far as is known here", hint));
    };
    let holder = state.grant_holder.as_deref();
    let mine = holder == Some(s.name);
    if mine && state.grant_log_id.as_deref().is_some_and(|id| id != s.log_id) {
        return Step::Follow(Following::nothing(
            format!(
                "grant {} was given to this relay's log {}, this is log {}: what that had acknowledged is not here",
                state.grant,
                state.grant_log_id.as_deref().unwrap_or_default(),
                s.log_id
            ),
            "restore that data directory; or let the cluster make another relay its acker, then this one follows it",
        ));
    }
    let held = Promised { grant: state.grant, held: true };
    if mine && s.promised.grant <= state.grant {
        return if s.promised == held { Step::Follow(acker(s, state)) } else { Step::Record(held) };
    }
    if !mine && (s.promised.grant < state.grant || s.promised == held) {
        // The right lies elsewhere: what is lower can never be used again.
        return Step::Record(Promised { grant: state.grant, held: false });
    }
    // What was told of the log's end must stay true until the operation that asked for it is through.
    let under_way = state.phase != Phase::Steady || state.asked.is_some();
    Step::Follow(match holder {
        None => Following::nothing(
            "no relay holds the right to acknowledge yet",
            "the leading controller gives it to a relay that is alive and not on the primary's host",
        ),
        Some(_) if mine || under_way && s.promised.grant > state.grant => Following::nothing(
            format!("grant {} was promised: nothing more is taken from the primary before it", s.promised.grant),
            "the operation that asked for it gives a new grant",
        ),
        Some(holder) => standby(s, holder),
    })
}

/// This relay holds the grant.
fn acker(s: &Situation<'_>, state: &ClusterState) -> Following {
    let epoch = state.grant.epoch;
    let Some(record) = s.epochs.get(&epoch) else {
        return Following::nothing(
            format!("epochs/{epoch}, whose grant this relay holds, is not recorded in etcd"),
            "it is written together with the grant: see whether keys were removed",
        );
    };
    let hint = "correct the key in etcd, or promote a server anew";
    let origin = match Origin::of(record) {
        Ok(origin) => origin,
        Err(why) => return Following::nothing(why, hint),
    };
    if let Some(until) = s.end.and_then(|(file, gtid)| lacks(s, &origin, file, gtid)) {
        return catch_up(s, &origin, until);
    }
    let mut addresses = Vec::new();
    for text in &record.mysql {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(e) => return Following::nothing(format!("epochs/{epoch}: mysql {text:?}: {e}"), hint),
        }
    }
    let after = match state.grant_after.as_deref().map(str::parse) {
        None => None,
        Some(Ok(after)) => Some(after),
        Some(Err(e)) => return Following::nothing(format!("state: grant_after: {e}"), hint),
    };
    Following::Primary { addresses, origin, grant: state.grant, after }
}

/// What an earlier epoch's end in the log lacks before this epoch can begin.
fn lacks(s: &Situation<'_>, origin: &Origin, file: u64, gtid: &GtidList) -> Option<GtidList> {
    let here = origin_of(s.epochs, origin.epoch, file)?;
    (here.epoch < origin.epoch && !gtid.covers(&origin.gtid)).then(|| origin.gtid.clone())
}

/// What lies between the log's end and the epoch's beginning was written by an earlier primary: another relay has its files.
fn catch_up(s: &Situation<'_>, origin: &Origin, until: GtidList) -> Following {
    // The freshest promise first: the acker of the epoch before.
    let mut others: Vec<&RelayRecord> = s.relays.values().filter(|r| r.name != s.name).collect();
    others.sort_by_key(|r| std::cmp::Reverse(r.promised));
    let relays: Vec<Peer> = others.into_iter().filter_map(|r| Peer::of(r).ok()).collect();
    if relays.is_empty() {
        return Following::nothing(
            format!(
                "the log lacks what lies before epoch {} ('{until}'), and no other relay is there to have it from",
                origin.epoch
            ),
            "start the relay that was the acker before; or begin a new log: `baton-relay reset-log`",
        );
    }
    Following::Relay(Mirrored { relays, until: Some(until) })
}

/// Another relay holds the grant.
fn standby(s: &Situation<'_>, holder: &str) -> Following {
    let Some(relay) = s.relays.get(holder) else {
        return match s.before {
            Following::Relay(mirrored)
                if mirrored.until.is_none() && mirrored.relays.iter().any(|r| r.name == holder) =>
            {
                s.before.clone()
            }
            _ => Following::nothing(
                format!("relay {holder:?}, which holds the right to acknowledge, is not there"),
                "start it; or let the cluster make another relay its acker",
            ),
        };
    };
    match Peer::of(relay) {
        Ok(peer) => Following::Relay(Mirrored { relays: vec![peer], until: None }),
        Err(why) => Following::nothing(why, "correct [advertise] replication of that relay"),
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
