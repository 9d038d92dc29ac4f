//! The machine: boots, records, console, the plug.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use safe_upgrade::system::exec::tail;
use serde_json::Value;

use super::Layout;
use super::agent::{Job, Output};
use super::image::{self, BACKUP_LABEL};
use super::qemu::{Hardware, Qemu};
use super::wire::whole_lines;
use crate::lab::mirror::Mirror;
use crate::lab::place::{self, RunDirectory, lab_directory};
use crate::lab::sources::Sources;
use crate::lab::{Result, product, tool, tool_with_input};

/// A boot takes 20 to 60 seconds here, as busy as the machine is; with Secure Boot somewhat more.
pub const BOOT_LIMIT: Duration = Duration::from_secs(400);

/// A command inside that is no upgrade.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// Room for the backup store and the product.
const BACKUP_SIZE: u64 = 4 << 30;

/// Where the product's binary lies inside.
pub const BINARY: &str = "/srv/backup/lab/safe-upgrade";

/// What a machine has besides its layout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// UEFI with Secure Boot enforced.
    pub secure_boot: bool,
    /// An i6300esb watchdog that resets the machine.
    pub watchdog: bool,
    /// A second network card, and a small disk with an EFI system partition, empty.
    pub spare: bool,
}

/// A machine with disks, power and a mirror. Dropping it removes every trace of it.
#[derive(Debug)]
pub struct Vm {
    qemu: RefCell<Option<Qemu>>,
    layout: Layout,
    options: Options,
    /// What came up, was reset and was recorded before the power was last switched on.
    boots: Cell<usize>,
    resets: Cell<usize>,
    plugs: Cell<usize>,
    earlier: RefCell<String>,
    mirror: Mirror,
    port: u16,
    run: RunDirectory,
}

impl Vm {
    /// A fresh machine that is switched on. Waits until no other machine lives.
    pub fn start(name: &str, layout: Layout, options: Options) -> Result<Self> {
        let golden = image::golden(layout)?;
        let run = RunDirectory::claim(&format!("vm-{name}"))?;
        image::overlay(&golden, &run.path().join("disk.qcow2"))?;
        fs::create_dir_all(run.path().join("repo"))?;
        make_backup_disk(run.path())?;
        if options.spare {
            make_spare_disk(run.path())?;
        }
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let https_hosts = Sources::of_this_machine()?.https_hosts();
        let mirror = Mirror::new(&lab_directory().join("cache"), &run.path().join("repo"), https_hosts);
        mirror.serve(listener);
        let (qemu, earlier) = (RefCell::default(), RefCell::default());
        let (boots, resets, plugs) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let vm = Self { qemu, layout, options, boots, resets, plugs, earlier, mirror, port, run };
        if let Some(variables) = vm.hardware().factory_variables() {
            fs::copy(variables, vm.run.path().join("vars.fd"))?;
        }
        vm.switch_on()?;
        Ok(vm)
    }

    /// Switches a machine on that is off, and does not wait.
    pub fn switch_on(&self) -> Result<()> {
        if self.qemu.borrow().is_some() {
            return Err(io::Error::other("the machine is on already"));
        }
        *self.qemu.borrow_mut() = Some(self.hardware().start()?);
        Ok(())
    }

    /// How it boots.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// How often userspace came up so far, over all reboots, resets and pulled plugs.
    pub fn boots(&self) -> usize {
        let now = self.qemu.borrow().as_ref().map_or(0, |qemu| qemu.agent.ups());
        self.boots.get() + now
    }

    /// Returns when the agent has come up at least once since the machine was switched on.
    pub fn wait_agent(&self, limit: Duration) -> Result<()> {
        self.wait_boot(self.boots.get() + 1, limit)
    }

    /// Returns when userspace has come up for the n-th time, counted over the machine's whole life.
    pub fn wait_boot(&self, number: usize, limit: Duration) -> Result<()> {
        let number = number.saturating_sub(self.boots.get());
        self.with(|qemu| qemu.agent.wait_up(number, limit))
    }

    /// Runs a shell script inside to its end, whatever its exit code.
    pub fn run(&self, script: &str) -> Result<Output> {
        let job = self.begin(script)?;
        self.end(job, COMMAND_LIMIT)
    }

    /// Runs a shell script inside, wants exit code 0, and returns its stdout.
    pub fn sh(&self, script: &str) -> Result<String> {
        let output = self.run(script)?;
        if output.code == 0 {
            return Ok(output.stdout);
        }
        let said = tail(format!("{}{}", output.stdout, output.stderr).as_bytes());
        Err(io::Error::other(format!("{script:?} ended with {}: {said}", output.code)))
    }

    /// Starts a shell script inside and does not wait.
    pub fn begin(&self, script: &str) -> Result<Job> {
        self.with(|qemu| qemu.agent.start(script))
    }

    /// Waits for the end of a script that [`Vm::begin`] has started.
    pub fn end(&self, job: Job, limit: Duration) -> Result<Output> {
        self.with(|qemu| qemu.agent.wait(job, limit))
    }

    /// Writes a small file inside; its directory is made when it is missing.
    pub fn write(&self, path: &str, mode: u32, content: &str) -> Result<()> {
        let coded = tool_with_input("base64", &["-w", "0"], content.as_bytes())?;
        let coded = String::from_utf8_lossy(&coded).into_owned();
        self.sh(&format!("echo {coded} | base64 -d | install -D -m {mode:o} /dev/stdin {path}")).map(drop)
    }

    /// The names of all records in the product's journal so far.
    pub fn records(&self) -> Vec<String> {
        let now = self.qemu.borrow().as_ref().map(|qemu| qemu.records.text()).unwrap_or_default();
        names(&format!("{}{now}", self.earlier.borrow()))
    }

    /// Returns the first record of one of these names that the journal holds after its first `skip` records.
    pub fn wait_record(&self, skip: usize, wanted: &[&str], limit: Duration) -> Result<String> {
        let found = self.with(|qemu| {
            let earlier = self.earlier.borrow();
            qemu.records.wait(limit, |now| {
                let all = names(&format!("{earlier}{now}"));
                all.into_iter().skip(skip).find(|name| wanted.contains(&name.as_str()))
            })
        });
        let have = || self.records().into_iter().skip(skip).collect::<Vec<_>>().join(" ");
        found.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("no {wanted:?} in the journal, which has: {}: {error}", have()),
            )
        })
    }

    /// How much the console has said since the machine was switched on, for [`Vm::wait_console`].
    pub fn console_length(&self) -> usize {
        self.qemu.borrow().as_ref().map_or(0, |qemu| qemu.console.text().len())
    }

    /// Returns as soon as the console has said this after its first `skip` bytes.
    pub fn wait_console(&self, skip: usize, pattern: &str, limit: Duration) -> Result<()> {
        self.with(|qemu| {
            qemu.console
                .wait(limit, |text| text.get(skip..).is_some_and(|new| new.contains(pattern)).then_some(()))
        })
        .map_err(|error| io::Error::new(error.kind(), format!("no {pattern:?} on the console: {error}")))
    }

    /// All that the console has said in the machine's life.
    pub fn console_log(&self) -> String {
        let bytes = fs::read(self.run.path().join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How often a starved watchdog has reset the machine since it was last switched on.
    pub fn watchdogs(&self) -> usize {
        self.qemu.borrow().as_ref().map_or(0, Qemu::watchdogs)
    }

    /// How often the machine was reset so far, by itself or by [`Vm::reset`].
    pub fn resets(&self) -> usize {
        let now = self.qemu.borrow().as_ref().map_or(0, Qemu::resets);
        self.resets.get() + now
    }

    /// How often its plug was pulled so far.
    pub fn plugs(&self) -> usize {
        self.plugs.get()
    }

    /// Returns when the machine has been reset for the n-th time, counted over its whole life.
    pub fn wait_reset(&self, number: usize, limit: Duration) -> Result<()> {
        let number = number.saturating_sub(self.resets.get());
        self.with(|qemu| qemu.wait_reset(number, limit))
    }

    /// Pushes the reset button and does not wait.
    pub fn reset(&self) -> Result<()> {
        self.with(Qemu::push_reset)
    }

    /// Reboots in order and returns when the agent is up again.
    pub fn reboot(&self) -> Result<()> {
        let next = self.boots() + 1;
        self.begin("systemctl reboot")?;
        self.wait_boot(next, BOOT_LIMIT)
    }

    /// Pulls the plug: QEMU is killed. The machine is off when this returns.
    pub fn pull_plug(&self) -> Result<()> {
        let mut qemu = self.qemu.take().ok_or_else(off)?;
        qemu.kill()?;
        self.plugs.set(self.plugs.get() + 1);
        self.remember(&qemu);
        Ok(())
    }

    /// Shuts the machine down in order and returns when it is off.
    pub fn power_off(&self) -> Result<()> {
        self.begin("systemctl poweroff")?;
        self.wait_off(COMMAND_LIMIT)
    }

    /// Returns when the machine has switched itself off.
    pub fn wait_off(&self, limit: Duration) -> Result<()> {
        let mut qemu = self.qemu.take().ok_or_else(off)?;
        let ended = qemu.wait_off(limit);
        if ended.is_err() {
            *self.qemu.borrow_mut() = Some(qemu);
            return self.with(|_| ended);
        }
        self.remember(&qemu);
        Ok(())
    }

    /// The directory of the machine's own repository.
    pub fn repo_directory(&self) -> PathBuf {
        self.run.path().join("repo")
    }

    /// The machine's mirror, which can be taken away.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// The mirror as a proxy, seen from inside.
    pub fn proxy(&self) -> String {
        format!("http://10.0.2.2:{}", self.port)
    }

    fn hardware(&self) -> Hardware<'_> {
        Hardware { run: self.run.path(), layout: self.layout, options: self.options }
    }

    fn remember(&self, qemu: &Qemu) {
        self.boots.set(self.boots.get() + qemu.agent.ups());
        self.resets.set(self.resets.get() + qemu.resets());
        self.earlier.borrow_mut().push_str(&format!("{}\n", qemu.records.text()));
    }

    fn with<T>(&self, what: impl FnOnce(&Qemu) -> Result<T>) -> Result<T> {
        let result = self.qemu.borrow().as_ref().ok_or_else(off).and_then(what);
        result.map_err(|error| {
            let log = self.console_log();
            io::Error::new(error.kind(), format!("{error}; the console said last:\n{}", tail(log.as_bytes())))
        })
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        place::leave_it_to_the_interruption();
        if std::thread::panicking() {
            eprintln!("lab: the console said last:\n{}", tail(self.console_log().as_bytes()));
            eprintln!("lab: records: {}", self.records().join(" "));
        }
        if let Some(mut qemu) = self.qemu.take()
            && let Err(error) = qemu.kill()
        {
            eprintln!("lab: QEMU could not be ended: {error}");
        }
    }
}

fn off() -> io::Error {
    io::Error::other("the machine is off")
}

/// The second disk: the backup store, and the product, which would take long over a serial line.
fn make_backup_disk(run: &Path) -> Result<()> {
    let tree = run.join("backup");
    fs::create_dir_all(tree.join("lab"))?;
    fs::create_dir_all(tree.join("store"))?;
    if let Ok(binary) = product::binary() {
        fs::copy(binary, tree.join("lab/safe-upgrade"))?;
    }
    let image = run.join("backup.img");
    File::create_new(&image)?.set_len(BACKUP_SIZE)?;
    let (tree, image) = (tree.to_string_lossy(), image.to_string_lossy());
    let options = ["-q", "-F", "-L", BACKUP_LABEL, "-E", "root_owner=0:0", "-d"];
    tool("mkfs.ext4", &[&options[..], &[&tree, &image]].concat()).map(drop)
}

/// The third disk: nothing but an EFI system partition.
fn make_spare_disk(run: &Path) -> Result<()> {
    // FAT12 or FAT16 as firmware reads it, from the second MiB of the disk on.
    const SIZE: u64 = 64 << 20;
    let image = run.join("spare.img");
    File::create_new(&image)?.set_len(SIZE)?;
    let image = image.to_string_lossy();
    tool("sgdisk", &["-o", "-n1:2048:0", "-t1:ef00", &image])?;
    tool("mkfs.vfat", &["--offset", "2048", &image, "63000"]).map(drop)
}

/// Each boot sends the journal again from its first line: what a line says last under its number counts.
fn names(lines: &str) -> Vec<String> {
    let mut records = BTreeMap::new();
    for line in whole_lines(lines) {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        if let (Some(number), Some(name)) = (line["seq"].as_u64(), line["entry"]["record"].as_str()) {
            records.insert(number, name.to_owned());
        }
    }
    records.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_is_sent_again_counts_once() {
        let line = |seq: u32, name: &str| format!("{{\"seq\":{seq},\"entry\":{{\"record\":\"{name}\"}}}}\n");
        let first = line(0, "Planned") + &line(1, "Checked") + "{\"seq\":2,\"ent";
        let again = line(0, "Planned") + &line(1, "Checked") + &line(2, "BackupVerified");
        assert_eq!(names(&format!("{first}\n{again}")), ["Planned", "Checked", "BackupVerified"]);
    }
}
