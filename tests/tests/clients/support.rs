//! A log that holds whatever a primary writes, and the wait for a relay that has all of it.

use std::fs;

use anyhow::Result;
use baton_testbed::{MariaDb, RelayProc, wait_until};

/// Fills the primary's log: DDL, rows, statements, XA, tables without transactions, three domains, compressed events, loaded files, large rows,
/// files with and without checksums. Every call adds rows to the same tables.
pub(crate) fn write_everything(primary: &MariaDb) -> Result<()> {
    let csv = primary.bed().path("rows.csv");
    fs::write(&csv, "1,one\n2,two\n3,three\n")?;
    let csv = csv.display();
    for engine in ["InnoDB", "MyISAM", "Aria"] {
        primary.sql(&format!(
            "CREATE TABLE IF NOT EXISTS test.{engine} (id BIGINT AUTO_INCREMENT PRIMARY KEY, text LONGTEXT, number DOUBLE) ENGINE={engine};
             INSERT INTO test.{engine} (text) VALUES ('a'), ('b'), (REPEAT('c', 9000));
             UPDATE test.{engine} SET text = CONCAT(text, '!') WHERE id < 3;
             DELETE FROM test.{engine} WHERE id = 2"
        ))?;
    }
    primary.sql(
        // Domains are applied side by side: what one needs must not come from another.
        "SET gtid_domain_id=7; CREATE TABLE IF NOT EXISTS test.seven (id INT AUTO_INCREMENT PRIMARY KEY);
         SET gtid_domain_id=0; INSERT INTO test.InnoDB (text) VALUES ('zero');
         SET gtid_domain_id=7; INSERT INTO test.seven VALUES (NULL), (NULL);
         SET gtid_domain_id=0; INSERT INTO test.InnoDB (text) VALUES ('zero again');
         SET gtid_domain_id=7; DELETE FROM test.seven ORDER BY id LIMIT 1;
         SET gtid_domain_id=4294967295; CREATE TABLE IF NOT EXISTS test.last (id INT AUTO_INCREMENT PRIMARY KEY); INSERT INTO test.last VALUES (NULL)",
    )?;
    primary.sql("FLUSH BINARY LOGS")?;
    primary.sql(
        "XA START 'one'; INSERT INTO test.InnoDB (text) VALUES ('xa'); XA END 'one'; XA PREPARE 'one'; XA COMMIT 'one';
         XA START 'two'; INSERT INTO test.InnoDB (text) VALUES ('never'); XA END 'two'; XA PREPARE 'two'; XA ROLLBACK 'two';
         BEGIN; INSERT INTO test.InnoDB (text) VALUES ('rolled back'); ROLLBACK;
         BEGIN; INSERT INTO test.InnoDB (text) VALUES ('kept'); SAVEPOINT s; INSERT INTO test.MyISAM (text) VALUES ('in between'); ROLLBACK TO s; COMMIT",
    )?;
    for format in ["STATEMENT", "MIXED", "ROW"] {
        let unsafe_for_statements = if format == "STATEMENT" { "NOW()" } else { "UUID()" };
        primary.sql(&format!(
            "SET binlog_format={format}; SET @number = 3.25;
             INSERT INTO test.InnoDB (text, number) VALUES ('{format}', @number), ('random', RAND());
             INSERT INTO test.InnoDB (text) VALUES ({unsafe_for_statements});
             CREATE TEMPORARY TABLE test.scratch (a INT); INSERT INTO test.scratch VALUES (1); DROP TEMPORARY TABLE test.scratch;
             CREATE TABLE IF NOT EXISTS test.loaded (id INT, text VARCHAR(20)); LOAD DATA INFILE '{csv}' INTO TABLE test.loaded FIELDS TERMINATED BY ','"
        ))?;
    }
    primary.sql("SET GLOBAL binlog_checksum=NONE")?;
    primary.sql("INSERT INTO test.InnoDB (text) VALUES ('without a checksum'); TRUNCATE TABLE test.MyISAM")?;
    primary.sql("SET GLOBAL binlog_checksum=CRC32, GLOBAL log_bin_compress=1, GLOBAL log_bin_compress_min_len=10")?;
    primary.sql("INSERT INTO test.InnoDB (text) VALUES (REPEAT('compressed ', 500)); ANALYZE TABLE test.InnoDB")?;
    primary.sql("SET GLOBAL log_bin_compress=0")?;
    primary.sql("INSERT INTO test.InnoDB (text) VALUES (REPEAT(UUID(), 20000)); DROP TABLE test.loaded").map(drop)
}

/// Waits until the relay's log ends where the primary's does (which may still write a checkpoint of its own accord).
pub(crate) fn wait_same_end(primary: &MariaDb, relay: &RelayProc) -> Result<()> {
    let ends = || {
        let rows = relay.session()?.query("SHOW MASTER STATUS")?;
        let end = rows.first().map(|row| row.iter().take(2).flatten().cloned().collect::<Vec<_>>());
        let (file, position) = primary.master_status()?;
        Ok((vec![file, position.to_string()], end.unwrap_or_default()))
    };
    wait_until(&format!("{}'s log to end where the primary's does", relay.name()), ends, |(a, b)| a == b).map(drop)
}
