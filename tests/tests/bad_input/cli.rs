//! The command line: configurations that can't be used.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use baton_testbed::{Bed, relay, scenario};

/// Exit code, standard output and standard error of the relay's binary.
pub(crate) fn run(args: &[&str]) -> Result<(i32, String, String)> {
    let output = Command::new(relay::binary()?).args(args).env_remove("BATON_RELAY_CONFIG").output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().with_context(|| format!("{args:?} ended with {}", output.status))?;
    Ok((code, text(&output.stdout), text(&output.stderr)))
}

fn good(bed: &Bed) -> String {
    let secret = bed.path("secret");
    fs::write(&secret, "one-good-secret\n").unwrap();
    format!(
        "cluster = \"shop\"\nname = \"relay-1\"\nserver_id = 9001\ndata_dir = {data:?}\n\
         [upstream]\naddresses = [\"127.0.0.1:1\"]\nuser = \"repl\"\npassword_file = {secret:?}\n\
         [listen]\nreplication = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n\
         [[users]]\nname = \"repl\"\npassword_file = {secret:?}\n",
        data = bed.path("data")
    )
}

fn check(path: &Path) -> Result<(i32, String, String)> {
    run(&["--config", &path.to_string_lossy(), "--check"])
}

#[test]
fn configuration_that_can_not_be_used_is_refused_with_78_the_key_the_value_and_what_is_allowed() {
    scenario("config", |bed| {
        let (good, path) = (good(bed), bed.path("relay.toml"));
        fs::write(&path, &good)?;
        let (code, out, err) = check(&path)?;
        ensure!(code == 0 && out.contains("can be used"), "{code} {out} {err}");
        let junk = bed.path("junk.pem");
        fs::write(&junk, "no certificate")?;
        let tls = |key: &str| format!("[listen]\ntls_cert_file = {:?}\ntls_key_file = {key:?}\n", junk);
        let no_file = bed.path("nosuch.pem");
        let table: Vec<(String, String, &[&str])> = vec![
            ("server_id = 9001".into(), "server_id = 0".into(), &["server_id = 0", "1 to 4294967295"]),
            ("server_id = 9001".into(), "server_id = \"x\"".into(), &["server_id = \"x\"", "whole number"]),
            ("\"shop\"".into(), "\"Shop!\"".into(), &["cluster = \"Shop!\"", "a-z"]),
            ("127.0.0.1:1\"".into(), "127.0.0.1\"".into(), &["upstream.addresses", "127.0.0.1", "port is missing"]),
            (
                "user = \"repl\"".into(),
                "user = \"repl\"\ntls = \"maybe\"".into(),
                &["upstream.tls = \"maybe\"", "\"verify\""],
            ),
            (
                "user = \"repl\"".into(),
                "user = \"repl\"\nstart = \"now\"".into(),
                &["upstream.start = \"now\"", "\"latest\""],
            ),
            (
                "user = \"repl\"".into(),
                "user = \"repl\"\nheartbeat = \"1ms\"".into(),
                &["upstream.heartbeat", "10ms to 60s"],
            ),
            ("[listen]".into(), "[listen]\nmax_connections = 0".into(), &["listen.max_connections = 0", "1 to 100000"]),
            ("[listen]".into(), "[listen]\ntls = \"require\"".into(), &["listen.tls", "tls_cert_file"]),
            ("[listen]".into(), "[listne]".into(), &["listne"]),
            ("[listen]".into(), "[listen]\nmax_conections = 5".into(), &["listen.max_conections", "max_connections"]),
            (
                "[listen]".into(),
                "[etcd]\nendpoints = [\"http://127.0.0.1:1\"]\n[listen]".into(),
                &["upstream.addresses", "with [etcd]", "advertise.http"],
            ),
            ("[listen]".into(), "[log]\nretain_bytes = \"much\"\n[listen]".into(), &["log.retain_bytes = \"much\""]),
            ("one-good-secret".into(), String::new(), &[]),
            ("cluster = \"shop\"".into(), "cluster = ".into(), &["relay.toml"]),
            (good.clone(), String::new(), &["cluster", "server_id", "upstream.addresses", "is required"]),
            (good.clone(), "\u{0}\u{1}".into(), &["relay.toml"]),
            ("[listen]\n".into(), tls("/nonexistent/key.pem"), &["junk.pem"]),
            (
                "[listen]\n".into(),
                tls(&no_file.display().to_string())
                    .replace(&junk.display().to_string(), &no_file.display().to_string()),
                &["tls_cert_file", "nosuch.pem"],
            ),
            (
                "user = \"repl\"".into(),
                format!("user = \"repl\"\ntls = \"verify\"\nca_file = {no_file:?}"),
                &["upstream.ca_file", "nosuch.pem"],
            ),
            (
                "user = \"repl\"".into(),
                format!("user = \"repl\"\ntls = \"verify\"\nca_file = {junk:?}"),
                &["upstream.ca_file", "junk.pem"],
            ),
        ];
        for (old, new, words) in table.iter().filter(|(_, _, words)| !words.is_empty()) {
            let text = good.replacen(old.as_str(), new, 1);
            ensure!(text != good, "{old:?} is not there");
            fs::write(&path, text)?;
            let (code, out, err) = check(&path)?;
            ensure!(code == 78 && out.is_empty(), "{new:?}: {code} {out} {err}");
            for word in *words {
                ensure!(err.contains(word), "{new:?}: {word:?} is not in: {err}");
            }
            ensure!(!err.contains("one-good-secret") && !err.contains("panicked"), "{err}");
        }
        files_that_are_not_there(bed, &good)
    });
}

fn files_that_are_not_there(bed: &Bed, good: &str) -> Result<()> {
    let (code, _, err) = check(&bed.path("nosuch.toml"))?;
    ensure!(code == 78 && err.contains("nosuch.toml") && err.contains("No such file"), "{code} {err}");
    let (code, _, err) = check(bed.root())?;
    ensure!(code == 78 && err.contains("directory"), "{code} {err}");
    let path = bed.path("relay.toml");
    fs::write(&path, good)?;
    fs::write(bed.path("secret"), "")?;
    let (code, _, err) = check(&path)?;
    ensure!(code == 78 && err.contains("users[0].password_file") && err.contains("empty"), "{code} {err}");
    fs::remove_file(bed.path("secret"))?;
    let (code, _, err) = check(&path)?;
    ensure!(
        code == 78
            && err.contains("upstream.password_file")
            && err.contains("secret")
            && err.contains("users[0].password_file"),
        "{code} {err}"
    );
    // Not only with --check: nothing is begun.
    let (code, _, err) = run(&["--config", &path.to_string_lossy()])?;
    ensure!(code == 78 && err.contains("upstream.password_file"), "{code} {err}");
    ensure!(!bed.path("data").exists(), "a data directory was made");
    // Bad usage.
    for args in [&["--nonsense"][..], &["events"], &["events", "--relay", "127.0.0.1:1"], &["nonsense"]] {
        let (code, _, err) = run(args)?;
        ensure!(code == 2 && err.contains("Usage"), "{args:?}: {code} {err}");
    }
    Ok(())
}
