//! A client that is ahead of this relay, or comes before the log has anything: kept with heartbeats until its position is in the log.

use std::sync::Arc;
use std::time::Duration;

use baton_wire::checksum::ChecksumAlg;
use baton_wire::event::{FIRST_EVENT, FormatDescription, Rotate};
use baton_wire::gtid::mariadb::GtidList;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::Instant;

use super::dump::{Dump, DumpEnd, client_said};
use super::emit::{EmitError, Emitter, Filter};
use super::headers::read_header_events;
use super::registry::ReplicaState;
use super::request::StartFrom;
use super::start::{Begin, Resolution, may_be_ahead, resolve};
use crate::log::{GtidStartError, Head, LogPos};

/// Between two looks at the log, however fast the head moves.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between two looks where the head stands still: what hindered the last one may have passed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Where the client asked for no heartbeats: just a turn of the loop.
const NEVER: Duration = Duration::from_secs(3600);

/// Position that heartbeats name: the highest that every client reads, for a client must not be told a lower one than it has.
const HELD_POSITION: u64 = u32::MAX as u64;
/// File that heartbeats to relays name.
const HELD_FILE: &str = "held";

impl Dump<'_> {
    /// Waits until the client's position is in the log.
    pub(super) async fn begin(&mut self, heads: &mut watch::Receiver<Option<Arc<Head>>>) -> Result<Begin, DumpEnd> {
        let checksum = self.request.checksum.unwrap_or(ChecksumAlg::None);
        let mut emitter =
            Emitter::new(Filter::default(), checksum, GtidList::default(), self.sequence, self.request.semi_sync);
        // Not counted anew with each look: a head that moves all the time would keep the heartbeats away.
        let mut sent = Instant::now();
        let mut told = false;
        let mut file = Told::Nothing;
        loop {
            heads.mark_unchanged();
            let log = Arc::clone(self.log);
            let (start, primary) = (self.request.start.clone(), self.primary());
            let looked = Instant::now();
            let why = match tokio::task::spawn_blocking(move || resolve(&log, &start, &primary)).await {
                Ok(Resolution::Begin(begin)) => return Ok(begin),
                Ok(Resolution::Refuse(message)) => return Err(DumpEnd::Refused(message)),
                Ok(Resolution::Hold(why)) => why,
                Err(e) => return Err(DumpEnd::Log(e.to_string())),
            };
            if self.request.non_blocking {
                return Err(DumpEnd::Eof);
            }
            if !told {
                told = true;
                tracing::info!(connection = self.replica.identity.connection, server_id = self.replica.identity.server_id, %why, "client held");
            }
            self.replica.set_state(ReplicaState::Held);
            let mut moved = false;
            while !moved || looked.elapsed() < LOOK_EVERY {
                let beat = sent + self.request.heartbeat.unwrap_or(NEVER);
                let mut probe = [0_u8; 64];
                tokio::select! {
                    changed = heads.changed(), if !moved => {
                        changed.map_err(|_| DumpEnd::Cancelled)?;
                        moved = true;
                    }
                    () = tokio::time::sleep_until(looked + LOOK_EVERY), if moved => {}
                    () = tokio::time::sleep_until(looked + LOOK_AGAIN), if !moved => moved = true,
                    () = self.cancel.cancelled() => return Err(DumpEnd::Cancelled),
                    read = self.stream.read(&mut probe) => client_said(read, &probe)?,
                    () = tokio::time::sleep_until(beat) => {
                        if self.request.heartbeat.is_some() {
                            self.held_heartbeat(&mut emitter, &mut file).await?;
                        }
                        sent = Instant::now();
                    }
                }
            }
        }
    }

    /// Where the primary is, as last heard; the empty position if nothing was.
    fn primary(&self) -> GtidList {
        self.upstream.borrow().primary_gtid.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// Why a stream ends in which something can't go out.
    pub(super) fn judged(&self, error: EmitError) -> DumpEnd {
        match &error {
            EmitError::Forked { requested, ours } if may_be_ahead(*requested, *ours, &self.primary()) => {
                let (domain, requested, have) = (ours.domain, *requested, Some(*ours));
                DumpEnd::Ahead(GtidStartError::Ahead { domain, requested, have }.to_string())
            }
            _ => error.into(),
        }
    }

    async fn held_heartbeat(&mut self, emitter: &mut Emitter, told: &mut Told) -> Result<(), DumpEnd> {
        let mut out = Vec::with_capacity(512);
        if *told == Told::Nothing {
            *told = self.tell_file(emitter, &mut out).await?;
        }
        let Told::File(file) = told else { return Ok(()) };
        let beat = self.heartbeat_event(file, HELD_POSITION, emitter.checksum());
        emitter.own(&mut out, &beat)?;
        self.write(&out, emitter.sequence()).await
    }

    /// The file that heartbeats are to name. A client that comes by file knows it. One that comes by GTID knows none, or one of another server's, and servers
    /// are of different minds about that: MariaDB 10.11.14 stops at any other name than the one it knows, 10.11.19 at an empty one. So it is told of
    /// a file first, as at the beginning of a stream: its name, and how its events are read. (A relay would take that file for the one which holds its position, and does
    /// not look at what heartbeats name.)
    async fn tell_file(&self, emitter: &mut Emitter, out: &mut Vec<u8>) -> Result<Told, DumpEnd> {
        match &self.request.start {
            StartFrom::File { name, .. } if !name.is_empty() => return Ok(Told::File(name.clone())),
            _ if self.replica.identity.relay => return Ok(Told::File(HELD_FILE.to_owned())),
            _ => {}
        }
        let Some((number, file)) =
            self.log.head().and_then(|head| Some((head.pos.file, self.log.file_name(head.pos.file)?)))
        else {
            return Ok(Told::Nothing);
        };
        // Should it be gone in this moment, the next heartbeat finds another one: a client that waits is not sent away for that.
        let Ok(mut reader) = self.log.reader(LogPos { file: number, offset: FIRST_EVENT }) else {
            return Ok(Told::Nothing);
        };
        let Ok(headers) = read_header_events(&mut reader, number).await else { return Ok(Told::Nothing) };
        if headers.format.checksum == ChecksumAlg::Crc32 && self.request.checksum.is_none() {
            // It will be refused once its position is here.
            return Ok(Told::Never);
        }
        let rotate = Rotate { position: FIRST_EVENT, file: file.clone() };
        emitter.own(out, &rotate.artificial(self.server_id, emitter.checksum()))?;
        let mut format = headers.format_event;
        FormatDescription::as_sent_mid_file(&mut format, false);
        emitter.own(out, &format)?;
        emitter.set_checksum(headers.format.checksum);
        Ok(Told::File(file))
    }
}

/// What a held client has been told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// Nothing yet: the log has no file that could be named. Without heartbeats the client comes again after a while.
    Nothing,
    /// There is nothing that it would understand.
    Never,
    /// This file, which heartbeats name from here on.
    File(String),
}
