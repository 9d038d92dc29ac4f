//! Where the lab keeps things, its lock, and how all traces of a machine are removed.
//!
//! A machine may end in three ways: dropped, interrupted by a signal, or left behind by a test that was killed. All three
//! are cleaned by the same [`clean`], which needs nothing but the path of the run directory.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::mount::{UnmountFlags, unmount};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{Result, context, tool};

/// Begins the name of every control group of the lab; the name of the run directory follows.
pub const CGROUP_PREFIX: &str = "safe-upgrade-lab-";

/// Begins the name of every run directory.
const RUN_PREFIX: &str = "run-";

/// The disk that another one is filled from.
pub const FROM: &str = "from.img";

static LIVE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
static SIGNALS: Once = Once::new();
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The lab's own directory, under cargo's target directory.
pub fn lab_directory() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    target.join("lab")
}

/// How many machines of one work tree live at a time: more would wait for each other's disk and memory.
const MACHINES: usize = 2;

/// The file in a run directory that its owner holds a lock on: without one the run was killed.
const ALIVE: &str = "alive";

/// Holds a place in the lab for one machine, and the directory of that machine.
///
/// Dropping it removes every trace of the machine.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    _alive: File,
    _place: File,
}

impl RunDirectory {
    /// Waits until there is room for another machine of this work tree, cleans what killed runs left behind, and makes a directory.
    pub fn claim(name: &str) -> Result<Self> {
        let lab = lab_directory();
        context(fs::create_dir_all(&lab), format_args!("create {}", lab.display()))?;
        let place = take_a_place(&lab)?;
        let _one_by_one = locked(&lab.join("cleaning.lock"))?;
        clean_leftovers(&lab)?;
        let path = lab.join(format!("{RUN_PREFIX}{}-{name}", std::process::id()));
        fs::create_dir(&path)?;
        let alive = locked(&path.join(ALIVE))?;
        SIGNALS.call_once(clean_when_interrupted);
        live().push(path.clone());
        Ok(Self { path, _alive: alive, _place: place })
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory's own name: it is in the name of the control group and of the machine.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        leave_it_to_the_interruption();
        if let Err(error) = clean(&self.path) {
            eprintln!("lab: {} could not be cleaned: {error}", self.path.display());
        }
        live().retain(|path| path != &self.path);
    }
}

/// Waits for the lock on a file, which is made where it is missing; closing it lets go.
pub fn locked(path: &Path) -> Result<File> {
    let file = File::create(path)?;
    let lock = flock(&file, FlockOperation::LockExclusive).map_err(Into::into);
    context(lock, format_args!("lock {}", path.display()))?;
    Ok(file)
}

/// Takes the first free place; when all are taken, waits for the first.
fn take_a_place(lab: &Path) -> Result<File> {
    let path = |number| lab.join(format!("place-{number}.lock"));
    for number in 0..MACHINES {
        let file = File::create(path(number))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(file);
        }
    }
    locked(&path(0))
}

/// Never returns once a signal has come: whoever cleans up for it ends the program when that is done.
pub fn leave_it_to_the_interruption() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Removes every trace of the machine that lives in this run directory: its processes, mounts, loop devices and files.
///
/// May be repeated, and does not mind what is already gone.
pub fn clean(run: &Path) -> Result<()> {
    if !run.exists() {
        return Ok(());
    }
    kill_all(run)?;
    unmount_below(run)?;
    for image in ["disk.img", FROM] {
        detach_loops(&run.join(image))?;
    }
    context(fs::remove_dir_all(run), format_args!("remove {}", run.display()))
}

/// Kills every process in the machine's control group and returns when the last one is gone.
pub fn kill_all(run: &Path) -> Result<()> {
    let group = cgroup_of(run)?;
    if !group.exists() {
        return Ok(());
    }
    context(fs::write(group.join("cgroup.kill"), "1"), format_args!("kill all in {}", group.display()))?;
    wait_until_empty(&group)?;
    remove_groups(&group)
}

/// The directory of the machine's control group, in a cgroup2 mount of the lab's own.
///
/// Hosts mount cgroup2 in different places or not at all; a mount of our own is the same everywhere.
pub fn cgroup_of(run: &Path) -> Result<PathBuf> {
    let mount = run.join("cgroup");
    if !is_mounted(&mount)? {
        fs::create_dir_all(&mount)?;
        tool("mount", &["-t", "cgroup2", "none", &mount.to_string_lossy()])?;
    }
    let name = run.file_name().unwrap_or_default().to_string_lossy();
    Ok(mount.join(format!("{CGROUP_PREFIX}{name}")))
}

/// Unmounts everything below a directory, the latest first.
pub fn unmount_below(directory: &Path) -> Result<()> {
    for point in mounts_below(directory)?.into_iter().rev() {
        if unmount(&point, UnmountFlags::empty()).is_err() {
            // Busy: something of the host still looks at it. It must not stay in the tree that is removed next.
            let lazily = unmount(&point, UnmountFlags::DETACH).map_err(io::Error::from);
            context(lazily, format_args!("unmount {}", point.display()))?;
        }
    }
    let left = mounts_below(directory)?;
    if left.is_empty() {
        return Ok(());
    }
    Err(io::Error::other(format!("{left:?} are still mounted")))
}

/// Whether something is mounted at exactly this place.
pub fn is_mounted(point: &Path) -> Result<bool> {
    Ok(mounts_below(point)?.iter().any(|mounted| mounted == point))
}

/// Detaches every loop device that is backed by this file.
pub fn detach_loops(image: &Path) -> Result<()> {
    if !image.exists() {
        return Ok(());
    }
    let listed = tool("losetup", &["--noheadings", "--output", "NAME", "-j", &image.to_string_lossy()])?;
    for device in listed.split_whitespace() {
        // Partitions would keep the device; it fails when there are none.
        drop(tool("partx", &["--delete", device]));
        tool("losetup", &["--detach", device])?;
    }
    Ok(())
}

fn live() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    LIVE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn clean_when_interrupted() {
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else { return };
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            INTERRUPTED.store(true, Ordering::SeqCst);
            eprintln!("lab: interrupted, cleaning up");
            for run in live().drain(..) {
                if let Err(error) = clean(&run) {
                    eprintln!("lab: {} could not be cleaned: {error}", run.display());
                }
            }
            #[expect(clippy::exit, reason = "this is how a program ends that a signal ends")]
            std::process::exit(128 + signal);
        }
    });
}

/// The lock is held, so whatever run directory is there belongs to nobody.
fn clean_leftovers(lab: &Path) -> Result<()> {
    for entry in fs::read_dir(lab)? {
        let path = entry?.path();
        let named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(RUN_PREFIX));
        if named && !is_alive(&path)? {
            eprintln!("lab: cleaning {}, left behind by a run that was killed", path.display());
            clean(&path)?;
        }
    }
    Ok(())
}

/// Its owner holds the lock as long as it lives, however it ends.
fn is_alive(run: &Path) -> Result<bool> {
    match File::open(run.join(ALIVE)) {
        Ok(file) => Ok(flock(&file, FlockOperation::NonBlockingLockShared).is_err()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescaped);
    Ok(points.filter(|point| point.starts_with(directory)).collect())
}

/// The kernel writes a space in a mount point as `\040`; the other escapes do not occur in the lab's own paths.
fn unescaped(field: &str) -> PathBuf {
    PathBuf::from(field.replace("\\040", " "))
}

fn wait_until_empty(group: &Path) -> Result<()> {
    let events = File::open(group.join("cgroup.events"))?;
    loop {
        let text = fs::read_to_string(group.join("cgroup.events"))?;
        if text.lines().any(|line| line == "populated 0") {
            return Ok(());
        }
        // The kernel reports a change of this file as an exceptional condition; a second at most, in case it came before.
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&second))?;
    }
}

fn remove_groups(group: &Path) -> Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    context(fs::remove_dir(group), format_args!("remove {}", group.display()))
}
