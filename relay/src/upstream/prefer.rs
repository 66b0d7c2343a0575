//! The preferred path, looked for beside a stream that goes over another one.
//!
//! Promises: nothing of the stream is touched before the preferred path has let us in and turned out to lead to the same server; a try is
//! one login, bounded in time.

use super::client::{Client, Login};
use super::supervise::Supervision;
use crate::config::Address;

/// Waits until the preferred path, `address`, leads to server `server_id` again; for ever while the stream goes over it. Tells nothing: that a
/// path is dead was told when it died.
pub(super) async fn answers(
    supervision: &mut Supervision,
    login: &Login,
    address: &Address,
    server_id: impl Fn() -> Option<u32>,
) {
    while let Some(wait) = supervision.try_preferred_in() {
        tokio::time::sleep(wait).await;
        let Ok(mut client) = Client::connect(address, login).await else { continue };
        let found = client.value("SHOW VARIABLES LIKE 'server_id'").await;
        let found = found.ok().flatten().and_then(|id| id.parse::<u32>().ok());
        if found.is_some() && found == server_id() {
            return;
        }
        tracing::debug!(%address, ?found, "the preferred path answers, but not with the server that is followed");
    }
    std::future::pending().await
}
