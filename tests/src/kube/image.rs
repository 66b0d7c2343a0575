//! What stands for images: programs of this machine, by the image's name. Knows which user ids this process may become.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::binaries::binary;
use crate::template::program;

/// An image.
#[derive(Debug, Clone)]
pub(super) struct Image {
    /// `system`: this machine's `/usr`; `programs`: its libraries only, and no shell.
    pub(super) base: &'static str,
    /// Name in `/usr/local/bin`, and the file here.
    pub(super) programs: BTreeMap<String, PathBuf>,
}

/// All images, by repository.
#[derive(Debug, Clone)]
pub(super) struct Images {
    known: BTreeMap<&'static str, Image>,
}

impl Images {
    /// Baton's programs as built here, MariaDB and etcd as installed here.
    pub(super) fn of_this_machine() -> Result<Self> {
        let mut baton = BTreeMap::new();
        for name in ["baton-relay", "baton-failover", "batonctl"] {
            baton.insert(name.to_owned(), binary(name)?);
        }
        for_kubernetes(&baton["baton-failover"])?;
        program("mariadbd")?;
        let etcd = [("etcd".to_owned(), program("etcd")?)].into();
        let known = [
            ("ghcr.io/baton/baton", Image { base: "programs", programs: baton }),
            ("quay.io/coreos/etcd", Image { base: "programs", programs: etcd }),
            ("docker.io/library/mariadb", Image { base: "system", programs: BTreeMap::new() }),
        ];
        Ok(Self { known: known.into() })
    }

    pub(super) fn of(&self, image: &str) -> Result<&Image> {
        let repository = image.rsplit_once(':').map_or(image, |(repository, _)| repository);
        self.known.get(repository).with_context(|| format!("nothing here stands for the image {image}"))
    }

    /// Whether this process may give a process or a file that id: all of them as the machine's root, itself only in a namespace of its own.
    pub(super) fn may_be(id: u32) -> bool {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        map.lines().any(|line| {
            let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            matches!(numbers[..], [first, _, count] if (first..first + count).contains(&u64::from(id)))
        })
    }
}

/// The image's programs are built with what only Kubernetes needs; a subcommand shows whether these are.
fn for_kubernetes(failover: &Path) -> Result<()> {
    let answer = Command::new(failover).args(["make-secret", "--help"]).output();
    let answer = answer.with_context(|| format!("can't run {}", failover.display()))?;
    ensure!(
        answer.status.success(),
        "{} was built without what Kubernetes needs: run cargo build --workspace --bins --features baton-failover/kubernetes",
        failover.display()
    );
    Ok(())
}
