//! The loop: facts change, a decision is made, its plan's steps are carried out, what came of them is a fact again.
//!
//! Promises: one commit at a time, and nothing is begun before it has ended but what the plan puts before it; a step that is under way is not begun twice; a step that failed is tried again after a
//! pause; nothing is ordered once the lead is lost or its time is over, and a step that was begun before carries the old term. What a successor
//! needs is in etcd before it is acted on.

mod begin;
mod commit;
mod settings;
mod steps;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use baton_cluster::ClusterState;
use baton_cluster::store::{Leadership, Snapshot, Store, StoreError, Versioned};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::effects::Hands;
use super::history::{History, recent_failovers};
use super::picture::Picture;
use super::plan::{self, Outcome, Progress, Stamp, Step};
use crate::config::ControllerConfig;
use crate::decide::{Decision, Memory, Refusal, decide};
use crate::metrics::Metrics;
use crate::model::{ClusterFacts, OrderKind, Policy};
use crate::probe::Board;

/// A refusal that lasts this long is logged.
const WORTH_A_LINE: Duration = Duration::from_millis(500);

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The request's id.
    pub id: String,
    /// The epoch of the operation that took it up, or why it was refused.
    pub result: Result<u64, String>,
}

/// What is asked of the leader beside requests in etcd.
#[derive(Debug)]
pub enum Command {
    /// Order a node to do something that is no part of an operation.
    Order {
        /// The node.
        node: String,
        /// What.
        kind: OrderKind,
        /// What came of it.
        reply: oneshot::Sender<Outcome>,
    },
}

/// What the loop works with.
pub struct RunnerOptions {
    /// The configuration.
    pub config: Arc<ControllerConfig>,
    /// etcd.
    pub store: Store,
    /// What is seen.
    pub board: Arc<Board>,
    /// To agents and relays.
    pub hands: Hands,
    /// Whether this controller leads.
    pub leadership: watch::Receiver<Leadership>,
    /// etcd as it is told.
    pub etcd: watch::Receiver<Arc<Snapshot>>,
    /// What is asked for.
    pub commands: mpsc::Receiver<Command>,
    /// Shown to others at each turn.
    pub pictures: watch::Sender<Option<Arc<Picture>>>,
    /// What became of requests.
    pub answers: broadcast::Sender<Answer>,
    /// Figures.
    pub metrics: Arc<Metrics>,
}

/// What comes back from a task.
enum Done {
    Step(Step, Outcome),
    Committed(Box<commit::Committed>),
    Hook(begin::HookDone),
    Recent(Result<Vec<Duration>, StoreError>),
    Settings(Result<i64, StoreError>),
}

/// See the module.
pub struct Runner {
    /// Of the configuration.
    digest: String,
    o: RunnerOptions,
    memory: Memory,
    looked: Instant,
    /// What this leader committed itself, until etcd's watch has told it.
    own: Option<commit::Own>,
    lead: Option<Lead>,
    /// What the last lead had ordered: a lead of the same term that was only in doubt goes on counting.
    parked: Option<(u64, Progress)>,
    tasks: JoinSet<Done>,
    refused_begin: Option<begin::Veto>,
    said: Said,
}

/// What lasts as long as the lead.
struct Lead {
    term: u64,
    progress: Progress,
    history: History,
    /// Begin of each automatic failover within the guard's window; none until etcd was asked.
    recent: Option<Vec<Instant>>,
    asking_recent: bool,
    running: Vec<Step>,
    committing: bool,
    waits: BTreeMap<String, steps::Wait>,
    hook: begin::HookState,
    settings: settings::State,
    replies: Vec<(Step, oneshot::Sender<Outcome>)>,
}

/// What was logged last, so that it is said once.
#[derive(Default)]
struct Said {
    /// What is refused at present, since when, and whether that was logged.
    refusing: Option<(Refusal, Instant, bool)>,
    leadership: String,
}

impl Runner {
    /// Nothing known yet.
    pub fn new(options: RunnerOptions) -> Self {
        Self {
            digest: options.config.digest(),
            o: options,
            memory: Memory::default(),
            looked: Instant::now(),
            own: None,
            lead: None,
            parked: None,
            tasks: JoinSet::new(),
            refused_begin: None,
            said: Said::default(),
        }
    }

    /// Runs until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut changes = self.o.board.changes();
        let mut tick = interval(self.o.config.probe.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let only_news = tokio::select! {
                () = cancel.cancelled() => break,
                _ = changes.changed() => true,
                _ = self.o.etcd.changed() => true,
                _ = self.o.leadership.changed() => false,
                _ = tick.tick() => false,
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Ok(done) = done {
                        self.take(done);
                    }
                    false
                }
                Some(command) = self.o.commands.recv() => {
                    self.command(command);
                    false
                }
            };
            // Who does not lead only shows what it sees: the next tick is soon enough, and an operation moves a lot.
            if !only_news || self.lead.is_some() {
                self.turn();
            }
        }
        // What was ordered last must not be waited for: the lead is given back at once.
        self.tasks.abort_all();
    }

    fn turn(&mut self) {
        let now = Instant::now();
        let leadership = self.o.leadership.borrow_and_update().clone();
        self.follow_lead(leadership.term(now));
        let etcd = self.newest_etcd();
        let policy = settings::policy(&self.o.config, &etcd);
        if let (Some(lead), Some(state)) = (&mut self.lead, &etcd.state) {
            lead.progress.keep_for(&state.value);
        }
        let recent = self.recent(&policy, now);
        let facts = self.o.board.facts(&etcd, recent);
        self.memory = self.memory.observe(&facts, &policy, now.duration_since(self.looked));
        self.looked = now;
        let decision = decide(&facts, &self.memory, &policy);
        let mut refusing = decision.refusing.clone();
        if self.lead.is_some() {
            if let Some(waiting) = self.lead_on(&decision, &facts, &policy, &etcd, now) {
                refusing = Some(waiting);
            }
        }
        self.say(&leadership, refusing.as_ref(), &etcd);
        let picture = Picture {
            at: now,
            facts,
            memory: self.memory.clone(),
            decision,
            refusing,
            leadership,
            own_problems: settings::problems(&self.o.config, &self.digest, &etcd),
            etcd,
            policy,
            running: self.lead.iter().flat_map(|l| l.running.iter().map(steps::in_words)).collect(),
        };
        self.o.metrics.observe(&picture);
        self.o.pictures.send_replace(Some(Arc::new(picture)));
    }

    /// Takes or gives up the lead's part of the memory.
    fn follow_lead(&mut self, term: Option<u64>) {
        if self.lead.as_ref().map(|l| l.term) == term {
            return;
        }
        // Also what the lead of an older term had under way.
        self.tasks.abort_all();
        self.tasks = JoinSet::new();
        if let Some(lead) = self.lead.take() {
            self.parked = Some((lead.term, lead.progress));
        }
        let Some(term) = term else { return };
        let progress = match self.parked.take() {
            Some((before, progress)) if before == term => progress,
            _ => Progress::new(),
        };
        tracing::debug!(term, "takes up the lead");
        self.lead = Some(Lead {
            term,
            progress,
            history: History::default(),
            recent: None,
            asking_recent: false,
            running: Vec::new(),
            committing: false,
            waits: BTreeMap::new(),
            hook: begin::HookState::default(),
            settings: settings::State::default(),
            replies: Vec::new(),
        });
    }

    /// etcd as last told, or with what was committed since.
    fn newest_etcd(&mut self) -> Arc<Snapshot> {
        let told = Arc::clone(&self.o.etcd.borrow_and_update());
        match &self.own {
            Some(own) if own.revision > told.revision => own.over(&told),
            Some(_) => {
                self.own = None;
                told
            }
            None => told,
        }
    }

    /// Ages of automatic failovers; asks etcd for them once a lead.
    fn recent(&mut self, policy: &Policy, now: Instant) -> Vec<Duration> {
        let Some(lead) = &mut self.lead else { return Vec::new() };
        let Some(recent) = &lead.recent else {
            if !std::mem::replace(&mut lead.asking_recent, true) {
                let (store, window) = (self.o.store.clone(), policy.guard_window);
                let mut names: Vec<String> = self.o.etcd.borrow().controllers.keys().cloned().collect();
                names.push(self.o.config.name.clone());
                self.tasks.spawn(async move {
                    Done::Recent(recent_failovers(&store, window, |r| names.contains(&r.cause.by)).await)
                });
            }
            return Vec::new();
        };
        let ages = recent.iter().map(|at| now.saturating_duration_since(*at));
        ages.filter(|age| *age < policy.guard_window).collect()
    }

    /// The leader's part of a turn. Gives what is waited for, if anything.
    fn lead_on(
        &mut self,
        decision: &Decision,
        facts: &ClusterFacts,
        policy: &Policy,
        etcd: &Arc<Snapshot>,
        now: Instant,
    ) -> Option<Refusal> {
        self.keep_settings(etcd);
        let lead = self.lead.as_ref()?;
        // Until the guard is known, nothing is begun.
        if lead.committing || lead.recent.is_none() {
            return None;
        }
        let stamp = super::history::now();
        let stamp = Stamp { by: &self.o.config.name, now: &stamp };
        let plan = plan::next(decision, facts, &self.memory, &lead.progress, policy, stamp);
        for step in plan.steps {
            match step {
                Step::Commit(commit) => {
                    let begins = begin::begins(&commit, etcd.state.as_ref().map(|s| &s.value));
                    if begins {
                        if let Some(waiting) = self.hold_to_begin(&commit, facts, now) {
                            return waiting;
                        }
                    }
                    self.commit(commit, etcd, begins, now);
                    return plan.waiting;
                }
                step => self.start(step, facts, etcd, now),
            }
        }
        plan.waiting
    }

    /// Takes what a task brought.
    fn take(&mut self, done: Done) {
        let Some(lead) = &mut self.lead else { return };
        match done {
            Done::Step(step, outcome) => self.finished(step, outcome),
            Done::Committed(committed) => self.committed(*committed),
            Done::Hook(done) => self.hook_done(done),
            Done::Recent(Ok(ages)) => {
                let now = Instant::now();
                lead.recent = Some(ages.iter().filter_map(|age| now.checked_sub(*age)).collect());
            }
            Done::Recent(Err(error)) => {
                tracing::warn!(%error, "the history of failovers can't be read");
                lead.asking_recent = false;
            }
            Done::Settings(result) => lead.settings.done(result),
        }
    }

    fn command(&mut self, command: Command) {
        let Command::Order { node, kind, reply } = command;
        let etcd = self.newest_etcd();
        let epoch = etcd.last_state().map_or(0, |s| s.epoch);
        let facts = self.o.board.facts(&etcd, Vec::new());
        let step = Step::Order { node, epoch, kind };
        match &mut self.lead {
            Some(lead) => lead.replies.push((step.clone(), reply)),
            None => {
                let _ = reply.send(Outcome::Failed("this controller does not lead any more".to_owned()));
                return;
            }
        }
        self.start(step, &facts, &etcd, Instant::now());
    }

    /// One line a change of what matters.
    fn say(&mut self, leadership: &Leadership, refusing: Option<&Refusal>, etcd: &Snapshot) {
        let now = match leadership {
            Leadership::Leader { .. } => "leads".to_owned(),
            Leadership::Follower { leader: Some(leader) } => format!("follows {}", leader.name),
            Leadership::Follower { leader: None } => "nobody leads".to_owned(),
            Leadership::Unknown => "etcd does not answer".to_owned(),
        };
        if now != self.said.leadership {
            match leadership {
                Leadership::Leader { .. } => {}
                Leadership::Unknown => {
                    tracing::warn!(etcd = etcd.healthy, "nobody is known to lead: etcd does not answer")
                }
                Leadership::Follower { leader: Some(_) } => tracing::info!("this controller {now}"),
                Leadership::Follower { leader: None } => tracing::info!("{now}"),
            }
            self.said.leadership = now;
        }
        let Some(refusing) = refusing.filter(|_| matches!(leadership, Leadership::Leader { .. })) else {
            self.said.refusing = None;
            return;
        };
        match &mut self.said.refusing {
            Some((said, since, told)) if alike(said, refusing) => {
                // What is over in a moment was only the way of things.
                if !*told && since.elapsed() >= WORTH_A_LINE {
                    *told = true;
                    tracing::warn!(what = refusing.what, why = refusing.why, hint = refusing.hint, "not done");
                }
            }
            other => *other = Some((refusing.clone(), Instant::now(), false)),
        }
    }
}

/// Whether two refusals say the same, but for numbers that grow while it lasts.
fn alike(one: &Refusal, other: &Refusal) -> bool {
    let words = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
    one.what == other.what && words(&one.why) == words(&other.why)
}

/// The state of etcd, if there is one.
fn state_of(etcd: &Snapshot) -> Option<&Versioned<ClusterState>> {
    etcd.state.as_ref()
}
