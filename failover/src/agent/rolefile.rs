//! The option file that the server includes: its role, written before each start. The text is pure.

use std::io;
use std::path::Path;

use super::kept::replace;
use super::role::Start;
use crate::model::ServerRole;

/// The options of a role, as `(name, value)` of an option file. `quiet`: the event scheduler stays off until the server follows: its events ran
/// on a primary.
pub fn options(start: &Start, quiet: bool) -> Vec<(&'static str, &'static str)> {
    let (role, semi_sync) = match start {
        Start::Primary => ("MASTER", "1"),
        Start::Replica => ("SLAVE", "0"),
        Start::Unassigned | Start::GivenUp(_) | Start::Wait(_) => ("MASTER", "0"),
    };
    // Given up, it goes on over its restarts as it was used: as a replica also with what may come back of its own, see `follow`.
    let (writable, replicates) = match start {
        Start::GivenUp(as_what) => (*as_what == ServerRole::Primary, *as_what == ServerRole::Replica),
        _ => (false, false),
    };
    let flag = |on: bool| if on { "1" } else { "0" };
    let mut options = vec![
        ("read_only", flag(!writable)),
        ("skip_slave_start", flag(!replicates)),
        ("init_rpl_role", role),
        ("rpl_semi_sync_master_enabled", semi_sync),
        ("rpl_semi_sync_slave_enabled", flag(replicates)),
        // Milliseconds: 49 days, the longest there is.
        ("rpl_semi_sync_master_timeout", "4294967295"),
        ("rpl_semi_sync_master_wait_point", "AFTER_SYNC"),
        ("rpl_semi_sync_master_wait_no_slave", "1"),
    ];
    if quiet {
        options.push(("event_scheduler", "OFF"));
    }
    options
}

/// The same for a command line.
pub fn arguments(start: &Start, quiet: bool) -> Vec<String> {
    options(start, quiet).into_iter().map(|(name, value)| format!("--{}={value}", name.replace('_', "-"))).collect()
}

/// The file's content.
pub fn content(start: &Start, quiet: bool) -> String {
    let mut text =
        "# Written by baton-failover agent before each start of the server. Do not edit.\n[mariadbd]\n".to_owned();
    for (name, value) in options(start, quiet) {
        text += &format!("{name} = {value}\n");
    }
    text
}

/// Replaces the file whole.
///
/// # Errors
/// Those of the file system.
pub fn write(path: &Path, start: &Start, quiet: bool) -> io::Result<()> {
    if let Some(dir) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir)?;
    }
    replace(path, content(start, quiet).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_starts_read_only_and_only_the_primary_with_semi_sync() {
        for start in [Start::Primary, Start::Replica, Start::Unassigned] {
            let arguments = arguments(&start, false);
            assert!(
                arguments.contains(&"--read-only=1".to_owned()) && content(&start, false).contains("read_only = 1\n")
            );
            let semi_sync = arguments.contains(&"--rpl-semi-sync-master-enabled=1".to_owned());
            assert_eq!(semi_sync, start == Start::Primary);
            let truncates = content(&start, false).contains("init_rpl_role = SLAVE\n");
            assert_eq!(truncates, start == Start::Replica);
        }
        assert!(content(&Start::Replica, true).contains("event_scheduler = OFF\n"));
    }

    #[test]
    fn a_server_that_was_given_up_starts_as_it_was_used_and_never_with_semi_sync() {
        for (used, read_only, skips) in
            [(ServerRole::Primary, 0, 1), (ServerRole::Replica, 1, 0), (ServerRole::Fenced, 1, 1)]
        {
            let content = content(&Start::GivenUp(used), false);
            let expected = format!("read_only = {read_only}\nskip_slave_start = {skips}\n");
            assert!(content.contains(&expected), "{used:?}: {content}");
            assert!(content.contains("rpl_semi_sync_master_enabled = 0\n"), "{used:?}: {content}");
        }
    }
}
