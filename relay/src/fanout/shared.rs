//! Sending what others are sent too: whole chunks of the log, framed once for all who are at the same place.

use baton_wire::event::{FIRST_EVENT, HEADER_LEN};

use super::dump::{Dump, DumpEnd, Flow, read_end};
use super::frames::{Framed, Frames};
use crate::log::{Chunk, LogPos};

/// Bytes of log between two places where a client's numbers are made those of others: so what that costs stays below a percent.
const ALIGN_EVERY: u64 = 4 << 20;

impl Dump<'_> {
    /// Sends the chunk at the client's place, where that is far from the head, events go out as they stand, and there is somebody to share with.
    /// `false`: nothing was sent.
    pub(super) async fn send_shared(&mut self, flow: &mut Flow) -> Result<bool, DumpEnd> {
        if !flow.emitter.is_transparent() || !flow.pieces.is_plain() {
            return Ok(false);
        }
        let pos = flow.reader.position();
        let end = Frames::chunk_end(pos.offset);
        let visible = flow.reader.visible();
        if visible < end {
            return Ok(false);
        }
        flow.behind.get_or_insert_with(|| self.frames.behind());
        if !self.frames.is_shared() {
            return Ok(false);
        }
        // What waits has the numbers before.
        self.flush(flow).await?;
        let first = flow.emitter.sequence();
        let cell = match self.frames.get(pos, first) {
            Some(cell) => cell,
            None if self.align(flow, pos, visible).await? => return Ok(true),
            None => self.frames.get_or_begin(pos, first),
        };
        let framed = match cell.get_or_try_init(|| self.frame(flow, end - pos.offset)).await {
            Ok(framed) => framed,
            Err(NotFramed::Large) => return Ok(false),
            Err(NotFramed::Failed(end)) => return Err(end),
        };
        self.write(&framed.packets, framed.next).await?;
        flow.emitter.pass(framed.events, framed.next);
        flow.reader.advance(framed.log_bytes);
        self.note_sent(flow, framed.packets.len()).await?;
        // One chunk a turn keeps those that share close together.
        tokio::task::yield_now().await;
        Ok(true)
    }

    /// Makes the numbers of the packets those of others at this place, by as many heartbeats as it takes: `false` if there is nobody, or it does not
    /// pay.
    async fn align(&mut self, flow: &mut Flow, pos: LogPos, visible: u64) -> Result<bool, DumpEnd> {
        let Some(wanted) = self.frames.sequence_at(pos) else { return Ok(false) };
        if pos.offset == FIRST_EVENT {
            // Between two files a client takes no heartbeat.
            return Ok(false);
        }
        let lately = flow.aligned.is_some_and(|at| at.file == pos.file && pos.offset < at.offset + ALIGN_EVERY);
        if self.request.heartbeat.is_none() || lately || visible - pos.offset < ALIGN_EVERY {
            return Ok(false);
        }
        flow.aligned = Some(pos);
        let beat = self.heartbeat_event(&flow.file_name, pos.offset, flow.emitter.checksum());
        while flow.emitter.sequence() != wanted {
            flow.emitter.own(&mut flow.out, &beat)?;
        }
        self.flush(flow).await?;
        Ok(true)
    }

    /// Frames the whole events of the next `bytes` bytes, for whoever is or comes there.
    async fn frame(&self, flow: &mut Flow, bytes: u64) -> Result<Framed, NotFramed> {
        let want = usize::try_from(bytes).unwrap_or(HEADER_LEN);
        let chunk = flow.reader.read_at_least(want, want, &mut flow.buf).await.map_err(read_end)?;
        let bytes = match &chunk {
            Chunk::Shared(bytes) => &bytes[..],
            Chunk::Buffered(n) => flow.buf.get(..*n).unwrap_or_default(),
            Chunk::AtEnd | Chunk::NextFile(_) => return Err(NotFramed::Large),
        };
        let (mut packets, before, first) = (self.frames.buffer(), flow.emitter.events(), flow.emitter.sequence());
        let used = flow.emitter.run(&mut packets, bytes).map_err(DumpEnd::from)?;
        let (events, next) = (flow.emitter.events() - before, flow.emitter.sequence());
        if used == 0 {
            return Err(NotFramed::Large);
        }
        // Counted when it goes out, as for those who find it.
        flow.emitter.pass_back(events, first);
        Ok(Framed { packets, log_bytes: used as u64, events, next })
    }
}

/// Why a chunk was not framed.
enum NotFramed {
    /// There is not one whole event: it has to be taken in pieces.
    Large,
    Failed(DumpEnd),
}

impl From<DumpEnd> for NotFramed {
    fn from(end: DumpEnd) -> Self {
        Self::Failed(end)
    }
}
