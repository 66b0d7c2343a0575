//! A small volume that can be full: a tmpfs. Owns the mount, and takes it away when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::procs;

/// A mounted tmpfs.
pub struct Volume(Arc<Mount>);

struct Mount(PathBuf);

impl Volume {
    /// Mounts a tmpfs of `kib` KiB on `at`, which is created; `None` where that is not allowed (not root, a container without the right).
    pub fn mount(at: &Path, kib: u64) -> Result<Option<Self>> {
        std::fs::create_dir_all(at).with_context(|| format!("can't create {}", at.display()))?;
        let output =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]).arg(at).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if said.contains("permission denied") || said.contains("superuser") {
                return Ok(None);
            }
            bail!("can't mount a tmpfs on {}: {said}", at.display());
        }
        let mount = Arc::new(Mount(at.to_owned()));
        let weak = Arc::downgrade(&mount);
        procs::on_signal(move || {
            if let Some(mount) = weak.upgrade() {
                mount.unmount();
            }
        });
        Ok(Some(Self(mount)))
    }

    /// Changes its size.
    pub fn resize(&self, kib: u64) -> Result<()> {
        let at = &self.0.0;
        let options = format!("remount,size={kib}k");
        let status = Command::new("mount").args(["-o", &options]).arg(at).status()?;
        if !status.success() {
            bail!("can't give {} {kib} KiB: mount ended with {status}", at.display());
        }
        Ok(())
    }
}

impl Mount {
    fn unmount(&self) {
        // Lazily: it goes with the last process that has a file open in it.
        let _gone_already = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.unmount();
    }
}
