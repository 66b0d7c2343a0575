//! Tables of good and bad configurations.

use std::collections::HashMap;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;

const NO_ENV: Environment<'_> = &|_| None;

/// The design's example, with a directory of secrets at `DIR`.
const AGENT: &str = r#"
cluster     = "shop"
node        = "db-1"
http        = "0.0.0.0:8092"
agent_check = "0.0.0.0:8093"
token_file  = "DIR/token"
[advertise]
mysql = ["10.0.1.5:3306"]
http = "10.0.1.5:8092"
host = "rack1-m1"
site = "par1"
priority = 100
[etcd]
endpoints = ["http://10.0.0.1:2379"]
[mysql]
socket   = "/run/mysqld/mysqld.sock"
pid_file = "/run/mysqld/mysqld.pid"
user = "baton"
password_file = "DIR/mysql.password"
[address]
interface   = "eth0"
valid_for   = "5s"
fence_after = "1s"
[role_file]
path = "/etc/mysql/mariadb.conf.d/zz-baton.cnf"
"#;

fn secrets() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("mysql.password", "s3cret\n"), ("token", "0123456789abcdef\r\n"), ("short", "abc")] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn example(dir: &tempfile::TempDir) -> String {
    AGENT.replace("DIR", dir.path().to_str().unwrap())
}

fn messages(text: &str, env: Environment<'_>) -> Vec<String> {
    let error = AgentConfig::parse(text, "agent.toml", env).expect_err("should be refused");
    error.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_documented_agent_example_is_understood() {
    let dir = secrets();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, example(&dir)).unwrap();
    let c = AgentConfig::load(Some(&path), NO_ENV).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((c.cluster.as_str(), c.node.as_str(), c.advertise.priority), ("shop", "db-1", 100));
    assert_eq!((c.mysql.password.expose_secret(), c.token.expose_secret()), ("s3cret", "0123456789abcdef"));
    assert_eq!((c.address.valid_for, c.restart_after), (Duration::from_secs(5), Duration::from_secs(2)));
    assert!(!format!("{c:?}").contains("s3cret"), "secrets never appear in Debug");
}

#[test]
fn the_environment_wins_over_the_file() {
    let dir = secrets();
    let map: HashMap<&str, &str> = HashMap::from([
        ("BATON_AGENT_NODE", "db-7"),
        ("BATON_AGENT_MYSQL_PASSWORD", "other"),
        ("BATON_AGENT_ETCD_ENDPOINTS", "http://a:1, http://b:2"),
        ("BATON_AGENT_ADDRESS_FENCE_AFTER", "2s"),
        ("BATON_AGENT_AGENT_CHECK", ""),
    ]);
    let env = |name: &str| map.get(name).map(|v| (*v).to_owned());
    let c = AgentConfig::parse(&example(&dir), "agent.toml", &env).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((c.node.as_str(), c.mysql.password.expose_secret()), ("db-7", "other"));
    assert_eq!(c.etcd.endpoints, ["http://a:1", "http://b:2"]);
    assert_eq!(c.address.fence_after, Duration::from_secs(2));
    assert!(c.agent_check.is_some(), "an empty variable counts as not set");
}

#[test]
fn bad_values_are_refused_with_key_value_and_what_is_allowed() {
    let dir = secrets();
    for (from, to, expected) in [
        ("cluster     = \"shop\"", "cluster = \"Shop!\"", "cluster = \"Shop!\": allowed: 1 to 63"),
        ("\"10.0.1.5:3306\"", "\"10.0.1.5\"", "advertise.mysql = [\"10.0.1.5\"]: the port is missing"),
        ("\"10.0.1.5:3306\"", "\"0.0.0.0:3306\"", "advertise.mysql = 0.0.0.0:3306: is a wildcard"),
        ("http = \"10.0.1.5:8092\"\n", "", "advertise.http: is required"),
        ("valid_for   = \"5s\"", "valid_for = \"1s\"", "address.valid_for = 1s: allowed: 2s to 1h"),
        ("fence_after = \"1s\"", "fence_after = 1", "address.fence_after = 1: a string in quotes is wanted"),
        ("\"eth0\"", "\"a/b\"", "address.interface = \"a/b\": the name of a network interface"),
        ("[address]", "[address]\nvip = \"10.0.0.100\"", "address.vip = \"10.0.0.100\": the prefix is missing"),
        ("http://10.0.0.1:2379", "10.0.0.1:2379", "etcd.endpoints"),
        ("priority = 100", "priority = -1", "advertise.priority = -1: allowed: 0 (never promoted) to 1000000"),
        ("DIR/token", "DIR/none", "token_file"),
        ("[mysql]", "[mysql]\nsokcet = \"/x\"", "there is no key \"sokcet\" in [mysql]; did you mean socket?"),
        ("DIR/token", "DIR/short", "token_file: the token has to be"),
        (
            "agent_check = \"0.0.0.0:8093\"",
            "agent_check = \"0.0.0.0:8092\"",
            "agent_check = 0.0.0.0:8092: is the same as http",
        ),
    ] {
        let text = AGENT.replace(from, to).replace("DIR", dir.path().to_str().unwrap());
        assert_ne!(text, example(&dir), "{from} is in the example");
        let found = messages(&text, NO_ENV);
        assert!(found.iter().any(|m| m.contains(expected)), "{to}: {found:?}");
    }
}

#[test]
fn all_problems_come_at_once_and_an_empty_file_says_what_is_required() {
    let found = messages("", NO_ENV).join("\n");
    for key in ["cluster", "token_file", "advertise.mysql", "advertise.http", "etcd.endpoints", "mysql.user"] {
        assert!(found.contains(&format!("{key}: is required")), "{key}: {found}");
    }
    let found = messages("cluster = ", NO_ENV);
    assert!(found.len() == 1 && found[0].contains("agent.toml: line 1: not TOML"), "{found:?}");
}

const AGENT_EXAMPLE: &str = include_str!("../../agent.example.toml");

#[test]
fn the_agent_s_example_file_shows_every_key_and_can_be_used_as_it_is_and_with_everything_switched_on() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["token", "mysql.password", "repl.password", "etcd.password"] {
        std::fs::write(dir.path().join(name), "a-secret-of-its-own\n").unwrap();
    }
    let placed = AGENT_EXAMPLE.replace("\"/etc/baton/", &format!("\"{}/", dir.path().display()));
    AgentConfig::parse(&placed, "agent.example.toml", NO_ENV).unwrap_or_else(|e| panic!("{e}"));
    let switched_on = |line: &str| {
        let key = line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        key.unwrap_or(line).to_owned()
    };
    let all: Vec<String> = placed.lines().map(switched_on).collect();
    // Certificates go with https, and a file for them with verify.
    let all = all.join("\n").replace("http://10.0.0.1", "https://10.0.0.1").replace("= \"off\" ", "= \"verify\" ");
    AgentConfig::parse(&all, "agent.example.toml", NO_ENV).unwrap_or_else(|e| panic!("{e}"));
    let shown: toml::Table = all.parse().unwrap();
    let mut names = std::collections::BTreeSet::new();
    for (key, value) in &shown {
        match value.as_table() {
            Some(section) => names.extend(section.keys().map(|k| format!("{key}.{k}"))),
            None => assert!(names.insert(key.clone())),
        }
    }
    assert_eq!(names, AgentConfig::known_keys());
}
