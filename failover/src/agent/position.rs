//! Comparing GTID positions, domain by domain. Pure.

use std::collections::BTreeMap;

use baton_wire::gtid::mariadb::Gtid;

/// What `own` has and `log` has not, as ranges for people to read; none if the log has everything. The same number from another server counts as
/// surplus.
pub fn beyond(own: &str, log: &str) -> Option<String> {
    let (own, log) = (domains(own), domains(log));
    let surplus: Vec<String> = own
        .iter()
        .filter_map(|(domain, (server, sequence))| match log.get(domain) {
            Some((_, last)) if sequence < last => None,
            Some((same, last)) if sequence == last && server == same => None,
            Some((_, last)) if sequence > last => Some(format!("{domain}-{server}-{} to {sequence}", last + 1)),
            _ => Some(format!("{domain}-{server}-{sequence}")),
        })
        .collect();
    (!surplus.is_empty()).then(|| surplus.join(", "))
}

/// Server and sequence number by domain; what is no GTID is left out.
fn domains(position: &str) -> BTreeMap<u32, (u32, u64)> {
    let gtids = position.split(',').filter_map(|g| g.trim().parse::<Gtid>().ok());
    gtids.map(|g| (g.domain, (g.server_id, g.sequence))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_log_lacks_is_surplus() {
        for (own, log, expected) in [
            ("", "", None),
            ("", "0-1-5", None),
            ("0-1-5", "0-1-5", None),
            ("0-1-5", "0-2-7", None),
            ("0-1-7", "0-1-5", Some("0-1-6 to 7")),
            ("0-1-5", "0-2-5", Some("0-1-5")),
            ("0-1-5,1-1-3", "0-1-5", Some("1-1-3")),
            ("1-1-3,0-1-9", "0-1-5,1-1-3", Some("0-1-6 to 9")),
        ] {
            assert_eq!(beyond(own, log).as_deref(), expected, "{own} against {log}");
        }
    }
}
