//! What is wrong with a configuration: every problem at once, each with its key, its value and what is allowed.

use std::fmt;

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key's full name, such as `address.valid_for`; the file's path where the file as a whole is at fault.
    pub key: String,
    /// The offending value as it was written, cut to a readable length; never a secret.
    pub value: Option<String>,
    /// What is wrong and what is allowed.
    pub message: String,
    /// The environment variable that the value came from, if it did.
    pub variable: Option<String>,
}

impl Problem {
    /// A problem with a key that has no (printable) value.
    pub(super) fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), value: None, message: message.into(), variable: None }
    }

    /// One that shows only when the configuration is used.
    pub fn of(key: &str, value: &str, message: String) -> Self {
        Self::new(key, message).with_value(format!("{value:?}"))
    }

    /// The same with the value at fault.
    pub(super) fn with_value(mut self, value: impl fmt::Display) -> Self {
        const LONGEST: usize = 80;
        let text = value.to_string();
        let cut = text.chars().count() > LONGEST;
        let mut shown: String = text.chars().take(LONGEST).collect();
        if cut {
            shown.push_str("...");
        }
        self.value = Some(shown);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if let Some(variable) = &self.variable {
            write!(f, " (from {variable})")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that is wrong with a configuration; printed with one problem a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
