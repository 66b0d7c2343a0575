//! Strikes between any two steps of a change of primary: every few steps here, behind each of them in the soak.

use anyhow::Result;
use baton_testbed::Bed;
use baton_testbed::cluster::{Cause, Strike};
use baton_testbed::scenario;

/// Strikes behind the `first` step of an operation, behind every third one after it, and so on until it has no more.
fn struck_at(bed: &Bed, cause: Cause, strike: Strike, first: usize) -> Result<()> {
    let cluster = bed.cluster().nodes(3).controllers(2).etcd_apart().start()?;
    for nth in (first..).step_by(3) {
        match cluster.struck(cause, strike, nth)? {
            Some(struck) => println!("{strike}, step {nth}: {struck}"),
            None => break,
        }
    }
    Ok(())
}

#[test]
fn leader_killed_between_steps_of_a_failover_is_succeeded_by_another_that_finishes() {
    scenario("steps_killed", |bed| struck_at(bed, Cause::Death, Strike::LeaderKilled, 1));
}

#[test]
fn leader_killed_between_steps_of_a_switchover_is_succeeded_by_another_that_finishes_or_takes_back() {
    scenario("steps_killed_switchover", |bed| struck_at(bed, Cause::Request, Strike::LeaderKilled, 2));
}

#[test]
fn leader_whose_lease_ends_between_steps_of_a_failover_spoils_nothing() {
    scenario("steps_lease", |bed| struck_at(bed, Cause::Death, Strike::LeaseEnds, 2));
}

#[test]
fn leader_whose_lease_ends_between_steps_of_a_switchover_spoils_nothing() {
    scenario("steps_lease_switchover", |bed| struck_at(bed, Cause::Request, Strike::LeaseEnds, 3));
}

#[test]
fn leader_cut_off_from_etcd_between_steps_of_a_failover_steps_down_and_nothing_is_left_half_done() {
    scenario("steps_cut", |bed| struck_at(bed, Cause::Death, Strike::LeaderCutOff, 3));
}

#[test]
fn leader_cut_off_from_etcd_between_steps_of_a_switchover_steps_down_and_nothing_is_left_half_done() {
    scenario("steps_cut_switchover", |bed| struck_at(bed, Cause::Request, Strike::LeaderCutOff, 1));
}

#[test]
fn candidate_killed_between_steps_of_a_failover_is_fenced_before_another_is_promoted() {
    scenario("steps_candidate", |bed| struck_at(bed, Cause::Death, Strike::CandidateKilled, 6));
}

#[test]
fn candidate_killed_between_steps_of_a_switchover_ends_in_one_writable_primary() {
    scenario("steps_candidate_switchover", |bed| struck_at(bed, Cause::Request, Strike::CandidateKilled, 4));
}
