//! What the other controllers see of the primary: `GET /v1/view`.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::board::Board;
use crate::http::Client;

/// How often another one is asked.
const PAUSE: Duration = Duration::from_millis(250);

/// `GET /v1/view`: what a controller itself sees of the primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct View {
    /// Its name.
    pub(crate) controller: String,
    /// The primary, as it knows it.
    pub(crate) primary: Option<String>,
    /// Whether the primary's server answers it; null: not asked yet.
    pub(crate) answers: Option<bool>,
    /// How old that is.
    pub(crate) age_ms: u64,
}

/// Asks the controller `name` at `at` until cancelled.
pub(super) async fn run(
    name: String,
    at: String,
    client: Client,
    limit: Duration,
    board: Arc<Board>,
    cancel: CancellationToken,
) {
    let look = async {
        loop {
            if let Ok(view) = client.get::<View>(&at, "/v1/view", limit).await {
                board.saw_controller(&name, view.primary, view.answers, Duration::from_millis(view.age_ms));
            }
            sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = look => {}
    }
}
