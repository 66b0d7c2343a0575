//! The `[lag]` section.

use std::time::Duration;

use secrecy::SecretString;

/// How replicas are asked for what they have applied.
#[derive(Debug, Clone)]
pub struct LagConfig {
    /// Account on the replicas; without one nobody is asked. It needs to see replication's state: `REPLICA MONITOR` on MariaDB,
    /// `REPLICATION CLIENT` on MySQL.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<SecretString>,
    /// Time between two questions to a replica that is behind.
    pub poll_min: Duration,
    /// Time between two questions to an idle replica, at most.
    pub poll_max: Duration,
    /// Sessions that idle replicas keep even when others wait for one.
    pub min_sessions: usize,
    /// Sessions in all, at most.
    pub max_sessions: usize,
}

impl Default for LagConfig {
    fn default() -> Self {
        Self {
            user: None,
            password: None,
            poll_min: Duration::from_millis(100),
            poll_max: Duration::from_secs(5),
            min_sessions: 4,
            max_sessions: 64,
        }
    }
}

impl LagConfig {
    /// Checks the bounds: 1 ms <= `poll_min` <= `poll_max` <= 1 h, 1 <= `max_sessions` <= 4096, `min_sessions` <= `max_sessions`.
    ///
    /// # Errors
    /// The key, its value, and what is allowed.
    pub fn validate(&self) -> Result<(), String> {
        let (least, most) = (Duration::from_millis(1), Duration::from_secs(3600));
        if self.poll_min < least || self.poll_min > self.poll_max || self.poll_max > most {
            return Err(format!(
                "lag.poll = {:?}..{:?}: two times between 1ms and 1h, the shorter one first, are allowed",
                self.poll_min, self.poll_max
            ));
        }
        if !(1..=4096).contains(&self.max_sessions) {
            return Err(format!("lag.max_sessions = {}: 1 to 4096 is allowed", self.max_sessions));
        }
        if self.min_sessions > self.max_sessions {
            return Err(format!(
                "lag.min_sessions = {}: at most lag.max_sessions ({}) is allowed",
                self.min_sessions, self.max_sessions
            ));
        }
        Ok(())
    }
}
