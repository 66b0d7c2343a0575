//! Change of acker within an epoch: what is asked is committed first, then the holder is revoked, by its own promise or on the primary, then
//! the next one is named. It acknowledges once its log holds everything that the former one may have acknowledged.

use baton_cluster::{ClusterState, Grant, RelayAccount};

use super::{Commit, Outcome, Plan, Scene, Step};
use crate::decide::acker::next_grant;
use crate::decide::{Refusal, fence};
use crate::model::OrderKind;

pub(super) fn change(scene: &Scene<'_>, to: &str) -> Plan {
    let Some(primary) = &scene.state.primary else { return Plan::default() };
    let Some(holder) = &scene.state.grant_holder else {
        // Nobody ever acknowledged: there is nobody to be asked.
        return scene.appoint(primary, to, next_grant(scene.state, scene.facts), None);
    };
    let Some(asked) = scene.state.asked else {
        let state = ClusterState { asked: Some(next_grant(scene.state, scene.facts)), ..scene.state.clone() };
        return Plan::of(vec![scene.bare(state)]);
    };
    match scene.revoked_at(primary, holder, asked) {
        Ok(after) => scene.appoint(primary, to, asked, Some(after)),
        Err(plan) => plan,
    }
}

impl Scene<'_> {
    fn bare(&self, state: ClusterState) -> Step {
        Step::Commit(Box::new(Commit { state, epoch: None, history: Vec::new(), takes_request: None, abandons: None }))
    }

    /// The position up to which the former holder may have acknowledged, once it can't acknowledge any more.
    fn revoked_at(&self, primary: &str, holder: &str, asked: Grant) -> Result<String, Plan> {
        let promise = Step::Promise { relay: holder.to_owned(), grant: asked };
        let may_promise = fence::promise_fault(self.state, holder, self.facts).is_none()
            && self.facts.relays.get(holder).is_some_and(|r| r.promised <= asked);
        if may_promise {
            match self.progress.outcome(&promise) {
                None => return Err(Plan::of(vec![promise])),
                Some(Outcome::Promised { log_id, complete: true, tail })
                    if self.state.grant_log_id.as_ref().is_none_or(|id| id == log_id) =>
                {
                    return Ok(tail.gtid.clone());
                }
                // It can't: it is revoked where its word counts.
                Some(_) => {}
            }
        }
        let Some(account) = self.account_of(holder) else {
            return Err(Plan::wait(
                Vec::new(),
                Refusal {
                    what: "change of acker".to_owned(),
                    why: format!("acker {holder} can't be asked, and its account on the servers is not known"),
                    hint: format!("waits for relay {holder}"),
                },
            ));
        };
        let revoke = self.order(primary, OrderKind::RevokeAcker { user: account.user, server_id: account.server_id });
        match self.progress.outcome(&revoke) {
            Some(Outcome::Done(result)) => Ok(result.gtid.clone().unwrap_or_default()),
            Some(Outcome::Refused(why) | Outcome::Failed(why) | Outcome::Unreachable(why)) => {
                let why =
                    format!("acker {holder} can't be asked, and the agent of {primary} does not revoke it: {why}");
                let hint = format!("waits for relay {holder} or for the agent of {primary}");
                Err(Plan::wait(vec![revoke], Refusal { what: "change of acker".to_owned(), why, hint }))
            }
            Some(Outcome::Promised { .. }) | None => Err(Plan::of(vec![revoke])),
        }
    }

    fn account_of(&self, relay: &str) -> Option<RelayAccount> {
        let known = self.facts.relays.get(relay).map(|r| RelayAccount {
            user: r.record.user.clone(),
            server_id: r.record.server_id,
            host: r.record.host.clone(),
        });
        known.or_else(|| self.state.grant_account.clone().filter(|_| self.state.grant_holder.as_deref() == Some(relay)))
    }

    /// Names the next holder, once the primary lets it in.
    fn appoint(&self, primary: &str, to: &str, grant: Grant, after: Option<String>) -> Plan {
        let Some(relay) = self.facts.relays.get(to) else { return Plan::default() };
        let allow = self.order(primary, OrderKind::AllowAcker { user: relay.record.user.clone() });
        let had_an_acker = self.state.grant_holder.is_some();
        if had_an_acker && self.progress.done(&allow).is_none() {
            let waiting = self.progress.outcome(&allow).map(|_| Refusal {
                what: "change of acker".to_owned(),
                why: format!("the agent of {primary} has not let relay {to} in"),
                hint: format!("waits for the agent of {primary}"),
            });
            return Plan { steps: vec![allow], waiting };
        }
        let state = ClusterState {
            grant,
            grant_holder: Some(to.to_owned()),
            grant_log_id: Some(relay.log_id.clone()),
            grant_account: self.account_of(to),
            grant_after: after,
            asked: None,
            ..self.state.clone()
        };
        Plan::of(vec![self.bare(state)])
    }
}
