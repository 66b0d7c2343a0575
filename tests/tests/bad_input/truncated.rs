//! `baton-relay events` over a relay's files, whole and damaged, and over a living relay.

use std::fs;

use anyhow::{Context, Result, ensure};
use baton_testbed::{MariaDb, RelayProc, scenario};
use serde_json::Value;

use crate::cli::run;

fn types(out: &str) -> Result<Vec<String>> {
    out.lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            Ok(event["type"].as_str().with_context(|| line.to_owned())?.to_owned())
        })
        .collect()
}

#[test]
fn events_are_printed_from_files_and_from_the_relay_and_damage_is_named() {
    scenario("events", |bed| {
        let primary = bed.mariadb("primary").start()?;
        primary.sql("CREATE TABLE test.t (id INT PRIMARY KEY, text TEXT); INSERT INTO test.t VALUES (1, 'one'), (2, NULL); FLUSH BINARY LOGS; UPDATE test.t SET text='zwei' WHERE id=2")?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        relay.wait_head(&primary)?;
        let files: Vec<String> = relay.log_files()?.iter().map(|path| path.display().to_string()).collect();
        let mut args = vec!["events", "--json"];
        args.extend(files.iter().map(String::as_str));
        let (code, whole, err) = run(&args)?;
        ensure!(code == 0 && err.is_empty(), "{code} {err}");
        for word in ["GTID", "WRITE_ROWS_V1", "UPDATE_ROWS_V1", "\"zwei\"", "mysql-bin.000002"] {
            ensure!(whole.contains(word), "{word} is not in: {whole}");
        }
        living(bed.path("password").as_path(), &primary, &relay, &types(&whole)?)?;

        let (first, bytes) = (bed.path("mysql-bin.000001"), fs::read(&files[0])?);
        let damaged = |bytes: &[u8]| -> Result<(i32, String, String)> {
            fs::write(&first, bytes)?;
            run(&["events", "--json", &first.display().to_string()])
        };
        // What stands before the damage is printed.
        for cut in [bytes.len() - 1, bytes.len() / 2 + 3, 260, 30] {
            let (code, out, err) = damaged(&bytes[..cut])?;
            ensure!(
                code == 1 && err.contains("mysql-bin.000001: at offset") && err.contains("ends within an event"),
                "{cut}: {code} {err}"
            );
            let printed = types(&out)?;
            ensure!(types(&whole)?.starts_with(&printed) && (cut < 100 || !printed.is_empty()), "{cut}: {printed:?}");
        }
        for (what, words) in [
            (&b""[..], "not a binlog file"),
            (b"PK\x03\x04", "not a binlog file"),
            (b"\xfe", "not a binlog file"),
            (b"\xfdbin", "encrypted"),
        ] {
            let (code, out, err) = damaged(what)?;
            ensure!(code == 1 && out.is_empty() && err.contains(words), "{what:?}: {code} {err}");
        }
        let mut flipped = bytes.clone();
        flipped[bytes.len() - 60] ^= 4;
        let (code, out, err) = damaged(&flipped)?;
        ensure!(code == 1 && err.contains("checksum") && out.contains("\"bad\""), "{code} {err} {out}");
        // A byte of every part of the file changed, one at a time: an answer each time.
        for at in (0..bytes.len()).step_by(bytes.len() / 60) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0xff;
            let (code, _, err) = damaged(&flipped)?;
            ensure!(code == 1 && err.contains("mysql-bin.000001") && !err.contains("panicked"), "{at}: {code} {err}");
        }
        let (code, out, err) = run(&["events", "/nonexistent/file", &files[0]])?;
        ensure!(
            code == 1 && err.contains("/nonexistent/file: No such file") && out.contains("mysql-bin.000001"),
            "{code} {err}"
        );
        Ok(())
    });
}

fn living(password: &std::path::Path, primary: &MariaDb, relay: &RelayProc, expected: &[String]) -> Result<()> {
    fs::write(password, baton_testbed::template::REPL_PASSWORD)?;
    let (password, address) = (password.display().to_string(), relay.address().to_string());
    let ask = |address: &str, more: &[&str]| {
        let args = ["events", "--json", "--relay", address, "--user", "repl", "--password-file", &password];
        run(&[&args[..], more].concat())
    };
    let known =
        |out: &str| -> Result<Vec<String>> { Ok(types(out)?.into_iter().filter(|kind| kind != "ROTATE").collect()) };
    let expected: Vec<_> = expected.iter().filter(|kind| *kind != "ROTATE").cloned().collect();
    let mut outputs = Vec::new();
    for address in [address.clone(), primary.address().to_string()] {
        let (code, out, err) = ask(&address, &[])?;
        ensure!(code == 0 && err.is_empty(), "{address}: {code} {err}");
        ensure!(known(&out)? == expected, "{address}: {:?}", known(&out)?);
        outputs.push(out);
    }
    let (code, out, _) = ask(&address, &["--start", "mysql-bin.000002"])?;
    ensure!(code == 0 && out.contains("zwei") && !out.contains("\"one\""), "{out}");
    let (code, out, _) = ask(&address, &["--start", "0-1-2"])?;
    ensure!(code == 0 && out.contains("zwei") && !out.contains("\"one\""), "{out}");
    for (start, words) in [("nosuch.000001:4", "1236"), ("mysql-bin.000001:5", "1236"), ("0-9-2", "1236"), ("x", "x")] {
        let (code, _, err) = ask(&address, &["--start", start])?;
        ensure!(code == 1 && err.contains(words), "{start}: {code} {err}");
    }
    fs::write(&password, "wrong")?;
    let (code, _, err) = ask(&address, &[])?;
    ensure!(code == 1 && err.contains("1045") && !err.contains("wrong"), "{code} {err}");
    let (code, _, err) = ask("127.0.0.1:1", &[])?;
    ensure!(code == 1 && err.contains("127.0.0.1:1"), "{code} {err}");
    Ok(())
}
