//! One start of QEMU: from power on to power off.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use safe_upgrade::system::exec::find_tool;
use serde_json::Value;

use super::agent::{Agent, is_up};
use super::wire::{FarEnd, Wire, whole_lines};
use super::{FIRMWARE, Layout, Options};
use crate::lab::place::cgroup_of;
use crate::lab::{Result, context};

/// Software emulation: /dev/kvm of a machine that is virtual itself is slower than this. No five-level page tables: each
/// costs a memory access.
const ACCELERATION: [&str; 8] =
    ["-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max,la57=off", "-smp", "2", "-m", "1536"];

/// How long QEMU may take to say hello, or to end when it was told to.
const MOMENT: Duration = Duration::from_secs(60);

/// A kernel that reboots a PC tries several ways at once: what follows so soon is the same reset.
const SAME_RESET: Duration = Duration::from_secs(2);

/// A machine that is on.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    /// Commands inside.
    pub agent: Agent,
    /// The product's journal, line by line.
    pub records: Wire,
    /// The first serial port: boot loader and kernel.
    pub console: Wire,
    control: Wire,
}

/// The files of one machine, in its run directory.
#[derive(Debug)]
pub struct Hardware<'a> {
    /// The run directory; its control group holds QEMU.
    pub run: &'a Path,
    /// How it boots.
    pub layout: Layout,
    /// What else it has.
    pub options: Options,
}

impl Hardware<'_> {
    fn arguments(&self) -> Vec<String> {
        let at = |name: &str| self.run.join(name).to_string_lossy().into_owned();
        let drive = |id: &str, file: &str, format: &str| {
            format!(
                "id={id},file={file},format={format},if=none,cache=unsafe,discard=unmap,detect-zeroes=unmap"
            )
        };
        let uefi = self.layout.is_uefi();
        let machine = if uefi { "q35,smm=on" } else { "pc" };
        let mut words: Vec<String> =
            ["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-machine", machine]
                .into_iter()
                .chain(ACCELERATION)
                .map(str::to_owned)
                .collect();
        let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
        add("-drive", drive("root", &at("disk.qcow2"), "qcow2"));
        add("-device", "virtio-blk-pci,drive=root,bootindex=0".into());
        add("-drive", drive("backup", &at("backup.img"), "raw"));
        add("-device", "virtio-blk-pci,drive=backup".into());
        add("-netdev", "user,id=net".into());
        add("-device", "virtio-net-pci,netdev=net,romfile=".into());
        if self.options.spare {
            add("-drive", drive("spare", &at("spare.img"), "raw"));
            add("-device", "virtio-blk-pci,drive=spare,bootindex=1".into());
            add("-netdev", "user,id=spare,restrict=on".into());
            add("-device", "virtio-net-pci,netdev=spare,romfile=".into());
        }
        add("-device", "virtio-rng-pci".into());
        add("-device", "virtio-serial-pci".into());
        if self.options.watchdog {
            add("-device", "i6300esb".into());
            add("-action", "watchdog=reset".into());
        }
        if uefi {
            let code = if self.options.secure_boot { "OVMF_CODE_4M.secboot.fd" } else { "OVMF_CODE_4M.fd" };
            add("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE}/{code}"));
            add("-drive", format!("if=pflash,unit=1,format=raw,file={}", at("vars.fd")));
        }
        if self.options.secure_boot {
            add("-global", "driver=cfi.pflash01,property=secure,value=on".into());
        }
        words
    }

    /// The firmware's variables as they come from the factory.
    pub fn factory_variables(&self) -> Option<String> {
        let name = if self.options.secure_boot { "OVMF_VARS_4M.ms.fd" } else { "OVMF_VARS_4M.fd" };
        self.layout.is_uefi().then(|| format!("{FIRMWARE}/{name}"))
    }

    /// Switches the machine on and returns without waiting for its boot.
    pub fn start(&self) -> Result<Qemu> {
        let clock = Clock::start();
        let log = File::options().create(true).append(true).open(self.run.join("console.log"))?;
        let (console, console_end) = Wire::open(Some(log), Box::new(|_| {}))?;
        let (records, records_end) = Wire::open(None, Box::new(|_| {}))?;
        let at_up = clock.clone();
        let told = move |line: &str| {
            if is_up(line) {
                at_up.booted()
            }
        };
        let (agent, agent_end) = Wire::open(None, Box::new(told))?;
        let at_reset = clock.clone();
        let told = move |line: &str| {
            if reset_at(line).is_some() {
                at_reset.reset()
            }
        };
        let (control, control_end) = Wire::open(None, Box::new(told))?;

        let mut words = self.arguments();
        let mut add = |words_of: [String; 2]| words.extend(words_of);
        let ends = [("con", &console_end), ("agent", &agent_end), ("records", &records_end)];
        for (id, end) in ends.into_iter().chain([("control", &control_end)]) {
            add(["-chardev".into(), format!("socket,id={id},fd={}", FarEnd::number(end))]);
        }
        add(["-serial".into(), "chardev:con".into()]);
        add(["-mon".into(), "chardev=control,mode=control".into()]);
        for name in ["agent", "records"] {
            add(["-device".into(), format!("virtserialport,chardev={name},name=lab.{name}")]);
        }
        let errors = File::options().create(true).append(true).open(self.run.join("qemu.log"))?;
        let qemu = find_tool("qemu-system-x86_64").map_err(io::Error::other)?;
        let mut command = Command::new("nice");
        command.args(["-n", "5"]).arg(qemu).args(words).stdin(Stdio::null());
        let child = command.stdout(errors.try_clone()?).stderr(errors).spawn()?;
        // Each end is QEMU's alone now: when it dies, the wire is dead.
        drop((console_end, records_end, agent_end, control_end));
        let qemu = Qemu { child, agent: Agent::new(agent), records, console, control };
        join_group(self.run, qemu.child.id())?;
        qemu.say_hello().map_err(|error| with_log(&error, self.run))?;
        Ok(qemu)
    }
}

impl Qemu {
    /// How often the machine was reset since it was switched on, whoever did it.
    pub fn resets(&self) -> usize {
        resets(&self.control.text())
    }

    /// How often a starved watchdog has reset the machine since it was switched on.
    pub fn watchdogs(&self) -> usize {
        self.control.text().matches("\"WATCHDOG\"").count()
    }

    /// Returns when the machine has been reset for the n-th time since it was switched on.
    pub fn wait_reset(&self, number: usize, limit: Duration) -> Result<()> {
        self.control.wait(limit, |text| (resets(text) >= number).then_some(()))
    }

    /// Pushes the reset button.
    pub fn push_reset(&self) -> Result<()> {
        self.control.send(r#"{"execute":"system_reset"}"#)
    }

    /// Returns when the machine has switched itself off.
    pub fn wait_off(&mut self, limit: Duration) -> Result<()> {
        // Nothing is ever found: what is waited for is the end of the wire.
        let end = self.control.wait(limit, |_| None::<()>);
        if let Err(error) = end
            && error.kind() != io::ErrorKind::ConnectionAborted
        {
            return Err(error);
        }
        self.child.wait().map(drop)
    }

    /// Kills QEMU: the machine has lost its power when this returns.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    fn say_hello(&self) -> Result<()> {
        self.control.send(r#"{"execute":"qmp_capabilities"}"#)?;
        self.control.wait(MOMENT, |text| text.contains("\"return\"").then_some(()))
    }
}

/// Measures boots and tells them on stderr.
#[derive(Debug, Clone)]
struct Clock(Arc<Mutex<(Instant, &'static str)>>);

impl Clock {
    fn start() -> Self {
        Self(Arc::new(Mutex::new((Instant::now(), "power on"))))
    }

    fn reset(&self) {
        let (since, what) = self.replace((Instant::now(), "reset"));
        if what != "reset" || since.elapsed() > SAME_RESET {
            eprintln!("lab: {:6.1} s  from {what} to a reset", since.elapsed().as_secs_f64());
        }
    }

    fn booted(&self) {
        let (since, what) = self.replace((Instant::now(), "the boot"));
        eprintln!("lab: {:6.1} s  boot: {what} to agent", since.elapsed().as_secs_f64());
    }

    fn replace(&self, with: (Instant, &'static str)) -> (Instant, &'static str) {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), with)
    }
}

fn resets(control: &str) -> usize {
    let times: Vec<u64> = whole_lines(control).filter_map(reset_at).collect();
    let again = times.windows(2).filter(|pair| pair[1].saturating_sub(pair[0]) < SAME_RESET.as_secs());
    times.len() - again.count()
}

/// The second in which QEMU has reset the machine, when that is what it says.
fn reset_at(line: &str) -> Option<u64> {
    let line: Value = serde_json::from_str(line).ok()?;
    (line.get("event")?.as_str()? == "RESET").then(|| line["timestamp"]["seconds"].as_u64())?
}

/// QEMU dies with the run directory's control group, however the test ends.
fn join_group(run: &Path, qemu: u32) -> Result<()> {
    let group = cgroup_of(run)?;
    fs::create_dir_all(&group)?;
    context(fs::write(group.join("cgroup.procs"), qemu.to_string()), "put QEMU into its control group")
}

fn with_log(error: &io::Error, run: &Path) -> io::Error {
    let log = fs::read_to_string(run.join("qemu.log")).unwrap_or_default();
    io::Error::new(error.kind(), format!("{error}; QEMU said: {log}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_counted() {
        let event = |name: &str, second: u64| {
            format!("{{\"timestamp\": {{\"seconds\": {second}}}, \"event\": \"{name}\"}}\n")
        };
        let text =
            ["{\"QMP\": {}}\n{\"return\": {}}\n", &event("RESET", 100), &event("POWERDOWN", 109)].concat();
        assert_eq!(resets(&text), 1);
        assert_eq!(resets(&(text.clone() + &event("RESET", 110) + &event("RESET", 111))), 2);
        assert_eq!(resets(&(text + &event("RESET", 110) + "{\"event\": \"RES")), 2);
    }
}
