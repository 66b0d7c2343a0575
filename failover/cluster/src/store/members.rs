//! The members of the etcd cluster, and how a request finds one that answers.
//!
//! Promises: every request ends within [`REQUEST`] for each member tried and [`TOTAL`] altogether. One connection a member, made when it is
//! first needed; the member that answered last is asked first, so that a dead one costs one timeout and not one each request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::error::StoreError;

/// For one member to answer one request.
pub(super) const REQUEST: Duration = Duration::from_millis(800);
/// For a request, over all members.
pub(super) const TOTAL: Duration = Duration::from_millis(2000);

pub(super) struct Members {
    members: Vec<Member>,
    options: ConnectOptions,
    /// The one that answered last.
    preferred: AtomicUsize,
}

struct Member {
    endpoint: String,
    client: OnceCell<Client>,
}

/// How a request to one member ended.
enum Attempt {
    /// Another member may answer.
    Next(String),
    /// All would say the same.
    Refused(String),
}

impl Members {
    pub(super) fn new(endpoints: &[String], options: ConnectOptions) -> Self {
        let member = |endpoint: &String| Member { endpoint: endpoint.clone(), client: OnceCell::new() };
        Self { members: endpoints.iter().map(member).collect(), options, preferred: AtomicUsize::new(0) }
    }

    pub(super) fn names(&self) -> String {
        self.members.iter().map(|m| m.endpoint.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Asks one member after the other until one answers. `request` may be sent more than once: it must be one that may be repeated.
    pub(super) async fn call<T, F>(&self, request: impl Fn(Client) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let end = Instant::now() + TOTAL;
        let first = self.preferred.load(Ordering::Relaxed);
        let mut cause = String::new();
        // Twice round: a connection that broke while idle fails at its first use.
        for turn in 0..self.members.len() * 2 {
            let index = (first + turn) % self.members.len();
            let Some(member) = self.members.get(index) else { break };
            let left = end.saturating_duration_since(Instant::now()).min(REQUEST);
            if left.is_zero() {
                break;
            }
            match self.attempt(member, left, &request).await {
                Ok(answer) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(Attempt::Next(why)) => cause = format!("{}: {why}", member.endpoint),
                Err(Attempt::Refused(cause)) => {
                    return Err(StoreError::Refused { endpoint: member.endpoint.clone(), cause });
                }
            }
        }
        Err(StoreError::Unavailable { tried: self.names(), cause })
    }

    /// The endpoint of one member.
    pub(super) fn name(&self, index: usize) -> &str {
        self.members.get(index).map_or("", |m| m.endpoint.as_str())
    }

    /// Asks one member and no other.
    pub(super) async fn ask<T, F>(&self, index: usize, limit: Duration, request: impl Fn(Client) -> F) -> Option<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.attempt(self.members.get(index)?, limit, &request).await.ok()
    }

    /// Asks every member by itself, all at the same time. Gives the answers of those that gave one, in the members' order.
    pub(super) async fn ask_each<T, F, R>(self: &Arc<Self>, limit: Duration, request: R) -> Vec<(usize, T)>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send,
        R: Fn(Client) -> F + Clone + Send + Sync + 'static,
    {
        let mut asked = JoinSet::new();
        for index in 0..self.members.len() {
            let (members, request) = (Arc::clone(self), request.clone());
            asked.spawn(async move { members.ask(index, limit, request).await.map(|answer| (index, answer)) });
        }
        let mut answers: Vec<_> = asked.join_all().await.into_iter().flatten().collect();
        answers.sort_by_key(|(index, _)| *index);
        answers
    }

    async fn attempt<T, F>(
        &self,
        member: &Member,
        limit: Duration,
        request: &impl Fn(Client) -> F,
    ) -> Result<T, Attempt>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let answer = timeout(limit, async {
            let connect = || Client::connect([&member.endpoint], Some(self.options.clone()));
            let client = member.client.get_or_try_init(connect).await?.clone();
            request(client).await
        });
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(judge(&error)),
            Err(_) => Err(Attempt::Next(format!("no answer within {} ms", limit.as_millis()))),
        }
    }
}

/// Codes of gRPC (<https://grpc.io/docs/guides/status-codes/>) that every member would give alike.
const REFUSALS: [&str; 6] =
    ["InvalidArgument", "NotFound", "PermissionDenied", "Unauthenticated", "FailedPrecondition", "OutOfRange"];

fn judge(error: &Error) -> Attempt {
    match error {
        Error::GRpcStatus(status) => {
            let text = format!("{} ({:?})", with_causes(status.message(), status), status.code());
            if REFUSALS.contains(&format!("{:?}", status.code()).as_str()) {
                Attempt::Refused(text)
            } else {
                Attempt::Next(text)
            }
        }
        Error::InvalidArgs(_) | Error::InvalidUri(_) => Attempt::Refused(error.to_string()),
        other => Attempt::Next(with_causes(&other.to_string(), other)),
    }
}

/// An error's words and those behind it: the client itself says "transport error", whatever has happened.
fn with_causes(words: &str, error: &dyn std::error::Error) -> String {
    let mut text = words.to_owned();
    for cause in std::iter::successors(error.source(), |error| error.source()).map(ToString::to_string) {
        // Some repeat what is behind them.
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
