//! What a start leaves behind that ended before the server answered: killed, without power, or refused by the server itself.
//!
//! A MariaDB server that starts in the replica role cuts the transactions off its binlog that its engine has only prepared, marks that file as
//! closed, and rolls them back; but what it rolls back reaches the disk later. One that is killed in between finds prepared transactions and a
//! closed binlog at its next start, takes the binlog for removed and refuses to start for ever ("Found 4 prepared transactions! ..."). Marked as
//! in use again, the binlog is read as after any crash: what is in it is committed, what is not is rolled back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use baton_wire::event::{EventKind, FLAG_IN_USE, FLAGS_OFFSET, HEADER_LEN, MAGIC};

use super::kept::Known;
use super::surplus::binlog_files;

/// Offset of an event's type in its header.
const KIND_OFFSET: usize = 4;

/// Before each start: lets the server recover from one that was not finished.
pub(super) fn mend(known: &Known) {
    let Some(base) = known.server.as_ref().map(|s| &s.log_bin_basename).filter(|b| !b.as_os_str().is_empty()) else {
        return;
    };
    if !known.unfinished {
        return;
    }
    match mark_in_use(base) {
        Ok(Some(file)) => tracing::warn!(
            file = %file.display(),
            "the last start ended before the server answered: its binlog is marked as in use, so that the server recovers by it"
        ),
        Ok(None) => {}
        Err(error) => {
            tracing::error!(%error, base = %base.display(), "the newest binlog file can't be marked as in use")
        }
    }
}

/// Sets the flag `LOG_EVENT_BINLOG_IN_USE_F` in the format description event of the newest file; its checksum is computed without the flag. The
/// file, if it was not set.
fn mark_in_use(base: &Path) -> io::Result<Option<PathBuf>> {
    let path = newest(base)?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let Some(flags) = flags_of_format(&file)? else { return Ok(None) };
    if flags & FLAG_IN_USE != 0 {
        return Ok(None);
    }
    file.write_all_at(&(flags | FLAG_IN_USE).to_le_bytes(), (MAGIC.len() + FLAGS_OFFSET) as u64)?;
    file.sync_data()?;
    Ok(Some(path))
}

/// The flags of the format description event; none if the file does not begin with one.
fn flags_of_format(file: &File) -> io::Result<Option<u16>> {
    let mut head = [0; MAGIC.len() + HEADER_LEN];
    match file.read_exact_at(&mut head, 0) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let (magic, header) = head.split_at(MAGIC.len());
    let is_format = magic == MAGIC && header[KIND_OFFSET] == EventKind::FORMAT_DESCRIPTION.0;
    Ok(is_format.then(|| u16::from_le_bytes([header[FLAGS_OFFSET], header[FLAGS_OFFSET + 1]])))
}

/// The file that the server takes for the newest: the last one of its index, else of the directory.
fn newest(base: &Path) -> io::Result<PathBuf> {
    let mut index = base.as_os_str().to_owned();
    index.push(".index");
    let listed =
        fs::read_to_string(index).ok().and_then(|text| text.lines().rfind(|l| !l.is_empty()).map(PathBuf::from));
    let dir = base.parent().unwrap_or_else(|| Path::new("."));
    // Names in the index are relative to the directory of the data, as a rule that of the binlog too.
    if let Some(path) = listed.and_then(|name| name.file_name().map(|name| dir.join(name))).filter(|p| p.is_file()) {
        return Ok(path);
    }
    binlog_files(base)?.pop().ok_or_else(|| ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::kept::KnownServer;

    fn binlog(flags: u16) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([0; HEADER_LEN + 80]);
        bytes[MAGIC.len() + KIND_OFFSET] = EventKind::FORMAT_DESCRIPTION.0;
        bytes[MAGIC.len() + FLAGS_OFFSET..][..2].copy_from_slice(&flags.to_le_bytes());
        bytes
    }

    #[test]
    fn newest_file_of_the_index_is_marked_and_nothing_else_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("mysql-bin");
        let file = |n: u32| dir.path().join(format!("mysql-bin.{n:06}"));
        for n in 1..=3 {
            fs::write(file(n), binlog(0x80)).unwrap();
        }
        fs::write(dir.path().join("mysql-bin.index"), "./mysql-bin.000001\n./mysql-bin.000002\n").unwrap();
        let known = |unfinished| Known {
            server: Some(KnownServer {
                datadir: dir.path().to_owned(),
                log_bin_basename: base.clone(),
                server_id: 1,
                version: String::new(),
            }),
            unfinished,
            ..Known::default()
        };
        mend(&known(false));
        assert_eq!(fs::read(file(2)).unwrap(), binlog(0x80), "a start that was finished");
        mend(&known(true));
        assert_eq!(fs::read(file(2)).unwrap(), binlog(0x81));
        assert_eq!(mark_in_use(&base).unwrap(), None, "marked already");
        for n in [1, 3] {
            assert_eq!(fs::read(file(n)).unwrap(), binlog(0x80), "file {n}");
        }
        fs::remove_file(dir.path().join("mysql-bin.index")).unwrap();
        assert_eq!(mark_in_use(&base).unwrap(), Some(file(3)), "without an index");
    }

    #[test]
    fn what_is_no_binlog_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("mysql-bin");
        assert!(mark_in_use(&base).is_err(), "no file at all");
        for bytes in [Vec::new(), MAGIC.to_vec(), binlog(0)[..20].to_vec(), vec![7; 200], {
            let mut rotate = binlog(0);
            rotate[MAGIC.len() + KIND_OFFSET] = EventKind::ROTATE.0;
            rotate
        }] {
            fs::write(dir.path().join("mysql-bin.000001"), &bytes).unwrap();
            assert_eq!(mark_in_use(&base).unwrap(), None);
            assert_eq!(fs::read(dir.path().join("mysql-bin.000001")).unwrap(), bytes);
        }
    }
}
