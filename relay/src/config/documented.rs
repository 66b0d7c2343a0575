//! The example file and the table in `docs/operations.md` name the keys that there are, no more and no less.

use std::collections::BTreeSet;

use super::*;

const EXAMPLE: &str = include_str!("../../relay.example.toml");
const OPERATIONS: &str = include_str!("../../../docs/operations.md");

/// Every key that the reader asks for.
fn known() -> BTreeSet<String> {
    let users: toml::Table = "[[users]]".parse().unwrap();
    let mut reader = Reader::new(&|_| None);
    let _ = Config::read(users, &mut reader);
    reader.known_keys()
}

/// The example with `/etc/baton` elsewhere, where its secrets exist.
fn in_a_directory(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    for name in ["upstream.password", "repl.password", "lag.password", "token", "etcd.password"] {
        std::fs::write(dir.path().join(name), "a-secret-of-its-own\n").unwrap();
    }
    let text = text.replace("/etc/baton", dir.path().to_str().unwrap());
    (dir, text)
}

/// The example with everything that is commented out as `#key = value` in force.
fn with_every_key() -> String {
    let switched_on = |line: &'static str| {
        let key = line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['));
        key.unwrap_or(line)
    };
    EXAMPLE.lines().map(switched_on).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_file_can_be_used() {
    let (_dir, text) = in_a_directory(EXAMPLE);
    let config = Config::parse(&text, "relay.example.toml", &|_| None).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((config.cluster.as_str(), config.users.len()), ("shop", 1));
}

#[test]
fn the_example_file_shows_every_key_and_what_is_commented_out_can_be_used_too() {
    let (_dir, text) = in_a_directory(&with_every_key());
    // With [etcd] the cluster names the primary, and acknowledges what is durable.
    let alone = |line: &&str| line.starts_with("addresses") || line.starts_with("ack ");
    let clustered: Vec<&str> = text.lines().filter(|line| !alone(line)).collect();
    let config = Config::parse(&clustered.join("\n"), "relay.example.toml", &|_| None);
    assert!(config.unwrap_or_else(|e| panic!("{e}")).etcd.is_some());
    let table: toml::Table = text.parse().unwrap();
    let mut shown = BTreeSet::new();
    for (name, value) in &table {
        let section = match value {
            toml::Value::Table(section) => section.clone(),
            toml::Value::Array(list) if list.iter().all(toml::Value::is_table) => list[0].as_table().unwrap().clone(),
            _ => {
                shown.insert(name.clone());
                continue;
            }
        };
        shown.extend(section.keys().map(|key| format!("{name}.{key}")));
    }
    assert_eq!(shown, known());
}

#[test]
fn the_manual_names_every_key() {
    let (_, after) = OPERATIONS.split_once("\n## Configuration\n").expect("a section on the configuration");
    let section = after.split("\n## ").next().unwrap_or_default();
    let named: BTreeSet<String> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(key, _)| key.to_owned()))
        .collect();
    assert_eq!(named, known());
}
