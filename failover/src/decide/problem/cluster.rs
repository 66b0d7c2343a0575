//! What can be wrong with the cluster as a whole.

use super::super::fence;
use super::super::{ETCD_STALE, foreseen, guard};
use super::{Row, Severity, one};

pub(super) const ROWS: &[Row] = &[
    Row {
        code: "etcd_unreachable",
        severity: Severity::Critical,
        meaning: "etcd does not answer this controller: service goes on, and nothing is changed.",
        hint: "look after etcd and the network to it",
        matches: |s| match s.facts.etcd_age > ETCD_STALE {
            true => {
                let why = s.facts.etcd_trouble.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                one("etcd", format!("it has not answered for {} ms{why}", s.facts.etcd_age.as_millis()))
            }
            false => Vec::new(),
        },
    },
    Row {
        code: "etcd_content",
        severity: Severity::Warning,
        meaning: "A key in etcd holds what can't be read.",
        hint: "see which version wrote it; mend or delete it",
        matches: |s| s.facts.etcd_errors.iter().map(|text| ("etcd".to_owned(), text.clone())).collect(),
    },
    Row {
        code: "not_bootstrapped",
        severity: Severity::Warning,
        meaning: "The cluster has no state: it was not bootstrapped yet, and every server is kept read-only; or it was given up.",
        hint: "batonctl bootstrap --primary NODE",
        matches: |s| match s.facts.state {
            None if !s.facts.etcd_errors.iter().any(|text| text.starts_with("state:")) => {
                one("cluster", "no primary was named, or the cluster was given up".to_owned())
            }
            _ => Vec::new(),
        },
    },
    Row {
        code: "paused",
        severity: Severity::Warning,
        meaning: "Automatic failover is paused.",
        hint: "batonctl resume",
        matches: |s| match s.facts.paused {
            true => one("cluster", "automatic failover is paused".to_owned()),
            false => Vec::new(),
        },
    },
    Row {
        code: "guard_exhausted",
        severity: Severity::Critical,
        meaning: "As many automatic failovers as are allowed have happened in the window: the next one is not done.",
        hint: "find out why they happen; batonctl failover does one anyway",
        matches: |s| match guard::recent(s.facts, s.policy) {
            n if n >= s.policy.guard_max as usize && n > 0 => one("cluster", format!("{n} automatic failovers lately")),
            _ => Vec::new(),
        },
    },
    Row {
        code: "no_candidate",
        severity: Severity::Critical,
        meaning: "Nobody could be promoted.",
        hint: "bring one of the nodes into order",
        matches: |s| {
            let Some(state) = &s.facts.state else { return Vec::new() };
            let choice = foreseen(state, s.facts);
            let needless = state.primary.is_none() && state.candidate.is_some();
            match choice.best().is_none() && !needless {
                true => one("cluster", choice.summary()),
                false => Vec::new(),
            }
        },
    },
    Row {
        code: "truth_unreachable",
        severity: Severity::Critical,
        meaning: "If the primary failed now, nobody could say what was acknowledged: a failover would have to wait.",
        hint: "bring back what is named",
        matches: |s| match (&s.facts.state, fence::means(s.facts)) {
            (Some(state), Err(missing)) if state.grant_holder.is_some() => one("cluster", missing.why),
            _ => Vec::new(),
        },
    },
    Row {
        code: "versions_differ",
        severity: Severity::Info,
        meaning: "A node or relay runs another version.",
        hint: "finish the upgrade",
        matches: |s| {
            let versions = s.facts.nodes.iter().map(|(n, f)| (n, &f.record.version));
            let all = versions.chain(s.facts.relays.iter().map(|(n, f)| (n, &f.record.version)));
            // Whose record is gone has none.
            let all: Vec<_> = all.filter(|(_, version)| !version.is_empty()).collect();
            let newest = all.iter().map(|(_, v)| *v).max();
            let old = all.iter().filter(|(_, v)| Some(*v) != newest);
            old.map(|(name, v)| ((*name).clone(), format!("it runs version {v}"))).collect()
        },
    },
];
