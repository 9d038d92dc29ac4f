//! The proof that this machine's boot chain does what the fallback relies on, before any package is touched.
//!
//! ```text
//!   marked   the running system is booted once by an entry of ours, with a mark on its command line:
//!            the firmware and the boot loader that we write to are those that count
//!   dying    the same entry once more, but its kernel dies before it mounts anything:
//!            the machine comes back to the default entry without a hand on it
//! ```
//!
//! What was seen is judged here; [`Chain`] writes what the boot loader reads.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::block::{self, Block, EnvPlace, NotQuotable};
use super::for_grub::{self, ForGrubError};
use super::kexec;
use super::menu::{self, Boots, MenuError};
use super::one_shot::arguments;
use super::systemd_boot::{Marked, Places, SystemdBootError};

/// What the marked command lines carry, with the proof's id behind it.
pub const MARK: &str = "safe_upgrade.proof=";

/// Seconds that a dead kernel waits before it resets the machine: long enough to be read on a console.
const PANIC_SECONDS: u32 = 10;

/// No initial RAM disk has this program: the kernel finds no init, no root that it knows of itself, and panics. Nothing was
/// mounted until then.
const NO_INIT: &str = "rdinit=/safe-upgrade-proof-of-a-dead-kernel";

/// How far a proof has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "kebab-case")]
pub enum Stage {
    /// The marked boot is about to be armed: whether it is, is not known.
    Arming,
    /// The marked boot is armed.
    Marked,
    /// The dying boot is about to be armed: whether it is, is not known.
    ArmingDying,
    /// The dying boot is armed.
    Dying,
    /// Both did what they should.
    Proven,
    /// One did not.
    Failed {
        /// What was seen instead.
        why: String,
    },
}

/// A proof, from its beginning to its end: what `boot-proof.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The version of this file.
    pub version: u32,
    /// Its id, of the form of a run's.
    pub id: String,
    /// The method that it proves, in words.
    pub method: String,
    /// The kernel that was booted, as `uname -r` says it.
    pub kernel: String,
    /// How far it has come.
    pub stage: Stage,
    /// The boot in which the present stage was armed.
    pub armed_in: String,
    /// When that boot was left, in seconds since 1970.
    pub left: u64,
    /// How long the marked boot took from reboot to our unit, in seconds.
    pub marked_seconds: Option<u64>,
    /// How long the machine took to come back from a dead kernel, in seconds.
    pub return_seconds: Option<u64>,
    /// When it ended, in seconds since 1970.
    pub ended: Option<u64>,
}

/// What is seen of a boot while a proof is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The boot.
    pub boot: String,
    /// The id on the kernel's command line.
    pub mark: Option<String>,
    /// Whether the boot loader's choice is used up.
    pub cleared: bool,
    /// Seconds since 1970.
    pub now: u64,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The machine has not been rebooted yet.
    Reboot,
    /// The marked boot was right; now let one die.
    ArmDying,
    /// It is over; the proof says how.
    Over,
}

impl Proof {
    /// The version of the file that is written, and the only one that is understood.
    pub const VERSION: u32 = 1;

    /// Judges a boot, and goes on to the next stage.
    pub fn judge(&mut self, seen: &Seen) -> Next {
        // Whichever boot this is: nobody knows how much of it was written.
        if matches!(self.stage, Stage::Arming | Stage::ArmingDying) {
            return self.fail(seen, "it was interrupted while the boot was being armed (a power cut, or an end by force), which says nothing about the machine: begin it again");
        }
        if seen.boot == self.armed_in {
            return Next::Reboot;
        }
        let took = seen.now.saturating_sub(self.left);
        let marked = seen.mark.as_deref() == Some(self.id.as_str());
        match self.stage {
            Stage::Marked if marked && seen.cleared => {
                self.marked_seconds = Some(took);
                self.stage = Stage::ArmingDying;
                Next::ArmDying
            }
            Stage::Marked if marked => self.fail(seen, "the entry was booted, but its one-shot choice is not used up: it would be booted for ever"),
            Stage::Marked => self.fail(seen, "the machine booted something else than the entry that it was told to: its firmware or provider uses another boot loader, or another disk"),
            Stage::Dying if marked => self.fail(seen, "the boot that should have died came up"),
            Stage::Dying if !seen.cleared => self.fail(seen, "the machine came back, but the dying entry would be booted again"),
            Stage::Dying => {
                self.return_seconds = Some(took);
                self.stage = Stage::Proven;
                self.ended = Some(seen.now);
                Next::Over
            }
            Stage::Arming | Stage::ArmingDying | Stage::Proven | Stage::Failed { .. } => Next::Over,
        }
    }

    /// The boot that was about to be armed is.
    pub fn armed(&mut self) {
        self.stage = match &self.stage {
            Stage::Arming => Stage::Marked,
            Stage::ArmingDying => Stage::Dying,
            other => other.clone(),
        };
    }

    /// It can't go on, for a reason that is no fault of the machine's.
    pub fn give_up(&mut self, now: u64, why: String) {
        self.stage = Stage::Failed { why };
        self.ended = Some(now);
    }

    fn fail(&mut self, seen: &Seen, why: &str) -> Next {
        self.stage = Stage::Failed { why: why.to_owned() };
        self.ended = Some(seen.now);
        Next::Over
    }

    /// Whether it has ended, well or not.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Proven | Stage::Failed { .. })
    }
}

/// The id of a proof on a kernel's command line.
#[must_use]
pub fn mark_in(command_line: &str) -> Option<String> {
    command_line.split_whitespace().find_map(|word| word.strip_prefix(MARK)).map(str::to_owned)
}

/// The boot chain of the running system. Plain values: make it anew in each boot.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The proof's id.
    pub id: String,
    /// GRUB's menu.
    pub menu: PathBuf,
    /// The kernel that runs, as `uname -r` says it.
    pub kernel: String,
    /// Who boots the entry once.
    pub way: Way,
}

/// Who boots a marked entry once.
#[derive(Debug, Clone)]
pub enum Way {
    /// GRUB, by the environment file, which it finds there.
    EnvFile(PathBuf, EnvPlace),
    /// systemd-boot, by a variable.
    SystemdBoot(Places),
    /// The running kernel.
    Kexec,
}

/// A proof that could not be prepared.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each is the failure of the part that it names")]
pub enum ChainError {
    #[error("failed to read {}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not a menu that safe-upgrade understands", .path.display())]
    Menu { path: PathBuf, source: MenuError },
    #[error("{} has no entry that boots the running kernel {kernel}", .path.display())]
    NoEntry { path: PathBuf, kernel: String },
    #[error(transparent)]
    Block(#[from] NotQuotable),
    #[error(transparent)]
    ForGrub(#[from] ForGrubError),
    #[error(transparent)]
    SystemdBoot(#[from] SystemdBootError),
    #[error(transparent)]
    Kexec(#[from] kexec::KexecError),
}

type Result<T> = std::result::Result<T, ChainError>;

impl Chain {
    /// The next boot is the running system, once, with the mark.
    ///
    /// # Errors
    /// Names what could not be read or written; call [`Chain::disarm`] then.
    pub fn arm_marked(&self) -> Result<()> {
        self.arm(&[])
    }

    /// The next boot dies, once.
    ///
    /// # Errors
    /// As [`Chain::arm_marked`].
    pub fn arm_dying(&self) -> Result<()> {
        self.arm(&[NO_INIT])
    }

    /// Whether the choice is used up: what GRUB would read chooses nothing.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn is_cleared(&self) -> Result<bool> {
        match &self.way {
            Way::EnvFile(file, _) => Ok(for_grub::chooses_none(file)?),
            Way::SystemdBoot(places) => Ok(self.marked(places).is_cleared()?),
            Way::Kexec => Ok(!kexec::loaded().map_err(read(Path::new("/sys/kernel/kexec_loaded")))?),
        }
    }

    /// Nothing of the proof is left in the boot loader's places. Repeatable.
    ///
    /// # Errors
    /// Names what could not be taken away.
    pub fn disarm(&self) -> Result<()> {
        match &self.way {
            Way::EnvFile(file, _) => {
                for_grub::strip_menu(&self.menu)?;
                Ok(for_grub::forget(file)?)
            }
            Way::SystemdBoot(places) => Ok(self.marked(places).disarm()?),
            Way::Kexec => Ok(kexec::unload()?),
        }
    }

    fn marked(&self, places: &Places) -> Marked {
        Marked { id: self.id.clone(), places: places.clone(), kernel: self.kernel.clone() }
    }

    fn arm(&self, more: &[&str]) -> Result<()> {
        let ours = [format!("{MARK}{}", self.id), format!("panic={PANIC_SECONDS}")];
        let ours = ours.into_iter().chain(more.iter().map(|word| (*word).to_owned()));
        if let Way::SystemdBoot(places) = &self.way {
            return Ok(self.marked(places).arm(ours)?);
        }
        let plain = block::strip(&std::fs::read(&self.menu).map_err(read(&self.menu))?);
        let old = self.entry(&plain)?;
        let arguments = old.arguments.iter().cloned().chain(ours).collect();
        let marked = Boots { arguments, ..old.clone() };
        let Way::EnvFile(file, place) = &self.way else { return load(&marked) };
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory).map_err(read(directory))?;
        }
        let block = Block { run: self.id.clone(), env: Some(place.clone()), old, trial: Some(marked) };
        for_grub::write_menu(&self.menu, &block::append(&plain, &block)?)?;
        Ok(for_grub::choose(file, &self.id)?)
    }

    fn entry(&self, menu: &[u8]) -> Result<Boots> {
        let text = String::from_utf8_lossy(menu);
        let wrong = |source| ChainError::Menu { path: self.menu.clone(), source };
        let entries = menu::parse(&text).map_err(wrong)?;
        let found = menu::entry_for(&self.kernel, &entries).map_err(wrong)?;
        found
            .map(|(_, boots)| boots)
            .ok_or_else(|| ChainError::NoEntry { path: self.menu.clone(), kernel: self.kernel.clone() })
    }
}

fn read(path: &Path) -> impl FnOnce(std::io::Error) -> ChainError + use<'_> {
    move |source| ChainError::Read { path: path.to_owned(), source }
}

/// The running kernel, from where its package has put it.
fn load(boots: &Boots) -> Result<()> {
    let local = |path: &String| Path::new("/boot").join(path.rsplit('/').next().unwrap_or(path));
    let initrds: Vec<PathBuf> = boots.initrds.iter().map(local).collect();
    let initrds: Vec<kexec::Initrd<'_>> = initrds.iter().map(|path| kexec::Initrd::File(path)).collect();
    Ok(kexec::load(&local(&boots.kernel), &initrds, &arguments::command_line(&boots.arguments))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(stage: Stage) -> Proof {
        Proof {
            version: Proof::VERSION,
            id: "20261126T163000Z-4f2a".into(),
            method: "an environment file".into(),
            kernel: "6.1.0-1-amd64".into(),
            stage,
            armed_in: "1".into(),
            left: 1000,
            marked_seconds: None,
            return_seconds: None,
            ended: None,
        }
    }

    fn seen(boot: &str, marked: bool, cleared: bool) -> Seen {
        let mark = marked.then(|| "20261126T163000Z-4f2a".to_owned());
        Seen { boot: boot.into(), mark, cleared, now: 1060 }
    }

    #[test]
    fn a_machine_that_obeys_is_proven() {
        let mut chain = proof(Stage::Arming);
        chain.armed();
        assert_eq!(chain.stage, Stage::Marked);
        assert_eq!(chain.judge(&seen("1", false, false)), Next::Reboot);
        assert_eq!(chain.judge(&seen("2", true, true)), Next::ArmDying);
        assert_eq!((chain.marked_seconds, &chain.stage), (Some(60), &Stage::ArmingDying));
        chain.armed();
        chain.armed_in = "2".into();
        assert_eq!(chain.judge(&seen("2", true, false)), Next::Reboot);
        assert_eq!(chain.judge(&seen("3", false, true)), Next::Over);
        assert_eq!((chain.return_seconds, &chain.stage), (Some(60), &Stage::Proven));
    }

    #[test]
    fn each_way_not_to_obey_is_told() {
        for (stage, marked, cleared, word) in [
            (Stage::Marked, false, true, "something else"),
            (Stage::Marked, true, false, "not used up"),
            (Stage::Dying, true, true, "came up"),
            (Stage::Dying, false, false, "booted again"),
        ] {
            let mut chain = proof(stage);
            assert_eq!(chain.judge(&seen("2", marked, cleared)), Next::Over);
            assert!(matches!(&chain.stage, Stage::Failed { why } if why.contains(word)), "{:?}", chain.stage);
            assert!(chain.is_over() && chain.ended == Some(1060));
        }
    }

    /// A power cut is not the provider's fault, whatever the next boot looks like; nor is it a proof.
    #[test]
    fn a_power_cut_while_arming_is_nobodys_fault() {
        for stage in [Stage::Arming, Stage::ArmingDying] {
            for boot in ["1", "2"] {
                for (marked, cleared) in [(false, true), (false, false), (true, true), (true, false)] {
                    let mut chain = proof(stage.clone());
                    assert_eq!(chain.judge(&seen(boot, marked, cleared)), Next::Over);
                    let Stage::Failed { why } = &chain.stage else { panic!("{:?}", chain.stage) };
                    assert!(why.contains("interrupted while the boot was being armed"), "{why}");
                    assert!(chain.is_over());
                }
            }
        }
    }

    #[test]
    fn the_mark_is_found_among_other_words() {
        let line = format!("BOOT_IMAGE=/vmlinuz root=UUID=1 {MARK}abc panic=10");
        assert_eq!(mark_in(&line).as_deref(), Some("abc"));
        assert_eq!(mark_in("quiet"), None);
    }
}
