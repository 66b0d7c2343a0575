//! The configurations of the agent and of the controller: TOML files, overridden by environment variables.
//!
//! Owns how keys are named, what they default to and what they may hold. Promises to report every problem at once, each with
//! the key, the value and what is allowed, and to refuse what it does not know. Never keeps a secret where `Debug` or an error
//! could print it.
//!
//! Every scalar key can come from the environment: `node` of the agent from `BATON_AGENT_NODE`, `[mysql] user` from
//! `BATON_AGENT_MYSQL_USER`, the controller's from `BATON_CONTROLLER_...`; lists of strings too, separated by commas. The
//! environment wins over the file, an empty variable counts as not set. Secrets come from files (`password_file`, less one
//! trailing newline) or from the variable of that key without `_file`: `BATON_AGENT_MYSQL_PASSWORD`, `BATON_AGENT_TOKEN`.
//! Relative paths start at the process's working directory.

mod agent;
pub mod controller;
mod error;
mod etcd;
mod reader;
mod rules;
#[cfg(test)]
mod tests;
mod value;

use std::path::Path;

pub use agent::{AddressConfig, AdvertiseConfig, AgentConfig, MysqlConfig, ReplicationTls};
pub use controller::ControllerConfig;
pub use error::{ConfigError, Problem};
pub use etcd::EtcdSection;
pub use value::{Address, duration as parse_duration};

use reader::{Reader, Section};

/// Bytes in a configuration file, at most.
const MAX_FILE: u64 = 1 << 20;

/// Looks an environment variable up.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads a file, if one is given, and the environment, and validates all of it.
///
/// `program` is what environment variables begin with; `read` takes the keys, `validate` looks at the values.
fn load<T>(
    path: Option<&Path>,
    env: Environment<'_>,
    program: &'static str,
    read: impl FnOnce(Section, &mut Reader<'_>) -> T,
    validate: impl FnOnce(&T) -> Vec<Problem>,
) -> Result<T, ConfigError> {
    let Some(path) = path else { return parse("", "", env, program, read, validate) };
    let source = path.display().to_string();
    let text = read_file(path).map_err(|message| one(Problem::new(&source, message)))?;
    parse(&text, &source, env, program, read, validate)
}

/// As [`load`] for a text; `source` names it in errors.
fn parse<T>(
    text: &str,
    source: &str,
    env: Environment<'_>,
    program: &'static str,
    read: impl FnOnce(Section, &mut Reader<'_>) -> T,
    validate: impl FnOnce(&T) -> Vec<Problem>,
) -> Result<T, ConfigError> {
    // Only the parser's own words are shown, not the line: that could hold a secret.
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        one(Problem::new(source, format!("line {line}: not TOML: {}", e.message())))
    })?;
    let mut r = Reader::new(env, program);
    let config = read(Section::top(table, &r), &mut r);
    let mut problems = r.finish();
    // A value that could not be read was replaced by its default: what validation says of that is of no use.
    let read: Vec<String> = problems.iter().map(|p| p.key.clone()).collect();
    problems.extend(validate(&config).into_iter().filter(|p| !read.contains(&p.key)));
    if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
}

fn one(problem: Problem) -> ConfigError {
    ConfigError { problems: vec![problem] }
}

fn read_file(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| format!("the file can't be opened: {e}"))?;
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|e| format!("the file can't be read: {e}"))?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("the file is larger than {MAX_FILE} bytes: that is no configuration"));
    }
    Ok(text)
}

/// The host's name; empty if the system does not tell.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|n| n.trim().to_owned()).unwrap_or_default()
}
