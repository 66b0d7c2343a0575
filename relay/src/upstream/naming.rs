//! What files of the log are called where they come from. Pure.

use super::origin::shifted;

/// How a source names the files that it sends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Naming {
    /// What a file's number in the log is larger by.
    pub(super) shift: i64,
    /// The source's base name; `None`: the log's.
    pub(super) base: Option<String>,
}

impl Naming {
    /// The source's name for the file of that number in the log; `None` if it can have none.
    pub(super) fn name(&self, number: u64, log_base: Option<&str>) -> Option<String> {
        let base = self.base.as_deref().or(log_base)?;
        let number = shifted(number, self.shift.checked_neg()?)?;
        Some(format!("{base}.{number:06}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_sources_own() {
        let naming = |shift, base: Option<&str>| Naming { shift, base: base.map(str::to_owned) };
        for (naming, number, expected) in [
            (naming(0, None), 7, Some("mysql-bin.000007")),
            (naming(5, None), 7, Some("mysql-bin.000002")),
            (naming(-5, Some("other")), 7, Some("other.000012")),
            (naming(7, None), 7, None),
            (naming(i64::MIN, None), 7, None),
        ] {
            assert_eq!(naming.name(number, Some("mysql-bin")).as_deref(), expected, "{naming:?}");
        }
        assert_eq!(naming(0, None).name(7, None), None);
    }
}
