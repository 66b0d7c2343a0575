//! Programs of the user: hooks beside failovers and switchovers, and the command that moves an address.
//!
//! Promises: a program that hangs is killed with its children at its time limit; what it prints to stderr is logged, cut to a readable length;
//! it gets facts in its environment and none of our secrets.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStderr, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::oneshot;

/// Bytes of output that are kept.
const OUTPUT: usize = 4096;
/// For the end of the output after the program's own end.
const PIPE: Duration = Duration::from_millis(200);

/// Facts for a program's environment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HookFacts {
    /// `before_failover`, `after_switchover`, `address`, ...
    pub event: String,
    /// The cluster.
    pub cluster: String,
    /// The node that served before; empty if there is none.
    pub old_primary: String,
    /// The node that is to serve or serves; empty if it is not known yet.
    pub new_primary: String,
    /// `host:port` of that node's server.
    pub new_primary_address: String,
    /// The epoch.
    pub epoch: u64,
    /// Why.
    pub reason: String,
    /// The virtual IP of the configuration; empty if there is none.
    pub vip: String,
    /// The controller that runs it.
    pub controller: String,
}

/// Runs `command` (program and arguments) with `facts`.
///
/// # Errors
/// It can't be started, fails, or takes longer than `limit`; a sentence.
pub async fn run(command: &[String], facts: &HookFacts, limit: Duration) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let mut child = Command::new(program)
        .args(arguments)
        .env("BATON_EVENT", &facts.event)
        .env("BATON_CLUSTER", &facts.cluster)
        .env("BATON_OLD_PRIMARY", &facts.old_primary)
        .env("BATON_NEW_PRIMARY", &facts.new_primary)
        .env("BATON_NEW_PRIMARY_ADDRESS", &facts.new_primary_address)
        .env("BATON_EPOCH", facts.epoch.to_string())
        .env("BATON_REASON", &facts.reason)
        .env("BATON_VIP", &facts.vip)
        .env("BATON_CONTROLLER", &facts.controller)
        .env_remove("BATON_CONTROLLER_TOKEN")
        .env_remove("BATON_CONTROLLER_MYSQL_PASSWORD")
        .env_remove("BATON_CONTROLLER_MYSQL_REPLICATION_PASSWORD")
        .env_remove("BATON_CONTROLLER_ETCD_PASSWORD")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|e| format!("{program} can't be started: {e}"))?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let said = child.stderr.take().map(listen);
    let mut ended = tokio::task::spawn_blocking(move || child.wait());
    let status = match tokio::time::timeout(limit, &mut ended).await {
        Ok(status) => status,
        Err(_) => {
            // Not waited for yet, so the number is still its own.
            if let Some(group) = group {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = ended.await;
            return Err(format!("{program} has not ended within {limit:?} and was killed"));
        }
    };
    let status = match status {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(format!("{program} can't be waited for: {error}")),
        Err(error) => return Err(format!("{program} can't be waited for: {error}")),
    };
    let text = match said {
        // A child that it left behind may keep the pipe open: its own end counts.
        Some(said) => tokio::time::timeout(PIPE, said).await.ok().and_then(Result::ok).unwrap_or_default(),
        None => String::new(),
    };
    let told = text.trim();
    if status.success() {
        if !told.is_empty() {
            tracing::info!(program, told, "the hook says");
        }
        return Ok(());
    }
    let told = if told.is_empty() { String::new() } else { format!(": {told}") };
    Err(format!("{program} failed ({status}){told}"))
}

/// Reads all that is printed, keeps the beginning.
fn listen(mut pipe: ChildStderr) -> oneshot::Receiver<String> {
    let (tell, said) = oneshot::channel();
    std::thread::spawn(move || {
        let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
        while let Ok(count) = pipe.read(&mut buffer) {
            if count == 0 {
                break;
            }
            let room = OUTPUT.saturating_sub(kept.len()).min(count);
            kept.extend_from_slice(buffer.get(..room).unwrap_or_default());
        }
        let _ = tell.send(String::from_utf8_lossy(&kept).into_owned());
    });
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn facts_are_in_the_environment_and_a_failure_says_what_was_printed() {
        let facts = HookFacts { cluster: "shop".into(), old_primary: "db-1".into(), epoch: 7, ..HookFacts::default() };
        let good = shell("test \"$BATON_CLUSTER/$BATON_OLD_PRIMARY/$BATON_EPOCH\" = shop/db-1/7");
        run(&good, &facts, Duration::from_secs(10)).await.unwrap();
        let error = run(&shell("echo not today >&2; exit 3"), &facts, Duration::from_secs(10)).await.unwrap_err();
        assert!(error.contains("not today") && error.contains('3'), "{error}");
        let error = run(&["/no/such".to_owned()], &facts, Duration::from_secs(10)).await.unwrap_err();
        assert!(error.contains("/no/such can't be started"), "{error}");
        run(&[], &facts, Duration::from_secs(10)).await.unwrap();
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_its_children() {
        let facts = HookFacts::default();
        let error = run(&shell("sleep 1000 & wait"), &facts, Duration::from_millis(50)).await.unwrap_err();
        assert!(error.contains("was killed"), "{error}");
    }
}
