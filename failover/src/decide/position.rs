//! Comparing GTID positions that come as text from servers and relays of either family.

use baton_wire::event::Flavor;
use baton_wire::gtid::GtidPosition;

/// The position, or none if the text is not one.
fn parse(text: &str) -> Option<GtidPosition> {
    let flavor = if text.contains(':') { Flavor::MySql } else { Flavor::MariaDb };
    GtidPosition::parse(flavor, text).ok()
}

/// Whether everything in `part` is in `whole`. Text that is not a position covers nothing and is covered by nothing.
pub fn covers(whole: &str, part: &str) -> bool {
    if part.trim().is_empty() {
        return true;
    }
    match (parse(whole), parse(part)) {
        (Some(whole), Some(part)) => whole.covers(&part) && !forks(&part, &whole),
        _ => false,
    }
}

/// Whether both say the same.
pub fn equal(a: &str, b: &str) -> bool {
    covers(a, b) && covers(b, a)
}

/// Both together; the first alone where they are not of one family.
pub fn union(a: &str, b: &str) -> String {
    if a.trim().is_empty() {
        return b.to_owned();
    }
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => a.union(&b).to_string(),
        _ => a.to_owned(),
    }
}

/// Whether a GTID of `part` has the number of one in `whole` and another origin: two different transactions.
fn forks(part: &GtidPosition, whole: &GtidPosition) -> bool {
    let (Some(part), Some(whole)) = (part.mariadb(), whole.mariadb()) else { return false };
    part.iter().any(|g| whole.get(g.domain).is_some_and(|w| w.sequence == g.sequence && w.server_id != g.server_id))
}

/// What `position` has and `known` lacks; none if nothing.
pub fn beyond(position: &str, known: &str) -> Option<String> {
    if covers(known, position) {
        return None;
    }
    let (Some(p), Some(k)) = (parse(position), parse(known)) else { return Some(position.to_owned()) };
    match (&p, &k) {
        (GtidPosition::MariaDb(p), GtidPosition::MariaDb(k)) => {
            let rest = p
                .iter()
                .filter(|g| !k.contains(g) || k.get(g.domain).is_some_and(|w| w.sequence == g.sequence && w != *g));
            Some(rest.map(|g| g.to_string()).collect::<Vec<_>>().join(","))
        }
        (GtidPosition::MySql(p), GtidPosition::MySql(k)) => Some(p.subtract(k).to_string()),
        _ => Some(position.to_owned()),
    }
}

/// Number of transactions of `tail` that `position` lacks; MariaDB's by the sequence numbers of each domain.
pub fn behind(position: &str, tail: &str) -> u64 {
    let Some(t) = parse(tail) else { return 0 };
    let p = parse(position).filter(|p| !p.is_empty()).unwrap_or_else(|| GtidPosition::empty(t.flavor()));
    match (&p, &t) {
        (GtidPosition::MariaDb(p), GtidPosition::MariaDb(t)) => {
            t.iter().map(|g| g.sequence.saturating_sub(p.sequence(g.domain))).fold(0, u64::saturating_add)
        }
        (GtidPosition::MySql(p), GtidPosition::MySql(t)) => t.subtract(p).len(),
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_of_both_families_are_compared_as_what_they_contain() {
        let uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        assert!(covers("0-1-100", "0-1-99"));
        assert!(covers("0-2-100", "0-1-99"));
        assert!(!covers("0-1-100", "0-2-100"));
        assert!(!covers("0-1-100", "0-1-99,1-1-1"));
        assert!(covers("", ""));
        assert!(!covers("", "0-1-1"));
        assert!(!covers("what", "0-1-1"));
        assert!(covers(&format!("{uuid}:1-5"), &format!("{uuid}:2-3")));
        assert!(equal("0-1-5,1-1-1", "1-1-1,0-1-5"));
        assert_eq!(beyond("0-1-7", "0-1-5"), Some("0-1-7".to_owned()));
        assert_eq!(beyond("0-1-5,9-3-1", "0-1-5"), Some("9-3-1".to_owned()));
        assert_eq!(beyond("0-2-5", "0-1-5"), Some("0-2-5".to_owned()));
        assert_eq!(beyond(&format!("{uuid}:1-7"), &format!("{uuid}:1-5")), Some(format!("{uuid}:6-7")));
        assert_eq!(behind("0-1-90", "0-1-100"), 10);
        assert_eq!(behind("", "0-1-100"), 100);
        assert_eq!(behind("", &format!("{uuid}:1-5")), 5);
        assert_eq!(union("0-1-5", "0-2-7"), "0-2-7");
    }
}
