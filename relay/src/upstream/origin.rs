//! Where files of the log come from: the epochs of a cluster, as file numbers and names. Pure.
//!
//! Promises: the number of a file in the log decides which primary wrote it and what that called it. An epoch of which nothing ever came shares
//! its first number with the one after it: the later one counts.

use std::collections::BTreeMap;

use baton_cluster::EpochRecord;
use baton_wire::gtid::mariadb::GtidList;

use super::ingest::split_file_name;
use super::naming::Naming;
use crate::log::FileEpoch;

/// One epoch, as the relay needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) epoch: u64,
    /// The node that is its primary.
    pub(super) node: String,
    /// `server_id` of that.
    pub(super) server_id: u32,
    /// Name of its first file at the primary; `None` in the first epoch, which begins wherever the relay's configuration says.
    pub(super) first_file: Option<String>,
    /// What a file's number in the log is larger by.
    pub(super) shift: i64,
    /// The position at which it begins.
    pub(super) gtid: GtidList,
}

impl Origin {
    /// From the cluster's record.
    ///
    /// Errors: what in it can't be read.
    pub(super) fn of(record: &EpochRecord) -> Result<Self, String> {
        let bad = |what: &str, value: &str| format!("epochs/{}: {what} {value:?} can't be read", record.epoch);
        if let Some(name) = &record.first_file {
            split_file_name(name).map_err(|_| bad("first_file", name))?;
        }
        Ok(Self {
            epoch: record.epoch,
            node: record.node.clone(),
            server_id: record.server_id,
            first_file: record.first_file.clone(),
            shift: record.shift,
            gtid: record.gtid.parse().map_err(|_| bad("gtid", &record.gtid))?,
        })
    }

    /// The number that its first file has in the log; `None` in the first epoch, and where no such number can be.
    pub(super) fn first_number(&self) -> Option<u64> {
        let (_, number) = split_file_name(self.first_file.as_deref()?).ok()?;
        shifted(number, self.shift)
    }

    /// How its primary names its files; without a base name in the first epoch, where the log took over the primary's.
    pub(super) fn naming(&self) -> Naming {
        let own = self.first_file.as_deref().and_then(|name| split_file_name(name).ok());
        Naming { shift: self.shift, base: own.map(|(base, _)| base.to_owned()) }
    }

    /// What the log records with a file of it.
    pub(super) fn file_epoch(&self, log_base: &str) -> FileEpoch {
        let Naming { shift, base } = self.naming();
        FileEpoch { epoch: self.epoch, shift, base: base.unwrap_or_else(|| log_base.to_owned()) }
    }
}

/// A number moved by a shift; `None` where that is no number of a file.
pub(super) fn shifted(number: u64, shift: i64) -> Option<u64> {
    number.checked_add_signed(shift).filter(|n| *n > 0)
}

/// The epoch, of those up to `last`, that the file of that number in the log belongs to.
pub(super) fn origin_of(records: &BTreeMap<u64, EpochRecord>, last: u64, file: u64) -> Option<Origin> {
    let origins = records.range(..=last).rev().filter_map(|(_, record)| Origin::of(record).ok());
    let mut begun = origins.filter(|o| o.first_file.is_none() || o.first_number().is_some_and(|first| first <= file));
    begun.next()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `(epoch, server_id, first_file, shift, gtid)`
    pub(in crate::upstream) fn records(epochs: &[(u64, u32, Option<&str>, i64, &str)]) -> BTreeMap<u64, EpochRecord> {
        let record = |(epoch, server_id, first_file, shift, gtid): &(u64, u32, Option<&str>, i64, &str)| EpochRecord {
            epoch: *epoch,
            node: format!("db-{server_id}"),
            mysql: vec![format!("10.0.0.{server_id}:3306")],
            server_id: *server_id,
            first_file: first_file.map(str::to_owned),
            shift: *shift,
            gtid: (*gtid).to_owned(),
        };
        epochs.iter().map(|e| (e.0, record(e))).collect()
    }

    #[test]
    fn a_files_number_tells_who_wrote_it_and_under_which_name() {
        // Epoch 3 was given up before anything came of it.
        let records = records(&[
            (1, 1, None, 0, ""),
            (2, 2, Some("other.000002"), 5, "0-1-9"),
            (3, 3, Some("mysql-bin.000001"), 8, "0-1-9"),
            (4, 1, Some("mysql-bin.000012"), -3, "0-2-20"),
        ]);
        for (file, epoch, name) in [
            (1, 1, "mysql-bin.000001"),
            (6, 1, "mysql-bin.000006"),
            (7, 2, "other.000002"),
            (8, 2, "other.000003"),
            (9, 4, "mysql-bin.000012"),
            (10, 4, "mysql-bin.000013"),
        ] {
            let origin = origin_of(&records, 4, file).unwrap_or_else(|| panic!("{file}"));
            assert_eq!(
                (origin.epoch, origin.naming().name(file, Some("mysql-bin")).as_deref()),
                (epoch, Some(name)),
                "{file}"
            );
        }
        assert_eq!(origin_of(&records, 3, 9).map(|o| o.epoch), Some(3));
        assert_eq!(origin_of(&records, 4, 9).and_then(|o| o.first_number()), Some(9));
    }

    #[test]
    fn what_is_no_epoch_is_told_and_no_number_is_made_up() {
        let mut records = records(&[(2, 2, Some("nonsense"), 5, "0-1-9"), (3, 2, Some("b.000002"), -2, "0-1-9")]);
        assert!(Origin::of(&records[&2]).is_err_and(|e| e.contains("first_file") && e.contains("nonsense")));
        assert_eq!(Origin::of(&records[&3]).map(|o| o.first_number()), Ok(None));
        records.get_mut(&3).unwrap_or_else(|| panic!("there")).gtid = "x".into();
        assert!(Origin::of(&records[&3]).is_err_and(|e| e.contains("gtid")));
    }
}
