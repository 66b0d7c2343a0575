//! What the stories share: one replica's figures with the time they were asked, and replicas that are only a conversation.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_testbed::{DEADLINE, RelayProc, Sql, wait_for};
use serde_json::Value;

/// What a figure may be wrong by, besides the age of its sample.
pub(crate) const TOLERANCE: Duration = Duration::from_millis(20);

/// One replica, as `GET /v1/lag/{replica}` tells it.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    /// When the question went out, and when the answer was there.
    pub(crate) asked: (Instant, Instant),
    /// All of it.
    pub(crate) json: Value,
}

impl Told {
    pub(crate) fn of(relay: &RelayProc, replica: &str) -> Result<Self> {
        let before = Instant::now();
        let json = relay.lag_of(replica)?;
        Ok(Self { asked: (before, Instant::now()), json })
    }

    /// `received.lag_ms`, say. An error unless it is there and a whole number that is not negative.
    pub(crate) fn number(&self, what: &str, figure: &str) -> Result<u64> {
        let number = self.json[what][figure].as_u64();
        number.with_context(|| format!("{what}.{figure} is no number of 0 or more: {}", self.json))
    }

    pub(crate) fn applied_ms(&self) -> Result<Duration> {
        Ok(Duration::from_millis(self.number("applied", "lag_ms")?))
    }

    pub(crate) fn age(&self) -> Result<Duration> {
        Ok(Duration::from_millis(self.number("applied", "age_ms")?))
    }

    pub(crate) fn word(&self, key: &str) -> &str {
        self.json[key].as_str().unwrap_or("-")
    }

    /// Whether it has applied everything, as far as is told.
    pub(crate) fn is_current(&self) -> Result<bool> {
        let figures = ["lag_transactions", "lag_bytes", "lag_ms"].map(|figure| self.number("applied", figure));
        Ok(figures.into_iter().collect::<Result<Vec<_>>>()?.iter().all(|figure| *figure == 0))
    }

    /// Checks that the oldest transaction not applied is told to have arrived between these moments.
    pub(crate) fn check_arrived(&self, between: (Instant, Instant)) -> Result<()> {
        let lag = self.applied_ms()?;
        // Half a millisecond at each end is lost by telling whole ones.
        let rounding = Duration::from_millis(2);
        let least = self.asked.0.saturating_duration_since(between.1).saturating_sub(TOLERANCE);
        let most = self.asked.1.saturating_duration_since(between.0) + rounding;
        ensure!((least..=most).contains(&lag), "lag is {lag:?}, the truth is {least:?} to {most:?}: {}", self.json);
        Ok(())
    }
}

/// Asks until the answer is as wanted. An error of `wanted` ends the test.
pub(crate) fn told_until(
    relay: &RelayProc,
    replica: &str,
    what: &str,
    wanted: impl Fn(&Told) -> Result<bool>,
) -> Result<Told> {
    let mut last = Value::Null;
    let found = wait_for(&format!("{replica}: {what}"), DEADLINE, || {
        let Ok(told) = Told::of(relay, replica) else { return Ok(None) };
        last = told.json.clone();
        Ok(wanted(&told)?.then_some(told))
    });
    found.with_context(|| format!("last told: {last}"))
}

/// Waits until it is told that the replica has applied everything.
pub(crate) fn told_current(relay: &RelayProc, replica: &str) -> Result<Told> {
    told_until(relay, replica, "to be told to have applied everything", |told| Ok(told.is_current().unwrap_or(false)))
}

/// A replica that says all that a real one says, and then never reads.
pub(crate) struct Fake(#[expect(dead_code, reason = "held: dropping it ends the connection")] Sql);

impl Fake {
    /// Attaches it from the log's beginning.
    pub(crate) fn attach(relay: &RelayProc, server_id: u32, host: &str, report_port: u16) -> Result<Self> {
        let mut sql = relay.session()?;
        sql.query("SET @master_binlog_checksum= @@global.binlog_checksum")?;
        sql.query("SET @mariadb_slave_capability=4")?;
        sql.query("SET @slave_connect_state=''")?;
        let mut register = server_id.to_le_bytes().to_vec();
        register.push(u8::try_from(host.len())?);
        register.extend_from_slice(host.as_bytes());
        register.extend_from_slice(&[0, 0]);
        register.extend_from_slice(&report_port.to_le_bytes());
        register.extend_from_slice(&[0; 8]);
        sql.command(0x15, &register).context("COM_REGISTER_SLAVE")?;
        let mut dump = 4u32.to_le_bytes().to_vec();
        dump.extend_from_slice(&2u16.to_le_bytes());
        dump.extend_from_slice(&server_id.to_le_bytes());
        sql.send(0x12, &dump)?;
        Ok(Self(sql))
    }
}
