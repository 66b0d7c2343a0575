//! Reads binlog files by itself, to judge the relay's log by the primary's: event headers, GTIDs, and which bytes must be equal.
//!
//! Shares nothing with Baton's own event code. Source: <https://mariadb.com/kb/en/2-binlog-event-header/>, `sql/log_event.h`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::compare::cmp_prefix;
use crate::mariadb::MariaDb;
use crate::relay::RelayProc;
use crate::wait::{DEADLINE, wait_for};

const STOP: u8 = 3;
const ROTATE: u8 = 4;
const XID: u8 = 16;
const GTID: u8 = 162;
/// Bytes before the first event.
const MAGIC: usize = 4;
const HEADER: usize = 19;
/// Bytes of a body that are looked at.
const BODY: usize = 12;
/// Offset of the flag that says that a server has the file open.
const IN_USE: usize = 21;

/// One event of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Where it begins.
    pub at: usize,
    /// Its type's number.
    pub kind: u8,
    /// Its bytes, header and checksum included.
    pub size: usize,
    /// The beginning of its body, followed by zeros if that is shorter.
    pub body: [u8; BODY],
}

/// The whole events of a file, in order, with the first bytes of their bodies; what follows the last one is left out. Never holds more than that.
pub fn events(path: &Path) -> Result<Vec<Event>> {
    let open = || -> std::io::Result<_> {
        let file = File::open(path)?;
        Ok((file.metadata()?.len() as usize, BufReader::new(file)))
    };
    let (length, mut reader) = open().with_context(|| format!("can't read {}", path.display()))?;
    walk(&mut reader, length).with_context(|| format!("can't read {}", path.display()))
}

fn walk(reader: &mut BufReader<impl Read + Seek>, length: usize) -> std::io::Result<Vec<Event>> {
    let mut found = Vec::new();
    let mut at = MAGIC;
    reader.seek_relative(MAGIC as i64)?;
    while at + HEADER <= length {
        let mut header = [0; HEADER];
        reader.read_exact(&mut header)?;
        let size = u32::from_le_bytes([header[9], header[10], header[11], header[12]]) as usize;
        if size < HEADER || at + size > length {
            break;
        }
        let mut body = [0; BODY];
        let begin = BODY.min(size - HEADER);
        reader.read_exact(&mut body[..begin])?;
        reader.seek_relative((size - HEADER - begin) as i64)?;
        found.push(Event { at, kind: header[4], size, body });
        at += size;
    }
    Ok(found)
}

/// Sizes of the rows events (version 1) in a file, greatest last.
pub fn row_event_sizes(path: &Path) -> Result<Vec<usize>> {
    let mut sizes: Vec<_> = events(path)?.iter().filter(|e| (23..=25).contains(&e.kind)).map(|e| e.size).collect();
    sizes.sort_unstable();
    Ok(sizes)
}

/// The GTIDs (domain and sequence number) of files, in the order in which they stand there.
pub fn gtids(files: &[PathBuf]) -> Result<Vec<(u32, u64)>> {
    let mut found = Vec::new();
    for path in files {
        for event in events(path)?.iter().filter(|event| event.kind == GTID) {
            let (sequence, domain) = event.body.split_at(8);
            found.push((u32::from_le_bytes(domain.try_into()?), u64::from_le_bytes(sequence.try_into()?)));
        }
    }
    Ok(found)
}

/// Checks that every GTID stands once in the relay's log, each domain's in ascending order, up to the head; gives how many there are.
pub fn check_each_once(relay: &RelayProc) -> Result<usize> {
    let found = gtids(&log_files(relay)?)?;
    let mut last = BTreeMap::new();
    for (domain, sequence) in &found {
        let before = last.insert(*domain, *sequence).unwrap_or(0);
        ensure!(before < *sequence, "{}: GTID {domain}-*-{sequence} comes after {before}", relay.name());
    }
    for gtid in relay.head_gtid()?.split(',').filter(|gtid| !gtid.is_empty()) {
        let parts: Vec<u64> = gtid.split('-').map(str::parse).collect::<Result<_, _>>()?;
        let (domain, sequence) = (u32::try_from(parts[0])?, parts[2]);
        ensure!(last.get(&domain) == Some(&sequence), "{}'s head is {gtid}, its log ends at {last:?}", relay.name());
    }
    Ok(found.len())
}

fn is_in_use(binlog: &Path) -> Result<bool> {
    Ok(fs::read(binlog)?.get(IN_USE).is_some_and(|flags| flags & 1 == 1))
}

/// Checks that the relay's files are the primary's: what was closed is equal byte for byte, what a crash cut short up to its last whole
/// transaction but for the in-use bit, the last one up to its end. No file may be missing in between. Gives how many closed ones there were.
pub fn check_mirror(primary: &MariaDb, relay: &RelayProc) -> Result<usize> {
    let (last, position) = primary.master_status()?;
    let original = primary.binlog_path(&last);
    let copy = relay.data_dir().join(&last);
    let same = || cmp_prefix(&original, &copy, usize::try_from(position)?, &[IN_USE]);
    wait_for(&format!("{} to have {last} up to {position}", relay.name()), DEADLINE, || Ok(same().ok()))
        .or_else(|_| same())?;

    let first = log_files(relay)?.into_iter().next().context("the relay's log has no files")?;
    let first = first.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let files = primary.binlogs()?;
    let mut closed = 0;
    for file in files.iter().filter(|file| **file >= first && **file != last) {
        let (original, copy) = (primary.binlog_path(file), relay.data_dir().join(file));
        let whole = events(&original)?;
        let end = whole.last().map_or(0, |event| event.at + event.size);
        if end as u64 == original.metadata()?.len()
            && whole.last().is_some_and(|event| matches!(event.kind, STOP | ROTATE))
        {
            // Killed between a Rotate and the end of the file, a server leaves the bit set.
            let except: &[usize] = if is_in_use(&original)? { &[IN_USE] } else { &[] };
            ensure!(end as u64 == copy.metadata()?.len(), "{} is not as long as {file}", copy.display());
            cmp_prefix(&original, &copy, end, except)?;
            closed += 1;
            continue;
        }
        let length = usize::try_from(fs::metadata(&copy).with_context(|| format!("no {}", copy.display()))?.len())?;
        cmp_prefix(&original, &copy, length, &[IN_USE])?;
        let lost = whole.iter().find(|event| event.at >= length && event.kind == XID);
        ensure!(lost.is_none(), "{} ends at {length}, before a commit that {file} holds: {lost:?}", copy.display());
    }
    Ok(closed)
}

/// The files of the relay's present log, oldest first.
pub fn log_files(relay: &RelayProc) -> Result<Vec<PathBuf>> {
    Ok(relay.log_files()?.into_iter().filter(|path| path.parent() == Some(relay.data_dir())).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn walked(bytes: &[u8]) -> Vec<(usize, u8, usize)> {
        let found = walk(&mut BufReader::new(Cursor::new(bytes)), bytes.len()).unwrap();
        found.iter().map(|event| (event.at, event.kind, event.size)).collect()
    }

    #[test]
    fn whole_events_are_found_and_a_cut_one_is_left_out() {
        let mut bytes = b"\xfebin".to_vec();
        for (kind, size) in [(15_u8, 30_u32), (XID, 31), (ROTATE, 40)] {
            let mut event = vec![0; size as usize];
            event[4] = kind;
            event[9..13].copy_from_slice(&size.to_le_bytes());
            bytes.extend(event);
        }
        bytes.pop();
        assert_eq!(walked(&bytes), [(4, 15, 30), (34, XID, 31)]);
        assert!(walked(&bytes[..4]).is_empty());
    }
}
