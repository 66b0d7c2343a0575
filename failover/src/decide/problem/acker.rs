//! What can be wrong with the acker and with other relays.

use super::super::acker::{self, Fault};
use super::super::fence;
use super::{Row, Scene, Severity, one};
use crate::model::RelayFacts;

pub(super) const ROWS: &[Row] = &[
    Row {
        code: "no_acker",
        severity: Severity::Critical,
        meaning: "No relay holds the grant: commits wait.",
        hint: "start a relay away from the primary's host",
        matches: |s| fault(s, |f| matches!(f, Fault::Nobody)),
    },
    Row {
        code: "acker_lost",
        severity: Severity::Critical,
        meaning: "The acker can't acknowledge, or could not promise: commits wait, or the next failure of the primary waits for it.",
        hint: "another relay takes over by itself where there is one; else bring this one back",
        matches: |s| fault(s, |f| matches!(f, Fault::Lost(_))),
    },
    Row {
        code: "acker_outdated",
        severity: Severity::Critical,
        meaning: "The acker has promised a higher grant than the one in force: it can't acknowledge under that again.",
        hint: "another relay, or another primary, takes over by itself",
        matches: |s| fault(s, |f| matches!(f, Fault::Outdated(_))),
    },
    Row {
        code: "acker_on_primarys_host",
        severity: Severity::Warning,
        meaning: "The acker stands on the primary's host: one failure would take both.",
        hint: "start a relay elsewhere: it takes over by itself",
        matches: |s| fault(s, |f| matches!(f, Fault::OnPrimarysHost(_))),
    },
    Row {
        code: "acker_catches_up",
        severity: Severity::Warning,
        meaning: "The acker took over within the epoch and does not yet hold everything that its predecessor acknowledged.",
        hint: "wait; until then a failure of the primary needs the former acker, or the primary's host",
        matches: |s| {
            let Some((state, holder)) = s.facts.state.as_ref().and_then(|st| st.grant_holder.as_ref().map(|h| (st, h)))
            else {
                return Vec::new();
            };
            let head = s.facts.relays.get(holder).map(|r| r.head.as_str()).unwrap_or_default();
            fence::shortfall(state, head).map(|why| one(holder, why)).unwrap_or_default()
        },
    },
    Row {
        code: "no_standby",
        severity: Severity::Warning,
        meaning: "No other relay could take over from the acker.",
        hint: "start a second relay away from the primary's host",
        matches: |s| {
            let Some(state) = s.facts.state.as_ref().filter(|st| st.grant_holder.is_some()) else { return Vec::new() };
            let holder = state.grant_holder.as_deref();
            match acker::standbys(s.facts, state, holder).is_empty() {
                true => one(holder.unwrap_or_default(), "no other relay could take over from it".to_owned()),
                false => Vec::new(),
            }
        },
    },
    Row {
        code: "relay_lost",
        severity: Severity::Warning,
        meaning: "A relay does not answer.",
        hint: "start it",
        matches: |s| {
            standbys(s, |r| match (r.answers, r.has_lost_etcd()) {
                (false, _) => Some("it does not answer".to_owned()),
                (true, true) => Some("it does not reach etcd".to_owned()),
                (true, false) => None,
            })
        },
    },
    Row {
        code: "relay_not_writable",
        severity: Severity::Critical,
        meaning: "A relay can't write its log.",
        hint: "make room on its disk or repair it: it goes on by itself",
        matches: |s| relays(s, |r| (!r.writable).then(|| "it can't write its log".to_owned())),
    },
    Row {
        code: "relay_damaged",
        severity: Severity::Critical,
        meaning: "A relay's log is damaged below what it had made durable.",
        hint: "its status names the file; give it an empty data directory to have it fetched again",
        matches: |s| relays(s, |r| (!r.complete).then(|| "its log is damaged".to_owned())),
    },
    Row {
        code: "relay_diverged",
        severity: Severity::Critical,
        meaning: "A relay's log and what it is to follow do not agree: its stream is stopped.",
        hint: "its status names the cause and the command that resolves it",
        matches: |s| {
            relays(s, |r| (r.upstream == "diverged").then(|| "its log and its source do not agree".to_owned()))
        },
    },
    Row {
        code: "relay_refused",
        severity: Severity::Warning,
        meaning: "What a relay is to follow refuses it.",
        hint: "see the relay's status: account, password, grants, purged logs",
        matches: |s| relays(s, |r| (r.upstream == "refused").then(|| "its source refuses it".to_owned())),
    },
];

fn fault(s: &Scene<'_>, which: fn(&Fault) -> bool) -> Vec<(String, String)> {
    let Some(state) = &s.facts.state else { return Vec::new() };
    match acker::fault(s.facts).filter(which) {
        Some(fault) => one(state.grant_holder.as_deref().unwrap_or("acker"), fault.text(state)),
        None => Vec::new(),
    }
}

fn relays(s: &Scene<'_>, what: impl Fn(&RelayFacts) -> Option<String>) -> Vec<(String, String)> {
    let told = |(name, relay): (&String, &RelayFacts)| what(relay).map(|text| (name.clone(), text));
    s.facts.relays.iter().filter(|(_, r)| r.answers).filter_map(told).collect()
}

/// Of relays that do not hold the grant.
fn standbys(s: &Scene<'_>, what: impl Fn(&RelayFacts) -> Option<String>) -> Vec<(String, String)> {
    let holder = s.facts.state.as_ref().and_then(|st| st.grant_holder.as_ref());
    let told = |(name, relay): (&String, &RelayFacts)| what(relay).map(|text| (name.clone(), text));
    s.facts.relays.iter().filter(|(name, _)| Some(*name) != holder).filter_map(told).collect()
}
