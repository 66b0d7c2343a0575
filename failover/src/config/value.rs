//! How single values are written: durations and addresses. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A `host:port`, kept as it was written: names are resolved anew at each connect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// A name or an IP address, without the brackets of IPv6.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str =
            "allowed: \"host:port\", such as \"10.0.1.5:3306\", \"db-1.example:3306\" or \"[fd00::5]:3306\"";
        let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("the port is missing; {FORM}"))?;
        let host = match host.strip_prefix('[').map(|h| h.strip_suffix(']')) {
            Some(Some(inner)) => {
                inner.parse::<std::net::Ipv6Addr>().map_err(|_| format!("{inner:?} is no IPv6 address; {FORM}"))?;
                inner
            }
            Some(None) => return Err(format!("the closing bracket is missing; {FORM}")),
            None if host.contains(':') => return Err(format!("an IPv6 address needs brackets; {FORM}")),
            None => host,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || host.len() > 253 || !host.chars().all(plain) {
            return Err(format!("{host:?} is no host; {FORM}"));
        }
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("{port:?} is no port; {FORM}"));
        }
        let port = port.parse().map_err(|_| format!("port {port} is out of range; allowed: 0 to 65535"))?;
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Splits digits from a unit.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// Parses `100ms`, `10s`, `5m`, `12h`, `7d`, `2w`.
///
/// # Errors
/// In words, with what is allowed.
pub fn duration(text: &str) -> Result<Duration, String> {
    const FORM: &str = "allowed: a whole number and a unit of ms, s, m, h, d or w, such as \"100ms\" or \"7d\"";
    let (number, unit) = number_and_unit(text).ok_or(FORM)?;
    let seconds = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        "" => return Err(format!("the unit is missing; {FORM}")),
        other => return Err(format!("{other:?} is no unit of time; {FORM}")),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| "too long a time".to_owned())
}

/// The known words nearest to a misspelt one: at most three.
pub(super) fn near<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found: Vec<(usize, &str)> = known
        .map(|k| (distance(word, k), k))
        .filter(|(d, k)| *d <= 1 + k.len() / 4 || (word.len() >= 3 && (k.contains(word) || word.contains(*k))))
        .collect();
    found.sort_unstable();
    found.truncate(3);
    found.into_iter().map(|(_, k)| k).collect()
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(64).enumerate() {
        let mut next = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let substituted = row[j] + usize::from(ca != *cb);
            next.push(substituted.min(row[j + 1] + 1).min(next[j] + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_host_and_port_and_print_as_written() {
        for text in ["10.0.1.5:3306", "db-1.example:3306", "[fd00::5]:3306", "localhost:0"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("[::1]:3306".parse::<Address>().unwrap().host, "::1");
        for bad in [
            "",
            "db-1",
            ":3306",
            "db-1:",
            "db-1:x",
            "db-1:65536",
            "db-1:+1",
            "::1:3306",
            "[::1:3306",
            "[zz]:1",
            "a b:1",
            "a/b:1",
        ] {
            bad.parse::<Address>().unwrap_err();
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(duration("2 h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "7", "d", "-1s", "1.5s", "7y", "99999999999999999999s", "18446744073709551615w"] {
            duration(bad).unwrap_err();
        }
    }

    #[test]
    fn misspelt_words_find_their_neighbours() {
        let known = ["addresses", "user", "password_file", "tls"];
        assert_eq!(near("adresses", known.into_iter()), ["addresses"]);
        assert_eq!(near("password", known.into_iter()), ["password_file"]);
        assert!(near("zzzzzz", known.into_iter()).is_empty());
    }
}
