//! `GET /v1/watch`: what happens arrives, and who does not read is let go.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;

use anyhow::{Context, Result, ensure};
use baton_testbed::{DEADLINE, RelayProc, Source, scenario, wait_until};
use serde_json::Value;

use crate::support::Fake;

/// A watcher's connection. HTTP/1.0, so that lines come as they are.
struct Watcher(BufReader<TcpStream>);

impl Watcher {
    fn attach(relay: &RelayProc) -> Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", relay.http_port()))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(b"GET /v1/watch HTTP/1.0\r\n\r\n")?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        ensure!(line.contains(" 200 "), "{line}");
        while line.trim() != "" {
            line.clear();
            reader.read_line(&mut line)?;
        }
        Ok(Self(reader))
    }

    /// The next line; `None` at the end.
    fn next(&mut self) -> Result<Option<Value>> {
        let mut line = String::new();
        if self.0.read_line(&mut line).context("no line came")? == 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&line).with_context(|| line.clone())?))
    }

    /// Reads on to a line that is as wanted.
    fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let began = std::time::Instant::now();
        while began.elapsed() < DEADLINE {
            let line = self.next()?.with_context(|| format!("the stream ended before {what}"))?;
            if wanted(&line) {
                return Ok(line);
            }
        }
        anyhow::bail!("waited in vain for {what}")
    }
}

#[test]
fn watcher_is_told_of_heads_lag_and_changes_of_state() {
    scenario("lag_watch", |bed| {
        let primary = bed.mariadb("primary").server_id(1).start()?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        let mut watcher = Watcher::attach(&relay)?;
        for kind in ["hello", "head", "upstream", "replicas"] {
            let line = watcher.next()?.context("it ended")?;
            ensure!(line["type"] == kind, "{kind} was to come, not {line}");
        }
        let replica = bed.mariadb("replica").server_id(2).option("--report-host=db").start()?;
        replica.replicate_from(&Source::gtid(relay.port()))?;
        let of = |line: &Value, event: &str, state: &str| {
            let changes = line["replicas"].as_array().into_iter().flatten();
            line["type"] == "replicas"
                && changes
                    .into_iter()
                    .any(|c| c["event"] == event && c["replica"]["name"] == "db" && c["replica"]["state"] == state)
        };
        watcher.until("the replica to stream", |line| {
            of(line, "state", "streaming") || of(line, "attached", "streaming")
        })?;

        primary.sql("CREATE TABLE test.t (a INT PRIMARY KEY)")?;
        let goal = primary.gtid_binlog_pos()?;
        watcher.until("the new head", |line| line["type"] == "head" && line["head"]["gtid"] == goal)?;
        let applied = |line: &Value, gtid: &str, missing: u64| {
            let replica = &line["lag"]["replicas"][0];
            replica["applied"]["gtid"] == gtid && replica["applied"]["lag_transactions"] == missing
        };
        watcher.until("it to be applied", |line| line["type"] == "lag" && applied(line, &goal, 0))?;

        replica.sql("STOP SLAVE SQL_THREAD")?;
        primary.sql("INSERT INTO test.t VALUES (1); INSERT INTO test.t VALUES (2)")?;
        let lag = watcher.until("two to be missing", |line| line["type"] == "lag" && applied(line, &goal, 2))?;
        let later = watcher.until("more lag", |line| line["type"] == "lag")?;
        let ms = |line: &Value| line["lag"]["replicas"][0]["applied"]["lag_ms"].as_u64();
        ensure!(ms(&lag).is_some() && ms(&later) > ms(&lag), "{lag} {later}");
        watcher.until("a heartbeat", |line| line["type"] == "heartbeat" && line["time"].is_string())?;

        replica.stop_slave()?;
        watcher.until("it to leave", |line| of(line, "detached", "gone"))?;
        primary.kill9()?;
        watcher.until("the primary to be lost", |line| {
            line["type"] == "upstream" && line["upstream"]["state"] == "connecting"
        })?;
        relay.term()?;
        let end = watcher.until("the end", |line| line["type"] == "end")?;
        ensure!(end["error"].as_str().is_some_and(|text| text.contains("shutting down")) && watcher.next()?.is_none());
        Ok(())
    });
}

#[test]
fn watcher_that_does_not_read_is_dropped_with_a_final_line_and_others_are_not() {
    scenario("lag_slow_watcher", |bed| {
        let primary = bed.mariadb("primary").server_id(1).start()?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        let mut slow = Watcher::attach(&relay)?;
        let mut good = Watcher::attach(&relay)?;
        let reader = thread::spawn(move || -> Result<()> {
            while let Some(line) = good.next()? {
                if line["type"] == "end" {
                    ensure!(line["error"].as_str().is_some_and(|text| text.contains("shutting down")), "{line}");
                }
            }
            Ok(())
        });
        // Replicas that come and go make lines, and stay listed, so that each second's line is long.
        let name = "a-replica-with-a-long-name".repeat(2);
        let dropped = || Ok(relay.metric("baton_relay_http_dropped_watchers_total")?.unwrap_or(0.0));
        thread::scope(|threads| -> Result<()> {
            let churn = |part: u32| {
                let (relay, name) = (&relay, &name);
                move || -> Result<()> {
                    for n in 0..250 {
                        Fake::attach(relay, 1000 + part * 1000 + n, &format!("{name}-{part}-{n}"), 0)?;
                    }
                    Ok(())
                }
            };
            let parts: Vec<_> = (0..4).map(|part| threads.spawn(churn(part))).collect();
            parts.into_iter().try_for_each(|part| part.join().expect("a thread panicked"))
        })?;
        wait_until("the slow one to be dropped", dropped, |count| *count == 1.0)?;
        let mut rest = Vec::new();
        slow.0.read_to_end(&mut rest)?;
        let text = String::from_utf8(rest)?;
        let last: Value = serde_json::from_str(text.lines().last().context("nothing was sent")?)?;
        ensure!(last["type"] == "end", "the last line is {last}");
        ensure!(
            last["error"].as_str().is_some_and(|text| text.contains("too slowly")) && last["hint"].is_string(),
            "{last}"
        );
        relay.term()?;
        reader.join().expect("the reading watcher panicked")?;
        Ok(())
    });
}
