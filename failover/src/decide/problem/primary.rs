//! What can be wrong with the primary.

use super::super::acker;
use super::super::verdict::{Verdict, agent};
use super::{Row, Scene, Severity, one};
use crate::model::{AgentFacts, AgentStatus, MysqldState, ServerStatus, SqlFacts};

pub(super) const ROWS: &[Row] = &[
    Row {
        code: "primary_crashed",
        severity: Severity::Critical,
        meaning: "The primary's server process has ended.",
        hint: "a failover follows by itself unless something is said to hold it back",
        matches: |s| dead(s, Verdict::Crashed, "its process has ended"),
    },
    Row {
        code: "primary_frozen",
        severity: Severity::Critical,
        meaning: "The primary's server answers nobody, while its host does.",
        hint: "a failover follows by itself unless something is said to hold it back",
        matches: |s| dead(s, Verdict::Frozen, "it answers nobody, its host does"),
    },
    Row {
        code: "primary_host_gone",
        severity: Severity::Critical,
        meaning: "Nothing on the primary's host answers anybody.",
        hint: "a failover follows by itself once the host must have fenced itself",
        matches: |s| dead(s, Verdict::HostGone, "nobody sees anything of its host"),
    },
    Row {
        code: "primary_unseen_here",
        severity: Severity::Warning,
        meaning: "This controller can't reach the primary; others can. No failover.",
        hint: "look after the network between this controller and the primary",
        matches: unseen_here,
    },
    Row {
        code: "primary_unseen_by_acker",
        severity: Severity::Critical,
        meaning: "The primary lives and the acker does not receive from it: commits wait.",
        hint: "look after the network between the relay and the primary, and at the relay's account there",
        matches: unseen_by_acker,
    },
    Row {
        code: "primary_unseen_by_clients",
        severity: Severity::Critical,
        meaning: "The primary does not hold the virtual IP: clients can't reach it.",
        hint: "see the agent's log; batonctl switchover moves it to a host whose network is whole",
        matches: unseen_by_clients,
    },
    Row {
        code: "commits_wait",
        severity: Severity::Critical,
        meaning: "Commits wait for an acknowledgement and no client that could give one is connected.",
        hint: "the acker has to come back or to be replaced; do not kill the waiting sessions: that completes them unacknowledged",
        matches: |s| {
            let hang = |st: &ServerStatus| {
                (st.waiting_commits > 0 && st.semi_sync_clients == 0)
                    .then(|| format!("{} commits wait for an acknowledgement", st.waiting_commits))
            };
            of_server(s, hang)
        },
    },
    Row {
        code: "primary_disk",
        severity: Severity::Critical,
        meaning: "The disk under the primary does not take writes: it is full or stalled.",
        hint: "a failover follows if that lasts; make room or repair it",
        matches: |s| of_agent(s, |a| (a.disk_ok == Some(false)).then(|| "its disk does not take writes".to_owned())),
    },
    Row {
        code: "primary_lost_commits",
        severity: Severity::Critical,
        meaning: "The primary lacks commits that the acker has: it lost the end of its binlog, or an old copy was restored. Its commits wait.",
        hint: "a failover to a server that has them follows by itself; do not write to this one",
        matches: |s| {
            let lost = acker::lost_by_primary(s.facts);
            of_agent(s, |_| lost.as_ref().map(|lost| format!("it lacks {lost}, which the acker has")))
        },
    },
    Row {
        code: "primary_too_many_connections",
        severity: Severity::Warning,
        meaning: "The primary lives and lets nobody in.",
        hint: "raise max_connections, or find who holds them",
        matches: |s| lives_but(s, |text| text.contains("onnections")),
    },
    Row {
        code: "probe_denied",
        severity: Severity::Warning,
        meaning: "The primary refuses the controllers' account: a wrong password or a lost grant. It is not dead for that.",
        hint: "mend the account or [mysql] in controller.toml",
        matches: |s| lives_but(s, |text| !text.contains("onnections")),
    },
    Row {
        code: "primary_read_only",
        severity: Severity::Critical,
        meaning: "The primary is read-only, and no operation wants it so.",
        hint: "SET GLOBAL read_only=0 on it, if nobody meant it to be so",
        matches: |s| {
            let steady = s.facts.state.as_ref().is_some_and(|state| state.primary.is_some());
            of_server(s, |st| (steady && st.read_only).then(|| "it is read-only".to_owned()))
        },
    },
    Row {
        code: "semi_sync_off",
        severity: Severity::Critical,
        meaning: "Semi-sync is off on the primary: it commits without an acknowledgement, and a failover would lose that.",
        hint: "SET GLOBAL rpl_semi_sync_master_enabled=1 on it, and find who switched it off",
        matches: |s| {
            let steady = s.facts.state.as_ref().is_some_and(|state| state.primary.is_some());
            of_server(s, |st| (steady && !st.semi_sync).then(|| "semi-sync is off on it".to_owned()))
        },
    },
    Row {
        code: "surplus_ackers",
        severity: Severity::Critical,
        meaning: "More clients than the acker could acknowledge the primary's commits. Blocks automatic failover.",
        hint: "let replicas attach to relays only: SHOW SLAVE HOSTS on the primary names them",
        matches: |s| {
            of_server(s, |st| {
                (st.semi_sync_clients > 1 && s.memory.surplus_ackers_for.is_some_and(|d| d >= s.policy.valid_for))
                    .then(|| format!("{} clients could acknowledge its commits", st.semi_sync_clients))
            })
        },
    },
    Row {
        code: "primary_settings",
        severity: Severity::Critical,
        meaning: "The primary lacks settings that the promise rests on.",
        hint: "run the statements that are named",
        matches: |s| of_server(s, |st| (!st.unmet.is_empty()).then(|| st.unmet.join("; "))),
    },
    Row {
        code: "primary_agent_lost",
        severity: Severity::Critical,
        meaning: "The primary's agent does not answer: nobody renews the address, and nobody can fence the server.",
        hint: "start the agent; after its address' lifetime the primary is moved away, if agent_lost says so",
        matches: agent_lost,
    },
    Row {
        code: "primary_address",
        severity: Severity::Warning,
        meaning: "The virtual IP has trouble on the primary.",
        hint: "see the interface on the node; batonctl switchover moves the primary to a host whose network is whole, or policy.link_lost = \"switchover\" does",
        matches: |s| of_agent(s, |a| a.address.as_ref().and(a.address_error.clone())),
    },
    Row {
        code: "primary_waits",
        severity: Severity::Critical,
        meaning: "The agent keeps the primary's server from starting until it knows its role.",
        hint: "it asks etcd: look whether the node reaches it",
        matches: |s| {
            of_agent(s, |a| (a.mysqld == MysqldState::Waiting).then(|| "its agent keeps it from starting".to_owned()))
        },
    },
];

fn dead(s: &Scene<'_>, verdict: Verdict, text: &str) -> Vec<(String, String)> {
    let found = s.primary.as_ref().filter(|(_, _, sight)| sight.verdict == verdict);
    found.map_or_else(Vec::new, |(name, _, sight)| one(name, format!("{text} ({})", sight.evidence.join("; "))))
}

/// Of the primary's agent, as long as it answers.
fn of_agent(s: &Scene<'_>, what: impl Fn(&AgentStatus) -> Option<String>) -> Vec<(String, String)> {
    let found = s.primary().and_then(|(name, node, _)| agent(node).and_then(what).map(|text| one(name, text)));
    found.unwrap_or_default()
}

/// Of the primary's server, as long as it answers its agent.
fn of_server(s: &Scene<'_>, what: impl Fn(&ServerStatus) -> Option<String>) -> Vec<(String, String)> {
    of_agent(s, |a| a.server.as_ref().and_then(&what))
}

fn unseen_here(s: &Scene<'_>) -> Vec<(String, String)> {
    let Some((name, node, sight)) = s.primary() else { return Vec::new() };
    let unseen = matches!(node.sql.as_ref().map(|q| &q.value), Some(SqlFacts::Silent(_) | SqlFacts::Refused));
    if !unseen || sight.verdict != Verdict::Alive {
        return Vec::new();
    }
    one(name, format!("this controller can't reach it; it is seen by {}", sight.seen_by.join(", ")))
}

fn unseen_by_acker(s: &Scene<'_>) -> Vec<(String, String)> {
    let Some((name, node, sight)) = s.primary() else { return Vec::new() };
    let state = s.facts.state.as_ref();
    let holder = state.and_then(|st| st.grant_holder.as_ref()).and_then(|h| s.facts.relays.get(h).map(|r| (h, r)));
    let Some((holder, relay)) = holder.filter(|(_, r)| r.answers && r.held) else { return Vec::new() };
    let heard = relay.upstream_heard.is_some_and(|heard| heard + relay.age <= s.policy.probe_timeout);
    let of_it = relay.upstream_address.as_ref().is_some_and(|a| node.record.mysql.contains(a));
    let receives = relay.upstream == "streaming" && of_it && heard;
    if sight.verdict != Verdict::Alive || receives {
        return Vec::new();
    }
    one(name, format!("acker {holder} does not receive from it ({})", relay.upstream))
}

fn unseen_by_clients(s: &Scene<'_>) -> Vec<(String, String)> {
    let steady = s.facts.state.as_ref().is_some_and(|state| state.primary.is_some());
    of_agent(s, |a| {
        let error = a.address_error.as_ref().filter(|_| steady && a.address.is_none())?;
        Some(format!("it does not hold the virtual IP: {error}"))
    })
}

fn lives_but(s: &Scene<'_>, which: fn(&str) -> bool) -> Vec<(String, String)> {
    let Some((name, node, _)) = s.primary() else { return Vec::new() };
    match node.sql.as_ref().map(|q| &q.value) {
        Some(SqlFacts::Alive(text)) if which(text) => one(name, format!("it lives and lets nobody in: {text}")),
        _ => Vec::new(),
    }
}

fn agent_lost(s: &Scene<'_>) -> Vec<(String, String)> {
    let Some((name, node, sight)) = s.primary() else { return Vec::new() };
    let gone = matches!(node.agent.as_ref().map(|a| &a.value), Some(AgentFacts::Refused | AgentFacts::Silent));
    if !gone || node.announced || node.record.has_no_agent() || sight.verdict != Verdict::Alive {
        return Vec::new();
    }
    let ms = node.agent_last_seen.unwrap_or(s.facts.watching_for).as_millis();
    one(name, format!("its agent has not been heard for {ms} ms"))
}
