//! TLS towards the primary, by each mode, with and without a primary that offers it.

use anyhow::{Result, ensure};
use baton_testbed::{Bed, Certs, MariaDb, RelayProc, scenario, wait_until};
use serde_json::Value;

fn relay(bed: &Bed, name: &str, primary: &MariaDb, mode: &str, ca: Option<&Certs>) -> Result<RelayProc> {
    let relay = bed.relay(name).upstream(primary).set("upstream", "tls", &format!("{mode:?}"));
    let relay = match ca {
        Some(certs) => relay.set("upstream", "ca_file", &format!("{:?}", certs.ca)),
        None => relay,
    };
    relay.start()
}

/// The relay's connection to the primary: whether the primary took it over TLS.
fn over_tls(primary: &MariaDb, relay: &RelayProc) -> Result<bool> {
    relay.wait_head(primary)?;
    // The account can be restricted only to TLS: what follows the restriction tells.
    let rows = primary.sql("SHOW GLOBAL STATUS LIKE 'Ssl_finished_accepts'")?;
    Ok(rows[0][1].as_deref() != Some("0"))
}

#[test]
fn each_mode_of_tls_towards_the_primary_does_what_it_says() {
    scenario("upstream_tls", |bed| {
        let (certs, other) = (Certs::create(bed.root(), "primary")?, Certs::create(bed.root(), "other")?);
        let plain = bed.mariadb("plain").start()?;
        plain.sql("CREATE TABLE test.t (id INT PRIMARY KEY)")?;
        for (name, mode) in [("plain-off", "off"), ("plain-prefer", "prefer")] {
            ensure!(!over_tls(&plain, &relay(bed, name, &plain, mode, None)?)?, "{name}");
        }
        refused(&relay(bed, "plain-require", &plain, "require", None)?, "offers no TLS")?;
        refused(&relay(bed, "plain-verify", &plain, "verify", Some(&certs))?, "offers no TLS")?;

        let secure = bed.mariadb("secure").tls(&certs).option("--require-secure-transport=1").start()?;
        secure.sql("CREATE TABLE test.t (id INT PRIMARY KEY)")?;
        for (name, mode, ca) in
            [("prefer", "prefer", None), ("require", "require", None), ("verify", "verify", Some(&certs))]
        {
            let relay = relay(bed, name, &secure, mode, ca)?;
            ensure!(over_tls(&secure, &relay)?, "{name}");
            ensure!(relay.status()?["upstream"]["state"] == "streaming");
        }
        refused(&relay(bed, "without", &secure, "off", None)?, "1045")?;
        let wrong = relay(bed, "wrong-ca", &secure, "verify", Some(&other))?;
        let status = wait_until(
            "the error",
            || Ok(wrong.status()?["upstream"].clone()),
            |status: &Value| status["error"].is_string(),
        )?;
        let text = status["error"].as_str().unwrap_or_default().to_lowercase();
        ensure!(text.contains("certificate") && status["state"] != "streaming", "{status}");
        ensure!(wrong.head_gtid()?.is_empty());
        Ok(())
    });
}

fn refused(relay: &RelayProc, words: &str) -> Result<()> {
    let told = |status: &Value| {
        status["state"] == "refused" && status["error"].as_str().is_some_and(|text| text.contains(words))
    };
    let status = wait_until("a refusal", || Ok(relay.status()?["upstream"].clone()), told)?;
    ensure!(status["hint"].is_string(), "{status}");
    Ok(())
}
