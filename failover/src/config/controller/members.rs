//! `[[nodes]]` and `[[relays]]`: members that do not announce themselves, or whose announcement is overridden.

use std::collections::BTreeMap;

use super::super::error::Problem;
use super::super::reader::{Reader, Section};
use super::super::rules::{member_name, reachable};
use super::super::value::Address;

/// One of `[[nodes]]`. What is left out is as the node's agent announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its name. Required.
    pub name: String,
    /// Addresses of its server, the preferred path first.
    pub addresses: Vec<Address>,
    /// Its agent.
    pub agent: Option<NodeAgent>,
    /// What shares a host dies together.
    pub host: Option<String>,
    /// Where it stands.
    pub site: Option<String>,
    /// Preference among equally fresh candidates, 0 (never) to 1000000.
    pub priority: Option<u32>,
}

/// `agent` of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeAgent {
    /// Its HTTP.
    At(Address),
    /// `none`: a server without an agent, ordered over SQL.
    None,
}

impl std::str::FromStr for NodeAgent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" { Ok(Self::None) } else { text.parse().map(Self::At) }
    }
}

/// One of `[[relays]]`. What is left out is as the relay announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayEntry {
    /// Its name. Required.
    pub name: String,
    /// Where replicas connect.
    pub replication: Option<Address>,
    /// Its HTTP.
    pub http: Option<Address>,
    /// What shares a host dies together.
    pub host: Option<String>,
    /// Where it stands.
    pub site: Option<String>,
}

impl NodeEntry {
    pub(super) fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let entry = Self {
            name: s.require(r, "name", "name = \"db-1\"", |v| v.text().map(str::to_owned)),
            addresses: s.take(r, "addresses", |v| v.list()).unwrap_or_default(),
            agent: s.take(r, "agent", |v| v.parse()),
            host: s.take(r, "host", |v| v.text().map(str::to_owned)),
            site: s.take(r, "site", |v| v.text().map(str::to_owned)),
            priority: s.take(r, "priority", |v| {
                let number = u32::try_from(v.integer()?).ok().filter(|n| *n <= 1_000_000);
                number.ok_or_else(|| "allowed: 0 (never promoted) to 1000000".to_owned())
            }),
        };
        s.finish(r);
        entry
    }
}

impl RelayEntry {
    pub(super) fn read(mut s: Section, r: &mut Reader<'_>) -> Self {
        let entry = Self {
            name: s.require(r, "name", "name = \"relay-1\"", |v| v.text().map(str::to_owned)),
            replication: s.take(r, "replication", |v| v.parse()),
            http: s.take(r, "http", |v| v.parse()),
            host: s.take(r, "host", |v| v.text().map(str::to_owned)),
            site: s.take(r, "site", |v| v.text().map(str::to_owned)),
        };
        s.finish(r);
        entry
    }
}

/// Names and addresses, none of them twice.
pub(super) fn validate(nodes: &[NodeEntry], relays: &[RelayEntry]) -> Vec<Problem> {
    let mut p = Vec::new();
    let mut names = Once::default();
    let mut addresses = Once::default();
    for (i, node) in nodes.iter().enumerate() {
        let key = |k: &str| format!("nodes[{i}].{k}");
        member_name(&mut p, &key("name"), &node.name);
        names.check(&mut p, key("name"), format!("{:?}", node.name));
        for address in &node.addresses {
            reachable(&mut p, &key("addresses"), address);
            addresses.check(&mut p, key("addresses"), address.to_string());
        }
        if let Some(NodeAgent::At(agent)) = &node.agent {
            reachable(&mut p, &key("agent"), agent);
            addresses.check(&mut p, key("agent"), agent.to_string());
        }
    }
    for (i, relay) in relays.iter().enumerate() {
        let key = |k: &str| format!("relays[{i}].{k}");
        member_name(&mut p, &key("name"), &relay.name);
        names.check(&mut p, key("name"), format!("{:?}", relay.name));
        for (k, address) in [("replication", &relay.replication), ("http", &relay.http)] {
            if let Some(address) = address {
                reachable(&mut p, &key(k), address);
                addresses.check(&mut p, key(k), address.to_string());
            }
        }
    }
    p
}

/// Values that have been seen, and where.
#[derive(Default)]
struct Once(BTreeMap<String, String>);

impl Once {
    fn check(&mut self, p: &mut Vec<Problem>, key: String, value: String) {
        match self.0.get(&value) {
            Some(first) => p.push(Problem::new(key, format!("stands at {first} already")).with_value(value)),
            None => drop(self.0.insert(value, key)),
        }
    }
}
