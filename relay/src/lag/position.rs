//! GTID positions as servers print them: reading, printing, comparing.

use baton_wire::gtid::GtidPosition;
use baton_wire::gtid::mariadb::GtidList;
use baton_wire::gtid::mysql::{Gtid, GtidSet, Source, Uuid};

/// A full position as its family prints it: `0-1-100,7-2-5`, or `uuid:1-7:tag:1,...`.
pub(super) fn text(position: &GtidPosition) -> String {
    match position {
        GtidPosition::MariaDb(list) => list.to_string(),
        GtidPosition::MySql(set) => set_text(set),
    }
}

/// Whether everything in `other` is in `position`. Positions of two families never cover each other.
pub(super) fn covers(position: &GtidPosition, other: &GtidPosition) -> bool {
    match (position, other) {
        (GtidPosition::MariaDb(a), GtidPosition::MariaDb(b)) => a.covers(b),
        (GtidPosition::MySql(a), GtidPosition::MySql(b)) => set_covers(a, b),
        _ => false,
    }
}

/// What a MariaDB replica has applied, from its `gtid_slave_pos` and `gtid_current_pos`.
///
/// `gtid_slave_pos` is the truth. A domain that it lacks (a former primary that has not applied anything since) is taken from
/// `gtid_current_pos`, which counts the server's own transactions too.
pub(super) fn mariadb_applied(replicated: &GtidList, current: &GtidList) -> GtidList {
    let mut applied = replicated.clone();
    for gtid in current.iter() {
        if applied.get(gtid.domain).is_none() {
            applied.set(gtid);
        }
    }
    applied
}

fn set_text(set: &GtidSet) -> String {
    let mut out = String::new();
    let mut last: Option<Uuid> = None;
    for (source, intervals) in set.iter() {
        if last != Some(source.uuid) {
            if last.is_some() {
                out.push(',');
            }
            out.push_str(&source.uuid.to_string());
            last = Some(source.uuid);
        }
        if !source.tag.is_empty() {
            out.push(':');
            out.push_str(&source.tag);
        }
        for (start, end) in intervals {
            let last = end.saturating_sub(1);
            out.push_str(&if last == *start { format!(":{start}") } else { format!(":{start}-{last}") });
        }
    }
    out
}

fn set_covers(a: &GtidSet, b: &GtidSet) -> bool {
    b.iter().all(|(source, wanted)| {
        let have = a.iter().find(|(s, _)| *s == source).map_or(&[][..], |(_, i)| i);
        wanted.iter().all(|w| have.iter().any(|h| h.0 <= w.0 && w.1 <= h.1))
    })
}

/// Reads a GTID set as `@@gtid_executed` prints it (with line breaks). The error names the part that is wrong.
pub(super) fn parse_set(text: &str) -> Result<GtidSet, String> {
    let mut set = GtidSet::default();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let bad = || format!("{part:?} is not of the form uuid[:tag]:first-last");
        let mut fields = part.split(':').map(str::trim);
        let uuid = fields.next().and_then(parse_uuid).ok_or_else(bad)?;
        let mut source = Source { uuid, tag: String::new() };
        for field in fields {
            if field.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                source.tag = field.to_ascii_lowercase();
                continue;
            }
            let (first, last) = field.split_once('-').unwrap_or((field, field));
            let first: u64 = first.trim().parse().map_err(|_| bad())?;
            let last: u64 = last.trim().parse().map_err(|_| bad())?;
            if first == 0 || last < first || last == u64::MAX {
                return Err(bad());
            }
            if first == last {
                set.add(&Gtid { source: source.clone(), number: first });
            } else {
                set.add_interval(&source, first, last + 1);
            }
        }
    }
    Ok(set)
}

fn parse_uuid(text: &str) -> Option<Uuid> {
    let mut bytes = [0; 16];
    let digits: Vec<u32> = text.chars().filter(|c| *c != '-').map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    if digits.len() != 32 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::try_from(pair.first()? << 4 | pair.get(1)?).ok()?;
    }
    Some(Uuid(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn a_mysql_set_is_read_and_printed_in_the_servers_form() {
        let text = format!("{UUID}:1-7:9:mytag:1,\n4e11fa47-71ca-11e1-9e33-c80aa9429562:5");
        let set = parse_set(&text).unwrap();
        assert_eq!(super::text(&GtidPosition::MySql(set)), text.replace('\n', ""));
        assert!(parse_set("").unwrap().is_empty());
    }

    #[test]
    fn nonsense_in_a_mysql_set_is_an_error_that_quotes_it() {
        for bad in ["x:1", &format!("{UUID}:0"), &format!("{UUID}:5-2"), &format!("{UUID}:1-"), "3e11:1"] {
            assert!(parse_set(bad).unwrap_err().contains("not of the form"), "{bad}");
        }
    }

    #[test]
    fn covering_is_by_domain_and_by_interval() {
        let maria = |t: &str| GtidPosition::MariaDb(t.parse().unwrap());
        let mysql = |t: &str| GtidPosition::MySql(parse_set(t).unwrap());
        assert!(covers(&maria("0-1-5,7-2-9"), &maria("7-2-8,0-3-5")));
        assert!(!covers(&maria("0-1-5"), &maria("0-1-6")));
        assert!(!covers(&maria("0-1-5"), &maria("0-1-5,1-1-1")));
        assert!(covers(&mysql(&format!("{UUID}:1-9")), &mysql(&format!("{UUID}:2-4:7"))));
        assert!(!covers(&mysql(&format!("{UUID}:1-4:6-9")), &mysql(&format!("{UUID}:2-7"))));
        assert!(!covers(&maria("0-1-5"), &mysql("")));
    }

    #[test]
    fn a_former_primarys_own_transactions_count_until_it_has_applied_something() {
        let applied = |replicated: &str, current: &str| {
            mariadb_applied(&replicated.parse().unwrap(), &current.parse().unwrap()).to_string()
        };
        assert_eq!(applied("", "0-1-100"), "0-1-100");
        // An own transaction that nobody replicates does not make it look fresher.
        assert_eq!(applied("0-1-100", "0-2-101,5-2-1"), "0-1-100,5-2-1");
    }
}
