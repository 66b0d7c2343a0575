//! GTIDs and sets of them as text, as `@@gtid_executed` prints and statements accept it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{Gtid, GtidSet, MAX_NUMBER, Source, Uuid, is_tag};
use crate::error::{Result, WireError};

impl FromStr for Uuid {
    type Err = WireError;

    /// Takes what MySQL takes: 8-4-4-4-12 hexadecimal digits in any case, the same without dashes, or in braces.
    fn from_str(text: &str) -> Result<Self> {
        let bad =
            || WireError::invalid("uuid", format!("{text:?} is not of the form 3e11fa47-71ca-11e1-9e33-c80aa9429562"));
        let inner = text.trim();
        let inner = match inner.strip_prefix('{') {
            Some(open) => open.strip_suffix('}').ok_or_else(bad)?,
            None => inner,
        };
        let digits: Vec<u8> = match inner.len() {
            36 => {
                let dashes_fit = inner.bytes().enumerate().all(|(i, b)| (b == b'-') == matches!(i, 8 | 13 | 18 | 23));
                dashes_fit.then(|| inner.bytes().filter(|b| *b != b'-').collect()).ok_or_else(bad)?
            }
            32 => inner.bytes().collect(),
            _ => return Err(bad()),
        };
        let mut uuid = [0; 16];
        for (byte, pair) in uuid.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |b: u8| char::from(b).to_digit(16).ok_or_else(bad);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(Self(uuid))
    }
}

impl FromStr for Gtid {
    type Err = WireError;

    /// Takes `uuid:number` and `uuid:tag:number`, with blanks around the parts.
    fn from_str(text: &str) -> Result<Self> {
        let bad =
            |why: &str| WireError::invalid("gtid", format!("{text:?} is not of the form uuid[:tag]:number: {why}"));
        let mut parts = text.split(':').map(str::trim);
        let uuid: Uuid = parts.next().unwrap_or_default().parse()?;
        let (tag, number) = match (parts.next(), parts.next(), parts.next()) {
            (Some(number), None, _) => ("", number),
            (Some(tag), Some(number), None) if is_tag(tag) => (tag, number),
            (Some(tag), Some(_), None) => return Err(bad(&format!("{tag:?} is not a tag"))),
            _ => return Err(bad("too few or too many parts")),
        };
        Ok(Self { source: Source::new(uuid, tag)?, number: number_of(number).map_err(|e| bad(&e))? })
    }
}

impl fmt::Display for GtidSet {
    /// As MySQL prints it, on one line: sources sorted, a server named once, its untagged intervals first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut server = None;
        for (source, intervals) in self.iter() {
            if server != Some(source.uuid) {
                if server.is_some() {
                    f.write_str(",")?;
                }
                write!(f, "{}", source.uuid)?;
                server = Some(source.uuid);
            }
            if !source.tag.is_empty() {
                write!(f, ":{}", source.tag)?;
            }
            for (start, end) in intervals {
                let last = end - 1;
                if *start == last {
                    write!(f, ":{start}")?;
                } else {
                    write!(f, ":{start}-{last}")?;
                }
            }
        }
        Ok(())
    }
}

impl FromStr for GtidSet {
    type Err = WireError;

    /// Takes `uuid:1-5:7:tag:1-3,uuid:...` in any order and case, with blanks and newlines anywhere between the parts, empty
    /// entries between commas, and servers or intervals named more than once. The empty text is the empty set.
    fn from_str(text: &str) -> Result<Self> {
        let mut sources: BTreeMap<Source, Vec<(u64, u64)>> = BTreeMap::new();
        for entry in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
            let bad = |why: String| WireError::invalid("gtid set", format!("{why} in {entry:?}"));
            let mut parts = entry.split(':').map(str::trim);
            let mut source = Source { uuid: parts.next().unwrap_or_default().parse()?, tag: String::new() };
            let mut has_interval = false;
            for part in parts {
                if is_tag(part) {
                    if !has_interval && !source.tag.is_empty() {
                        return Err(bad(format!("tag {:?} has no interval", source.tag)));
                    }
                    source.tag = part.to_ascii_lowercase();
                    has_interval = false;
                    continue;
                }
                let interval = interval_of(part).map_err(bad)?;
                match sources.get_mut(&source) {
                    Some(intervals) => intervals.push(interval),
                    None => drop(sources.insert(source.clone(), vec![interval])),
                }
                has_interval = true;
            }
            if !has_interval {
                return Err(bad("an interval such as 1-5 is missing".to_owned()));
            }
        }
        Ok(Self::normalised(sources))
    }
}

fn interval_of(part: &str) -> std::result::Result<(u64, u64), String> {
    let (first, last) = match part.split_once('-') {
        Some((first, last)) => (number_of(first.trim())?, number_of(last.trim())?),
        None => {
            let number = number_of(part)?;
            (number, number)
        }
    };
    if first > last {
        return Err(format!("interval {first}-{last} ends before it begins"));
    }
    Ok((first, last + 1))
}

fn number_of(text: &str) -> std::result::Result<u64, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits && (1..=MAX_NUMBER).contains(&number) => Ok(number),
        _ => Err(format!("{text:?} is not a number from 1 to {MAX_NUMBER}")),
    }
}
