//! Configuration files as they are written by hand: sections with keys, each value a literal piece of TOML.

use std::collections::BTreeMap;

pub(super) use crate::relay::quoted;

/// A file under way. The section `""` is the top.
#[derive(Debug, Clone, Default)]
pub(super) struct Toml {
    sections: BTreeMap<String, BTreeMap<String, String>>,
    tables: Vec<(String, BTreeMap<String, String>)>,
}

impl Toml {
    /// Sets a key to a literal piece of TOML; later ones win.
    pub(super) fn set(mut self, section: &str, key: &str, toml: impl Into<String>) -> Self {
        self.sections.entry(section.to_owned()).or_default().insert(key.to_owned(), toml.into());
        self
    }

    /// For what is set elsewhere.
    pub(super) fn and(self, more: impl FnOnce(Self) -> Self) -> Self {
        more(self)
    }

    /// Sets a key to a text.
    pub(super) fn text(self, section: &str, key: &str, text: impl AsRef<str>) -> Self {
        let literal = quoted(text.as_ref());
        self.set(section, key, literal)
    }

    /// Sets a key to a list of texts.
    pub(super) fn list<T: AsRef<str>>(self, section: &str, key: &str, texts: impl IntoIterator<Item = T>) -> Self {
        let texts: Vec<_> = texts.into_iter().map(|text| quoted(text.as_ref())).collect();
        self.set(section, key, format!("[{}]", texts.join(", ")))
    }

    /// Adds one more `[[section]]` with these texts.
    pub(super) fn table(mut self, section: &str, keys: &[(&str, &str)]) -> Self {
        let keys = keys.iter().map(|(key, text)| ((*key).to_owned(), quoted(text)));
        self.tables.push((section.to_owned(), keys.collect()));
        self
    }

    /// Adds one more `[[section]]` with literal pieces of TOML.
    pub(super) fn entry(mut self, section: &str, keys: &[(&str, String)]) -> Self {
        let keys = keys.iter().map(|(key, toml)| ((*key).to_owned(), toml.clone()));
        self.tables.push((section.to_owned(), keys.collect()));
        self
    }

    /// Sets what a test wants otherwise; an empty value removes the key.
    pub(super) fn over(mut self, changes: &[(String, String, String)]) -> Self {
        for (section, key, toml) in changes {
            self = self.set(section, key, toml);
            if toml.is_empty() {
                self.sections.entry(section.clone()).or_default().remove(key);
            }
        }
        self
    }

    /// The file's text.
    pub(super) fn render(&self) -> String {
        let lines = |keys: &BTreeMap<String, String>| -> String {
            keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
        };
        let mut text = self.sections.get("").map(lines).unwrap_or_default();
        for (section, keys) in self.sections.iter().filter(|(section, _)| !section.is_empty()) {
            text += &format!("\n[{section}]\n{}", lines(keys));
        }
        for (section, keys) in &self.tables {
            text += &format!("\n[[{section}]]\n{}", lines(keys));
        }
        text
    }
}
