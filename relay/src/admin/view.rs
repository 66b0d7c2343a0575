//! What HTTP sees of the running relay.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::Address;
use crate::fanout::Registry;
use crate::lag::LagReport;
use crate::log::{FileInfo, Grant, Head, LogStatus};
use crate::metrics::Metrics;
use crate::upstream::{PromiseAnswer, PromiseError, UpstreamStatus};

/// A future behind a pointer.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Tells that something changed, whatever its type.
pub trait Changes: Send {
    /// Waits for the next change since the last call; `false` if there will be none any more. Nothing is lost if the
    /// future is dropped.
    fn changed(&mut self) -> BoxFuture<'_, bool>;
}

impl<T: Send + Sync> Changes for watch::Receiver<T> {
    fn changed(&mut self) -> BoxFuture<'_, bool> {
        Box::pin(async move { watch::Receiver::changed(self).await.is_ok() })
    }
}

/// How etcd answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EtcdHealth {
    /// Whether it answers at present.
    pub healthy: bool,
    /// Milliseconds since it last gave a sign; `None`: never since the start.
    pub age_ms: Option<u64>,
}

/// The running relay, as far as HTTP shows it. Nothing here may block for long.
pub trait View: Send + Sync + 'static {
    /// The last complete transaction; `None` while the log is empty.
    fn head(&self) -> Option<Head>;
    /// Tells when the head moves.
    fn subscribe_head(&self) -> Box<dyn Changes>;
    /// How etcd answers; `None` where the relay stands alone.
    fn etcd(&self) -> Option<EtcdHealth>;
    /// The stream from the primary.
    fn upstream(&self) -> watch::Receiver<UpstreamStatus>;
    /// Health of the log.
    fn log_status(&self) -> LogStatus;
    /// The log's files, in order.
    fn files(&self) -> Vec<FileInfo>;
    /// Who is attached.
    fn registry(&self) -> Arc<Registry>;
    /// How far each replica lags.
    fn lag_report(&self) -> BoxFuture<'_, LagReport>;
    /// Whether replicas can connect.
    fn listening(&self) -> bool;
    /// Promises never again to acknowledge anything below `grant`, if the leader of `term` may order that; answers once it is durable.
    fn promise(&self, term: u64, grant: Grant) -> BoxFuture<'_, Result<PromiseAnswer, PromiseError>>;
    /// Promises as [`promise`](Self::promise) does, then completes the log from a dead primary's binlog files, as the agent there has them.
    fn rescue(&self, term: u64, grant: Grant, agent: Address) -> BoxFuture<'_, Result<PromiseAnswer, PromiseError>>;
    /// The relay's figures.
    fn metrics(&self) -> Arc<Metrics>;

    /// The name of a file of the log: its one base name and the number.
    fn file_name(&self, number: u64) -> String {
        let files = self.files();
        match files.last().and_then(|f| f.name.rsplit_once('.')) {
            Some((base, _)) => format!("{base}.{number:06}"),
            None => format!("{number:06}"),
        }
    }
}
