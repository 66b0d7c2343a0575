//! Transactions and bytes against the primary's own binlog.

use anyhow::{Context, Result, ensure};
use baton_testbed::{MariaDb, Source, scenario, wait_caught_up};

use crate::support::{told_current, told_until};

/// Counted from the primary's binlog: transactions (GTID events) and bytes of events behind a place.
fn behind(primary: &MariaDb, (file, position): &(String, u64)) -> Result<(u64, u64)> {
    let (mut transactions, mut bytes) = (0, 0);
    for name in primary.binlogs()?.iter().filter(|name| *name >= file) {
        let from = if name == file { *position } else { 4 };
        for row in primary.sql(&format!("SHOW BINLOG EVENTS IN '{name}' FROM {from}"))? {
            let cell = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
            transactions += u64::from(cell(2) == "Gtid");
            bytes += cell(4).parse::<u64>()? - cell(1).parse::<u64>()?;
        }
    }
    Ok((transactions, bytes))
}

#[test]
fn transactions_and_bytes_are_those_of_the_primarys_binlog() {
    scenario("lag_exact", |bed| {
        let primary = bed.mariadb("primary").server_id(1).start()?;
        let relay = bed.relay("relay").upstream(&primary).start()?;
        let replica = bed.mariadb("replica").server_id(2).option("--report-host=replica").start()?;
        replica.replicate_from(&Source::gtid(relay.port()))?;
        primary.sql("CREATE TABLE test.t (a INT AUTO_INCREMENT PRIMARY KEY, filler LONGTEXT)")?;
        wait_caught_up(&primary, &replica)?;
        told_current(&relay, "replica")?;
        replica.sql("STOP SLAVE SQL_THREAD")?;
        let place = primary.master_status()?;

        let insert = "INSERT INTO test.t (filler) VALUES";
        let steps = [
            format!("{insert} ('one')"),
            format!(
                "BEGIN; {insert} ('two'); {insert} ('three'), ('four'); UPDATE test.t SET filler='five' WHERE a=1; COMMIT"
            ),
            format!("{insert} (REPEAT('x', 3 << 20))"),
            "ALTER TABLE test.t ADD COLUMN b INT".to_owned(),
            format!("FLUSH BINARY LOGS; {insert} ('six')"),
            format!("SET gtid_domain_id=7; {insert} ('seven'); {insert} ('eight')"),
            format!("BEGIN; {insert} ('nine'); ROLLBACK; {insert} ('ten')"),
            "FLUSH BINARY LOGS; FLUSH BINARY LOGS; CREATE TABLE test.u (a INT)".to_owned(),
            "DROP TABLE test.u".to_owned(),
        ];
        for step in &steps {
            primary.sql(step)?;
            relay.wait_head(&primary)?;
            let (transactions, bytes) = behind(&primary, &place)?;
            // Read anew each time: behind a rotation the primary writes a checkpoint when it gets round to it.
            let told =
                told_until(&relay, "replica", &format!("{transactions} transactions, {bytes} bytes or more"), |told| {
                    let told = (told.number("applied", "lag_transactions")?, told.number("applied", "lag_bytes")?);
                    Ok(told == behind(&primary, &place)?)
                })
                .with_context(|| step.clone())?;
            ensure!(told.number("received", "lag_transactions")? == 0 || told.number("received", "lag_ms")? > 0);
        }
        told_until(&relay, "replica", "to have been sent all", |told| {
            Ok(told.number("received", "lag_transactions")? == 0 && told.number("received", "lag_bytes")? == 0)
        })?;

        // One by one: what is left is what is behind the last one applied.
        let last = replica.gtid_slave_pos()?;
        let goal = last.split('-').next_back().and_then(|n| n.parse::<u64>().ok()).context("no position")? + 2;
        replica.sql(&format!("STOP SLAVE; START SLAVE UNTIL master_gtid_pos='0-1-{goal}'"))?;
        let (all, _) = behind(&primary, &place)?;
        told_until(&relay, "replica", "two transactions fewer", |told| {
            let left = told.number("applied", "lag_transactions")?;
            ensure!(left == all || left + 1 == all || left + 2 == all, "{left} of {all}");
            Ok(left + 2 == all)
        })?;
        replica.sql("STOP SLAVE; START SLAVE")?;
        wait_caught_up(&primary, &replica)?;
        told_current(&relay, "replica").map(drop)
    });
}
