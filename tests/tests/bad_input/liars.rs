//! Primaries that lie: the relay says what is wrong, asks again with back-off, and stores nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_testbed::{Bed, scenario, wait_until};
use serde_json::Value;

use crate::fake::{Fake, Talk, event, format, rotate};

/// A way to lie; the state that the relay is to tell, and a word of its error.
struct Lie {
    name: &'static str,
    state: &'static str,
    told: &'static str,
    script: fn(&mut Talk) -> Result<()>,
}

const fn lie(name: &'static str, state: &'static str, told: &'static str, script: fn(&mut Talk) -> Result<()>) -> Lie {
    Lie { name, state, told, script }
}

const LIES: [Lie; 24] = [
    lie("garbage-greeting", "connecting", "", |t| t.raw(&[0x55; 300])),
    lie("endless-greeting", "connecting", "", |t| {
        t.raw(b"\xff\xff\xff\0\x0a")?;
        (0..200).try_for_each(|_| t.raw(&[b'x'; 1 << 20]))
    }),
    lie("closes-at-once", "connecting", "127.0.0.1", |_| Ok(())),
    lie("never-speaks", "connecting", "no login within", |t| t.wait()),
    lie("too-many", "connecting", "1040", |t| t.raw(b"\x17\0\0\0\xff\x10\x04Too many connections")),
    lie("host-blocked", "refused", "1130", |t| t.raw(b"\x13\0\0\0\xff\x6a\x04not allowed here")),
    lie("access-denied", "refused", "1045", |t| {
        t.greet("5.5.5-10.11.19-MariaDB-log")?;
        t.read()?;
        t.error(1045, "Access denied for user 'repl'")
    }),
    lie("mysql", "refused", "MySQL", |t| {
        t.greet("8.4.3")?;
        t.read()?;
        t.ok()?;
        t.wait()
    }),
    lie("unknown-plugin", "refused", "client_ed25519", |t| {
        t.greet("5.5.5-10.11.19-MariaDB-log")?;
        t.read()?;
        t.send(b"\xfeclient_ed25519\x0012345678901234567890123456789012")?;
        t.wait()
    }),
    lie("wrong-sequence", "connecting", "", |t| {
        t.greet("5.5.5-10.11.19-MariaDB-log")?;
        t.read()?;
        t.sequence = 77;
        t.ok()?;
        t.wait()
    }),
    lie("never-answers", "connecting", "no answer within", |t| {
        t.log_in()?;
        t.wait()
    }),
    lie("many-columns", "connecting", "", |t| {
        t.log_in()?;
        t.read()?;
        t.send(b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f")?;
        t.wait()
    }),
    lie("endless-rows", "connecting", "", |t| {
        t.log_in()?;
        t.read()?;
        t.raw(b"\xff\xff\xff\x01")?;
        (0..200).try_for_each(|_| t.raw(&[1; 1 << 20]))
    }),
    lie("no-server-id", "connecting", "server_id", |t| {
        t.log_in()?;
        t.read()?;
        t.row(&["many", ""])?;
        // The rest is asked for without waiting.
        loop {
            t.read()?;
            t.ok()?;
        }
    }),
    lie("purged", "stopped", "Could not find first log file", |t| {
        t.until_dump()?;
        t.error(1236, "Could not find first log file name in binary log index file")
    }),
    lie("eof", "connecting", "", |t| {
        t.until_dump()?;
        t.send(&[0xfe, 0, 0, 2, 0])
    }),
    lie("closes-in-an-event", "connecting", "", |t| {
        t.until_dump()?;
        t.event(&rotate())?;
        t.raw(b"\xff\0\0\x02\0\0\0")
    }),
    lie("silent-stream", "connecting", "no event and no heartbeat", |t| {
        t.until_dump()?;
        t.wait()
    }),
    lie("event-too-long", "connecting", "", |t| {
        t.until_dump()?;
        t.event(&rotate())?;
        t.event(&event(15, 300, 0, &[0; 100], Some(5000)))?;
        t.wait()
    }),
    lie("event-too-short", "connecting", "", |t| {
        t.until_dump()?;
        t.event(&rotate())?;
        t.event(&event(15, 300, 0, &[0; 100], Some(3)))?;
        t.wait()
    }),
    lie("huge-event", "connecting", "", |t| {
        t.until_dump()?;
        t.event(&rotate())?;
        t.event(&format())?;
        let header = event(23, 0, 0, &[], Some(u32::MAX));
        t.raw(b"\xff\xff\xff\x03\0")?;
        t.raw(&header)?;
        (0..200).try_for_each(|_| t.raw(&[1; 1 << 20]))
    }),
    lie("bad-checksum", "connecting", "checksum", |t| {
        t.until_dump()?;
        t.event(&rotate())?;
        let mut bytes = format();
        bytes[60] ^= 1;
        t.event(&bytes)?;
        t.wait()
    }),
    lie("not-a-file-name", "connecting", "", |t| {
        t.until_dump()?;
        t.event(&event(4, 0, 0x20, b"\x04\0\0\0\0\0\0\0../../../etc/passwd", None))?;
        t.event(&format())?;
        t.wait()
    }),
    lie("gap", "connecting", "missing in between", |t| {
        t.until_dump()?;
        t.event(&rotate())?;
        t.event(&format())?;
        t.event(&event(163, 100_000, 0, &[0; 6], None))?;
        t.wait()
    }),
];

#[test]
fn primary_that_lies_is_told_and_asked_again_with_back_off_and_nothing_is_stored() {
    scenario("liars", |bed| {
        // Side by side: most of the time goes by in waiting.
        std::thread::scope(|threads| {
            let tried: Vec<_> = LIES.iter().map(|lie| (lie.name, threads.spawn(move || told(bed, lie)))).collect();
            let results = tried.into_iter().map(|(name, thread)| {
                thread.join().map_err(|_| anyhow::anyhow!("panicked")).and_then(|result| result).context(name)
            });
            let failed: Vec<String> = results.filter_map(|result| Some(format!("{:#}", result.err()?))).collect();
            ensure!(failed.is_empty(), "{}", failed.join("\n"));
            Ok(())
        })
    });
}

fn told(bed: &Bed, lie: &Lie) -> Result<()> {
    let fake = Fake::start(lie.script)?;
    let relay =
        bed.relay(lie.name).upstream_ports(&[fake.port()]).ack("off").set("upstream", "connect_timeout", "\"500ms\"");
    let relay = relay.set("upstream", "heartbeat", "\"50ms\"").start()?;
    let began = Instant::now();
    let upstream = || Ok(relay.status()?["upstream"].clone());
    let text = |status: &Value| status["error"].as_str().unwrap_or_default().to_owned();
    let right =
        |status: &Value| status["state"] == lie.state && !text(status).is_empty() && text(status).contains(lie.told);
    wait_until("the error to be told", upstream, right)?;
    // Asked again, again and again, but not in a loop: five attempts by each of the two that ask (the stream, and the one that watches the
    // primary's end) take at least the sum of the first waits.
    let attempts = if lie.state == "connecting" { 6 } else { 2 };
    wait_until(
        "further attempts",
        || relay.metric("baton_relay_upstream_reconnects_total"),
        |count| count.is_some_and(|n| n >= f64::from(attempts)),
    )?;
    let (took, accepted) = (began.elapsed(), fake.accepted());
    ensure!(accepted < 60 + took.as_secs() * 20, "{accepted} connections in {took:?}");
    let least = if lie.state == "connecting" { Duration::from_millis(100) } else { Duration::from_millis(400) };
    ensure!(took >= least, "{attempts} attempts took only {took:?}");
    let status = relay.status()?;
    ensure!(status["log"]["transactions"] == 0 && status["log"]["damaged"].is_null(), "{status}");
    ensure!(relay.lag()?["head"].is_null() || relay.head_gtid()?.is_empty(), "{}", relay.lag()?);
    let files: Vec<_> = relay.log_files()?;
    ensure!(files.iter().all(|path| path.ends_with("mysql-bin.000001")), "{files:?}");
    ensure!(relay.rss_kb()? < 150 << 10, "{} KiB of memory", relay.rss_kb()?);
    let log = std::fs::read_to_string(relay.log_file())?;
    ensure!(!log.contains("panicked"), "{log}");
    ensure!(log.lines().count() < 100, "{} lines of log", log.lines().count());
    Ok(())
}
