//! Whether the primary's settings keep what acknowledgements promise: pure, variables in, warnings out.
//!
//! Source: "Semisynchronous Replication" in MariaDB's manual; wire-level behaviour of each setting is in `docs/guarantees.md`.

use super::status::SemiSync;

/// What is asked of the primary.
pub(super) const VARIABLES: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('sync_binlog', 'innodb_flush_log_at_trx_commit', \
     'rpl_semi_sync_master_enabled', 'rpl_semi_sync_master_wait_point', 'rpl_semi_sync_master_timeout', \
     'rpl_semi_sync_master_wait_no_slave', 'binlog_checksum', 'gtid_strict_mode')";
/// The same for its state.
pub(super) const STATUS: &str = "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_%'";
/// A shorter wait than this falls back to no wait at all during an outage that one would want to survive.
const LONG_TIMEOUT_MS: u64 = 24 * 3600 * 1000;

type Rows = [Vec<Option<String>>];

fn value<'a>(rows: &'a Rows, name: &str) -> Option<&'a str> {
    rows.iter()
        .find(|r| r.first().and_then(|n| n.as_deref()).is_some_and(|n| n.eq_ignore_ascii_case(name)))?
        .get(1)?
        .as_deref()
}

/// What breaks the promise "a commit that returned is in the relay's log", each with the statement that mends it.
pub(super) fn warnings(variables: &Rows) -> Vec<String> {
    let mut out = Vec::new();
    let mut expect = |name: &str, good: &dyn Fn(&str) -> bool, wanted: &str, why: &str| {
        if let Some(found) = value(variables, name) {
            if !good(found) {
                out.push(format!("{name} is {found}: {why}; on the primary: SET GLOBAL {name} = {wanted}"));
            }
        }
    };
    expect("rpl_semi_sync_master_enabled", &|v| v == "ON", "ON", "commits return without waiting for this relay");
    expect(
        "rpl_semi_sync_master_wait_point",
        &|v| v == "AFTER_SYNC",
        "'AFTER_SYNC'",
        "others see a commit before this relay has it, and it can be taken back",
    );
    expect(
        "rpl_semi_sync_master_timeout",
        &|v| v.parse::<u64>().is_ok_and(|ms| ms >= LONG_TIMEOUT_MS),
        "4294967295",
        "after so many milliseconds without an acknowledgement commits return unprotected",
    );
    expect(
        "rpl_semi_sync_master_wait_no_slave",
        &|v| v == "ON",
        "ON",
        "commits return unprotected while no relay is connected",
    );
    expect(
        "sync_binlog",
        &|v| v == "1",
        "1",
        "a crash of the primary's host can lose the end of its binlog, which the relay then has alone",
    );
    expect(
        "innodb_flush_log_at_trx_commit",
        &|v| v == "1",
        "1",
        "a crash of the primary's host can lose commits that its binlog has",
    );
    expect("binlog_checksum", &|v| v != "NONE", "'CRC32'", "damage on the way can't be noticed");
    expect("gtid_strict_mode", &|v| v == "ON", "ON", "GTIDs can go backwards, at which the relay stops");
    out
}

/// Semi-sync's state; `None` if the server knows none.
pub(super) fn semi_sync(variables: &Rows, status: &Rows) -> Option<SemiSync> {
    let number = |name: &str| value(status, name).and_then(|v| v.parse().ok()).unwrap_or(0);
    Some(SemiSync {
        enabled: value(variables, "rpl_semi_sync_master_enabled")? == "ON",
        clients: number("Rpl_semi_sync_master_clients"),
        waiting: number("Rpl_semi_sync_master_wait_sessions"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(pairs: &[(&str, &str)]) -> Vec<Vec<Option<String>>> {
        pairs.iter().map(|(n, v)| vec![Some((*n).to_owned()), Some((*v).to_owned())]).collect()
    }

    const GOOD: [(&str, &str); 8] = [
        ("sync_binlog", "1"),
        ("innodb_flush_log_at_trx_commit", "1"),
        ("rpl_semi_sync_master_enabled", "ON"),
        ("rpl_semi_sync_master_wait_point", "AFTER_SYNC"),
        ("rpl_semi_sync_master_timeout", "4294967295"),
        ("rpl_semi_sync_master_wait_no_slave", "ON"),
        ("binlog_checksum", "CRC32"),
        ("gtid_strict_mode", "ON"),
    ];

    #[test]
    fn a_lossless_primary_gives_no_warning() {
        assert_eq!(warnings(&rows(&GOOD)), Vec::<String>::new());
    }

    #[test]
    fn each_setting_that_breaks_the_promise_is_named_with_what_mends_it() {
        let bad = ["0", "2", "OFF", "AFTER_COMMIT", "10000", "OFF", "NONE", "OFF"];
        for (i, found) in bad.iter().enumerate() {
            let mut pairs = GOOD;
            pairs[i].1 = found;
            let got = warnings(&rows(&pairs));
            let name = pairs[i].0;
            assert_eq!(got.len(), 1, "{name}: {got:?}");
            assert!(
                got[0].starts_with(&format!("{name} is {found}")) && got[0].contains(&format!("SET GLOBAL {name} = ")),
                "{got:?}"
            );
        }
    }

    #[test]
    fn semi_sync_is_told_as_the_primary_tells_it() {
        let status = rows(&[("Rpl_semi_sync_master_clients", "1"), ("Rpl_semi_sync_master_wait_sessions", "3")]);
        assert_eq!(semi_sync(&rows(&GOOD), &status), Some(SemiSync { enabled: true, clients: 1, waiting: 3 }));
        assert_eq!(semi_sync(&[], &status), None);
    }
}
