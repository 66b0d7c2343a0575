//! Accounts on the server: the agent's own rights, and those of the relays. What is lacking comes with the statement that mends it.

use std::collections::BTreeSet;

use super::{Session, SqlError, literal};

/// What the agent's account needs beyond reading.
const RIGHTS: [&str; 8] = [
    "BINLOG ADMIN",
    "CONNECTION ADMIN",
    "CREATE USER",
    "EVENT",
    "PROCESS",
    "READ_ONLY ADMIN",
    "RELOAD",
    "REPLICATION SLAVE ADMIN",
];

/// Before what is run on each server by itself: in the binlog of a replica it would be a transaction of its own.
const UNLOGGED: &str = "SET sql_log_bin=0; ";

/// Asks for both. `relays` are the accounts with which relays connect to a primary.
///
/// # Errors
/// [`SqlError`].
pub async fn lacking(session: &mut Session, relays: &BTreeSet<String>) -> Result<Vec<String>, SqlError> {
    let rights: Vec<(String,)> = session
        .rows(
            "SELECT PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES WHERE GRANTEE=CONCAT('''', \
             SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@''', SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''')",
        )
        .await?;
    let me: String = session.value("SELECT CURRENT_USER()").await?;
    let rights: BTreeSet<String> = rights.into_iter().map(|(right,)| right).collect();
    let accounts: Vec<(String,)> = if relays.is_empty() {
        Vec::new()
    } else {
        let names: Vec<String> = relays.iter().map(|name| literal(name)).collect();
        let statement = format!("SELECT DISTINCT User FROM mysql.global_priv WHERE User IN ({})", names.join(", "));
        session.rows(&statement).await?
    };
    let accounts = accounts.into_iter().map(|(name,)| name).collect();
    Ok(judge(&me, &rights, relays, &accounts))
}

/// Pure. Where no right is listed at all they come from a role, which is not looked into.
fn judge(me: &str, rights: &BTreeSet<String>, relays: &BTreeSet<String>, accounts: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    let missing: Vec<&str> = RIGHTS.into_iter().filter(|right| !rights.contains(*right)).collect();
    if rights.iter().any(|r| r != "USAGE") && !missing.is_empty() {
        let missing = missing.join(", ");
        found.push(format!("the agent's account {me} lacks rights: {UNLOGGED}GRANT {missing} ON *.* TO {me}"));
    }
    for name in relays.difference(accounts) {
        let name = literal(name);
        found.push(format!(
            "the relay's account {name} is missing: {UNLOGGED}CREATE USER {name}@'%' IDENTIFIED BY '<its password>'; \
             GRANT REPLICATION SLAVE ON *.* TO {name}@'%'"
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn missing_rights_and_accounts_are_named_with_what_mends_them() {
        let all = set(&RIGHTS);
        assert_eq!(judge("baton@localhost", &all, &set(&["relay_1"]), &set(&["relay_1"])), Vec::<String>::new());
        let mut fewer = all.clone();
        fewer.remove("EVENT");
        let found = judge("baton@localhost", &fewer, &set(&["relay_1", "relay_2"]), &set(&["relay_1"]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("SET sql_log_bin=0; GRANT EVENT ON *.* TO baton@localhost"), "{found:?}");
        assert!(found[1].contains("SET sql_log_bin=0; CREATE USER 'relay_2'@'%'"), "{found:?}");
        assert_eq!(judge("baton@localhost", &set(&["USAGE"]), &set(&[]), &set(&[])), Vec::<String>::new());
    }
}
