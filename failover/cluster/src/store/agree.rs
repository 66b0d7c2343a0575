//! Whether all endpoints are of one etcd cluster.
//!
//! An etcd that was started by itself answers like any other (Debian's package starts one at once; what is configured later as its initial
//! cluster is not looked at any more): then each request goes to one cluster or the other.

use std::time::Duration;

use etcd_client::GetOptions;

use super::Store;

/// For one endpoint to answer one question.
const LIMIT: Duration = Duration::from_secs(1);
/// Lifetime in seconds of a lease that only one look is taken at.
const LOOKED_AT: i64 = 5;

/// What one endpoint says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    cluster: u64,
    member: u64,
}

impl Store {
    /// Asks every endpoint which cluster it belongs to; gives a sentence if those that answer do not all belong to the same one. Ends within a
    /// few seconds, and has nothing to say of endpoints that do not answer.
    pub async fn endpoints_disagree(&self) -> Option<String> {
        let key = self.keys.leader();
        // Serializable: a member that has lost its quorum can tell as well.
        let options = GetOptions::new().with_keys_only().with_serializable();
        let identity = move |mut c: etcd_client::Client| {
            let (key, options) = (key.clone(), options.clone());
            async move {
                let answer = c.get(key, Some(options)).await?;
                Ok(answer.header().map(|h| Identity { cluster: h.cluster_id(), member: h.member_id() }))
            }
        };
        let told = self.members.ask_each(LIMIT, identity).await;
        let told: Vec<(usize, Identity)> = told.into_iter().filter_map(|(at, told)| Some((at, told?))).collect();
        let (_, first) = told.first()?;
        if told.iter().any(|(_, other)| other.cluster != first.cluster) {
            let endpoints = told.iter().map(|(at, _)| self.members.name(*at).to_owned()).collect();
            let ids = told.iter().map(|(_, identity)| format!("{:x}", identity.cluster)).collect();
            return Some(sentence(endpoints, &format!("cluster ids {}", listed(ids))));
        }
        for (place, (at, identity)) in told.iter().enumerate() {
            let Some((alike, _)) = told.iter().take(place).find(|(_, other)| other == identity) else { continue };
            if self.are_two(*alike, *at).await {
                let endpoints = [alike, at].map(|at| self.members.name(*at).to_owned()).to_vec();
                let why = format!("both with the id {:x}, as they were started with the same settings", first.cluster);
                return Some(sentence(endpoints, &why));
            }
        }
        None
    }

    /// Whether two endpoints of the same ids are two members nevertheless: an etcd's ids are made of its settings, and may be those of another
    /// one. If they are one, a lease of the first is known to the second.
    async fn are_two(&self, first: usize, second: usize) -> bool {
        let granted = self.members.ask(first, LIMIT, |mut c| async move { c.lease_grant(LOOKED_AT, None).await }).await;
        let Some(id) = granted.map(|granted| granted.id()) else { return false };
        let found = self.members.ask(second, LIMIT, |mut c| async move { c.lease_time_to_live(id, None).await }).await;
        let _left_to_expire =
            self.members.ask(first, LIMIT, |mut c| async move { c.lease_revoke(id).await }).await.is_none();
        found.is_some_and(|found| found.ttl() <= 0)
    }
}

fn sentence(endpoints: Vec<String>, why: &str) -> String {
    format!(
        "etcd endpoints {} belong to different clusters ({why}): see ETCD_INITIAL_CLUSTER on each, and remove the data directory of those that \
         were started alone",
        listed(endpoints)
    )
}

/// `a, b and c`.
fn listed(mut words: Vec<String>) -> String {
    match words.pop() {
        Some(last) if !words.is_empty() => format!("{} and {last}", words.join(", ")),
        last => last.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_listed_as_one_says_them() {
        for (words, said) in [(&[][..], ""), (&["a"], "a"), (&["a", "b"], "a and b"), (&["a", "b", "c"], "a, b and c")]
        {
            assert_eq!(listed(words.iter().map(|w| (*w).to_owned()).collect()), said);
        }
    }
}
