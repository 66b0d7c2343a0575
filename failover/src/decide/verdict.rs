//! Whether a server lives, judged from every vantage point: this controller's own connection, the agent beside it, the relays' streams, and
//! the other controllers.
//!
//! A server is dead only if nobody sees it alive. Its death is believed at once if its process is known to have ended, or if nothing listens
//! on its port any more; otherwise silence has to last for `probe.timeout`, which is what `Silent` means.

use std::time::Duration;

use crate::model::{AgentFacts, AgentStatus, ClusterFacts, MysqldState, NodeFacts, Policy, SqlFacts};

/// What a server's state is believed to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Somebody sees it alive.
    Alive,
    /// Its process has ended.
    Crashed,
    /// Its host is there, and the server answers nobody.
    Frozen,
    /// Nothing on its host answers.
    HostGone,
    /// Not enough is known yet.
    Unknown,
}

impl Verdict {
    /// Whether it serves nobody.
    pub fn is_dead(self) -> bool {
        matches!(self, Self::Crashed | Self::Frozen | Self::HostGone)
    }
}

/// A verdict with its grounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// What is believed.
    pub verdict: Verdict,
    /// Who sees it alive, a name each: `this controller`, `agent`, `relay relay-1`, `controller controller-2`.
    pub seen_by: Vec<String>,
    /// What each vantage point says, a sentence each.
    pub evidence: Vec<String>,
}

/// The agent's status, if the agent answers.
pub fn agent(node: &NodeFacts) -> Option<&AgentStatus> {
    match &node.agent {
        Some(seen) => match &seen.value {
            AgentFacts::Answers(status) => Some(status),
            AgentFacts::Refused | AgentFacts::Silent => None,
        },
        None => None,
    }
}

/// How long the node's agent has given no sign of life to this controller: 0 while it answers.
pub fn agent_silent_for(name: &str, facts: &ClusterFacts) -> Duration {
    let Some(node) = facts.nodes.get(name) else { return facts.watching_for };
    node.agent_last_seen.unwrap_or(facts.watching_for)
}

/// Judges the server of node `name`.
pub fn sight(name: &str, facts: &ClusterFacts, policy: &Policy) -> Sight {
    let mut out = Sight { verdict: Verdict::Unknown, seen_by: Vec::new(), evidence: Vec::new() };
    let Some(node) = facts.nodes.get(name) else {
        out.evidence.push(format!("nothing is known of {name}"));
        if facts.watching_for >= policy.start_grace {
            out.verdict = Verdict::HostGone;
        }
        return out;
    };
    look_by_sql(node, policy, &mut out);
    let process_ended = look_by_agent(node, policy, &mut out);
    let streaming = look_by_relays(node, facts, policy, &mut out);
    look_by_controllers(name, facts, policy, &mut out);
    out.verdict = conclude(node, process_ended, streaming, &out, facts);
    out
}

fn look_by_sql(node: &NodeFacts, policy: &Policy, out: &mut Sight) {
    let Some(sql) = &node.sql else { return };
    let answered = match &sql.value {
        SqlFacts::Answers { .. } => Some("answers queries".to_owned()),
        SqlFacts::Alive(text) => Some(format!("lives: {text}")),
        SqlFacts::Refused => {
            out.evidence.push("connections to the server are refused".to_owned());
            None
        }
        SqlFacts::Silent(text) => {
            out.evidence.push(format!("the server does not answer: {text}"));
            None
        }
    };
    if let Some(what) = answered
        && sql.age <= policy.probe_timeout
        && !died_since(node, sql.age)
    {
        out.seen_by.push("this controller".to_owned());
        out.evidence.push(format!("the server {what}"));
    }
}

/// Whether the agent said, more recently than `age`, that the process is not there.
fn died_since(node: &NodeFacts, age: Duration) -> bool {
    let gone = |s: &AgentStatus| matches!(s.mysqld, MysqldState::Dead | MysqldState::Waiting);
    node.agent.as_ref().is_some_and(|seen| seen.age <= age) && agent(node).is_some_and(gone)
}

/// Returns whether the agent knows that the process has ended, and nothing newer contradicts that.
fn look_by_agent(node: &NodeFacts, policy: &Policy, out: &mut Sight) -> bool {
    // Without an agent it was this controller that asked.
    let Some(seen) = node.agent.as_ref().filter(|_| !node.record.has_no_agent()) else { return false };
    let status = match &seen.value {
        AgentFacts::Answers(status) => status,
        AgentFacts::Refused => {
            out.evidence.push("connections to its agent are refused".to_owned());
            return false;
        }
        AgentFacts::Silent => {
            out.evidence.push("its agent does not answer".to_owned());
            return false;
        }
    };
    match status.mysqld {
        MysqldState::Running => {
            let age = status.server_age_ms.map(|ms| Duration::from_millis(ms) + seen.age);
            if status.server.is_some() && age.is_some_and(|age| age <= policy.probe_timeout) {
                out.seen_by.push("agent".to_owned());
                out.evidence.push("its agent sees the server answer".to_owned());
            }
            false
        }
        MysqldState::Silent => {
            out.evidence.push("its agent sees the process live and not answer".to_owned());
            false
        }
        MysqldState::Dead => {
            out.evidence.push("its agent says that the process has ended".to_owned());
            true
        }
        MysqldState::Waiting => {
            out.evidence.push("its agent keeps the server from starting".to_owned());
            true
        }
    }
}

/// Returns whether any relay that answers still streams from the node.
fn look_by_relays(node: &NodeFacts, facts: &ClusterFacts, policy: &Policy, out: &mut Sight) -> bool {
    let mut streaming = false;
    for (name, relay) in facts.relays.iter().filter(|(_, relay)| relay.answers) {
        let of_node = relay.upstream_address.as_ref().is_some_and(|a| node.record.mysql.contains(a));
        if !of_node {
            continue;
        }
        if relay.upstream != "streaming" {
            out.evidence.push(format!("the stream to relay {name} is broken ({})", relay.upstream));
            continue;
        }
        streaming = true;
        match relay.upstream_heard.map(|heard| heard + relay.age) {
            Some(heard) if heard <= policy.probe_timeout => {
                out.seen_by.push(format!("relay {name}"));
                out.evidence.push(format!("relay {name} receives from it"));
            }
            heard => {
                let ms = heard.map_or_else(|| "ever".to_owned(), |h| format!("for {} ms", h.as_millis()));
                out.evidence.push(format!("relay {name} has heard nothing from it {ms}"));
            }
        }
    }
    streaming
}

fn look_by_controllers(name: &str, facts: &ClusterFacts, policy: &Policy, out: &mut Sight) {
    let serving = facts.state.as_ref().is_some_and(|s| s.serving_or_next() == Some(name));
    if !serving {
        return;
    }
    for other in facts.controllers.iter().filter(|c| c.age <= policy.probe_timeout) {
        match other.sees_primary {
            Some(true) => {
                out.seen_by.push(format!("controller {}", other.name));
                out.evidence.push(format!("controller {} sees it alive", other.name));
            }
            Some(false) => out.evidence.push(format!("controller {} does not see it either", other.name)),
            None => {}
        }
    }
}

fn conclude(node: &NodeFacts, process_ended: bool, streaming: bool, sight: &Sight, facts: &ClusterFacts) -> Verdict {
    let sql = node.sql.as_ref().map(|s| &s.value);
    let refused = matches!(sql, Some(SqlFacts::Refused));
    let silent = matches!(sql, Some(SqlFacts::Silent(_)));
    if process_ended {
        // Of the process itself: what others saw of it is older, unless this controller has seen it answer since.
        let contradicted = sight.seen_by.iter().any(|who| who == "this controller");
        let confirmed = refused || silent || !streaming && facts.relays.values().any(|r| r.answers);
        return match (contradicted, confirmed) {
            (true, _) => Verdict::Alive,
            (false, true) => Verdict::Crashed,
            (false, false) => Verdict::Unknown,
        };
    }
    if !sight.seen_by.is_empty() {
        return Verdict::Alive;
    }
    let agent_answers = agent(node).is_some() && !node.record.has_no_agent();
    match (refused, silent, agent_answers) {
        // The agent holds the process and nothing listens: it is starting, or a firewall refuses for it.
        (true, _, true) => Verdict::Unknown,
        (true, _, false) if !streaming => Verdict::Crashed,
        (true, _, false) => Verdict::Unknown,
        (_, true, true) => Verdict::Frozen,
        (_, true, false) => Verdict::HostGone,
        _ => Verdict::Unknown,
    }
}
