//! How one file follows another: names, and the positions at which files begin.

use baton_wire::gtid::mariadb::GtidList;

use super::StreamError;

/// Whether a file that begins at `theirs` can follow where the log stands at `ours`: the same in every domain, but for those that the
/// primary has been told to forget (`FLUSH BINARY LOGS DELETE_DOMAIN_ID`).
pub(super) fn continues(ours: &GtidList, theirs: &GtidList) -> bool {
    (ours.is_empty() || !theirs.is_empty()) && theirs.iter().all(|gtid| ours.get(gtid.domain) == Some(gtid))
}

pub(super) fn diverged_state(theirs: &GtidList, ours: &GtidList) -> StreamError {
    StreamError::Diverged {
        cause: format!("the primary begins a file at GTID position '{theirs}', the log stands at '{ours}'"),
        hint: "their histories differ: find out which one the replicas follow, then see `baton-relay reset-log --help`"
            .into(),
    }
}

/// Splits `mysql-bin.000007` into its base name and number.
pub(in crate::upstream) fn split_file_name(name: &str) -> Result<(&str, u64), StreamError> {
    let bad = || StreamError::Garbled {
        file: name.to_owned(),
        offset: 0,
        detail: "is not of the form base.number, such as mysql-bin.000001".into(),
    };
    let (base, number) = name.rsplit_once('.').ok_or_else(bad)?;
    if base.is_empty()
        || base.starts_with('.')
        || base.contains(['/', '\0'])
        || !number.bytes().all(|b| b.is_ascii_digit())
    {
        return Err(bad());
    }
    Ok((base, number.parse().map_err(|_| bad())?))
}
