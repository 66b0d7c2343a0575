//! The virtual IP: with a lifetime, held by nobody else, gone when its holder is.

use anyhow::ensure;
use baton_testbed::{DEADLINE, scenario, wait_for};
use serde_json::json;

use crate::stage::Stage;

#[test]
fn address_is_held_by_the_writable_primary_and_its_neighbours_learn_of_it() {
    scenario("address", |bed| {
        let stage = Stage::new(bed)?;
        let neighbour = stage.net.host("neighbour")?;
        let primary = stage.primary("valid_for = \"3s\"")?;
        primary.wait_status("it holds the address", |s| s["address"] == format!("{}/24", stage.vip()))?;
        ensure!(primary.host.holds(stage.vip())?);
        let reached = neighbour.inside(|| Ok(std::net::TcpStream::connect((stage.vip(), 3306)).is_ok()))?;
        ensure!(reached, "nobody can connect to it");
        // Renewed: it is still there after more than its lifetime.
        let began = std::time::Instant::now();
        while began.elapsed() < std::time::Duration::from_secs(4) {
            ensure!(primary.host.holds(stage.vip())?, "it was lost while its holder lives");
        }
        // Another takes over: gone at once.
        stage.state(2, None, &json!({"phase": "fencing", "old_primary": "db-1"}))?;
        wait_for("the address to be gone", DEADLINE, || Ok((!primary.host.holds(stage.vip())?).then_some(())))?;
        wait_for("the server to be gone", DEADLINE, || Ok(primary.servers().is_empty().then_some(())))?;
        Ok(())
    });
}

#[test]
fn address_that_a_stranger_has_is_not_taken_and_the_stranger_is_named() {
    scenario("stranger", |bed| {
        let stage = Stage::new(bed)?;
        let stranger = stage.net.host("stranger")?;
        stranger.add_address(stage.vip())?;
        let primary = stage.primary("")?;
        let status = primary.wait_status("the stranger is named", |s| s["address_error"].is_string())?;
        ensure!(
            status["address"].is_null()
                && status["address_error"].as_str().is_some_and(|e| e.contains("hardware address")),
            "{status}"
        );
        ensure!(!primary.host.holds(stage.vip())?);
        stranger.remove_address(stage.vip())?;
        primary.wait_status("it holds the address", |s| s["address"].is_string() && s["address_error"].is_null())?;
        Ok(())
    });
}

#[test]
fn kernel_takes_the_address_away_from_an_agent_that_is_frozen_and_from_one_that_is_dead() {
    scenario("lifetime", |bed| {
        let stage = Stage::new(bed)?;
        let primary = stage.primary("valid_for = \"2s\"\nfence_after = \"1h\"")?;
        primary.wait_status("it holds the address", |s| s["address"].is_string())?;
        primary.proc()?.freeze()?;
        wait_for("the address to be gone", DEADLINE, || Ok((!primary.host.holds(stage.vip())?).then_some(())))?;
        primary.proc()?.thaw()?;
        wait_for("the address to be back", DEADLINE, || Ok(primary.host.holds(stage.vip())?.then_some(())))?;
        primary.proc()?.kill9();
        wait_for("the address to be gone", DEADLINE, || Ok((!primary.host.holds(stage.vip())?).then_some(())))?;
        ensure!(primary.servers().len() == 1, "the server went with its agent");
        Ok(())
    });
}

#[test]
fn ipv6_address_is_usable_at_once_and_a_stranger_is_noticed() {
    scenario("ipv6", |bed| {
        let stage = Stage::new(bed)?;
        let vip = stage.net.spare_ip6(101);
        let stranger = stage.net.host("stranger")?;
        stranger.add_address(vip)?;
        // Only then does it answer for it.
        wait_for("the address to be usable", DEADLINE, || {
            Ok(stranger.inside(|| Ok(std::net::TcpListener::bind((vip, 0)).is_ok()))?.then_some(()))
        })?;
        let primary = stage.primary(&format!("vip = \"{vip}/64\""))?;
        primary.wait_status("the stranger is named", |s| {
            s["address_error"].as_str().is_some_and(|e| e.contains("hardware address"))
        })?;
        stranger.remove_address(vip)?;
        primary.wait_status("it holds the address", |s| s["address"] == format!("{vip}/64"))?;
        let reached = stranger.inside(|| Ok(std::net::TcpStream::connect((vip, 3306)).is_ok()))?;
        ensure!(reached, "nobody can connect to it");
        Ok(())
    });
}
