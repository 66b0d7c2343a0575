//! What a blocking reader gives, as the body of an HTTP answer: read while it is taken, in pieces of bounded size and number. An error breaks
//! the connection off, so that the other end can tell it from the end.

use std::io::{self, Read};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;

/// Bytes of a piece, and pieces that may wait for the connection.
const PIECE: usize = 256 * 1024;
const QUEUED: usize = 8;

/// The body of what `source` gives. `end` is called after its last byte: it may say that what was read is not whole.
pub fn body<S>(mut source: S, end: impl FnOnce(S) -> io::Result<()> + Send + 'static) -> Body
where
    S: Read + Send + 'static,
{
    let (sender, pieces) = mpsc::channel::<io::Result<Bytes>>(QUEUED);
    tokio::task::spawn_blocking(move || {
        let done = pump(&mut source, &sender).and_then(|()| end(source));
        if let Err(error) = done {
            tracing::warn!(%error, "a stream to another part of the cluster was not completed");
            // Whoever receives may be gone already.
            let _ = sender.blocking_send(Err(error));
        }
    });
    Body::from_stream(stream::unfold(pieces, |mut pieces| async move { pieces.recv().await.map(|p| (p, pieces)) }))
}

fn pump(reader: &mut impl Read, to: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let length = match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let piece = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
        to.blocking_send(Ok(piece)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
    }
}
