//! Disks that fail: a tmpfs that can be full, and a file system in a file that can be full, stall, or be damaged. They own their mounts, and take them away
//! when dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::procs;
use crate::template::program;

/// A mounted tmpfs.
pub struct Volume(Arc<Mount>);

struct Mount(PathBuf);

impl Volume {
    /// Mounts a tmpfs of `kib` KiB on `at`, which is created; `None` where that is not allowed (not root, a container without the right).
    pub fn mount(at: &Path, kib: u64) -> Result<Option<Self>> {
        let mounted = mount(&["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"], at)?;
        Ok(mounted.map(Self))
    }

    /// Changes its size.
    pub fn resize(&self, kib: u64) -> Result<()> {
        let at = &self.0.0;
        let options = format!("remount,size={kib}k");
        let status = Command::new("mount").args(["-o", &options]).arg(at).status()?;
        ensure!(status.success(), "can't give {} {kib} KiB: mount ended with {status}", at.display());
        Ok(())
    }
}

/// A disk of its own: an ext4 file system in the file `<place>.img`, on a loop device.
pub struct Disk {
    mount: Arc<Mount>,
    /// Whoever holds its writes back: until its standard input ends, so also when this program is killed.
    stall: Mutex<Option<Child>>,
}

impl Disk {
    /// Makes a file system of `mib` MiB and mounts it on `at`, which is created; `None` where that is not allowed.
    pub fn mount(at: &Path, mib: u64) -> Result<Option<Self>> {
        let image = at.with_extension("img");
        fs::create_dir_all(at).with_context(|| format!("can't create {}", at.display()))?;
        let file = File::create(&image).with_context(|| format!("can't create {}", image.display()))?;
        file.set_len(mib << 20)?;
        // Without blocks for root only: the servers of tests are root's.
        let output = Command::new(program("mkfs.ext4")?).args(["-q", "-F", "-m", "0"]).arg(&image).output()?;
        ensure!(output.status.success(), "mkfs.ext4: {}", String::from_utf8_lossy(&output.stderr).trim());
        let image = image.to_str().context("a path that is no text")?;
        let mounted = mount(&["-t", "ext4", "-o", "loop,errors=remount-ro", image], at)?;
        Ok(mounted.map(|mount| Self { mount, stall: Mutex::new(None) }))
    }

    /// Nothing more fits on it.
    pub fn fill(&self) -> Result<()> {
        self.mount.fill()
    }

    /// What [`Disk::fill`] took is free again.
    pub fn make_room(&self) -> Result<()> {
        fs::remove_file(self.mount.filler()).context("can't make room")
    }

    /// The kernel finds the file system damaged and lets nobody write any more, as after an I/O error; for good.
    pub fn damage(&self) -> Result<()> {
        let at = self.mount.0.to_str().context("a path that is no text")?;
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mut of_it = mounts
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(_, rest)| rest.starts_with(&format!("{at} ")));
        let device = of_it.next().and_then(|(device, _)| device.strip_prefix("/dev/")).context("it is not mounted")?;
        let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        fs::write(&trigger, "a test wants it so\n").with_context(|| format!("can't write {trigger}"))
    }

    /// Writes hang from now on, and whoever writes can't even be killed. Reads are answered.
    pub fn stall(&self) -> Result<()> {
        // It stands on the disk, and so reaches it also once its place is gone.
        let script = "fsfreeze --freeze . && echo stalled && read -r _; fsfreeze --unfreeze .";
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(&self.mount.0).stdin(Stdio::piped()).stdout(Stdio::piped());
        // In a group of its own: what ends this program by a signal must not end it before it has thawed the disk.
        let mut child = command.process_group(0).spawn().context("can't start sh")?;
        let mut told = String::new();
        let out = child.stdout.take().context("no standard output")?;
        BufReader::new(out).read_line(&mut told)?;
        *self.stall.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        ensure!(told.trim() == "stalled", "fsfreeze can't hold back writes to {}", self.mount.0.display());
        Ok(())
    }

    /// Ends [`Disk::stall`]: writes go on.
    pub fn resume(&self) {
        if let Some(mut child) = self.stall.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(child.stdin.take());
            let _thawed = child.wait();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.resume();
    }
}

/// Mounts what `options` say on `at`, which is created; `None` where that is not allowed.
fn mount(options: &[&str], at: &Path) -> Result<Option<Arc<Mount>>> {
    fs::create_dir_all(at).with_context(|| format!("can't create {}", at.display()))?;
    let output = Command::new("mount").args(options).arg(at).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if ["permission denied", "superuser", "failed to setup loop device"].iter().any(|text| said.contains(text)) {
            return Ok(None);
        }
        bail!("can't mount on {}: {said}", at.display());
    }
    let mount = Arc::new(Mount(at.to_owned()));
    let weak = Arc::downgrade(&mount);
    procs::on_signal(move || {
        if let Some(mount) = weak.upgrade() {
            mount.unmount();
        }
    });
    Ok(Some(mount))
}

/// Unmounts what a killed program has left below `dir`.
pub(crate) fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split_whitespace().nth(1)).map(Path::new);
    for place in places.filter(|place| place.starts_with(dir)) {
        drop(Mount(place.to_owned()));
    }
}

impl Mount {
    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    fn fill(&self) -> Result<()> {
        let file = OpenOptions::new().create(true).append(true).open(self.filler())?;
        let mut step = 64 << 20;
        while step >= 4096 {
            let length = file.metadata()?.len();
            match fallocate(&file, FallocateFlags::empty(), length, step) {
                Ok(()) => {}
                Err(Errno::NOSPC) => step /= 2,
                Err(error) => return Err(error).context("can't fill the disk"),
            }
        }
        Ok(())
    }

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
