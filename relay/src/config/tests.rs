//! Tables of good and bad configurations.

use std::collections::HashMap;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;
use crate::tls::TlsMode;

const NO_ENV: &dyn Fn(&str) -> Option<String> = &|_| None;

/// The design's example, with a directory of secrets at `DIR`.
const EXAMPLE: &str = r#"
cluster   = "shop"
name      = "relay-1"
server_id = 9001
data_dir  = "/var/lib/baton/relay"

[upstream]
addresses     = ["10.0.1.5:3306", "192.168.1.5:3306"]
user          = "repl"
password_file = "DIR/repl.password"
tls           = "prefer"
start         = "earliest"

[listen]
replication = "0.0.0.0:3307"
http        = "0.0.0.0:8090"
tls_cert_file = "/etc/baton/relay.crt"
tls_key_file  = "/etc/baton/relay.key"
tls           = "prefer"
token_file    = "DIR/token"

[[users]]
name = "repl"
password_file = "DIR/repl.password"

[log]
retain       = "7d"
retain_bytes = "200GiB"

[lag]
user = "monitor"
password_file = "DIR/monitor.password"
poll = "100ms..5s"
"#;

fn secrets() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("repl.password", "s3cret\n"), ("token", "0123456789abcdef\r\n"), ("monitor.password", "m0n")]
    {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn example(dir: &tempfile::TempDir) -> String {
    EXAMPLE.replace("DIR", dir.path().to_str().unwrap())
}

fn messages(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let error = Config::parse(text, "relay.toml", env).expect_err("should be refused");
    error.problems.iter().map(ToString::to_string).collect()
}

fn environment(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
    let map: HashMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    move |name| map.get(name).cloned()
}

#[test]
fn the_documented_example_is_understood() {
    let dir = secrets();
    let path = dir.path().join("relay.toml");
    std::fs::write(&path, example(&dir)).unwrap();
    let c = Config::load(Some(&path), NO_ENV).unwrap();
    assert_eq!((c.cluster.as_str(), c.name.as_str(), c.server_id), ("shop", "relay-1", 9001));
    let paths: Vec<String> = c.upstream.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(paths, ["10.0.1.5:3306", "192.168.1.5:3306"]);
    assert_eq!(c.upstream.password.expose_secret(), "s3cret");
    assert_eq!((c.upstream.tls, &c.upstream.start, c.upstream.ack), (TlsMode::Prefer, &Start::Earliest, Ack::Durable));
    assert_eq!(c.listen.token.as_ref().unwrap().expose_secret(), "0123456789abcdef");
    assert_eq!((c.listen.replication.port, c.listen.http.port, c.listen.tls), (3307, 8090, ListenTls::Prefer));
    assert_eq!((c.users[0].name.as_str(), c.users[0].password.expose_secret()), ("repl", "s3cret"));
    assert_eq!(c.log.retain, Some(Duration::from_secs(7 * 86_400)));
    assert_eq!(c.log.retain_bytes, Some(200 << 30));
    assert_eq!(c.lag.user.as_deref(), Some("monitor"));
    assert_eq!(c.lag.poll.max, Duration::from_secs(5));
    let debug = format!("{c:?}");
    for secret in ["s3cret", "0123456789abcdef", "m0n\""] {
        assert!(!debug.contains(secret), "{debug}");
    }
}

#[test]
fn the_environment_alone_is_enough_and_defaults_fill_the_rest() {
    let env = environment(&[
        ("BATON_RELAY_CLUSTER", "shop"),
        ("BATON_RELAY_SERVER_ID", "7"),
        ("BATON_RELAY_UPSTREAM_ADDRESSES", "db-1:3306, [::1]:3307"),
        ("BATON_RELAY_UPSTREAM_USER", "repl"),
        ("BATON_RELAY_UPSTREAM_PASSWORD", "pw"),
        ("BATON_RELAY_NAME", "relay-7"),
    ]);
    let c = Config::load(None, &env).unwrap();
    assert_eq!((c.server_id, c.upstream.addresses[1].host.as_str(), c.upstream.addresses.len()), (7, "::1", 2));
    assert_eq!(c.listen.tls, ListenTls::Off);
    assert_eq!((c.listen.max_connections, c.listen.login_timeout), (2000, Duration::from_secs(10)));
    assert_eq!(c.upstream.heartbeat, Duration::from_millis(500));
    assert!(c.users.is_empty() && c.lag.user.is_none() && c.listen.token.is_none());
}

#[test]
fn the_environment_wins_over_the_file_and_is_named_when_it_is_wrong() {
    let dir = secrets();
    let env = environment(&[
        ("BATON_RELAY_UPSTREAM_USER", "other"),
        ("BATON_RELAY_UPSTREAM_PASSWORD", "from-env"),
        ("BATON_RELAY_LISTEN_PROTECT_READS", "true"),
        ("BATON_RELAY_USER_REPL_PASSWORD", "u"),
        ("BATON_RELAY_DATA_DIR", ""),
    ]);
    let c = Config::parse(&example(&dir), "relay.toml", &env).unwrap();
    assert_eq!((c.upstream.user.as_str(), c.upstream.password.expose_secret()), ("other", "from-env"));
    assert_eq!(c.users[0].password.expose_secret(), "u");
    assert!(c.listen.protect_reads);
    assert_eq!(c.data_dir, PathBuf::from("/var/lib/baton/relay"));

    let env = environment(&[("BATON_RELAY_SERVER_ID", "many")]);
    let got = messages(&example(&dir), &env);
    assert_eq!(got, ["server_id = \"many\" (from BATON_RELAY_SERVER_ID): a whole number is wanted"]);
}

/// Replaces the line of a key (in its section's first appearance) or adds it to the section.
fn with(text: &str, section: &str, line: &str) -> String {
    let key = line.split_once('=').map_or(line, |(k, _)| k).trim();
    let mut out = String::new();
    let (mut current, mut done) = (String::new(), false);
    for old in text.lines().chain([""]) {
        if old.starts_with('[') {
            current = old.trim_matches(['[', ']']).to_owned();
        }
        let same = current == section && old.split_once('=').is_some_and(|(k, _)| k.trim() == key);
        if !same {
            out.push_str(old);
            out.push('\n');
        }
        if !done
            && (old == format!("[{section}]")
                || old == format!("[[{section}]]")
                || (section.is_empty() && old.is_empty()))
        {
            out.push_str(line);
            out.push('\n');
            done = true;
        }
    }
    out
}

#[test]
fn every_key_refuses_bad_values_and_says_what_is_allowed() {
    let dir = secrets();
    let good = example(&dir);
    let table: &[(&str, &str, &str, &str)] = &[
        ("", "cluster = \"Shop!\"", "cluster", "a-z, 0-9 and -"),
        ("", "cluster = 5", "cluster", "a string in quotes"),
        ("", "name = \"a b\"", "name", "letters, digits"),
        ("", "server_id = 0", "server_id", "1 to 4294967295"),
        ("", "server_id = 4294967296", "server_id", "1 to 4294967295"),
        ("", "server_id = \"9001\"", "server_id", "a whole number is wanted"),
        ("", "data_dir = \"\"", "data_dir", "a directory is wanted"),
        ("", "data_dir = 1.5", "data_dir", "a string in quotes"),
        ("upstream", "addresses = []", "upstream.addresses", "at least one"),
        ("upstream", "addresses = \"db-1:3306\"", "upstream.addresses", "a list of strings"),
        ("upstream", "addresses = [\"db-1\"]", "upstream.addresses", "the port is missing"),
        ("upstream", "addresses = [\"db-1:0\"]", "upstream.addresses", "port 0"),
        ("upstream", "addresses = [3306]", "upstream.addresses", "a string in quotes"),
        ("upstream", "user = \"\"", "upstream.user", "1 to 80 bytes"),
        ("upstream", "password_file = \"/nonexistent/pw\"", "upstream.password_file", "/nonexistent/pw"),
        ("upstream", "password_file = \"/\"", "upstream.password_file", "can't be read"),
        ("upstream", "tls = \"maybe\"", "upstream.tls", "\"verify\""),
        ("upstream", "tls = \"verify\"", "upstream.ca_file", "is required"),
        ("upstream", "ca_file = \"/etc/ca.pem\"", "upstream.ca_file", "only used with"),
        ("upstream", "start = \"now\"", "upstream.start", "\"earliest\", \"latest\""),
        ("upstream", "ack = true", "upstream.ack", "a string in quotes"),
        ("upstream", "ack = \"on\"", "upstream.ack", "allowed: \"durable\""),
        ("upstream", "heartbeat = \"1ms\"", "upstream.heartbeat", "10ms to 60s"),
        ("upstream", "heartbeat = \"2\"", "upstream.heartbeat", "the unit is missing"),
        ("upstream", "connect_timeout = \"1h\"", "upstream.connect_timeout", "100ms to 60s"),
        ("listen", "replication = \"3307\"", "listen.replication", "the port is missing"),
        ("listen", "http = \"0.0.0.0:99999\"", "listen.http", "out of range"),
        ("listen", "http = \"0.0.0.0:3307\"", "listen.http", "the same as"),
        ("listen", "tls = \"verify\"", "listen.tls", "\"prefer\", \"require\""),
        ("listen", "token_file = \"/nonexistent/token\"", "listen.token_file", "/nonexistent/token"),
        ("listen", "protect_reads = \"yes\"", "listen.protect_reads", "true or false"),
        ("listen", "max_connections = 0", "listen.max_connections", "1 to 100000"),
        ("listen", "max_connections = -1", "listen.max_connections", "0 to 4294967295"),
        ("listen", "login_timeout = \"1ms\"", "listen.login_timeout", "100ms to 10m"),
        ("listen", "max_packet = \"1GiB\"", "listen.max_packet", "4KiB to 64MiB"),
        ("listen", "max_packet = true", "listen.max_packet", "a string in quotes"),
        ("users", "name = \"\"", "users[0].name", "1 to 80 bytes"),
        ("users", "password_file = \"/nonexistent/pw\"", "users[0].password_file", "create it"),
        ("users", "grants = \"all\"", "users[0].grants", "known: name, password_file"),
        ("log", "retain = \"0s\"", "log.retain", "1s or more"),
        ("log", "retain = \"week\"", "log.retain", "\"forever\""),
        ("log", "retain_bytes = 5", "log.retain_bytes", "1MiB or more"),
        ("log", "retain_bytes = -5", "log.retain_bytes", "negative"),
        ("log", "retain_hard_bytes = \"1GiB\"", "log.retain_hard_bytes", "is less than log.retain_bytes"),
        ("lag", "user = \"\"", "lag.user", "1 to 80 bytes"),
        ("lag", "password_file = \"/nonexistent/pw\"", "lag.password_file", "/nonexistent/pw"),
        ("lag", "poll = \"100ms\"", "lag.poll", "SHORTEST..LONGEST"),
        ("lag", "poll = \"1ms..5s\"", "lag.poll", "10ms to 1h"),
        ("lag", "min_sessions = 0", "lag.min_sessions", "1 to 10000"),
        ("lag", "max_sessions = 1", "lag.max_sessions", "is less than lag.min_sessions"),
        ("lag", "max_sessions = 10001", "lag.max_sessions", "1 to 10000"),
    ];
    for (section, line, key, part) in table {
        let text = with(&good, section, line);
        let got = messages(&text, NO_ENV);
        assert_eq!(got.len(), 1, "{line}: {got:?}");
        assert!(got[0].starts_with(key) && got[0].contains(part), "{line}: {got:?}");
    }
}

#[test]
fn what_is_missing_is_named_with_an_example() {
    let got = messages("", NO_ENV);
    let wanted = ["cluster", "server_id", "upstream.password_file", "upstream.addresses", "upstream.user"];
    for key in wanted {
        assert!(got.iter().any(|m| m.starts_with(&format!("{key}: is required; write"))), "{key}: {got:?}");
    }
    assert_eq!(got.len(), wanted.len(), "{got:?}");
}

#[test]
fn all_problems_are_reported_at_once() {
    let dir = secrets();
    let text = with(&with(&example(&dir), "log", "retain = \"x\""), "upstream", "tls = \"x\"");
    let text = with(&text, "lag", "min_sessions = 0");
    let error = Config::parse(&text, "relay.toml", NO_ENV).unwrap_err();
    assert_eq!(error.problems.len(), 3, "{error}");
    assert_eq!(error.to_string().lines().count(), 3);
}

#[test]
fn unknown_keys_name_their_neighbours_and_never_show_their_value() {
    let dir = secrets();
    for (section, line, part) in [
        (
            "upstream",
            "adresses = [\"hunter2\"]",
            "upstream.adresses: there is no key \"adresses\" in [upstream]; did you mean addresses?",
        ),
        ("upstream", "password = \"hunter2\"", "did you mean password_file?"),
        ("upstream", "retain = \"hunter2\"", "it belongs in [log]"),
        ("", "clutser = \"hunter2\"", "clutser: there is no key \"clutser\" at the top level; did you mean cluster?"),
        ("", "zzzzzzzz = \"hunter2\"", "known: advertise, cluster, data_dir, etcd"),
    ] {
        let got = messages(&with(&example(&dir), section, line), NO_ENV);
        assert_eq!(got.len(), 1, "{got:?}");
        assert!(got[0].contains(part) && !got[0].contains("hunter2"), "{got:?}");
    }
    let got = messages(&(example(&dir) + "\n[logs]\nretain = \"1d\"\n"), NO_ENV);
    assert!(got[0].contains("did you mean log?"), "{got:?}");
}

/// The example in a cluster: nothing but `[etcd]` and `[advertise]` more, and no addresses.
fn clustered(dir: &tempfile::TempDir) -> String {
    let text = example(dir);
    let kept = text.lines().filter(|l| !l.starts_with("addresses") && !l.starts_with("ack ")).collect::<Vec<_>>();
    kept.join("\n")
        + "\n[etcd]\nendpoints = [\"http://10.0.0.1:2379\"]\n\
           [advertise]\nreplication = \"10.0.1.9:3307\"\nhttp = \"10.0.1.9:8090\"\nsite = \"par1\"\n"
}

#[test]
fn a_relay_of_a_cluster_is_told_where_etcd_is_and_not_who_is_primary() {
    let dir = secrets();
    let config = Config::parse(&clustered(&dir), "relay.toml", NO_ENV).unwrap();
    let etcd = config.etcd.expect("a section");
    assert_eq!(etcd.endpoints, ["http://10.0.0.1:2379"]);
    assert_eq!(etcd.lease_ttl, Duration::from_secs(3));
    assert_eq!(config.advertise.http.unwrap().to_string(), "10.0.1.9:8090");
    assert_eq!((config.advertise.site.as_str(), config.advertise.host.is_empty()), ("par1", false));
    assert!(config.upstream.addresses.is_empty());
    assert!(Config::parse(&example(&dir), "relay.toml", NO_ENV).unwrap().etcd.is_none());

    let env =
        environment(&[("BATON_RELAY_ETCD_ENDPOINTS", "http://a:1,http://b:2"), ("BATON_RELAY_ETCD_PASSWORD", "p")]);
    let config = Config::parse(&with(&clustered(&dir), "etcd", "user = \"u\""), "relay.toml", &env).unwrap();
    assert_eq!(config.etcd.expect("a section").endpoints, ["http://a:1", "http://b:2"]);
}

#[test]
fn what_does_not_go_together_in_a_cluster_is_named() {
    let dir = secrets();
    let good = clustered(&dir);
    let without = |start: &str| good.lines().filter(|l| !l.starts_with(start)).collect::<Vec<_>>().join("\n");
    for (case, text, expected) in [
        ("addresses too", with(&good, "upstream", "addresses = [\"a:1\"]"), "upstream.addresses: with [etcd]"),
        ("another ack", with(&good, "upstream", "ack = \"received\""), "upstream.ack: with [etcd] only"),
        ("no token", without("token_file"), "listen.token_file: is required with [etcd]"),
        ("no endpoint", without("endpoints"), "etcd.endpoints: at least one"),
        (
            "a bad endpoint",
            good.replace("http://10.0.0.1", "10.0.0.1"),
            "etcd.endpoints: \"10.0.0.1:2379\" is no endpoint",
        ),
        ("a short lease", with(&good, "etcd", "lease_ttl = \"1s\""), "etcd.lease_ttl"),
        (
            "nothing to connect to",
            good.replace("http = \"10.0.1.9", "http = \"0.0.0.0"),
            "advertise.http = 0.0.0.0:8090",
        ),
        ("no address", without("replication = \"10.0.1.9"), "advertise.replication: is required with [etcd]"),
        ("no etcd", example(&dir) + "\n[advertise]\nsite = \"par1\"\n", "[advertise]: is only used with [etcd]"),
    ] {
        let got = messages(&text, NO_ENV);
        assert!(got.len() == 1 && got[0].starts_with(expected), "{case}: {got:?}");
    }
}

#[test]
fn sections_of_the_wrong_kind_and_broken_files_are_refused() {
    let dir = secrets();
    let got = messages("cluster = \"a\"\nserver_id = 1\nupstream = 5\n", NO_ENV);
    assert!(got[0].starts_with("upstream: a section [upstream] is wanted, not a whole number"), "{got:?}");
    let got = messages(&example(&dir).replace("[[users]]", "[users]"), NO_ENV);
    assert!(got[0].starts_with("users: is a list of sections: write [[users]]"), "{got:?}");
    let got = messages("cluster = \"a\"\npassword = \"hunter2\n", NO_ENV);
    assert!(got.len() == 1 && got[0].starts_with("relay.toml: line 2: not TOML"), "{got:?}");
    assert!(!got[0].contains("hunter2"), "{got:?}");
    let got = Config::load(Some(Path::new("/nonexistent/relay.toml")), NO_ENV).unwrap_err().to_string();
    assert!(got.starts_with("/nonexistent/relay.toml: the file can't be opened"), "{got}");
}

#[test]
fn rules_across_keys_hold() {
    let dir = secrets();
    let good = example(&dir);
    let without = |key: &str| good.lines().filter(|l| !l.starts_with(key)).collect::<Vec<_>>().join("\n");
    let got = messages(&without("tls_key_file"), NO_ENV);
    assert!(got[0].starts_with("listen.tls_key_file: is required with"), "{got:?}");
    let got = messages(&without("tls_"), NO_ENV);
    assert!(got[0].starts_with("listen.tls: needs listen.tls_cert_file"), "{got:?}");
    let got = messages(&with(&without("token_file"), "listen", "protect_reads = true"), NO_ENV);
    assert!(got[0].starts_with("listen.protect_reads = true: needs listen.token_file"), "{got:?}");
    let twice =
        good.clone() + &format!("[[users]]\nname = \"repl\"\npassword_file = \"{}/token\"\n", dir.path().display());
    let got = messages(&twice, NO_ENV);
    assert!(got[0].starts_with("users[1].name = \"repl\": is the name of another user"), "{got:?}");

    std::fs::write(dir.path().join("repl.password"), "\n").unwrap();
    let got = messages(&good, NO_ENV);
    assert!(got.len() == 1 && got[0].contains("the password is empty"), "{got:?}");
    std::fs::write(dir.path().join("token"), "two words\n").unwrap();
    let got = messages(&good, NO_ENV);
    assert!(got.iter().any(|m| m.starts_with("listen.token_file") && !m.contains("two words")), "{got:?}");
}
