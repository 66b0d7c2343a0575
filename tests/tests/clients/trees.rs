//! Relays behind relays, and relays that begin somewhere else than at the beginning.

use std::fs;

use anyhow::{Context, Result, ensure};
use baton_testbed::{Bed, MariaDb, RelayProc, Source, assert_tables_equal, cmp_files, cmp_prefix, scenario};

use crate::support::{wait_same_end, write_everything};

/// Every file that the relay has is the primary's, byte for byte (but for the in-use bit of the last one).
fn mirrors(primary: &MariaDb, relay: &RelayProc) -> Result<()> {
    wait_same_end(primary, relay)?;
    let files = relay.log_files()?;
    let last = files.last().context("no files")?.clone();
    for found in files {
        let expected = primary.binlog_path(&found.file_name().context("no name")?.to_string_lossy());
        if found == last {
            cmp_prefix(&expected, &found, fs::metadata(&expected)?.len() as usize, &[21])?;
        } else {
            cmp_files(&expected, &found)?;
        }
    }
    Ok(())
}

#[test]
fn every_relay_of_a_tree_is_a_mirror_of_the_primary() {
    scenario("tree", |bed| {
        let primary = bed.mariadb("primary").start()?;
        write_everything(&primary)?;
        let root = bed.relay("root").server_id(9001).upstream(&primary).start()?;
        let second = bed.relay("second").server_id(9002).behind(&root).start()?;
        let third = bed.relay("third").server_id(9003).behind(&second).start()?;
        let sibling = bed.relay("sibling").server_id(9004).behind(&root).start()?;
        write_everything(&primary)?;
        let replica = bed.mariadb("replica").server_id(2).start()?;
        replica.replicate_from(&Source::gtid(third.port()))?;
        assert_tables_equal(&primary, &replica);
        for relay in [&root, &second, &third, &sibling] {
            ensure!(relay.log_files()?.len() == primary.binlogs()?.len(), "{} lacks files", relay.name());
            mirrors(&primary, relay)?;
        }
        Ok(())
    });
}

#[test]
fn relay_begins_at_the_beginning_of_the_file_that_holds_its_start() {
    scenario("starts", |bed| {
        let primary = bed.mariadb("primary").start()?;
        primary.sql("CREATE TABLE test.t (id INT AUTO_INCREMENT PRIMARY KEY)")?;
        let mut ends = Vec::new();
        for _ in 0..4 {
            primary.sql("INSERT INTO test.t VALUES (), ()")?;
            ends.push((primary.gtid_binlog_pos()?, primary.master_status()?));
            primary.sql("INSERT INTO test.t VALUES (); FLUSH BINARY LOGS")?;
        }
        let (gtid, (file, position)) = &ends[1];
        let count = primary.binlogs()?.len();
        for (name, start, first) in [
            ("earliest", "earliest".to_owned(), 0),
            ("gtid", gtid.clone(), 1),
            ("place", format!("{file}:{position}"), 1),
            ("file", format!("{}:4", primary.binlogs()?[2]), 2),
            ("latest", "latest".to_owned(), count - 1),
        ] {
            began_at(bed, &primary, name, &start, first).with_context(|| format!("start = {start}"))?;
        }
        Ok(())
    });
}

fn began_at(bed: &Bed, primary: &MariaDb, name: &str, start: &str, first: usize) -> Result<()> {
    let relay = bed.relay(name).upstream(primary).start_at(start).start()?;
    mirrors(primary, &relay)?;
    primary.sql("INSERT INTO test.t VALUES ()")?;
    mirrors(primary, &relay)?;
    let names: Vec<_> =
        relay.log_files()?.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
    ensure!(names == primary.binlogs()?[first..], "it has {names:?}");
    let behind = bed.relay(&format!("behind-{name}")).server_id(9002).behind(&relay).start()?;
    mirrors(primary, &behind)
}
