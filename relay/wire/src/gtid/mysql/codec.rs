//! GTID sets as bytes: in COM_BINLOG_DUMP_GTID and in PREVIOUS_GTIDS events.
//!
//! Format: `Gtid_set::encode` in MySQL's `sql/rpl_gtid_set.cc`. Without tags: number of servers, then each with its intervals.
//! With tags (8.3 and newer): the format number 1 in the first and the eighth byte, between them the number of sources.

use std::collections::BTreeMap;

use super::{GtidSet, MAX_NUMBER, MAX_TAG_LEN, Source, Uuid};
use crate::error::{Result, WireError};
use crate::read::Reader;
use crate::varlen;

const WHAT: &str = "encoded gtid set";
const TAGGED_FORMAT: u8 = 1;

impl GtidSet {
    /// Appends the encoding: the older one unless a source has a tag, as servers do.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let tagged = self.has_tags();
        let count = self.iter().count() as u64;
        let [a, b, c, d, e, f, ..] = count.to_le_bytes();
        if tagged {
            out.extend_from_slice(&[TAGGED_FORMAT, a, b, c, d, e, f, TAGGED_FORMAT]);
        } else {
            out.extend_from_slice(&count.to_le_bytes());
        }
        for (source, intervals) in self.iter() {
            out.extend_from_slice(&source.uuid.0);
            if tagged {
                varlen::write_bytes(out, source.tag.as_bytes());
            }
            out.extend_from_slice(&(intervals.len() as u64).to_le_bytes());
            for (start, end) in intervals {
                out.extend_from_slice(&start.to_le_bytes());
                out.extend_from_slice(&end.to_le_bytes());
            }
        }
    }

    /// Reads either encoding; `bytes` is all of it and nothing else.
    ///
    /// Errors: bytes missing or left over; an unknown format; numbers out of range; intervals that are empty or not ascending.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(WHAT, bytes);
        let head: [u8; 8] = r.array()?;
        let tagged = match (head[0], head[7]) {
            (_, 0) => false,
            (TAGGED_FORMAT, TAGGED_FORMAT) => true,
            (_, format) => {
                return Err(WireError::invalid(WHAT, format!("format {format} is unknown; 0 and 1 are known")));
            }
        };
        let word = u64::from_le_bytes(head);
        let count = if tagged { (word << 8) >> 16 } else { word };
        let mut sources: BTreeMap<Source, Vec<(u64, u64)>> = BTreeMap::new();
        for _ in 0..count {
            let uuid = Uuid(r.array()?);
            let tag = if tagged { varlen::read_bytes(&mut r, WHAT, MAX_TAG_LEN)? } else { &[] };
            let tag = std::str::from_utf8(tag).map_err(|_| WireError::invalid(WHAT, "a tag is not ASCII"))?;
            let intervals = intervals(&mut r)?;
            sources.entry(Source::new(uuid, tag)?).or_default().extend(intervals);
        }
        if !r.is_empty() {
            return Err(WireError::invalid(WHAT, format!("{} bytes are left over", r.remaining())));
        }
        Ok(Self::normalised(sources))
    }
}

fn intervals(r: &mut Reader<'_>) -> Result<Vec<(u64, u64)>> {
    let count = r.u64()?;
    let mut out = Vec::new();
    let mut behind = 1;
    for _ in 0..count {
        let (start, end) = (r.u64()?, r.u64()?);
        if start < behind || end <= start || end > MAX_NUMBER + 1 {
            return Err(WireError::invalid(
                WHAT,
                format!("interval {start}..{end} is empty, out of range, or not behind the one before it"),
            ));
        }
        behind = end;
        out.push((start, end));
    }
    Ok(out)
}
