//! The primary's disk stalls or fills up: nobody can commit there, although the server answers.

use anyhow::{Context, Result, ensure};
use baton_testbed::cluster::{Cluster, Ledger, Node};
use baton_testbed::{Bed, Disk, scenario};

use crate::support::load;

/// Big enough for a server with its agent, small enough to be made quickly.
const MIB: u64 = 384;

/// Everything of `db-1`, server and agent, is on a disk that `spoil` spoils: it is replaced because of that, and comes back when `mend` has mended the disk.
fn disk_fails(bed: &Bed, spoil: impl Fn(&Disk) -> Result<()>, mend: impl Fn(&Disk) -> Result<()>) -> Result<()> {
    let Some(disk) = Disk::mount(&bed.path("db-1"), MIB)? else {
        eprintln!("skipped: mounting a disk needs root and a loop device");
        return Ok(());
    };
    let cluster = bed.cluster().start()?;
    let (ledger, intruded) = (Ledger::default(), Ledger::default());
    let writers = load(&cluster, &ledger)?;
    let (old, epoch) = (cluster.primary()?.clone(), cluster.epoch()?);
    let intruders = cluster.intruders(&intruded, &old)?;
    spoil(&disk)?;
    writers.wait_elsewhere(&old).with_context(|| cluster.told())?;
    writers.wait_more(50)?;
    given_up_for_its_disk(&cluster, &old, epoch)?;
    mend(&disk)?;
    cluster.wait_settled()?;
    writers.wait_more(50)?;
    writers.stop()?;
    intruders.stop()?;
    cluster.check(&[&ledger, &intruded])
}

/// The operation after `epoch` says that the disk was the reason; nothing of the old primary serves.
fn given_up_for_its_disk(cluster: &Cluster, old: &Node, epoch: u64) -> Result<()> {
    let history = cluster.history(epoch + 1)?;
    let reason = history["cause"]["reason"].as_str().context("a history without a reason")?;
    println!("{reason}");
    ensure!(reason.contains(&format!("the disk of {}", old.name())), "given up for another reason: {reason}");
    ensure!(!old.holds(cluster.vip())?, "{} still holds the address", old.name());
    Ok(())
}

#[test]
fn primary_with_a_stalled_disk_is_replaced_and_returns_once_its_disk_takes_writes() {
    scenario("stalled_disk", |bed| {
        disk_fails(bed, Disk::stall, |disk| {
            disk.resume();
            Ok(())
        })
    });
}

#[test]
fn primary_with_a_full_disk_is_replaced_and_returns_once_there_is_room() {
    scenario("primary_full_disk", |bed| disk_fails(bed, Disk::fill, Disk::make_room));
}
