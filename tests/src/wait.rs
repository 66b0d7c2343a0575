//! Waiting for conditions. Promises: every wait ends, and a wait that ends in vain says what it waited for. Never used to assert timing.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a condition may take before a test fails: long enough for a busy machine, so that it is never what a test measures.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Calls `probe` until it gives a value, for at most `limit`. An error from `probe` ends the wait at once.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain for {what}", limit.as_secs_f32());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Reads a value until `good` says yes, for at most [`DEADLINE`]; the last value is told when it never does. Errors from `read` are retried.
pub fn wait_until<T: Debug>(
    what: &str,
    mut read: impl FnMut() -> Result<T>,
    mut good: impl FnMut(&T) -> bool,
) -> Result<T> {
    let mut last = String::from("nothing");
    let found = wait_for(what, DEADLINE, || match read() {
        Ok(value) if good(&value) => Ok(Some(value)),
        Ok(value) => {
            last = format!("{value:?}");
            Ok(None)
        }
        Err(error) => {
            last = format!("error: {error:#}");
            Ok(None)
        }
    });
    found.map_err(|error| error.context(format!("last seen: {last}")))
}
