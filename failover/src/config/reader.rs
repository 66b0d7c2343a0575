//! Takes keys out of a parsed file, one by one, each overridden by its environment variable; what nobody took is unknown.
//!
//! Collects problems instead of stopping at the first. Never prints the value of a key that it does not know, nor a secret.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use secrecy::SecretString;
use toml::{Table, Value};

use super::error::Problem;
use super::value::near;

/// Looks an environment variable up.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Bytes in a secret's file, at most.
const MAX_SECRET: u64 = 64 * 1024;

/// One value, from the file or from the environment.
pub(super) enum Raw<'a> {
    Toml(&'a Value),
    Text(&'a str),
}

impl Raw<'_> {
    pub(super) fn text(&self) -> Result<&str, String> {
        match self {
            Self::Text(t) => Ok(t),
            Self::Toml(Value::String(t)) => Ok(t),
            Self::Toml(v) => Err(format!("a string in quotes is wanted, not {}", kind(v))),
        }
    }

    pub(super) fn integer(&self) -> Result<i64, String> {
        match self {
            Self::Toml(Value::Integer(n)) => Ok(*n),
            Self::Text(t) => t.parse().map_err(|_| "a whole number is wanted".to_owned()),
            Self::Toml(v) => Err(format!("a whole number is wanted, not {}", kind(v))),
        }
    }

    #[allow(dead_code, reason = "not every program has such a key")]
    pub(super) fn boolean(&self) -> Result<bool, String> {
        match self {
            Self::Toml(Value::Boolean(b)) => Ok(*b),
            Self::Text("true") => Ok(true),
            Self::Text("false") => Ok(false),
            Self::Text(_) => Err("allowed: true, false".to_owned()),
            Self::Toml(v) => Err(format!("true or false is wanted, not {}", kind(v))),
        }
    }

    /// Anything that is written as a string.
    pub(super) fn parse<T: FromStr<Err = String>>(&self) -> Result<T, String> {
        self.text()?.parse()
    }

    /// A list of strings; from the environment, separated by commas.
    pub(super) fn list<T: FromStr<Err = String>>(&self) -> Result<Vec<T>, String> {
        match self {
            Self::Toml(Value::Array(items)) => items.iter().map(|v| Raw::Toml(v).parse()).collect(),
            Self::Text(t) => t.split(',').map(|item| item.trim().parse()).collect(),
            Self::Toml(v) => Err(format!("a list of strings in brackets is wanted, not {}", kind(v))),
        }
    }
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number with a point",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section",
    }
}

/// What all sections share: the environment, and what was found wrong or unknown so far.
pub(super) struct Reader<'a> {
    env: Environment<'a>,
    /// What all environment variables begin with: `BATON_AGENT_`.
    program: &'static str,
    pub(super) problems: Vec<Problem>,
    /// (section, key) of every key that exists.
    known: Vec<(String, &'static str)>,
    /// (section, key, full name) of those that do not.
    unknown: Vec<(String, String, String)>,
}

impl<'a> Reader<'a> {
    /// `program` is what environment variables begin with, such as `BATON_AGENT_`.
    pub(super) fn new(env: Environment<'a>, program: &'static str) -> Self {
        Self { env, program, problems: Vec::new(), known: Vec::new(), unknown: Vec::new() }
    }

    /// The environment variable, if it is set to something; an empty one counts as not set.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|v| !v.is_empty())
    }

    /// Full names of all keys that exist and can be set: `cluster`, `mysql.user`, `nodes.name`.
    #[cfg(test)]
    pub(super) fn known_keys(&self) -> std::collections::BTreeSet<String> {
        let inside = |title: &str| title.trim_matches(['[', ']']).to_owned();
        let sections: Vec<String> = self.known.iter().map(|(title, _)| inside(title)).collect();
        let keys = self.known.iter().filter(|(title, key)| !title.is_empty() || !sections.iter().any(|s| s == key));
        keys.map(|(title, key)| if title.is_empty() { (*key).to_owned() } else { format!("{}.{key}", inside(title)) })
            .collect()
    }

    /// Ends the reading: unknown keys become problems that name their neighbours.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        self.known.sort_unstable();
        self.known.dedup();
        for (section, key, name) in &self.unknown {
            let place = if section.is_empty() { "at the top level".to_owned() } else { format!("in {section}") };
            let here = || self.known.iter().filter(|(s, _)| s == section).map(|(_, k)| *k);
            let nearest = near(key, here());
            let elsewhere: Vec<String> =
                self.known.iter().filter(|(s, k)| s != section && k == key).map(|(s, _)| shown(s)).collect();
            let advice = if !nearest.is_empty() {
                format!("did you mean {}?", nearest.join(", "))
            } else if !elsewhere.is_empty() {
                format!("it belongs {}", elsewhere.join(" or "))
            } else {
                format!("known: {}", here().collect::<Vec<_>>().join(", "))
            };
            self.problems.push(Problem::new(name, format!("there is no key \"{key}\" {place}; {advice}")));
        }
        self.problems
    }
}

fn shown(section: &str) -> String {
    if section.is_empty() { "at the top level".to_owned() } else { format!("in {section}") }
}

/// One section while its keys are taken.
pub(super) struct Section {
    /// `[mysql]`, `[[nodes]]`; empty for the top level.
    title: String,
    /// What stands before the key in messages: `mysql.`, `nodes[0].`, or nothing.
    prefix: String,
    /// What stands before the key in environment variables: `BATON_AGENT_MYSQL_`; `None` if none are looked up.
    variables: Option<String>,
    table: Table,
}

impl Section {
    pub(super) fn top(table: Table, reader: &Reader<'_>) -> Self {
        Self { title: String::new(), prefix: String::new(), variables: Some(reader.program.to_owned()), table }
    }

    /// The section `[name]` inside of this one; empty if it is not there.
    pub(super) fn section(&mut self, reader: &mut Reader<'_>, name: &'static str) -> Self {
        reader.known.push((self.title.clone(), name));
        let table = match self.table.remove(name) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                reader.problems.push(Problem::new(name, format!("a section [{name}] is wanted, not {}", kind(&other))));
                Table::new()
            }
        };
        Self {
            title: format!("[{name}]"),
            prefix: format!("{name}."),
            variables: Some(format!("{}{}_", reader.program, name.to_ascii_uppercase())),
            table,
        }
    }

    #[allow(dead_code, reason = "not every program has such a section")]
    /// The sections `[[name]]`. Their keys have no environment variables.
    pub(super) fn sections(&mut self, reader: &mut Reader<'_>, name: &'static str) -> Vec<Self> {
        reader.known.push((self.title.clone(), name));
        let items = match self.table.remove(name) {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => {
                reader.problems.push(Problem::new(name, format!("is a list of sections: write [[{name}]]")));
                Vec::new()
            }
        };
        let mut sections = Vec::new();
        for (i, item) in items.into_iter().enumerate() {
            let prefix = format!("{name}[{i}].");
            match item {
                Value::Table(table) => {
                    sections.push(Self { title: format!("[[{name}]]"), prefix, variables: None, table });
                }
                other => {
                    let message = format!("a section [[{name}]] is wanted, not {}", kind(&other));
                    reader.problems.push(Problem::new(format!("{name}[{i}]"), message));
                }
            }
        }
        sections
    }

    /// A key's value: from the environment, else from the file, else `None`. One that does not parse is a problem and `None`.
    pub(super) fn take<T>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        parse: impl FnOnce(Raw<'_>) -> Result<T, String>,
    ) -> Option<T> {
        reader.known.push((self.title.clone(), key));
        let in_file = self.table.remove(key);
        let variable = self.variables.as_ref().map(|p| format!("{p}{}", key.to_ascii_uppercase()));
        let in_env = variable.as_deref().and_then(|v| reader.variable(v));
        let (parsed, shown) = match (&in_env, &in_file) {
            (Some(text), _) => (parse(Raw::Text(text)), format!("{text:?}")),
            (None, Some(value)) => (parse(Raw::Toml(value)), value.to_string()),
            (None, None) => return None,
        };
        match parsed {
            Ok(value) => Some(value),
            Err(message) => {
                let mut problem = Problem::new(self.key(key), message).with_value(shown);
                problem.variable = in_env.and(variable);
                reader.problems.push(problem);
                None
            }
        }
    }

    /// Like [`take`](Self::take); a missing key is a problem.
    pub(super) fn require<T: Default>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        example: &str,
        parse: impl FnOnce(Raw<'_>) -> Result<T, String>,
    ) -> T {
        let before = reader.problems.len();
        let value = self.take(reader, key, parse);
        if value.is_none() && reader.problems.len() == before {
            let variable = self.variables.as_ref().map(|p| format!(" or set {p}{}", key.to_ascii_uppercase()));
            let message = format!("is required; write {example}{}", variable.unwrap_or_default());
            reader.problems.push(Problem::new(self.key(key), message));
        }
        value.unwrap_or_default()
    }

    /// A secret: the environment variable of the key without `_file` (`BATON_AGENT_MYSQL_PASSWORD` for `[mysql] password_file`), else the
    /// content of the file that the key `file_key` names, less one trailing newline. `None` if neither is given, or if the file
    /// can't be read (which is a problem).
    pub(super) fn secret(&mut self, reader: &mut Reader<'_>, file_key: &'static str) -> Option<SecretString> {
        let path: Option<PathBuf> = self.take(reader, file_key, |r| r.text().map(PathBuf::from));
        if let Some(secret) = self.secret_variable(file_key).and_then(|name| reader.variable(&name)) {
            return Some(SecretString::from(secret));
        }
        let path = path?;
        match read_secret(&path) {
            Ok(secret) => Some(secret),
            Err(message) => {
                reader.problems.push(Problem::new(self.key(file_key), message).with_value(format!("{path:?}")));
                None
            }
        }
    }

    /// Like [`secret`](Self::secret); a missing one is a problem.
    pub(super) fn require_secret(
        &mut self,
        reader: &mut Reader<'_>,
        file_key: &'static str,
        example: &str,
    ) -> SecretString {
        let before = reader.problems.len();
        let secret = self.secret(reader, file_key);
        if secret.is_none() && reader.problems.len() == before {
            let variable = self.secret_variable(file_key).map(|name| format!(" or set {name}"));
            let message = format!("is required; write {file_key} = \"{example}\"{}", variable.unwrap_or_default());
            reader.problems.push(Problem::new(self.key(file_key), message));
        }
        secret.unwrap_or_default()
    }

    fn secret_variable(&self, file_key: &str) -> Option<String> {
        let key = file_key.strip_suffix("_file").unwrap_or(file_key);
        self.variables.as_ref().map(|prefix| format!("{prefix}{}", key.to_ascii_uppercase()))
    }

    /// A key's full name.
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Ends the section: what is left is unknown.
    pub(super) fn finish(self, reader: &mut Reader<'_>) {
        for key in self.table.keys() {
            reader.unknown.push((self.title.clone(), key.clone(), self.key(key)));
        }
    }
}

/// Reads a secret from a file, less one trailing newline.
fn read_secret(path: &Path) -> Result<SecretString, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|e| {
        let advice = match e.kind() {
            std::io::ErrorKind::NotFound => "; create it, or correct the path",
            std::io::ErrorKind::PermissionDenied => "; let the user that this program runs as read it",
            _ => "",
        };
        format!("the file can't be opened: {e}{advice}")
    })?;
    file.take(MAX_SECRET + 1).read_to_string(&mut text).map_err(|e| format!("the file can't be read: {e}"))?;
    if text.len() as u64 > MAX_SECRET {
        return Err(format!("the file is larger than {MAX_SECRET} bytes: that is no password or token"));
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(SecretString::from(text))
}
