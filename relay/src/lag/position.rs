//! What a replica has applied, from the variables that its server shows.

use baton_wire::gtid::GtidPosition;
use baton_wire::gtid::mariadb::GtidList;

use crate::lag::sample::SampleError;

/// What a MariaDB replica has applied, from its `gtid_slave_pos` and `gtid_current_pos`.
///
/// `gtid_slave_pos` is the truth. A domain that it lacks (a former primary that has not applied anything since) is taken from
/// `gtid_current_pos`, which counts the server's own transactions too.
pub(super) fn mariadb(replicated: &str, current: &str) -> Result<GtidPosition, SampleError> {
    let read = |name: &str, text: &str| {
        text.parse::<GtidList>().map_err(|e| SampleError::Refused(format!("its {name} can't be read: {e}")))
    };
    let mut applied = read("gtid_slave_pos", replicated)?;
    for gtid in read("gtid_current_pos", current)?.iter() {
        if applied.get(gtid.domain).is_none() {
            applied.set(gtid);
        }
    }
    Ok(GtidPosition::MariaDb(applied))
}

/// What a MySQL replica has applied, from its `gtid_mode` and `gtid_executed`.
pub(super) fn mysql(mode: &str, executed: &str) -> Result<GtidPosition, SampleError> {
    if mode != "ON" {
        return Err(SampleError::Refused(format!(
            "its gtid_mode is {mode}: what it has applied can't be told; set gtid_mode=ON on it"
        )));
    }
    let set = executed.parse().map_err(|e| SampleError::Refused(format!("its gtid_executed can't be read: {e}")))?;
    Ok(GtidPosition::MySql(set))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn a_former_primarys_own_transactions_count_until_it_has_applied_something() {
        let applied = |replicated, current| mariadb(replicated, current).unwrap().to_string();
        assert_eq!(applied("", "0-1-100"), "0-1-100");
        // An own transaction that nobody replicates does not make it look fresher.
        assert_eq!(applied("0-1-100", "0-2-101,5-2-1"), "0-1-100,5-2-1");
    }

    #[test]
    fn a_mysql_set_is_read_as_servers_print_it_with_line_breaks() {
        let text = format!("{UUID}:1-7:9:mytag:1,\n4e11fa47-71ca-11e1-9e33-c80aa9429562:5");
        assert_eq!(mysql("ON", &text).unwrap().to_string(), text.replace('\n', ""));
        assert!(mysql("ON", "").unwrap().is_empty());
    }

    #[test]
    fn a_position_that_makes_no_sense_is_an_error_that_names_the_variable() {
        for (answer, variable) in [
            (mariadb("0-1-x", ""), "gtid_slave_pos"),
            (mariadb("", "0-1"), "gtid_current_pos"),
            (mysql("ON", "x:1"), "gtid_executed"),
            (mysql("OFF_PERMISSIVE", ""), "set gtid_mode=ON"),
        ] {
            let error = answer.unwrap_err().to_string();
            assert!(error.contains(variable), "{error}");
        }
    }
}
