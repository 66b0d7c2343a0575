//! A client that is ahead of this relay, or comes before the log has anything: kept with heartbeats until its position is in the log.

use std::sync::Arc;
use std::time::Duration;

use baton_wire::checksum::ChecksumAlg;
use baton_wire::gtid::mariadb::GtidList;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::Instant;

use super::dump::{Dump, DumpEnd, client_said};
use super::emit::{Emitter, Filter};
use super::registry::ReplicaState;
use super::request::StartFrom;
use super::start::{Begin, Resolution, resolve};
use crate::log::Head;

/// Between two looks at the log, however fast the head moves.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between two looks where the head stands still: what hindered the last one may have passed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Where the client asked for no heartbeats: just a turn of the loop.
const NEVER: Duration = Duration::from_secs(3600);

/// Position that heartbeats name: the highest that every client reads, for a client must not be told a lower one than it has.
const HELD_POSITION: u64 = u32::MAX as u64;
/// File that heartbeats name where the client has named none.
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
        loop {
            heads.mark_unchanged();
            let log = Arc::clone(self.log);
            let start = self.request.start.clone();
            let looked = Instant::now();
            let why = match tokio::task::spawn_blocking(move || resolve(&log, &start)).await {
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
                            self.held_heartbeat(&mut emitter).await?;
                        }
                        sent = Instant::now();
                    }
                }
            }
        }
    }

    async fn held_heartbeat(&mut self, emitter: &mut Emitter) -> Result<(), DumpEnd> {
        // One that comes by file is told of no other; one that comes by GTID takes any name, but no longer an empty one (MariaDB 10.11.19).
        let file = match &self.request.start {
            StartFrom::File { name, .. } if !name.is_empty() => name,
            _ => HELD_FILE,
        };
        let beat = self.heartbeat_event(file, HELD_POSITION, emitter.checksum());
        let mut out = Vec::with_capacity(128);
        emitter.own(&mut out, &beat)?;
        self.write(&out, emitter.sequence()).await
    }
}
