//! Faults of a moment, from which everything has to recover by itself.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_testbed::{DEADLINE, Direction, RelayProc, wait_for, wait_until};
use rand::Rng;

use super::Soak;

#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    RelayKilled,
    RelayKilledTwice,
    RelayTerminated,
    RelayFrozen,
    SecondRelayKilled,
    UpstreamCut,
    UpstreamCutInside,
    UpstreamReset,
    UpstreamResetInside,
    UpstreamCutInHandshake,
    UpstreamBitFlipped,
    UpstreamStalled,
    UpstreamRefused,
    UpstreamIsAnother,
    DownstreamCut,
    DownstreamCutInside,
    DownstreamCutInHandshake,
    DownstreamStalled,
    DownstreamSlow,
    ReplicaKilled,
    ReplicaFrozen,
    ReplicaStopped,
    ReplicaAcknowledges,
    PrimaryKilled,
    PrimaryRestarted,
    PrimaryFrozen,
    LogRotated,
}

pub(super) const FAULTS: [Fault; 27] = [
    Fault::RelayKilled,
    Fault::RelayKilledTwice,
    Fault::RelayTerminated,
    Fault::RelayFrozen,
    Fault::SecondRelayKilled,
    Fault::UpstreamCut,
    Fault::UpstreamCutInside,
    Fault::UpstreamReset,
    Fault::UpstreamResetInside,
    Fault::UpstreamCutInHandshake,
    Fault::UpstreamBitFlipped,
    Fault::UpstreamStalled,
    Fault::UpstreamRefused,
    Fault::UpstreamIsAnother,
    Fault::DownstreamCut,
    Fault::DownstreamCutInside,
    Fault::DownstreamCutInHandshake,
    Fault::DownstreamStalled,
    Fault::DownstreamSlow,
    Fault::ReplicaKilled,
    Fault::ReplicaFrozen,
    Fault::ReplicaStopped,
    Fault::ReplicaAcknowledges,
    Fault::PrimaryKilled,
    Fault::PrimaryRestarted,
    Fault::PrimaryFrozen,
    Fault::LogRotated,
];

impl Soak {
    pub(super) fn strike(&mut self, fault: Fault) -> Result<()> {
        let moment = Duration::from_millis(self.random.random_range(1..4000));
        let bytes = self.random.random_range(0..60_000);
        let handshake = self.random.random_range(0..1200);
        let victim = self.random.random_range(0..self.fleet.replicas.len());
        let fleet = &self.fleet;
        let (upstream, downstream) = (fleet.upstream()?, fleet.downstream()?);
        let replica = fleet.replicas.get(victim).context("no replica")?;
        match fault {
            Fault::RelayKilled => kill(&fleet.relay)?,
            Fault::RelayKilledTwice => {
                kill(&fleet.relay)?;
                kill(&fleet.relay)?;
            }
            Fault::RelayTerminated => {
                let status = fleet.relay.term()?;
                ensure!(status.success(), "the relay ended with {status}");
                fleet.relay.restart()?;
            }
            Fault::RelayFrozen => {
                fleet.relay.freeze()?;
                thread::sleep(moment);
                fleet.relay.thaw()?;
            }
            Fault::SecondRelayKilled => kill(fleet.second.as_ref().context("no second relay")?)?,
            Fault::UpstreamCut => drop(upstream.cut_now()),
            Fault::UpstreamCutInside => upstream.cut_after(Direction::ToClient, bytes),
            Fault::UpstreamReset => drop(upstream.reset_now()),
            Fault::UpstreamResetInside => upstream.reset_after(Direction::ToClient, bytes),
            Fault::UpstreamCutInHandshake => {
                upstream.cut_next_connection_at(Direction::ToClient, handshake);
                upstream.cut_now();
            }
            Fault::UpstreamBitFlipped => upstream.flip_bit_after(Direction::ToClient, bytes),
            Fault::UpstreamStalled => {
                upstream.stall();
                thread::sleep(moment);
                upstream.resume();
            }
            Fault::UpstreamRefused => {
                upstream.refuse(true);
                upstream.cut_now();
                thread::sleep(moment);
                upstream.refuse(false);
            }
            Fault::UpstreamIsAnother => return self.another_server(),
            Fault::DownstreamCut => drop(downstream.cut_now()),
            Fault::DownstreamCutInside => downstream.cut_after(Direction::ToClient, bytes),
            Fault::DownstreamCutInHandshake => {
                downstream.cut_next_connection_at(Direction::ToClient, handshake);
                downstream.reset_now();
            }
            Fault::DownstreamStalled => {
                downstream.stall();
                thread::sleep(moment);
                downstream.resume();
            }
            Fault::DownstreamSlow => {
                downstream.slow(Direction::ToClient, 20_000);
                thread::sleep(moment);
                downstream.resume();
            }
            Fault::ReplicaKilled => {
                replica.kill9()?;
                replica.restart()?;
            }
            Fault::ReplicaFrozen => {
                replica.freeze()?;
                thread::sleep(moment);
                replica.thaw()?;
            }
            Fault::ReplicaStopped => {
                replica.stop_slave()?;
                thread::sleep(moment);
                replica.start_slave()?;
            }
            Fault::ReplicaAcknowledges => {
                // From now on, or from now on no more.
                let on = self.random.random_bool(0.5);
                replica.stop_slave()?;
                replica.sql(&format!("SET GLOBAL rpl_semi_sync_slave_enabled={}", u8::from(on)))?;
                replica.start_slave()?;
            }
            Fault::PrimaryKilled => {
                fleet.primary.kill9()?;
                fleet.primary.restart()?;
                self.wait_for_acks()?;
            }
            Fault::PrimaryRestarted => {
                fleet.primary.stop()?;
                fleet.primary.restart()?;
                self.wait_for_acks()?;
            }
            Fault::PrimaryFrozen => {
                fleet.primary.freeze()?;
                thread::sleep(moment);
                fleet.primary.thaw()?;
            }
            Fault::LogRotated => drop(fleet.primary.sql("FLUSH BINARY LOGS")?),
        }
        Ok(())
    }

    /// The address leads to a stranger for a while: nothing of it may get into the log.
    fn another_server(&mut self) -> Result<()> {
        self.count += 1;
        let stranger = self.bed.mariadb(&format!("stranger-{}", self.count)).server_id(500 + self.count).start()?;
        stranger.sql("CREATE TABLE test.stranger (id INT PRIMARY KEY)")?;
        let upstream = self.fleet.upstream()?;
        upstream.set_target(stranger.address());
        upstream.cut_now();
        let state = || Ok(self.fleet.relay.status()?["upstream"]["state"].as_str().map(str::to_owned));
        wait_until("the stranger to be noticed", state, |state| state.as_deref() == Some("diverged"))?;
        upstream.set_target(self.fleet.primary.address());
        upstream.cut_now();
        Ok(())
    }
}

pub(super) fn kill(relay: &RelayProc) -> Result<()> {
    let before = relay.restarts();
    relay.kill9()?;
    wait_for("the supervisor to start it again", DEADLINE, || Ok((relay.restarts() > before).then_some(())))
}
