//! From the log's chunks, which end anywhere, to whole events and the pieces of large ones.
//!
//! Owns what is known of an event that spans reads. Promises: events up to the size of a read are framed whole, so that filters see all of them.

use baton_wire::event::{EventHeader, HEADER_LEN};

use super::emit::{EmitError, Emitter};
use super::names::Names;

/// Where the stream is inside of a large event.
#[derive(Debug)]
pub(super) struct Pieces {
    /// Events above this size go out in pieces.
    whole_up_to: usize,
    /// Bytes of a large event that are still to come, and whether they go out.
    large: Option<(usize, bool)>,
    /// What events that name files have to be changed to, in the present file.
    names: Option<Names>,
}

/// What [`Pieces::take`] did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// So many bytes are done with.
    Bytes(usize),
    /// Nothing: so many bytes must be there at once.
    Needs(usize),
}

impl Pieces {
    /// Events of more than `whole_up_to` bytes are taken in pieces.
    pub(super) fn new(whole_up_to: usize) -> Self {
        Self { whole_up_to: whole_up_to.max(HEADER_LEN), large: None, names: None }
    }

    /// From here on events name files in that way.
    pub(super) fn set_names(&mut self, names: Option<Names>) {
        self.names = names;
    }

    /// Whether events go out as they stand in the file, from the beginning of one.
    pub(super) fn is_plain(&self) -> bool {
        self.large.is_none() && self.names.is_none()
    }

    /// Whether a large event has begun that lacks pieces.
    pub(super) fn inside_event(&self) -> bool {
        self.large.is_some()
    }

    /// Frames what is whole at the front of `bytes`, or the next piece of an event that is larger than a read.
    pub(super) fn take(&mut self, emitter: &mut Emitter, out: &mut Vec<u8>, bytes: &[u8]) -> Result<Taken, EmitError> {
        if let Some((left, sent)) = self.large.take() {
            let n = left.min(bytes.len());
            if sent {
                emitter.push_large(out, &bytes[..n])?;
            }
            if left > n {
                self.large = Some((left - n, sent));
            }
            return Ok(Taken::Bytes(n));
        }
        let plain = if self.names.is_some() { Names::plain(bytes) } else { bytes.len() };
        let whole = emitter.run(out, &bytes[..plain])?;
        if whole > 0 {
            return Ok(Taken::Bytes(whole));
        }
        // Those that name files are small, and never the beginning of a large event.
        if let Some(names) = self.names.as_ref().filter(|_| plain == 0) {
            if let Some((event, used)) = names.rename(bytes)? {
                emitter.run(out, &event)?;
                return Ok(Taken::Bytes(used));
            }
        }
        // Not even one: the chunk ends inside an event, which may be larger than a read.
        if bytes.len() < HEADER_LEN {
            return Ok(Taken::Needs(HEADER_LEN));
        }
        let header = EventHeader::parse(bytes)?;
        let size = header.size as usize;
        let least = size.min(self.whole_up_to);
        if bytes.len() < least {
            return Ok(Taken::Needs(least));
        }
        let sent = emitter.begin_large(out, &header, &bytes[HEADER_LEN..])?;
        if sent {
            emitter.push_large(out, bytes)?;
        }
        self.large = Some((size.saturating_sub(bytes.len()), sent)).filter(|(left, _)| *left > 0);
        Ok(Taken::Bytes(bytes.len()))
    }
}

#[cfg(test)]
mod tests {
    use baton_wire::checksum::ChecksumAlg;
    use baton_wire::event::{self, EventKind};
    use baton_wire::frame::EventFramer;
    use baton_wire::gtid::mariadb::GtidList;

    use super::super::emit::Filter;
    use super::*;

    const READ: usize = 100;

    fn event(size: usize) -> Vec<u8> {
        let header = EventHeader { timestamp: 0, kind: EventKind::XID, server_id: 1, size: 0, log_pos: 0, flags: 0 };
        event::build(header, &vec![7; size - HEADER_LEN - 4], ChecksumAlg::Crc32)
    }

    /// Serves `log` through chunks that end at `cuts`, as the stream does.
    fn serve(log: &[u8], cuts: &[usize]) -> Vec<u8> {
        let mut emitter = Emitter::new(Filter::default(), ChecksumAlg::Crc32, GtidList::default(), 1, false);
        let mut pieces = Pieces::new(READ);
        let (mut out, mut at, mut least) = (Vec::new(), 0, 1);
        while at < log.len() {
            let chunk_end = cuts.iter().copied().find(|cut| *cut > at).unwrap_or(log.len());
            let end = chunk_end.min(at + READ).max(at + least);
            match pieces.take(&mut emitter, &mut out, &log[at..end]).unwrap() {
                Taken::Bytes(n) => (at, least) = (at + n, 1),
                Taken::Needs(n) => {
                    assert!(n > least && n <= READ, "{n} after {least}");
                    least = n;
                }
            }
        }
        out
    }

    #[test]
    fn chunks_may_end_anywhere_even_inside_a_header() {
        let events = [event(23), event(60), event(READ), event(30), event(5 * READ + 3), event(40)];
        let log = events.concat();
        let (mut framer, mut expected) = (EventFramer::new(1, false), Vec::new());
        framer.frame_all(&mut expected, &log).unwrap();
        for first in 1..log.len() {
            for step in [1, 7, 18, 19, 20, 64, READ] {
                let cuts: Vec<usize> = (0..).map(|i| first + i * step).take_while(|cut| *cut < log.len()).collect();
                assert!(serve(&log, &cuts) == expected, "cut at {first} and every {step} bytes");
            }
        }
    }
}
