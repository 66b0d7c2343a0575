//! How far the relay itself is behind the primary.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_testbed::{Direction, Proxy, RelayProc, scenario, wait_until};

fn lag_ms(relay: &RelayProc) -> Result<u64> {
    relay.lag()?["upstream"]["lag_ms"].as_u64().context("no upstream.lag_ms")
}

#[test]
fn upstream_lag_grows_while_the_primary_has_what_the_relay_has_not() {
    scenario("lag_upstream", |bed| {
        let primary = bed.mariadb("primary").server_id(1).start()?;
        let proxy = Proxy::start(primary.address())?;
        let relay =
            bed.relay("relay").upstream_ports(&[proxy.port()]).set("upstream", "heartbeat", "\"60s\"").start()?;
        primary.sql("CREATE TABLE test.t (a INT AUTO_INCREMENT PRIMARY KEY, filler LONGTEXT)")?;
        relay.wait_head(&primary)?;
        wait_until("no lag", || lag_ms(&relay), |ms| *ms == 0)?;

        // Each connection gets little: a question's answer is through at once, a large transaction is not for minutes.
        let large = "INSERT INTO test.t (filler) VALUES (REPEAT('x', 2 << 20))";
        for ended in [false, true] {
            proxy.slow(Direction::ToClient, 10_000);
            let head = relay.head_gtid()?;
            primary.sql(large)?;
            let mut last = 0;
            wait_until(
                "lag of more than a second",
                || lag_ms(&relay),
                |ms| {
                    let grows = *ms == 0 || *ms >= last;
                    last = *ms;
                    assert!(grows, "it fell to {ms} ms without a transaction");
                    *ms > 1000
                },
            )?;
            ensure!(relay.head_gtid()? == head && relay.lag()?["upstream"]["state"] == "streaming");
            let at_primary = relay.status()?["upstream"]["primary_gtid"].clone();
            ensure!(at_primary == primary.gtid_binlog_pos()?, "{at_primary} is told");
            proxy.resume();
            if ended {
                // The question's connection breaks too, and the relay has all before it can ask again.
                proxy.cut_now();
            }
            relay.wait_head(&primary)?;
            wait_until("no lag", || lag_ms(&relay), |ms| *ms == 0)?;
        }

        // What was known to be missing stays missing when the primary dies.
        proxy.slow(Direction::ToClient, 10_000);
        primary.sql(large)?;
        wait_until("lag", || lag_ms(&relay), |ms| *ms > 500)?;
        primary.kill9()?;
        proxy.cut_now();
        wait_until("the loss to be noticed", || Ok(relay.lag()?["upstream"]["state"] == "connecting"), |there| *there)?;
        let then = lag_ms(&relay)?;
        wait_until("more lag", || lag_ms(&relay), |ms| *ms > then + Duration::from_millis(700).as_millis() as u64)?;
        proxy.resume();
        primary.restart()?;
        relay.wait_head(&primary)?;
        wait_until("no lag", || lag_ms(&relay), |ms| *ms == 0)?;
        Ok(())
    });
}
