//! Completes the log from the binlog files that a dead primary has left on its host.
//!
//! Promises: what is taken continues the log without a gap, as a stream from the primary would, and the bytes before it there are those of the log;
//! it is over only at the end of the host's last file. What an interruption leaves is whole as far as it goes, and is taken up again there.

use std::sync::Arc;
use std::time::Duration;

use baton_wire::event::{FIRST_EVENT, Flavor};
use secrecy::SecretString;

use super::context::Context;
use super::control::may_be_completed;
use super::cutter::{Cutter, is_torn};
use super::fetch::{Agent, Fetch};
use super::ingest::{Ingest, Start};
use super::origin::{Origin, origin_of};
use super::plan::Aim;
use super::stream;
use crate::clock::Micros;
use crate::config::Address;
use crate::log::{Appender, Chunk, Grant, Head, LogPos};

/// For connecting, for the beginning of an answer, and for each part of it.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes before the log's end that are compared with the host's.
const COMPARED: u64 = 64 * 1024;
/// Offset of the byte of a file whose lowest bit says that it is in use.
const IN_USE: u64 = 21;

/// Takes what `address` has and the log has not, as long as it can be the truth under `grant`. Errors: one sentence.
pub(super) async fn run(
    context: &Context,
    appender: &mut Appender,
    address: &Address,
    token: Option<&SecretString>,
    grant: Grant,
) -> Result<(), String> {
    let agent = Agent { address, token, limit: LIMIT };
    let Some(head) = context.log.head() else { return Err("this relay's log is empty".to_owned()) };
    let origin = present_epoch(context)?;
    let (number, offset, resumes) = begin(context, &origin, &head)?;
    let base = context.log.base_name();
    let name = |number: u64| {
        let name = origin.naming().name(number, base.as_deref());
        name.ok_or_else(|| format!("file number {number} of the log can't be a file of {}", origin.node))
    };
    let first = name(number)?;
    let from = if resumes { offset.saturating_sub(COMPARED).max(FIRST_EVENT) } else { FIRST_EVENT };
    let Some(fetch) = agent.fetch(&first, from).await? else {
        return Err(format!("{} has no {first}, where the log goes on", origin.node));
    };
    let gtid = head.gtid.clone();
    let checksum = context.log.file(head.pos.file).map(|f| f.checksum).unwrap_or_default();
    let ingest = Ingest::new(Start {
        resume: Some((head.pos, gtid)),
        file: resumes.then(|| first.clone()),
        shift: origin.shift,
        base: base.clone(),
        flavor: Flavor::MariaDb,
        checksum,
    });
    let mut taking =
        Taking { context, appender, server_id: origin.server_id, aim: Aim::Epoch(origin.clone()), ingest, grant };
    let own = if resumes { before(context, head.pos, from).await? } else { Vec::new() };
    let (mut fetch, mut own, mut file, mut number) = (fetch, Some((from, own)), first, number);
    if !resumes {
        taking.ingest.next_file(&file, Micros::now()).map_err(|e| e.to_string())?;
    }
    loop {
        let torn = taking.file(&mut fetch, &file, own.take()).await?;
        let next = name(number + 1)?;
        match (agent.fetch(&next, FIRST_EVENT).await?, torn) {
            (None, _) => break,
            (Some(_), true) => return Err(format!("{file} ends inside an event, and yet {next} follows it")),
            (Some(behind), false) => fetch = behind,
        }
        taking.ingest.next_file(&next, Micros::now()).map_err(|e| e.to_string())?;
        (file, number) = (next, number + 1);
    }
    tracing::info!(%address, node = origin.node, last = file, "the log has all that the old primary has left");
    Ok(())
}

/// The epoch whose primary is dead.
fn present_epoch(context: &Context) -> Result<Origin, String> {
    let Some(snapshots) = &context.cluster else { return Err("this relay stands alone".to_owned()) };
    let snapshot = Arc::clone(&snapshots.borrow());
    let Some(state) = &snapshot.state else { return Err("etcd has no state of this cluster".to_owned()) };
    let epoch = state.value.grant.epoch;
    match snapshot.epochs.get(&epoch) {
        Some(record) => Origin::of(record),
        None => Err(format!("epochs/{epoch} is not recorded in etcd")),
    }
}

/// Number in the log of the first file to be read, the offset in it, and whether that file is the one that the log ends in.
fn begin(context: &Context, origin: &Origin, head: &Head) -> Result<(u64, u64, bool), String> {
    let snapshot = context.cluster.as_ref().map(|s| Arc::clone(&s.borrow()));
    let here = snapshot.as_ref().and_then(|s| origin_of(&s.epochs, origin.epoch, head.pos.file));
    if here.is_some_and(|o| o.epoch == origin.epoch) {
        return Ok((head.pos.file, head.pos.offset, true));
    }
    match origin.first_number() {
        Some(first) if first > head.pos.file && head.gtid.mariadb() == Some(&origin.gtid) => {
            Ok((first, FIRST_EVENT, false))
        }
        _ => Err(format!(
            "the log ends at '{}', before epoch {} began at '{}': what lies between is not on that host",
            head.gtid, origin.epoch, origin.gtid
        )),
    }
}

/// The log's own bytes from `from` up to its end.
async fn before(context: &Context, end: LogPos, from: u64) -> Result<Vec<u8>, String> {
    let mut reader = context.log.reader(LogPos { offset: from, ..end }).map_err(|e| e.to_string())?;
    let (mut out, mut buf) = (Vec::new(), Vec::new());
    while reader.position().offset < end.offset {
        let want = usize::try_from(end.offset - reader.position().offset).unwrap_or(usize::MAX);
        let n = match reader.read(want, &mut buf).await.map_err(|e| e.to_string())? {
            Chunk::Shared(bytes) => {
                out.extend_from_slice(&bytes);
                bytes.len()
            }
            Chunk::Buffered(n) => {
                out.extend_from_slice(buf.get(..n).unwrap_or_default());
                n
            }
            Chunk::AtEnd | Chunk::NextFile(_) => break,
        };
        reader.advance(n as u64);
    }
    Ok(out)
}

/// What is taken, and where it goes.
struct Taking<'a> {
    context: &'a Context,
    appender: &'a mut Appender,
    server_id: u32,
    aim: Aim,
    ingest: Ingest,
    /// Under which all this is promised.
    grant: Grant,
}

impl Taking<'_> {
    /// Takes a file to its end; `own` is what its first bytes, from an offset on, have to equal. Whether it ends inside an event, as a crash
    /// leaves it.
    async fn file(&mut self, fetch: &mut Fetch, file: &str, own: Option<(u64, Vec<u8>)>) -> Result<bool, String> {
        let mut cutter = Cutter::default();
        let mut own = own.filter(|(_, bytes)| !bytes.is_empty());
        let mut stopped = None;
        while let Some(bytes) = fetch.next().await.map_err(|e| format!("{file}: {e}"))? {
            cutter.push(&bytes);
            if let Some((from, expected)) = &own {
                if cutter.rest().len() < expected.len() {
                    continue;
                }
                let theirs = cutter.skip(expected.len());
                if !equal(*from, &theirs, expected) {
                    return Err(format!("{file} has other bytes than the log, which is of another history"));
                }
                own = None;
            }
            if stopped.is_none() {
                stopped = self.events(&mut cutter).await?;
            }
        }
        if own.is_some() {
            return Err(format!("{file} ends before the log does: that server has lost what this relay has"));
        }
        match stopped {
            None => Ok(cutter.inside_event() || !cutter.rest().is_empty()),
            Some((at, _)) if is_torn(&[&at[..], cutter.rest()].concat()) => Ok(true),
            Some((_, why)) => Err(format!("{file}: {why}")),
        }
    }

    /// Takes the events that are there. An event that is none, or whose checksum does not hold, is given back with the reason.
    async fn events(&mut self, cutter: &mut Cutter) -> Result<Option<(Vec<u8>, String)>, String> {
        let now = Micros::now();
        let stopped = loop {
            match cutter.next() {
                Ok(None) => break None,
                Ok(Some(piece)) => {
                    if let Err(error) = self.ingest.piece(piece.first, &piece.data, piece.last, now) {
                        break Some((piece.data.to_vec(), error.to_string()));
                    }
                }
                Err(why) => break Some((Vec::new(), why)),
            }
        };
        self.ingest.flush(now);
        let Self { context, appender, server_id, aim, ingest, grant } = self;
        let known = context.cluster.as_ref().map(|snapshots| Arc::clone(&snapshots.borrow()));
        may_be_completed(known.as_ref().and_then(|s| s.state.as_ref()).map(|s| &s.value), *grant)?;
        stream::perform(context, appender, aim, *server_id, ingest).await.map_err(|e| e.to_string())?;
        Ok(stopped)
    }
}

/// Whether bytes of a file, from an offset on, are the same, but for the bit that says that it is in use.
fn equal(from: u64, left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).zip(from..).all(|((l, r), at)| l == r || at == IN_USE && (l ^ r) == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bit_of_a_file_in_use_is_no_difference() {
        let bytes: Vec<u8> = (0..100).collect();
        let mut other = bytes.clone();
        other[17] ^= 1;
        assert!(equal(4, &bytes, &bytes) && equal(4, &bytes, &other) && !equal(5, &bytes, &other));
        assert!(!equal(4, &bytes, &bytes[..99]));
    }
}
