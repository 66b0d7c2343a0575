//! Random walks through the model, deeper than can be searched exhaustively.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use stateright::Model;

use baton_failover::model::invariants;

use crate::Cluster;
use crate::actions::Action;
use crate::world::{World, server_name};

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

fn is_fault(action: &Action) -> bool {
    matches!(
        action,
        Action::TimeOut(_)
            | Action::Expire
            | Action::Freeze(_)
            | Action::Crash(_)
            | Action::LoseHost(_)
            | Action::Cut(_)
            | Action::CrashRelay(_)
            | Action::LoseData(_)
    )
}
