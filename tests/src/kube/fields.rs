//! Reads a manifest field by field: what nobody asked for is refused by its path.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

/// The fields of one object that nobody has taken yet.
pub(super) struct Fields {
    at: String,
    left: Map<String, Value>,
}

impl Fields {
    pub(super) fn of(at: impl Into<String>, value: Value) -> Result<Self> {
        let at = at.into();
        match value {
            Value::Object(left) => Ok(Self { at, left }),
            Value::Null => Ok(Self { at, left: Map::new() }),
            other => bail!("{at}: an object is wanted, not {other}"),
        }
    }

    /// Where it stands.
    pub(super) fn at(&self) -> &str {
        &self.at
    }

    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.left.remove(key).filter(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => bail!("{}.{key}: a string is wanted, not {other}", self.at),
        }
    }

    pub(super) fn must(&mut self, key: &str) -> Result<String> {
        let at = format!("{}.{key}", self.at);
        self.text(key)?.with_context(|| format!("{at}: is missing"))
    }

    pub(super) fn number(&mut self, key: &str, default: u64) -> Result<u64> {
        match self.take(key) {
            None => Ok(default),
            Some(value) => {
                value.as_u64().with_context(|| format!("{}.{key}: a number is wanted, not {value}", self.at))
            }
        }
    }

    pub(super) fn flag(&mut self, key: &str, default: bool) -> Result<bool> {
        match self.take(key) {
            None => Ok(default),
            Some(value) => value.as_bool().with_context(|| format!("{}.{key}: true or false is wanted", self.at)),
        }
    }

    pub(super) fn section(&mut self, key: &str) -> Result<Self> {
        Self::of(format!("{}.{key}", self.at), self.take(key).unwrap_or_default())
    }

    /// None if the section is not there.
    pub(super) fn optional(&mut self, key: &str) -> Result<Option<Self>> {
        self.left.contains_key(key).then(|| self.section(key)).transpose()
    }

    pub(super) fn list(&mut self, key: &str) -> Result<Vec<Value>> {
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => bail!("{}.{key}: a list is wanted, not {other}", self.at),
        }
    }

    pub(super) fn sections(&mut self, key: &str) -> Result<Vec<Self>> {
        let at = format!("{}.{key}", self.at);
        let items = self.list(key)?.into_iter().enumerate();
        items.map(|(number, item)| Self::of(format!("{at}[{number}]"), item)).collect()
    }

    pub(super) fn texts(&mut self, key: &str) -> Result<Vec<String>> {
        let at = format!("{}.{key}", self.at);
        let text = |item: Value| item.as_str().map(str::to_owned).with_context(|| format!("{at}: strings are wanted"));
        self.list(key)?.into_iter().map(text).collect()
    }

    pub(super) fn map(&mut self, key: &str) -> Result<std::collections::BTreeMap<String, String>> {
        let at = format!("{}.{key}", self.at);
        let Some(value) = self.take(key) else { return Ok(std::collections::BTreeMap::new()) };
        let fields = value.as_object().with_context(|| format!("{at}: an object is wanted"))?;
        let text = |(key, value): (&String, &Value)| {
            let text = value.as_str().with_context(|| format!("{at}.{key}: a string is wanted"))?;
            Ok((key.clone(), text.to_owned()))
        };
        fields.iter().map(text).collect()
    }

    /// A field that changes nothing for processes on one machine.
    pub(super) fn without_effect(&mut self, keys: &[&str]) {
        for key in keys {
            self.left.remove(*key);
        }
    }

    /// A field that may have one value only.
    pub(super) fn only(&mut self, key: &str, allowed: &Value) -> Result<()> {
        match self.take(key) {
            Some(value) if value != *allowed => bail!("{}.{key} = {value}: the runner does only {allowed}", self.at),
            _ => Ok(()),
        }
    }

    pub(super) fn finish(self) -> Result<()> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(key) => bail!("{}.{key}: the runner would have to ignore this", self.at),
        }
    }
}
