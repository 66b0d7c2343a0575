//! Where an empty log begins: the key `upstream.start`.

use std::str::FromStr;

use baton_wire::gtid::GtidPosition;
use baton_wire::gtid::mariadb::GtidList;
use baton_wire::gtid::mysql::{GtidSet, Uuid};

/// Where an empty log begins. A log that holds something goes on from its head, whatever this says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Start {
    /// With the oldest file that the primary still has.
    #[default]
    Earliest,
    /// With the file that the primary writes now.
    Latest,
    /// With the file that holds what follows this position: MariaDB's `0-1-100,7-2-5`, or a MySQL set `uuid:1-100`.
    Gtid(GtidPosition),
    /// With this file; replicas are served from this position on.
    File {
        /// The primary's name of it, such as `mysql-bin.000007`.
        name: String,
        /// Offset in bytes, 4 or more.
        position: u64,
    },
}

const FORM: &str = "allowed: \"earliest\", \"latest\", a GTID position such as \"0-1-100\" or \"3e11fa47-71ca-11e1-9e33-c80aa9429562:1-77\", \
                    or \"file:position\" such as \"mysql-bin.000007:4\"";

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        let Some((head, tail)) = text.split_once(':') else {
            let list: GtidList = text.parse().map_err(|_| FORM.to_owned())?;
            return if list.is_empty() { Err(FORM.to_owned()) } else { Ok(Self::Gtid(GtidPosition::MariaDb(list))) };
        };
        if head.parse::<Uuid>().is_ok() {
            let set: GtidSet = text.parse().map_err(|e| format!("{e}; {FORM}"))?;
            return Ok(Self::Gtid(GtidPosition::MySql(set)));
        }
        let number = head.rsplit_once('.').map(|(base, number)| (!base.is_empty(), number));
        let named = matches!(number, Some((true, n)) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        if !named || head.contains(['/', '\\']) || head.chars().any(char::is_control) {
            return Err(format!("{head:?} is neither a server's uuid nor a binlog file's name; {FORM}"));
        }
        let digits = !tail.is_empty() && tail.bytes().all(|b| b.is_ascii_digit());
        match tail.parse::<u64>() {
            Ok(position) if digits && position >= 4 => Ok(Self::File { name: head.to_owned(), position }),
            _ => Err(format!("{tail:?} is no position in a binlog file; allowed: 4 or more")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_start_is_told_apart() {
        assert_eq!("earliest".parse(), Ok(Start::Earliest));
        assert_eq!("latest".parse(), Ok(Start::Latest));
        assert_eq!("mysql-bin.000007:4".parse(), Ok(Start::File { name: "mysql-bin.000007".into(), position: 4 }));
        let list: GtidList = "0-1-100,7-2-5".parse().unwrap();
        assert_eq!("0-1-100,7-2-5".parse(), Ok(Start::Gtid(GtidPosition::MariaDb(list))));

        let parsed: Start = "3E11FA47-71CA-11E1-9E33-C80AA9429562:1-3:5:tag:7-9".parse().unwrap();
        let Start::Gtid(GtidPosition::MySql(set)) = parsed else { panic!("{parsed:?}") };
        let got: Vec<(String, Vec<(u64, u64)>)> = set.iter().map(|(s, i)| (s.tag.clone(), i.to_vec())).collect();
        assert_eq!(got, [(String::new(), vec![(1, 4), (5, 6)]), ("tag".to_owned(), vec![(7, 10)])]);
        assert_eq!(set.iter().next().unwrap().0.uuid.to_string(), "3e11fa47-71ca-11e1-9e33-c80aa9429562");
    }

    #[test]
    fn what_is_no_start_is_refused() {
        const ID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        let sets = ["", ":", ":0", ":3-1", ":x-", ":1-9223372036854775807", ":tag", ":1,x:1", ":+1"];
        let sets = sets.map(|s| format!("{ID}{s}"));
        let others = [
            "",
            "first",
            "0-1",
            "0-1-1,0-1-2",
            "mysql-bin:4",
            "mysql-bin.000001:",
            "mysql-bin.000001:3",
            "../x.000001:4",
            ".000001:4",
        ];
        for bad in sets.iter().map(String::as_str).chain(others) {
            assert!(bad.parse::<Start>().is_err(), "{bad:?}");
        }
    }
}
