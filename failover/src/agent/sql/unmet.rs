//! What Baton needs of a server, as a table: each lack with the statement that mends it. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::status::Variables;
use crate::config::Address;

/// The longest semi-sync timeout that there is, in milliseconds.
const NEVER: u64 = 4_294_967_295;

/// One requirement.
struct Need {
    variable: &'static str,
    met: fn(&str) -> bool,
    /// What to do; `{value}` is what the server has.
    mend: &'static str,
}

const NEEDS: &[Need] = &[
    Need {
        variable: "log_bin",
        met: on,
        mend: "log_bin is off: set log_bin=<base name> in the option file and restart",
    },
    Need {
        variable: "log_slave_updates",
        met: on,
        mend: "log_slave_updates is off: set log_slave_updates=ON in the option file and restart",
    },
    Need {
        variable: "binlog_format",
        met: |v| v.eq_ignore_ascii_case("row") || v.eq_ignore_ascii_case("mixed"),
        mend: "binlog_format is {value}: SET GLOBAL binlog_format=ROW",
    },
    Need { variable: "sync_binlog", met: |v| v == "1", mend: "sync_binlog is {value}: SET GLOBAL sync_binlog=1" },
    Need {
        variable: "innodb_flush_log_at_trx_commit",
        met: |v| matches!(v, "1" | "3"),
        mend: "innodb_flush_log_at_trx_commit is {value}: SET GLOBAL innodb_flush_log_at_trx_commit=1",
    },
    Need { variable: "gtid_strict_mode", met: on, mend: "gtid_strict_mode is off: SET GLOBAL gtid_strict_mode=1" },
    Need {
        variable: "server_id",
        met: |v| v.parse::<u32>().is_ok_and(|n| n > 0),
        mend: "server_id is {value}: SET GLOBAL server_id=<a number of its own>",
    },
    Need {
        variable: "rpl_semi_sync_master_timeout",
        met: |v| v.parse::<u64>().is_ok_and(|n| n >= NEVER),
        mend: "rpl_semi_sync_master_timeout is {value}, after which commits are not waited for: \
               SET GLOBAL rpl_semi_sync_master_timeout=4294967295",
    },
    Need {
        variable: "rpl_semi_sync_master_wait_point",
        met: |v| v.eq_ignore_ascii_case("after_sync") || v == "0",
        mend: "rpl_semi_sync_master_wait_point is {value}: SET GLOBAL rpl_semi_sync_master_wait_point=AFTER_SYNC",
    },
    Need {
        variable: "rpl_semi_sync_master_wait_no_slave",
        met: on,
        mend: "rpl_semi_sync_master_wait_no_slave is off: SET GLOBAL rpl_semi_sync_master_wait_no_slave=ON",
    },
];

fn on(value: &str) -> bool {
    value == "1" || value.eq_ignore_ascii_case("on")
}

/// What is lacking, in the order of the table.
pub(super) fn unmet(variables: &Variables, slave: Option<&BTreeMap<String, String>>) -> Vec<String> {
    let mut found = Vec::new();
    let version = variables.get("version").map_or("", String::as_str);
    if !version.is_empty() && !version.to_ascii_lowercase().contains("mariadb") {
        found.push(format!("the server is {version}: agents work with MariaDB 10.6 and later; install that"));
    }
    for need in NEEDS {
        if let Some(value) = variables.get(need.variable).filter(|v| !(need.met)(v)) {
            found.push(need.mend.replace("{value}", value));
        }
    }
    let using = slave.and_then(|s| s.get("Using_Gtid")).map(String::as_str);
    if using.is_some_and(|u| u.eq_ignore_ascii_case("no")) {
        found.push(
            "it replicates without GTIDs: STOP SLAVE; CHANGE MASTER TO MASTER_USE_GTID=slave_pos; START SLAVE"
                .to_owned(),
        );
    }
    found
}

/// Why nobody can reach the server where it is advertised, if that is so: Debian's option file has it listen on the loopback address only.
pub fn unreachable(bind_address: &str, advertised: &[Address]) -> Option<String> {
    let loopback = |host: &str| host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let strange = advertised.iter().find(|a| !loopback(&a.host))?;
    if bind_address == "none" {
        return Some(format!(
            "skip_networking is on, and {strange} is advertised: remove it from the option file and restart"
        ));
    }
    let only = !bind_address.is_empty() && bind_address.split(',').map(str::trim).all(loopback);
    only.then(|| {
        format!("bind_address is {bind_address}, and {strange} is advertised: set bind_address=* in the option file and restart")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_listens_where_nobody_is_sent_says_so() {
        let at = |text: &str| vec![text.parse::<Address>().unwrap()];
        for (bind, advertised, expected) in [
            ("127.0.0.1", "10.0.0.1:3306", "set bind_address=*"),
            ("127.0.0.1,::1", "db-1:3306", "set bind_address=*"),
            ("none", "10.0.0.1:3306", "skip_networking"),
        ] {
            let found = unreachable(bind, &at(advertised)).unwrap_or_default();
            assert!(found.contains(expected) && found.contains(advertised), "{bind}: {found:?}");
        }
        for (bind, advertised) in [
            ("", "10.0.0.1:3306"),
            ("*", "10.0.0.1:3306"),
            ("0.0.0.0", "10.0.0.1:3306"),
            ("127.0.0.1,10.0.0.1", "10.0.0.1:3306"),
            ("127.0.0.1", "127.0.0.1:3306"),
            ("127.0.0.1", "localhost:3306"),
        ] {
            assert_eq!(unreachable(bind, &at(advertised)), None, "{bind}");
        }
    }

    fn good() -> Variables {
        Variables::from(
            [
                ("version", "10.11.14-MariaDB-log"),
                ("log_bin", "1"),
                ("log_slave_updates", "1"),
                ("binlog_format", "ROW"),
                ("sync_binlog", "1"),
                ("innodb_flush_log_at_trx_commit", "1"),
                ("gtid_strict_mode", "1"),
                ("server_id", "7"),
                ("rpl_semi_sync_master_timeout", "4294967295"),
                ("rpl_semi_sync_master_wait_point", "AFTER_SYNC"),
                ("rpl_semi_sync_master_wait_no_slave", "1"),
            ]
            .map(|(k, v)| (k, v.to_owned())),
        )
    }

    #[test]
    fn a_server_with_everything_lacks_nothing() {
        assert_eq!(unmet(&good(), None), Vec::<String>::new());
    }

    #[test]
    fn each_lack_is_named_with_what_mends_it() {
        for (variable, value, expected) in [
            ("version", "9.7.4", "the server is 9.7.4"),
            ("log_bin", "0", "log_bin=<base name>"),
            ("log_slave_updates", "0", "log_slave_updates=ON"),
            ("binlog_format", "STATEMENT", "binlog_format is STATEMENT: SET GLOBAL binlog_format=ROW"),
            ("sync_binlog", "0", "SET GLOBAL sync_binlog=1"),
            ("innodb_flush_log_at_trx_commit", "2", "SET GLOBAL innodb_flush_log_at_trx_commit=1"),
            ("gtid_strict_mode", "0", "SET GLOBAL gtid_strict_mode=1"),
            ("server_id", "0", "server_id"),
            ("rpl_semi_sync_master_timeout", "10000", "SET GLOBAL rpl_semi_sync_master_timeout=4294967295"),
            ("rpl_semi_sync_master_wait_point", "AFTER_COMMIT", "=AFTER_SYNC"),
            ("rpl_semi_sync_master_wait_no_slave", "0", "wait_no_slave=ON"),
        ] {
            let mut variables = good();
            variables.insert(variable, value.to_owned());
            let found = unmet(&variables, None);
            assert!(found.len() == 1 && found[0].contains(expected), "{variable}={value}: {found:?}");
        }
        let slave = BTreeMap::from([("Using_Gtid".to_owned(), "No".to_owned())]);
        assert!(unmet(&good(), Some(&slave))[0].contains("MASTER_USE_GTID=slave_pos"));
    }
}
