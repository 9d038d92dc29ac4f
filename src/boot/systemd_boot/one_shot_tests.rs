use std::fs;

use super::super::{Marked, default};
use super::*;
use crate::boot::kernels::made_up::kernel_image;
use crate::boot::systemd_boot::Variables;
use crate::system::exec::{Exec, find_tool};

const OLD: &str = "6.1.0-50-cloud-amd64";
const NEW: &str = "6.12.48+deb13-cloud-amd64";
const TOKEN: &str = "5afe0000000000000000000000001ab0";
const CONF: &str = "timeout 3\n#console-mode keep\n";
const OURS: &str = "safe-upgrade-r1-old.conf";

/// A machine in a directory: an upgraded root, an ESP, the firmware's variables and a run's directory.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Option<Self> {
        if find_tool("dpkg-divert").is_err() || !rustix::process::geteuid().is_root() {
            println!("skipped: this test needs dpkg-divert and root");
            return None;
        }
        let machine = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["var/lib/dpkg", "run", "sys/firmware/efi/efivars", "esp/loader/entries"] {
            fs::create_dir_all(machine.path(name)).unwrap();
        }
        fs::write(machine.path("esp/loader/loader.conf"), CONF).unwrap();
        machine.kernel_install("esp", OLD, "subvol=@");
        Some(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// What kernel-install leaves behind.
    fn kernel_install(&self, volume: &str, version: &str, root: &str) {
        let directory = self.path(volume).join(TOKEN).join(version);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("linux"), kernel_image(version)).unwrap();
        fs::write(directory.join(format!("initrd.img-{version}")), version).unwrap();
        let text = include_str!("../../../tests/fixtures/boot/systemd-boot-entry.conf");
        let text = text.replace(OLD, version).replace("subvol=@", root);
        let entries = self.path(volume).join("loader/entries");
        fs::create_dir_all(&entries).unwrap();
        fs::write(entries.join(format!("{TOKEN}-{version}.conf")), text).unwrap();
    }

    fn places(&self) -> Places {
        Places { esp: self.path("esp"), extended: None, variables: Variables::below(self.dir.path()) }
    }

    fn trial(&self) -> LoaderOneShot {
        LoaderOneShot {
            run: "r1".into(),
            places: self.places(),
            root_name: "@".into(),
            other_name: "@safe-upgrade-r1-root".into(),
            running: self.dir.path().to_owned(),
            run_directory: self.path("run"),
        }
    }

    /// What the firmware and systemd-boot would boot now; a choice for once is used up by that.
    fn reset(&self) -> Entry {
        let places = self.places();
        let entries = places.entries().unwrap();
        let chosen = places.variables.get(variables::ONE_SHOT).unwrap();
        places.variables.unset(variables::ONE_SHOT).unwrap();
        let chosen = chosen.and_then(|id| entries.iter().find(|entry| entry.is_called(&id)));
        chosen.or(default(&entries, &places.pins().unwrap())).unwrap().clone()
    }

    fn set(&self, name: &str, value: &str) {
        self.places().variables.set(name, value).unwrap();
    }
}

/// A filesystem in memory at the ESP's place, for as long as this lives.
struct Mounted(PathBuf);

impl Mounted {
    fn at(point: PathBuf) -> Option<Self> {
        let mount = Exec::new("mount").unwrap().args(["-t", "tmpfs", "none"]).arg(&point).success();
        if let Err(error) = mount {
            println!("skipped: a filesystem can't be mounted here ({error})");
            return None;
        }
        Some(Self(point))
    }

    fn is_sync(&self) -> bool {
        let table = crate::system::mounts::read().unwrap();
        let mount = table.iter().rfind(|mount| mount.point == self.0).unwrap();
        mount.options.iter().any(|option| option == "sync")
    }

    fn remount(&self, options: &str) {
        Exec::new("mount").unwrap().args(["-o", options]).arg(&self.0).success().unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Exec::new("umount").map(|umount| umount.arg(&self.0).success());
    }
}

/// Prepares and chooses; in between nothing is chosen.
fn prepared(trial: &LoaderOneShot) -> std::result::Result<Trial, SystemdBootError> {
    let found = trial.prepare_trial(900)?;
    assert!(!trial.is_ready()?, "it is chosen before it is proven");
    trial.choose_trial(&found)?;
    Ok(found)
}

/// While armed the ESP is written through: one that somebody has mounted anew is told, and the next step mends it.
#[test]
fn an_esp_that_is_written_behind_again_is_a_fault() {
    let Some(machine) = Machine::new() else { return };
    let Some(esp) = Mounted::at(machine.path("esp")) else { return };
    machine.kernel_install("esp", OLD, "subvol=@");
    let trial = machine.trial();
    trial.arm(OLD, 300).unwrap();
    assert_eq!((trial.fault().unwrap(), esp.is_sync()), (None, true));
    for again in [false, true] {
        esp.remount("remount,async");
        let fault = trial.fault().unwrap().unwrap();
        assert!(fault.contains("esp was mounted anew without the option sync"), "{fault}");
        if again {
            prepared(&trial).unwrap();
            trial.disarm_trial().unwrap();
        } else {
            trial.arm(OLD, 300).unwrap();
        }
        assert_eq!((trial.fault().unwrap(), esp.is_sync()), (None, true));
    }
    trial.clean_up().unwrap();
    assert!(!esp.is_sync(), "as it was before");
    // One that was mounted so by its owner stays so.
    esp.remount("remount,sync");
    trial.arm(OLD, 300).unwrap();
    assert_eq!(trial.fault().unwrap(), None);
    trial.clean_up().unwrap();
    assert!(esp.is_sync());
}

#[test]
fn the_old_system_is_the_default_until_the_end() {
    let Some(machine) = Machine::new() else { return };
    let trial = machine.trial();
    assert!(trial.fault().unwrap().is_some());
    for _ in 0..2 {
        trial.arm(OLD, 300).unwrap();
        assert_eq!(trial.fault().unwrap(), None);
        let booted = machine.reset();
        assert_eq!(booted.file, OURS);
        assert!(booted.arguments.contains(&"rootflags=subvolid=300".into()), "{booted:?}");
    }
    machine.kernel_install("esp", NEW, "subvol=@");
    assert_eq!(machine.reset().file, OURS, "a new kernel is not the default");

    for _ in 0..2 {
        let found = prepared(&trial).unwrap();
        assert_eq!(found.kernel, machine.path("esp").join(TOKEN).join(NEW).join("linux"));
        assert_eq!(found.initrds[1], machine.path("esp/safe-upgrade/deadman.cpio"));
        assert!(found.command_line.contains("rootflags=subvol=@safe-upgrade-r1-root quiet"), "{found:?}");
        assert!(found.command_line.ends_with("systemd.watchdog_sec=60 safe_upgrade.trial=r1"), "{found:?}");
        assert!(trial.is_ready().unwrap());
        let booted = machine.reset();
        assert_eq!(booted.file, "safe-upgrade-r1-new.conf");
        let initrds = ["/safe-upgrade/deadman.cpio".into(), format!("/{TOKEN}/{NEW}/initrd.img-{NEW}")];
        assert_eq!(booted.initrds, initrds);
        assert_eq!(fs::metadata(machine.path("esp/safe-upgrade/deadman.cpio")).unwrap().len() % 4, 0);
        assert!(!trial.is_ready().unwrap());
        assert_eq!(machine.reset().file, OURS, "the trial boots once");
    }
    trial.choose_again().unwrap();
    assert!(trial.is_ready().unwrap());
    trial.disarm_trial().unwrap();
    assert_eq!(machine.reset().file, OURS);

    trial.prove_commit().unwrap();
    fs::write(machine.path("esp/loader/random-seed"), [7; 32]).unwrap();
    for _ in 0..2 {
        trial.clean_up().unwrap();
        let seed = fs::read(machine.path("esp/loader/random-seed")).unwrap();
        assert!(seed.len() == 32 && seed != [7; 32], "{seed:?}");
        assert_eq!(machine.reset().file, format!("{TOKEN}-{NEW}.conf"));
        assert_eq!(machine.text("esp/loader/loader.conf"), CONF);
        assert_eq!(fs::read_dir(machine.path("esp/loader/entries")).unwrap().count(), 2);
        assert!(!machine.path("esp/safe-upgrade").exists());
    }
    trial.prove_commit().unwrap();
}

/// What is there when the power goes away between two writes, made by hand.
#[test]
fn each_half_of_a_step_boots_the_old_system() {
    let Some(machine) = Machine::new() else { return };
    machine.set(variables::DEFAULT, &format!("{TOKEN}-*"));
    let trial = machine.trial();
    let old =
        |entry: &Entry| entry.file == OURS || entry.linux.as_ref().is_some_and(|linux| linux.contains(OLD));
    // Arming: the copies, then the entry, then its name in loader.conf, then in the variable. No package has changed yet.
    let record = trial.keep(&trial.places.running(OLD).unwrap(), 300).unwrap();
    assert!(old(&machine.reset()));
    write(&record.old).unwrap();
    assert!(old(&machine.reset()));
    trial.places.write_conf(&places::pinned(CONF, &record.old.id())).unwrap();
    assert!(old(&machine.reset()));
    trial.arm(OLD, 300).unwrap();
    machine.kernel_install("esp", NEW, "subvol=@");
    assert_eq!(machine.reset().file, OURS);
    // The trial: its files, its entry, and only then the choice.
    prepared(&trial).unwrap();
    trial.places.variables.unset(variables::ONE_SHOT).unwrap();
    assert_eq!(machine.reset().file, OURS);
    // The end: with one pin left the old system boots, with none the new one; the entries of ours are never the first.
    trial.places.write_conf(CONF).unwrap();
    assert_eq!(machine.reset().file, OURS);
    trial.unpin().unwrap();
    assert_eq!(machine.reset().file, format!("{TOKEN}-{NEW}.conf"));
    assert_eq!(trial.places.variables.get(variables::DEFAULT).unwrap(), Some(format!("{TOKEN}-*")));
}

#[test]
fn what_is_kept_is_not_what_packages_change() {
    let Some(machine) = Machine::new() else { return };
    let trial = machine.trial();
    trial.arm(OLD, 300).unwrap();
    fs::remove_dir_all(machine.path("esp").join(TOKEN).join(OLD)).unwrap();
    machine.kernel_install("esp", NEW, "subvol=@");
    trial.arm(OLD, 300).unwrap();
    assert_eq!(machine.text("esp/safe-upgrade/old-initrd-1"), OLD);
    assert_eq!(machine.reset().file, OURS);
    // Somebody else's choice, or a pin that was taken away, is a fault.
    machine.set(variables::ONE_SHOT, "x.conf");
    assert!(trial.fault().unwrap().unwrap().contains("x.conf"));
    trial.disarm_trial().unwrap();
    machine.set(variables::DEFAULT, "*");
    assert!(trial.fault().unwrap().is_some());
    machine.places().variables.unset(variables::DEFAULT).unwrap();
    fs::write(machine.path("esp/loader/loader.conf"), "").unwrap();
    assert!(trial.fault().unwrap().is_some() && !trial.is_ready().unwrap());
    prepared(&trial).unwrap();
    assert!(trial.is_ready().unwrap(), "the pin is put back first");
    fs::write(machine.path("esp/safe-upgrade/old-initrd-1"), "damaged").unwrap();
    assert!(trial.fault().is_err() && prepared(&trial).is_err());
}

#[test]
fn what_would_be_the_default_must_do() {
    let Some(machine) = Machine::new() else { return };
    let trial = machine.trial();
    assert!(matches!(trial.arm("6.1.0-1-amd64", 300).unwrap_err(), SystemdBootError::NoEntry { .. }));
    trial.clean_up().unwrap();
    trial.arm(OLD, 300).unwrap();
    machine.kernel_install("esp", NEW, "subvol=@other");
    assert!(matches!(prepared(&trial).unwrap_err(), SystemdBootError::WrongRoot { .. }));
    machine.kernel_install("esp", NEW, "subvol=@ safe_upgrade.trial=r0");
    assert!(matches!(prepared(&trial).unwrap_err(), SystemdBootError::WrongDefault { .. }));
    machine.kernel_install("esp", NEW, "subvol=@");
    let initrd = machine.path("esp").join(TOKEN).join(NEW).join(format!("initrd.img-{NEW}"));
    fs::write(&initrd, "").unwrap();
    assert!(prepared(&trial).is_err() && trial.prove_commit().is_err());
    assert_eq!(machine.reset().file, OURS);
    fs::write(&initrd, NEW).unwrap();
    let line = machine.text("etc/kernel/cmdline");
    assert!(line.contains("rootflags=subvol=@ ") && !line.contains("safe_upgrade"), "{line}");
    prepared(&trial).unwrap();
}

#[test]
fn after_a_commit_the_old_kernel_comes_from_the_copy() {
    let Some(machine) = Machine::new() else { return };
    let trial = machine.trial();
    machine.kernel_install("copy", OLD, "subvol=@");
    fs::remove_dir_all(machine.path("esp").join(TOKEN)).unwrap();
    machine.kernel_install("esp", NEW, "subvol=@");
    assert_eq!(machine.reset().file, format!("{TOKEN}-{NEW}.conf"));
    for _ in 0..2 {
        trial.arm_way_back(&machine.path("copy"), None, 301).unwrap();
        let booted = machine.reset();
        assert_eq!((booted.file.as_str(), booted.linux.as_deref()), (OURS, Some("/safe-upgrade/old-linux")));
        assert!(booted.arguments.contains(&"rootflags=subvolid=301".into()));
        assert_eq!(fs::read(machine.path("esp/safe-upgrade/old-linux")).unwrap(), kernel_image(OLD));
    }
    trial.clean_up().unwrap();
    assert_eq!(machine.text("esp/loader/loader.conf"), CONF);
}

/// The way back begins in any boot: after a commit nobody has armed, and an ESP may have been mounted anew.
#[test]
fn the_way_back_writes_an_esp_through() {
    let Some(machine) = Machine::new() else { return };
    let Some(esp) = Mounted::at(machine.path("esp")) else { return };
    machine.kernel_install("copy", OLD, "subvol=@");
    machine.kernel_install("esp", NEW, "subvol=@");
    let trial = machine.trial();
    for _ in 0..2 {
        trial.arm_way_back(&machine.path("copy"), None, 301).unwrap();
        assert!(esp.is_sync());
        esp.remount("remount,async");
        trial.write_through_again().unwrap();
        assert!(esp.is_sync());
        // A second try, in another boot.
        esp.remount("remount,async");
    }
    trial.write_through_again().unwrap();
    trial.clean_up().unwrap();
    assert!(!esp.is_sync(), "as it was before");
    // One that was mounted so by its owner stays so.
    esp.remount("remount,sync");
    trial.arm_way_back(&machine.path("copy"), None, 301).unwrap();
    trial.clean_up().unwrap();
    assert!(esp.is_sync());
}

#[test]
fn a_unified_image_that_the_upgrade_brings_is_seen() {
    let Some(machine) = Machine::new() else { return };
    let trial = machine.trial();
    trial.arm(OLD, 300).unwrap();
    fs::create_dir_all(machine.path("esp/EFI/Linux")).unwrap();
    fs::write(machine.path("esp/EFI/Linux/new.efi"), "MZ").unwrap();
    for error in [prepared(&trial).unwrap_err(), trial.prove_commit().unwrap_err()] {
        assert!(error.to_string().contains("new.efi") && error.to_string().contains("unified"), "{error}");
    }
    assert_eq!(machine.reset().file, OURS);
}

#[test]
fn a_boot_partition_counts_when_the_boot_loader_knows_it() {
    let Some(machine) = Machine::new() else { return };
    machine.kernel_install("boot", NEW, "subvol=@");
    let places = Places { extended: Some(machine.path("boot")), ..machine.places() };
    assert_eq!(places.entries().unwrap().len(), 1);
    let known = format!("{TOKEN}-{NEW}.conf\0{TOKEN}-{OLD}.conf\0");
    let known: Vec<u8> = known.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let path =
        format!("sys/firmware/efi/efivars/{}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f", variables::ENTRIES);
    fs::write(machine.path(&path), [&[6, 0, 0, 0][..], &known].concat()).unwrap();
    assert_eq!(places.entries().unwrap().len(), 2);
    let trial = LoaderOneShot { places, ..machine.trial() };
    trial.arm(NEW, 300).unwrap();
    assert!(machine.path("boot/safe-upgrade/old-linux").exists());
    assert_eq!(trial.fault().unwrap(), None);
    trial.clean_up().unwrap();
    assert!(!machine.path("boot/safe-upgrade").exists());
    assert!(trial.places.unified().unwrap().is_empty());
    fs::create_dir_all(machine.path("boot/EFI/Linux")).unwrap();
    fs::write(machine.path("boot/EFI/Linux/A.EFI"), "").unwrap();
    assert_eq!(trial.places.unified().unwrap(), [machine.path("boot/EFI/Linux/A.EFI")]);
}

#[test]
fn a_marked_boot_is_booted_once() {
    let Some(machine) = Machine::new() else { return };
    let marked = Marked { id: "P1".into(), places: machine.places(), kernel: OLD.into() };
    assert!(marked.is_cleared().unwrap());
    marked.arm(["safe_upgrade.proof=P1".to_owned()]).unwrap();
    assert!(!marked.is_cleared().unwrap());
    let booted = machine.reset();
    assert_eq!(booted.arguments.last().map(String::as_str), Some("safe_upgrade.proof=P1"));
    assert_eq!(booted.linux, Some(format!("/{TOKEN}/{OLD}/linux")));
    assert!(marked.is_cleared().unwrap());
    assert_eq!(machine.reset().file, format!("{TOKEN}-{OLD}.conf"));
    marked.arm([]).unwrap();
    for _ in 0..2 {
        marked.disarm().unwrap();
        assert!(marked.is_cleared().unwrap());
        assert_eq!(fs::read_dir(machine.path("esp/loader/entries")).unwrap().count(), 1);
    }
}

/// Entries that were written by hand have no sort key: then names count, and ours would come first.
#[test]
fn without_sort_keys_a_boot_that_dies_is_no_default_either() {
    let Some(machine) = Machine::new() else { return };
    let entries = machine.path("esp/loader/entries");
    let text =
        machine.text(&format!("esp/loader/entries/{TOKEN}-{OLD}.conf")).replace("sort-key", "# sort-key");
    fs::remove_file(entries.join(format!("{TOKEN}-{OLD}.conf"))).unwrap();
    fs::write(entries.join("debian.conf"), text).unwrap();
    let marked = Marked { id: "P1".into(), places: machine.places(), kernel: OLD.into() };
    for _ in 0..2 {
        marked.arm(["rdinit=/none".to_owned()]).unwrap();
        assert_eq!(machine.reset().file, "safe-upgrade-p1-proof.conf");
        assert_eq!(machine.reset().file, "debian.conf");
    }
    marked.disarm().unwrap();
    assert_eq!(machine.text("esp/loader/loader.conf"), CONF);

    // Without the pin, the old system still comes before the trial.
    let trial = machine.trial();
    trial.arm(OLD, 300).unwrap();
    prepared(&trial).unwrap();
    trial.disarm_trial().unwrap();
    fs::write(machine.path("esp/loader/loader.conf"), CONF).unwrap();
    assert_eq!(machine.reset().file, OURS);
    fs::remove_dir_all(machine.path("esp").join(TOKEN)).unwrap();
    trial.clean_up().unwrap();
    assert_eq!(fs::read_dir(&entries).unwrap().count(), 1, "ours go whether they boot or not");
}
