//! `[policy]` and `[guard]`: when is acted; and the part of it that is kept in etcd and can be changed while everything runs.

use std::time::Duration;

use serde_json::{Map, Value};

use super::super::error::Problem;
use super::super::reader::{Reader, Section};
use super::super::rules::between;
use super::super::value::duration;
use crate::model::Policy;

/// The keys that hold a duration, with their least and greatest value.
const DURATIONS: [(&str, &str, &str); 10] = [
    ("fence_after", "200ms", "1h"),
    ("valid_for", "2s", "1h"),
    ("max_lag", "0s", "1h"),
    ("catch_up_timeout", "1s", "24h"),
    ("disk_timeout", "1s", "10m"),
    ("start_grace", "0s", "1h"),
    ("drain", "0s", "1m"),
    ("block_timeout", "100ms", "10m"),
    ("acker_timeout", "0s", "1m"),
    ("guard_window", "1s", "7d"),
];

/// When is acted, as far as the file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyConfig {
    policy: Policy,
}

impl PolicyConfig {
    pub(super) fn read(mut s: Section, mut guard: Section, r: &mut Reader<'_>) -> Self {
        let mut p = Policy::default();
        let mut time = |r: &mut Reader<'_>, key: &'static str, slot: &mut Duration| {
            if let Some(value) = s.take(r, key, |v| duration(v.text()?)) {
                *slot = value;
            }
        };
        time(r, "fence_after", &mut p.fence_after);
        time(r, "valid_for", &mut p.valid_for);
        time(r, "max_lag", &mut p.max_lag);
        time(r, "catch_up_timeout", &mut p.catch_up_timeout);
        time(r, "disk_timeout", &mut p.disk_timeout);
        time(r, "start_grace", &mut p.start_grace);
        time(r, "drain", &mut p.drain);
        time(r, "block_timeout", &mut p.block_timeout);
        time(r, "acker_timeout", &mut p.acker_timeout);
        if let Some(wait) = s.take(r, "unreachable", |v| unreachable(v.text()?)) {
            p.wait_for_self_fence = wait;
        }
        if let Some(force) = s.take(r, "on_missing", |v| on_missing(v.text()?)) {
            p.force_after = force;
        }
        if let Some(switchover) = s.take(r, "agent_lost", |v| agent_lost(v.text()?)) {
            p.switchover_when_agent_lost = switchover;
        }
        if let Some(switchover) = s.take(r, "link_lost", |v| link_lost(v.text()?)) {
            p.switchover_when_link_lost = switchover;
        }
        s.finish(r);
        if let Some(max) = guard.take(r, "max", |v| guard_max(v.integer()?)) {
            p.guard_max = max;
        }
        if let Some(window) = guard.take(r, "window", |v| duration(v.text()?)) {
            p.guard_window = window;
        }
        guard.finish(r);
        Self { policy: p }
    }

    pub(super) fn validate(&self) -> Vec<Problem> {
        let mut p = Vec::new();
        for (key, least, most) in DURATIONS {
            let shown = if key == "guard_window" { "guard.window".to_owned() } else { format!("policy.{key}") };
            between(&mut p, &shown, time_of(&self.policy, key), least, most);
        }
        p
    }

    /// With `probe_timeout`, and with what was changed in etcd.
    pub fn effective(&self, probe_timeout: Duration, overrides: &Overrides) -> Policy {
        let mut policy = Policy { probe_timeout, ..self.policy.clone() };
        overrides.apply(&mut policy);
        policy
    }
}

/// Changes of the policy that are kept in etcd under `config`, in `"policy"`: `{"max_lag":"5s","on_missing":"stop","guard_max":2}`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overrides(Map<String, Value>);

impl Overrides {
    /// Takes them if every key and value can be used.
    ///
    /// # Errors
    /// Every problem, a sentence each: key, value, what is allowed.
    pub fn parse(policy: &Value) -> Result<Self, Vec<String>> {
        let Value::Object(map) = policy else {
            return Err(vec![format!("policy = {policy}: an object is wanted, such as {{\"max_lag\":\"5s\"}}")]);
        };
        let mut scratch = Policy::default();
        let problems: Vec<String> = map.iter().filter_map(|(key, value)| set(&mut scratch, key, value).err()).collect();
        if problems.is_empty() { Ok(Self(map.clone())) } else { Err(problems) }
    }

    fn apply(&self, policy: &mut Policy) {
        for (key, value) in &self.0 {
            // Looked at in `parse`.
            let _ = set(policy, key, value);
        }
    }
}

/// All of a policy in the words of the configuration, as it is kept in etcd and shown.
pub fn describe(policy: &Policy) -> Map<String, Value> {
    let mut map = Map::new();
    for (key, ..) in DURATIONS {
        map.insert(key.to_owned(), Value::from(written(time_of(policy, key))));
    }
    map.insert("guard_max".to_owned(), Value::from(policy.guard_max));
    map.insert("unreachable".to_owned(), Value::from(if policy.wait_for_self_fence { "wait" } else { "now" }));
    let force = policy.force_after.map_or_else(|| "stop".to_owned(), |d| format!("force-after {}", written(d)));
    map.insert("on_missing".to_owned(), Value::from(force));
    let lost = if policy.switchover_when_agent_lost { "switchover" } else { "ignore" };
    map.insert("agent_lost".to_owned(), Value::from(lost));
    let lost = if policy.switchover_when_link_lost { "switchover" } else { "tell" };
    map.insert("link_lost".to_owned(), Value::from(lost));
    map
}

fn written(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{}s", time.as_secs()),
        _ => format!("{}ms", time.as_millis()),
    }
}

fn set(policy: &mut Policy, key: &str, value: &Value) -> Result<(), String> {
    let text = || value.as_str().ok_or_else(|| "a string in quotes is wanted".to_owned());
    let done = match key {
        "unreachable" => text().and_then(unreachable).map(|v| policy.wait_for_self_fence = v),
        "on_missing" => text().and_then(on_missing).map(|v| policy.force_after = v),
        "agent_lost" => text().and_then(agent_lost).map(|v| policy.switchover_when_agent_lost = v),
        "link_lost" => text().and_then(link_lost).map(|v| policy.switchover_when_link_lost = v),
        "guard_max" => {
            let number = value.as_i64().ok_or_else(|| "a whole number is wanted".to_owned());
            number.and_then(guard_max).map(|v| policy.guard_max = v)
        }
        _ => match DURATIONS.iter().find(|(k, ..)| *k == key) {
            None => {
                let known: Vec<String> = describe(&Policy::default()).keys().cloned().collect();
                Err(format!("there is no such key; known: {}", known.join(", ")))
            }
            Some((_, least, most)) => text().and_then(duration).and_then(|time| {
                let bound = |text| duration(text).unwrap_or_default();
                if time < bound(least) || time > bound(most) {
                    return Err(format!("allowed: {least} to {most}"));
                }
                *slot(policy, key) = time;
                Ok(())
            }),
        },
    };
    done.map_err(|message| format!("policy.{key} = {value}: {message}"))
}

fn slot<'a>(policy: &'a mut Policy, key: &str) -> &'a mut Duration {
    match key {
        "fence_after" => &mut policy.fence_after,
        "valid_for" => &mut policy.valid_for,
        "max_lag" => &mut policy.max_lag,
        "catch_up_timeout" => &mut policy.catch_up_timeout,
        "disk_timeout" => &mut policy.disk_timeout,
        "start_grace" => &mut policy.start_grace,
        "drain" => &mut policy.drain,
        "block_timeout" => &mut policy.block_timeout,
        "acker_timeout" => &mut policy.acker_timeout,
        _ => &mut policy.guard_window,
    }
}

fn time_of(policy: &Policy, key: &str) -> Duration {
    *slot(&mut policy.clone(), key)
}

fn unreachable(text: &str) -> Result<bool, String> {
    match text {
        "wait" => Ok(true),
        "now" => Ok(false),
        _ => Err("allowed: \"wait\", \"now\"".to_owned()),
    }
}

fn agent_lost(text: &str) -> Result<bool, String> {
    match text {
        "switchover" => Ok(true),
        "ignore" => Ok(false),
        _ => Err("allowed: \"switchover\", \"ignore\"".to_owned()),
    }
}

fn link_lost(text: &str) -> Result<bool, String> {
    match text {
        "switchover" => Ok(true),
        "tell" => Ok(false),
        _ => Err("allowed: \"switchover\", \"tell\"".to_owned()),
    }
}

fn on_missing(text: &str) -> Result<Option<Duration>, String> {
    if text == "stop" {
        return Ok(None);
    }
    let time = text.strip_prefix("force-after ").map(|t| duration(t.trim()));
    time.and_then(Result::ok).map(Some).ok_or_else(|| "allowed: \"stop\", or \"force-after 30s\"".to_owned())
}

fn guard_max(number: i64) -> Result<u32, String> {
    u32::try_from(number).ok().filter(|n| *n <= 1000).ok_or_else(|| "allowed: 0 to 1000".to_owned())
}
