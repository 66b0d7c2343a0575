//! Random walks through the model, deeper than can be searched exhaustively.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use stateright::Model;

use baton_cluster::Phase;
use baton_failover::model::invariants;

use crate::Cluster;
use crate::actions::Action;
use crate::world::{Left, Role, World, server_name};

/// One walk: what happened, and where it led.
pub(crate) struct Walk {
    pub(crate) story: Vec<Action>,
    pub(crate) world: World,
}

/// What is wrong with the world, if anything.
pub(crate) fn fault(world: &World) -> Option<String> {
    if let Some(violation) = &world.broken {
        return Some(violation.to_string());
    }
    let able = world.able();
    let holders: Vec<String> =
        (0..world.servers.len()).filter(|s| world.servers[*s].address).map(server_name).collect();
    let commits = invariants::at_most_one_can_commit(able.iter().map(String::as_str));
    let address = invariants::address_once(holders.iter().map(String::as_str));
    commits.and(address).err().map(|violation| violation.to_string())
}

/// Walks at random until nothing can happen, something is broken, or `steps` are done.
pub(crate) fn walk(cluster: &Cluster, seed: u64, steps: usize) -> Walk {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut walk = Walk { story: Vec::new(), world: cluster.beginning() };
    let mut actions = Vec::new();
    for _ in 0..steps {
        actions.clear();
        cluster.actions(&walk.world, &mut actions);
        // Faults are rare among what happens, so that operations get anywhere.
        let calm = rng.random_bool(0.8);
        let chosen = (0..40).find_map(|_| {
            let action = actions.choose(&mut rng)?.clone();
            if calm && is_fault(&action) {
                return None;
            }
            cluster.next_state(&walk.world, action.clone()).map(|next| (action, next))
        });
        let Some((action, next)) = chosen else { continue };
        walk.story.push(action);
        walk.world = next;
        if fault(&walk.world).is_some() {
            break;
        }
    }
    walk
}

/// Rounds after which a cluster that nothing befalls any more has to be in order. Each lets everybody act once.
const ROUNDS: usize = 60;

/// Lets no more go wrong, mends what is broken, and has everybody act in turn. What is not in order then, if anything.
pub(crate) fn settle(cluster: &Cluster, walk: &mut Walk) -> Option<String> {
    walk.world.left = Left { retries: u8::MAX, restarts: u8::MAX, ..Left::default() };
    for _ in 0..ROUNDS {
        let before = walk.world.clone();
        for action in everybodys_turn(&before) {
            happen(cluster, walk, action);
        }
        while !walk.world.net.is_empty() && fault(&walk.world).is_none() {
            happen(cluster, walk, Action::Deliver(0));
        }
        walk.world.left = before.left;
        if fault(&walk.world).is_some() || walk.world == before {
            break;
        }
    }
    fault(&walk.world).or_else(|| disorder(&walk.world))
}

fn everybodys_turn(world: &World) -> Vec<Action> {
    let (servers, relays, controllers) = (world.servers.len(), world.relays.len(), world.controllers.len());
    let relay = |r| [Action::RestartRelay(r), Action::Watch(r), Action::Take(r), Action::Feed(r)];
    let act = |controller| [false, true].map(|late| Action::Act { controller, late });
    let mut turns: Vec<_> =
        (0..servers).flat_map(|s| [Action::Heal(s), Action::Restart(s), Action::Started(s)]).collect();
    turns.extend((0..relays).flat_map(relay));
    turns.extend((0..controllers).flat_map(|c| [Action::Thaw(c), Action::Learn(c), Action::Elect(c)]));
    turns.extend((0..controllers).flat_map(act));
    turns
}

fn happen(cluster: &Cluster, walk: &mut Walk, action: Action) {
    if let Some(next) = cluster.next_state(&walk.world, action.clone()) {
        walk.story.push(action);
        walk.world = next;
    }
}

/// What keeps the cluster from being in order: one primary that commits and has the address, and everybody else fed, or known as diverged.
fn disorder(world: &World) -> Option<String> {
    let state = &world.etcd.state;
    let Some(primary) = state.primary.as_ref().filter(|_| state.phase == Phase::Steady) else {
        return Some(format!("nobody serves: {:?}", state.phase));
    };
    if world.able() != [primary.clone()] {
        return Some(format!("{:?} can commit, and {primary} is the primary", world.able()));
    }
    (0..world.servers.len()).find_map(|s| {
        let (name, server) = (server_name(s), &world.servers[s]);
        let fed = server.role == Role::Replica && server.source.is_some_and(|r| world.relays[r].up);
        let fine =
            if name == *primary { server.address } else { server.runs && (fed || server.role == Role::Diverged) };
        (!fine).then(|| format!("{name} is not in order"))
    })
}

fn is_fault(action: &Action) -> bool {
    matches!(
        action,
        Action::TimeOut(_)
            | Action::Expire
            | Action::Freeze(_)
            | Action::Crash(_)
            | Action::DieInPrepare(_)
            | Action::LoseHost(_)
            | Action::Cut(_)
            | Action::CrashRelay(_)
            | Action::LoseData(_)
    )
}
