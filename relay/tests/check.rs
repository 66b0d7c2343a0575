//! `--check`: what the exit code says of a configuration.

use std::path::Path;
use std::process::Command;

fn check(dir: &Path, extra: &str) -> (Option<i32>, String) {
    let config = dir.join("relay.toml");
    let text = format!(
        r#"cluster = "shop"
name = "relay-1"
server_id = 9001
data_dir = "{dir}/data"

[upstream]
addresses = ["127.0.0.1:3306"]
user = "repl"
password_file = "{dir}/password"

[[users]]
name = "repl"
password_file = "{dir}/password"

{extra}"#,
        dir = dir.display()
    );
    std::fs::write(dir.join("password"), "secret words").unwrap();
    std::fs::write(&config, text).unwrap();
    let out =
        Command::new(env!("CARGO_BIN_EXE_baton-relay")).args(["--check", "--config"]).arg(&config).output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn a_configuration_whose_files_cannot_be_used_is_refused_with_the_key_at_fault() {
    let dir = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(["relay".to_owned()]).unwrap();
    std::fs::write(dir.path().join("good.crt"), pair.cert.pem()).unwrap();
    std::fs::write(dir.path().join("good.key"), pair.signing_key.serialize_pem()).unwrap();
    std::fs::write(dir.path().join("bad.pem"), "nothing of the kind").unwrap();
    let tls = |cert: &str, key: &str| {
        let dir = dir.path().display();
        format!("[listen]\ntls_cert_file = \"{dir}/{cert}\"\ntls_key_file = \"{dir}/{key}\"\n")
    };
    for (extra, code, key) in [
        (String::new(), 0, ""),
        (tls("good.crt", "good.key"), 0, ""),
        (tls("bad.pem", "good.key"), 78, "listen.tls_cert_file"),
        (tls("good.crt", "bad.pem"), 78, "listen.tls_key_file"),
        ("[log]\nretain = \"soon\"\n".into(), 78, "log.retain"),
    ] {
        let (got, text) = check(dir.path(), &extra);
        assert_eq!(got, Some(code), "{extra}: {text}");
        assert!(text.contains(key) && !text.contains("secret words"), "{extra}: {text}");
    }
}
