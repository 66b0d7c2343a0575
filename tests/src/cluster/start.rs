//! How a cluster that was put together gets under way.

use anyhow::{Context, Result};

use super::Cluster;
use super::daemon::Daemon;
use super::node::Node;
use crate::wait::{DEADLINE, wait_for};

impl Cluster {
    /// Starts whatever does not run: etcd first, then all others at once. Does not wait for roles.
    pub fn start_all(&self) -> Result<()> {
        self.start_but(&[])
    }

    /// As [`Cluster::start_all`], without these.
    pub(super) fn start_but(&self, late: &[String]) -> Result<()> {
        self.etcd().start()?;
        let all = || self.controllers().iter().chain(self.relays()).chain(self.nodes().iter().map(Node::agent));
        let daemons = || all().filter(|daemon| !late.iter().any(|name| name == daemon.name()));
        daemons().try_for_each(Daemon::start)?;
        daemons().try_for_each(Daemon::wait_healthy)
    }

    /// `batonctl bootstrap --primary NODE`, as soon as every agent has announced itself and every server answers.
    pub fn bootstrap(&self, primary: &str) -> Result<()> {
        let announced = |kind: &str, count: usize| -> Result<Option<()>> {
            let found = self.etcd().list(&self.key(kind)).map_or(0, |found| found.len());
            Ok((found >= count).then_some(()))
        };
        let nodes: Vec<_> = self.nodes().iter().filter(|node| node.agent().is_running()).collect();
        let agents = nodes.iter().filter(|node| node.has_agent()).count();
        let relays = self.relays().iter().filter(|relay| relay.is_running()).count();
        wait_for("every agent to be announced", DEADLINE, || announced("nodes/", agents))?;
        wait_for("every relay to be announced", DEADLINE, || announced("relays/", relays))?;
        nodes.into_iter().try_for_each(Node::wait_answers)?;
        // A controller may need another moment to hear of servers that have just come up.
        let mut last = String::new();
        let done = wait_for("batonctl bootstrap", DEADLINE, || {
            let ended = self.ctl(&["bootstrap", "--primary", primary])?;
            last = ended.to_string();
            Ok((ended.code == 0).then_some(()))
        });
        done.with_context(|| format!("it ended with {last}"))?;
        Ok(())
    }
}
