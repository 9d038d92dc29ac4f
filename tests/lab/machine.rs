//! The machine: power, reboots, commands inside, files, a full disk, the product's journal.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use safe_upgrade::system::exec::{Exec, Output, tail};

use super::disk::Disk;
use super::mirror::{Mirror, PORT};
use super::network::Network;
use super::place::{self, CGROUP_PREFIX, RunDirectory, cgroup_of, kill_all, lab_directory, unmount_below};
use super::power::{self, Ear, Life, Supervised};
use super::sources::Sources;
use super::{Result, context, image, told};

/// A boot takes two to four seconds here.
pub const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// A command inside may be a whole release upgrade.
const COMMAND_LIMIT: Duration = Duration::from_secs(900);

/// Enters the machine's namespaces from a control group inside its tree, so that the command belongs to the machine.
const STEP_INSIDE: &str = r#"mkdir -p "$1" && echo $$ >"$1/cgroup.procs" && shift && exec nsenter "$@""#;

/// A machine with power, a disk, a network and a mirror. Dropping it removes every trace of it.
#[derive(Debug)]
pub struct Machine {
    supervisor: RefCell<Option<JoinHandle<()>>>,
    life: Arc<Life>,
    disk: Disk,
    mirror: Mirror,
    network: Network,
    _ear: Ear,
    run: RunDirectory,
}

/// A command that runs inside.
#[derive(Debug)]
pub struct Started {
    child: Child,
    log: PathBuf,
}

impl Started {
    /// Waits for its end and returns its exit code; nothing when it was killed, as by a reboot.
    pub fn wait(&mut self) -> Result<Option<i32>> {
        Ok(self.child.wait()?.code())
    }

    /// Its exit code when it has ended by itself.
    pub fn ended(&mut self) -> Result<Option<i32>> {
        Ok(self.child.try_wait()?.and_then(|status| status.code()))
    }

    /// All that it wrote so far, to stdout and stderr.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Machine {
    /// A fresh bookworm, switched off. Waits until no other machine lives.
    pub fn new(name: &str) -> Result<Self> {
        let golden = image::golden()?;
        let run = RunDirectory::claim(name)?;
        let disk_image = run.path().join("disk.img");
        image::copy(&golden, &disk_image)?;
        image::new_identity(&disk_image)?;
        let disk = Disk::attach(&disk_image)?;
        let at = run.path().join("root");
        fs::create_dir_all(&at)?;
        image::name_itself(&disk, &at)?;
        Self::assemble(run, disk)
    }

    /// The same on ext4: a machine that has no snapshots.
    pub fn on_ext4(name: &str) -> Result<Self> {
        let golden = image::golden()?;
        let run = RunDirectory::claim(name)?;
        let disk = image::on_ext4(&golden, &run)?;
        Self::assemble(run, disk)
    }

    /// Puts a machine around a disk.
    pub fn assemble(run: RunDirectory, disk: Disk) -> Result<Self> {
        for directory in ["root", "top", "backup", "repo"] {
            fs::create_dir_all(run.path().join(directory))?;
        }
        disk.mount_top(&run.path().join("top"))?;
        let network = Network::create()?;
        let https_hosts = Sources::of_this_machine()?.https_hosts();
        let mirror = Mirror::new(&lab_directory().join("cache"), &run.path().join("repo"), https_hosts);
        mirror.serve(network.listen(PORT)?);
        let life = Arc::new(Life::default());
        let ear = Ear::open(&format!("{CGROUP_PREFIX}{}", run.name()), Arc::clone(&life))?;
        let supervisor = RefCell::new(None);
        Ok(Self { supervisor, life, disk, mirror, network, _ear: ear, run })
    }

    /// Switches the machine on and returns when it is up. It reboots by itself whenever it asks for it.
    pub fn boot(&self) -> Result<()> {
        let next = self.boots() + 1;
        self.switch_on()?;
        self.wait_boot(next, BOOT_LIMIT)
    }

    /// Switches the machine on and does not wait.
    pub fn switch_on(&self) -> Result<()> {
        self.join_supervisor();
        let supervised = Supervised {
            name: self.run.name(),
            run: self.run.path().to_owned(),
            disk: self.disk.clone(),
            network: self.network.path(),
        };
        self.life.switch_on();
        let life = Arc::clone(&self.life);
        *self.supervisor.borrow_mut() =
            Some(std::thread::spawn(move || power::supervise(&supervised, &life)));
        Ok(())
    }

    /// How often the machine was started so far, reboots included.
    pub fn boots(&self) -> u32 {
        self.life.boots()
    }

    /// Returns when the n-th boot of this machine (counted from 1) has come up.
    pub fn wait_boot(&self, number: u32, limit: Duration) -> Result<()> {
        self.life.wait_ready(number, limit).map_err(|error| self.with_console(&error))
    }

    /// Shuts the machine down in order and returns when it is off.
    pub fn power_off(&self) -> Result<()> {
        // The command dies with the machine: how it ends tells nothing.
        drop(self.run(&["systemctl", "poweroff"]));
        self.wait_off(BOOT_LIMIT)
    }

    /// Reboots in order and returns when the machine is up again.
    pub fn reboot(&self) -> Result<()> {
        let next = self.boots() + 1;
        drop(self.run(&["systemctl", "reboot"]));
        self.wait_boot(next, BOOT_LIMIT)
    }

    /// Returns when the machine is off.
    pub fn wait_off(&self, limit: Duration) -> Result<()> {
        self.life.wait_off(limit).map_err(|error| self.with_console(&error))?;
        self.join_supervisor();
        Ok(())
    }

    /// Pulls the plug: nothing reaches the disk any more, then everything dies. The machine is off when this returns.
    pub fn pull_plug(&self) -> Result<()> {
        self.disk.cut()?;
        self.stop()?;
        unmount_below(self.run.path())?;
        self.disk.reattach()?;
        self.disk.mount_top(&self.top())
    }

    /// Runs a command inside to its end and returns what it left behind, whatever its exit code.
    pub fn run(&self, command: &[&str]) -> Result<Output> {
        self.inside(command)?.limit(COMMAND_LIMIT).output().map_err(told)
    }

    /// Runs a shell command inside, wants exit code 0, and returns its stdout.
    pub fn sh(&self, script: &str) -> Result<String> {
        let output = self.run(&["sh", "-c", script])?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let (stdout, stderr) = (tail(&output.stdout), tail(&output.stderr));
        Err(io::Error::other(format!("{script:?} ended with {}: {stdout}{stderr}", output.status)))
    }

    /// Starts a command inside and does not wait.
    pub fn start(&self, command: &[&str]) -> Result<Started> {
        let (log, output) =
            tempfile::NamedTempFile::new_in(self.run.path())?.keep().map(|(file, path)| (path, file))?;
        let (_, mut command) = self.inside(command)?.into_command();
        let child = command.stdout(output.try_clone()?).stderr(output).spawn()?;
        Ok(Started { child, log })
    }

    /// Writes a file inside; its directory is made when it is missing.
    pub fn write(&self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let install = ["install", "-D", "-m", &format!("{mode:o}"), "/dev/stdin", path];
        self.inside(&install)?.stdin(content.to_vec()).success().map(drop).map_err(told)
    }

    /// Copies a file of the host into the machine.
    pub fn copy_in(&self, file: &Path, path: &str, mode: u32) -> Result<()> {
        let content = context(fs::read(file), format_args!("read {}", file.display()))?;
        self.write(path, mode, &content)
    }

    /// Kills the main process of a unit with SIGKILL, as the kernel does when memory runs out.
    pub fn kill_main(&self, unit: &str) -> Result<()> {
        let shown =
            self.sh(&format!("systemctl show --property=MainPID,ActiveState,SubState,Result {unit}"))?;
        match shown.lines().find_map(|line| line.strip_prefix("MainPID=")) {
            None | Some("0") => Err(io::Error::other(format!("{unit} has no main process: {shown}"))),
            Some(pid) => self.sh(&format!("kill -KILL {pid}")).map(drop),
        }
    }

    /// Asks the machine's web server for a page; the answer includes the status line.
    pub fn get(&self, path: &str) -> Result<String> {
        self.network.get(8080, path)
    }

    /// Fills the disk until at most this many bytes are free for files.
    pub fn fill_disk(&self, leave: u64) -> Result<()> {
        let filler = fs::File::create(self.top().join("lab-filler"))?;
        let (mut offset, mut step) = (0, 256 << 20);
        loop {
            let room = statvfs(self.top())?;
            let size = (room.f_bavail * room.f_frsize).saturating_sub(leave).min(step);
            if size == 0 {
                return Ok(());
            }
            match fallocate(&filler, FallocateFlags::empty(), offset, size) {
                Ok(()) => offset += size,
                // What is free is in pieces smaller than this step.
                Err(rustix::io::Errno::NOSPC) if step > 4096 => step /= 2,
                Err(rustix::io::Errno::NOSPC) => return Ok(()),
                Err(error) => return context(Err(error.into()), "fill the disk"),
            }
        }
    }

    /// Gives back what [`Machine::fill_disk`] took.
    pub fn free_disk(&self) -> Result<()> {
        fs::remove_file(self.top().join("lab-filler"))
    }

    /// A file of the running system, seen from the host. The name of the subvolume that runs does not matter: while an upgrade goes
    /// on it may be another one than the next boot's. No part of the path may be a symbolic link.
    pub fn seen_from_host(&self, path: &str) -> Result<PathBuf> {
        let leader = self.life.leader().ok_or_else(|| io::Error::other("the machine is off"))?;
        Ok(PathBuf::from(format!("/proc/{leader}/root")).join(path.trim_start_matches('/')))
    }

    /// The top level of the machine's file system, seen from the host: every subvolume is a directory in it.
    pub fn top(&self) -> PathBuf {
        self.run.path().join("top")
    }

    /// The host's directory that the machine sees as `/srv/backup`: another device, which no plug is pulled on.
    pub fn backup_store(&self) -> PathBuf {
        self.run.path().join("backup")
    }

    /// The directory of the machine's own repository, see [`super::repo`].
    pub fn repo_directory(&self) -> PathBuf {
        self.run.path().join("repo")
    }

    /// The machine's mirror.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// All that the machine wrote to its console so far.
    pub fn console_log(&self) -> String {
        let bytes = fs::read(self.run.path().join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Takes the disk out of a machine that is off and returns its image, which is gone with the machine.
    pub fn take_disk_out(&self) -> Result<PathBuf> {
        self.stop()?;
        unmount_below(self.run.path())?;
        self.disk.detach()?;
        Ok(self.run.path().join("disk.img"))
    }

    fn inside(&self, command: &[&str]) -> Result<Exec> {
        let leader = self.life.leader().ok_or_else(|| io::Error::other("the machine is off"))?;
        let text = context(fs::read_to_string(format!("/proc/{leader}/cgroup")), "find the machine's group")?;
        let unified = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        let mount = cgroup_of(self.run.path())?.parent().map(Path::to_path_buf).unwrap_or_default();
        // The leader sits in its own scope; the payload's group is the one above.
        let group = mount.join(unified).parent().map(|payload| payload.join("lab.scope")).unwrap_or_default();
        Ok(Exec::new("sh")
            .map_err(told)?
            .args(["-c", STEP_INSIDE, "sh"])
            .arg(group)
            .args(["--target", &leader.to_string(), "--all", "--"])
            .args(command))
    }

    fn stop(&self) -> Result<()> {
        self.life.forbid_reboot();
        if let Some(child) = self.life.child() {
            // ESRCH: it has just ended by itself.
            let _gone = rustix::process::kill_process(child, rustix::process::Signal::KILL);
        }
        kill_all(self.run.path())?;
        self.join_supervisor();
        Ok(())
    }

    fn join_supervisor(&self) {
        if let Some(supervisor) = self.supervisor.borrow_mut().take() {
            // A panic in there was printed by its own thread.
            drop(supervisor.join());
        }
    }

    /// An error with what is known of the machine's power, and the end of its console.
    pub fn with_console(&self, error: &io::Error) -> io::Error {
        let (log, life) = (self.console_log(), &self.life);
        io::Error::other(format!("{error}; {life:?}; the console said last:\n{}", tail(log.as_bytes())))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        place::leave_it_to_the_interruption();
        if std::thread::panicking() {
            eprintln!("lab: the console said last:\n{}", tail(self.console_log().as_bytes()));
        }
        if let Err(error) = self.stop() {
            eprintln!("lab: the machine could not be stopped: {error}");
        }
    }
}
