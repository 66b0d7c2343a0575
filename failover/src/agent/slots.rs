//! A small document on disk in two places that are written in turn: a change costs one write and one sync in blocks that are there already.
//!
//! Promises: what [`Slots::write`] has returned for is on disk; whenever the process or the host ends, the document is the last one written or the
//! one before it; what can't be told from damage is an error. A file that is replaced for each change would cost two commits of the file system's
//! journal, which wait for whatever else is in it, and every order waits for this.
//!
//! Format: two lines of the same length, each `{"serial":N,"crc":"XXXXXXXX","kept":DOCUMENT}`, filled up with blanks. The CRC-32 (ISO-HDLC, hex) is
//! that of `N DOCUMENT`. The line with the higher serial counts.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::kept::replace;

/// Bytes of a line at first: more than a page, so that a torn write of one leaves the other.
const LINE: usize = 8 << 10;
/// Bytes of a file, at most.
const MAX_FILE: u64 = 2 << 20;

/// A file that is or was there.
pub(super) struct Slots {
    path: PathBuf,
    /// None until it is written for the first time, or after it failed.
    open: Option<Open>,
    serial: u64,
}

struct Open {
    file: File,
    /// Bytes of a line.
    line: usize,
    /// The one that is written next: never the one that counts.
    next: u64,
}

impl Slots {
    /// The document in the file, none if there is no file.
    ///
    /// # Errors
    /// It can't be read, or neither line is whole.
    pub(super) fn open(path: &Path) -> Result<(Self, Option<String>), String> {
        let mut slots = Self { path: path.to_owned(), open: None, serial: 0 };
        let Some(content) = read(path)? else { return Ok((slots, None)) };
        match newest(&content) {
            Some((at, serial, document)) => {
                slots.serial = serial;
                // What was read may be in the page cache only: what is acted upon has to be on disk. A disk that takes nothing is told of at the next change.
                if let Ok(file) = File::options().read(true).write(true).open(path) {
                    let line = content.len() / 2;
                    let again = content.get(at * line..(at + 1) * line).unwrap_or_default();
                    let done = file.write_all_at(again, (at * line) as u64).and_then(|()| file.sync_data());
                    if done.is_ok() {
                        slots.open = Some(Open { file, line, next: 1 - at as u64 });
                    }
                }
                Ok((slots, Some(document)))
            }
            None => Ok((slots, Some(plain(content)?))),
        }
    }

    /// As [`open`](Self::open), for somebody who never writes.
    ///
    /// # Errors
    /// As there.
    pub(super) fn look(path: &Path) -> Result<Option<String>, String> {
        let Some(content) = read(path)? else { return Ok(None) };
        match newest(&content) {
            Some((.., document)) => Ok(Some(document)),
            None => plain(content).map(Some),
        }
    }

    /// Makes `document`, which has no line breaks, the one that counts.
    ///
    /// # Errors
    /// Those of the file system. Then the one before counts, or, after a restart, perhaps this one.
    pub(super) fn write(&mut self, document: &str) -> std::io::Result<()> {
        self.serial += 1;
        let line = line(self.serial, document);
        // Somebody may have removed the file, to begin anew: it has to be where it is looked for.
        let open = self.open.take().filter(|o| line.len() <= o.line && o.file.metadata().is_ok_and(|m| m.nlink() > 0));
        let Some(mut open) = open else { return self.make(line) };
        open.file.write_all_at(&filled(line, open.line), open.next * open.line as u64)?;
        open.file.sync_data()?;
        open.next = 1 - open.next;
        self.open = Some(open);
        Ok(())
    }

    /// Replaces the file by one with room.
    fn make(&mut self, line: Vec<u8>) -> std::io::Result<()> {
        let length = line.len().next_power_of_two().max(LINE);
        let mut content = filled(line, length);
        content.extend(filled(Vec::new(), length));
        replace(&self.path, &content)?;
        let file = File::options().read(true).write(true).open(&self.path)?;
        self.open = Some(Open { file, line: length, next: 1 });
        Ok(())
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    use std::io::Read as _;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("can't be opened: {e}")),
    };
    let mut content = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut content).map_err(|e| format!("can't be read: {e}"))?;
    Ok(Some(content))
}

/// What earlier versions wrote: the document alone.
fn plain(content: Vec<u8>) -> Result<String, String> {
    String::from_utf8(content).map_err(|e| format!("is no text: {e}"))
}

fn line(serial: u64, document: &str) -> Vec<u8> {
    let crc = crc32fast::hash(format!("{serial} {document}").as_bytes());
    format!("{{\"serial\":{serial},\"crc\":\"{crc:08x}\",\"kept\":{document}}}\n").into_bytes()
}

/// With blanks before the line break.
fn filled(mut line: Vec<u8>, length: usize) -> Vec<u8> {
    line.pop();
    line.resize(length.saturating_sub(1), b' ');
    line.push(b'\n');
    line
}

/// Which line counts, its serial and its document.
fn newest(content: &[u8]) -> Option<(usize, u64, String)> {
    let (first, second) = content.split_at(content.len() / 2);
    let lines = [first, second].into_iter().enumerate();
    let whole = lines.filter_map(|(at, line)| parse(line).map(|(serial, document)| (at, serial, document)));
    whole.max_by_key(|(_, serial, _)| *serial)
}

fn parse(line: &[u8]) -> Option<(u64, String)> {
    let text = std::str::from_utf8(line).ok()?.strip_suffix('\n')?.trim_end();
    let (serial, rest) = text.strip_prefix("{\"serial\":")?.split_once(",\"crc\":\"")?;
    let (crc, rest) = rest.split_once("\",\"kept\":")?;
    let document = rest.strip_suffix('}')?;
    let right = format!("{:08x}", crc32fast::hash(format!("{serial} {document}").as_bytes()));
    (crc == right).then_some((serial.parse().ok()?, document.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(n: usize) -> String {
        format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(n * 7 % 50))
    }

    #[test]
    fn the_last_document_is_there_after_a_restart_and_the_one_before_if_that_is_torn_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kept");
        let (mut slots, found) = Slots::open(&path).unwrap();
        assert_eq!(found, None);
        slots.write(&document(1)).unwrap();
        for n in 2..40 {
            if n % 5 == 0 {
                slots = Slots::open(&path).unwrap().0;
            }
            let before = std::fs::read(&path).unwrap();
            slots.write(&document(n)).unwrap();
            let after = std::fs::read(&path).unwrap();
            assert_eq!(Slots::look(&path).unwrap(), Some(document(n)));
            let changed: Vec<usize> = (0..after.len()).filter(|at| before[*at] != after[*at]).collect();
            for torn in changed {
                let mut content = before.clone();
                content[..torn].copy_from_slice(&after[..torn]);
                let found = newest(&content).map(|(.., document)| document);
                assert!(found == Some(document(n - 1)) || found == Some(document(n)), "{n} torn at {torn}: {found:?}");
            }
        }
    }

    #[test]
    fn a_document_that_outgrows_its_line_gets_longer_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kept");
        let (mut slots, _) = Slots::open(&path).unwrap();
        for size in [10, LINE - 30, LINE, 5, 3 * LINE, 2] {
            let document = format!("\"{}\"", "y".repeat(size));
            slots.write(&document).unwrap();
            assert_eq!(Slots::look(&path).unwrap(), Some(document.clone()));
            let (again, found) = Slots::open(&path).unwrap();
            assert_eq!(found, Some(document));
            slots = again;
        }
    }

    #[test]
    fn what_an_earlier_version_wrote_is_read_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kept");
        std::fs::write(&path, "{\n  \"n\": 1\n}").unwrap();
        let (mut slots, found) = Slots::open(&path).unwrap();
        assert_eq!(found.as_deref(), Some("{\n  \"n\": 1\n}"));
        slots.write("{\"n\":2}").unwrap();
        assert_eq!(Slots::look(&path).unwrap().as_deref(), Some("{\"n\":2}"));
    }

    #[test]
    fn a_file_that_was_removed_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kept");
        let (mut slots, _) = Slots::open(&path).unwrap();
        for n in 0..3 {
            slots.write(&document(n)).unwrap();
            assert_eq!(Slots::look(&path).unwrap(), Some(document(n)));
            std::fs::remove_file(&path).unwrap();
        }
    }
}
