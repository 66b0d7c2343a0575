use serde_json::json;

use super::*;
use crate::model::Policy;

const DESIGN: &str = r#"
cluster    = "shop"
name       = "controller-1"
http       = "0.0.0.0:8091"
token_file = "DIR/token"
[etcd]
endpoints = ["http://10.0.0.1:2379"]
[mysql]
user = "baton"
password_file = "DIR/token"
replication_user = "repl"
replication_password_file = "DIR/token"
[address]
provider = "agent"
vip = "10.0.0.100/24"
[probe]
interval = "100ms"
timeout  = "1s"
[guard]
max = 2
window = "10m"
[[nodes]]
name = "db-1"
addresses = ["10.0.1.5:3306"]
agent = "10.0.1.5:8092"
host = "rack1-m1"
site = "par1"
priority = 100
[[relays]]
name = "relay-1"
replication = "10.0.1.9:3307"
http = "10.0.1.9:8090"
"#;

fn parse(change: impl Fn(String) -> String) -> Result<ControllerConfig, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "a-secret-of-its-own\n").unwrap();
    let text = change(DESIGN.replace("DIR", dir.path().to_str().unwrap()));
    ControllerConfig::parse(&text, "controller.toml", &|_| None)
}

#[test]
fn the_documented_file_can_be_used_and_keeps_its_secrets() {
    let config = parse(|t| t).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((config.cluster.as_str(), config.name.as_str()), ("shop", "controller-1"));
    assert_eq!(config.address.vip.as_deref(), Some("10.0.0.100/24"));
    assert_eq!(config.nodes[0].priority, Some(100));
    let policy = config.policy.effective(config.probe.timeout, &Overrides::default());
    assert_eq!(policy, Policy::default());
    assert!(!format!("{config:?}").contains("a-secret"));
}

#[test]
fn every_problem_is_told_at_once_with_key_value_and_what_is_allowed() {
    let broken = parse(|t| {
        t.replace("provider = \"agent\"", "provider = \"keepalived\"")
            .replace("timeout  = \"1s\"", "timeout = \"150ms\"\ntimout = \"1s\"")
            .replace("max = 2", "max = -1")
            .replace("10.0.0.100/24", "10.0.0.300/24")
            + "[[nodes]]\nname = \"db-1\"\naddresses = [\"10.0.1.5:3306\"]\n[hooks]\nafter_failover = [\"mail\"]\n\
               [policy]\non_missing = \"force\"\n"
    });
    let text = broken.unwrap_err().to_string();
    for part in [
        "address.provider = \"keepalived\"",
        "address.vip = \"10.0.0.300/24\"",
        "probe.timeout = 150ms: has to be at least twice",
        "there is no key \"timout\"",
        "guard.max = -1: allowed: 0 to 1000",
        "nodes[1].name = \"db-1\": stands at nodes[0].name already",
        "nodes[1].addresses = 10.0.1.5:3306: stands at nodes[0].addresses already",
        "hooks.after_failover = \"mail\"",
        "policy.on_missing = \"force\": allowed: \"stop\", or \"force-after 30s\"",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn controllers_that_agree_have_one_digest_whatever_they_are_called() {
    let one = parse(|t| t).unwrap();
    let other = parse(|t| t.replace("controller-1", "controller-2").replace("8091", "9091")).unwrap();
    assert_eq!(one.digest(), other.digest());
    let different = parse(|t| t.replace("max = 2", "max = 3")).unwrap();
    assert_ne!(one.digest(), different.digest());
}

#[test]
fn what_is_changed_in_etcd_takes_precedence_and_wrong_values_are_refused() {
    let config = parse(|t| t).unwrap();
    let changes = json!({"max_lag": "30s", "on_missing": "force-after 1m", "guard_max": 0, "unreachable": "now"});
    let overrides = Overrides::parse(&changes).unwrap();
    let policy = config.policy.effective(config.probe.timeout, &overrides);
    assert_eq!((policy.max_lag.as_secs(), policy.guard_max, policy.wait_for_self_fence), (30, 0, false));
    assert_eq!(policy.force_after.unwrap().as_secs(), 60);
    // What is shown can be taken back in.
    let shown = serde_json::Value::Object(policy::describe(&policy));
    assert_eq!(config.policy.effective(config.probe.timeout, &Overrides::parse(&shown).unwrap()), policy);

    let problems = Overrides::parse(&json!({"max_lag": "1d", "fence": "1s", "guard_max": "two"})).unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems.iter().any(|p| p.contains("policy.max_lag = \"1d\": allowed: 0s to 1h")), "{problems:?}");
    assert!(problems.iter().any(|p| p.contains("policy.fence = \"1s\": there is no such key")), "{problems:?}");
}

const EXAMPLE: &str = include_str!("../../../controller.example.toml");

/// The example with `/etc/baton` elsewhere, where its secrets exist, and with `change`.
fn example(change: impl Fn(&str) -> String) -> ControllerConfig {
    let dir = tempfile::tempdir().unwrap();
    for name in ["token", "probe.password", "repl.password", "etcd.password"] {
        std::fs::write(dir.path().join(name), "a-secret-of-its-own\n").unwrap();
    }
    let text = change(EXAMPLE).replace("/etc/baton", dir.path().to_str().unwrap());
    ControllerConfig::parse(&text, "controller.example.toml", &|_| None).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_example_file_can_be_used_and_shows_the_defaults() {
    let config = example(str::to_owned);
    assert_eq!(config.policy.effective(config.probe.timeout, &Overrides::default()), Policy::default());
    // With what is commented out in force, but for what goes with https or with hooks alone.
    let all = example(|text| {
        let on = |line: &str| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest.contains(" = ") => rest.to_owned(),
            _ => line.to_owned(),
        };
        text.lines().map(on).collect::<Vec<_>>().join("\n").replace("\"http://10", "\"https://10")
    });
    assert_eq!(all.policy, config.policy);
    assert_eq!(all.probe, config.probe);
    assert_eq!(all.nodes[0].priority, Some(100));
    assert_eq!(all.hooks.timeout, config.hooks.timeout);
}

#[test]
fn the_example_file_shows_every_key() {
    let table: toml::Table = "[[nodes]]\n[[relays]]".parse().unwrap();
    let mut reader = Reader::new(&|_| None, PROGRAM);
    let _ = ControllerConfig::read(Section::top(table, &reader), &mut reader);
    for name in reader.known_keys() {
        let (section, key) = name.rsplit_once('.').unwrap_or(("", &name));
        let mut inside = "";
        let shown = EXAMPLE.lines().any(|line| {
            if let Some((title, _)) = line.trim_start_matches('[').split_once(']').filter(|_| line.starts_with('[')) {
                inside = title;
            }
            let key_of_line = line.trim_start_matches('#').split_once('=').map(|(k, _)| k.trim());
            inside == section && key_of_line == Some(key)
        });
        assert!(shown, "{name} is not in controller.example.toml");
    }
}
