//! `config` in etcd: what the agents take from the controllers' configuration, and what of the policy was changed since.

use std::sync::Arc;
use std::time::Duration;

use baton_cluster::store::{Change, Snapshot, StoreError};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Done, Runner};
use crate::config::ControllerConfig;
use crate::config::controller::Overrides;
use crate::decide::{Problem, Severity};
use crate::model::Policy;

/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(2);

/// Whether it is being written.
#[derive(Debug, Default)]
pub(super) struct State {
    writing: bool,
    wait: Option<Instant>,
}

impl State {
    pub(super) fn done(&mut self, result: Result<i64, StoreError>) {
        self.writing = false;
        if let Err(error) = result {
            tracing::warn!(%error, "the settings for the agents can't be written");
        }
        // Until the watch tells it, what was written is not seen.
        self.wait = Some(Instant::now() + PAUSE);
    }
}

/// What of the policy was changed in etcd, and what is wrong with that.
fn overrides(etcd: &Snapshot) -> Result<Overrides, Vec<String>> {
    match etcd.config.as_ref().and_then(|c| c.value.get("policy")) {
        Some(policy) => Overrides::parse(policy),
        None => Ok(Overrides::default()),
    }
}

/// The policy in force: the file's, with what was changed in etcd; what can't be used there is left out as a whole.
pub(super) fn policy(config: &ControllerConfig, etcd: &Snapshot) -> Policy {
    config.policy.effective(config.probe.timeout, &overrides(etcd).unwrap_or_default())
}

/// What is wrong with the controllers themselves; `digest` is that of `config`.
pub(super) fn problems(config: &ControllerConfig, digest: &str, etcd: &Snapshot) -> Vec<Problem> {
    let mut found = Vec::new();
    for text in overrides(etcd).err().unwrap_or_default() {
        found.push(Problem {
            code: "settings_wrong",
            severity: Severity::Warning,
            subject: "config".to_owned(),
            text: format!("the settings in etcd can't be used: {text}"),
            hint: "correct them with batonctl edit-config; until then those of the file are in force".to_owned(),
        });
    }
    for (name, other) in etcd.controllers.iter().filter(|(name, c)| **name != config.name && c.config != digest) {
        found.push(Problem {
            code: "controllers_differ",
            severity: Severity::Critical,
            subject: name.clone(),
            text: format!("{name} has another configuration (digest {}) than {} ({digest})", other.config, config.name),
            hint: "give all controllers the same configuration but for name, http and [advertise]; one whose configuration is not the \
                   leader's does not stand for leader"
                .to_owned(),
        });
    }
    found
}

impl Runner {
    /// Writes what the agents need to know, where it is not what etcd has.
    pub(super) fn keep_settings(&mut self, etcd: &Arc<Snapshot>) {
        let Some(lead) = &mut self.lead else { return };
        // What can't be read there is told, and left to whoever wrote it.
        if etcd.errors.contains_key("config")
            || lead.settings.writing
            || !etcd.healthy
            || lead.settings.wait.is_some_and(|w| Instant::now() < w)
        {
            return;
        }
        let address = &self.o.config.address;
        let (vip, provider) = (json!(address.vip), json!(address.provider.name()));
        let present = etcd.config.as_ref();
        let field = |name: &str| present.and_then(|c| c.value.get(name));
        if field("vip") == Some(&vip) && field("provider") == Some(&provider) {
            return;
        }
        let policy = field("policy").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let value = json!({ "vip": vip, "provider": provider, "policy": policy });
        let revision = present.map_or(0, |c| c.mod_revision);
        let (store, term) = (self.o.store.clone(), lead.term);
        lead.settings.writing = true;
        self.tasks.spawn(async move {
            let key = store.keys().config();
            Done::Settings(store.commit(term, Change::new().expect(key.clone(), revision).put(key, &value)).await)
        });
    }
}
