use super::*;
use crate::system::exec::find_tool;
use std::fs;

const NEW: &str = "6.12.48+deb13-amd64";
const OLD: &str = "6.1.0-40-amd64";

/// A machine in a directory: the upgraded root, the old system's tree, an ESP and a run's directory.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    /// In memory: a filesystem of the running system's own must never be frozen, as one with a journal would be here.
    /// `None` without dpkg, or without the rights to use it.
    fn new(layout: &str) -> Option<Self> {
        if find_tool("dpkg-divert").is_err() || !rustix::process::geteuid().is_root() {
            println!("skipped: this test needs dpkg-divert and root");
            return None;
        }
        let machine = Self { dir: tempfile::tempdir_in("/dev/shm").unwrap() };
        for name in ["new/usr/sbin", "new/var/lib/dpkg", "new/boot/grub", "old/boot/grub", "esp", "run"] {
            fs::create_dir_all(machine.path(name)).unwrap();
        }
        for tree in ["new", "old"] {
            for kernel in [OLD, NEW] {
                fs::write(machine.path(tree).join(format!("boot/vmlinuz-{kernel}")), kernel).unwrap();
                fs::write(machine.path(tree).join(format!("boot/initrd.img-{kernel}")), kernel).unwrap();
            }
            let menu = fixture(&format!("bookworm-{layout}-submenu"));
            fs::write(machine.path(tree).join(grub::MENU), menu).unwrap();
        }
        machine.program("grub-install", "exit 1");
        machine.mkconfig(&format!("trixie-{layout}-submenu"));
        Some(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn program(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path("new/usr/sbin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// From now on the real grub-mkconfig writes this menu.
    fn mkconfig(&self, name: &str) {
        let path = format!("{}/tests/fixtures/boot/{name}.cfg", env!("CARGO_MANIFEST_DIR"));
        self.program("grub-mkconfig", &format!("exec cp {path} \"$2\""));
    }

    fn one_shot(&self, method: Method, boot: BootPlace) -> OneShot {
        OneShot {
            run: "r1".into(),
            method,
            boot,
            root_name: "@".into(),
            other_name: "@safe-upgrade-r1-root".into(),
            running: self.path("new"),
            old_tree: self.path("old"),
            run_directory: self.path("run"),
        }
    }

    fn env_file(&self) -> Method {
        Method::EnvFile {
            file: self.path("esp/EFI/safe-upgrade/env"),
            place: EnvPlace { fs_uuid: "1A2B-3C4D".into(), path: "/EFI/safe-upgrade/env".into() },
        }
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn chosen(&self) -> String {
        crate::boot::env_block::read(&self.path("esp/EFI/safe-upgrade/env")).unwrap().remove(0).1
    }
}

fn fixture(name: &str) -> String {
    fs::read_to_string(format!("{}/tests/fixtures/boot/{name}.cfg", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn old() -> OldSystem {
    OldSystem { kernel: OLD.into(), subvolume: 300 }
}

/// Prepares and chooses; in between nothing is chosen.
fn prepared(trial: &OneShot) -> std::result::Result<Trial, OneShotError> {
    let found = trial.prepare_trial(900)?;
    assert!(!trial.is_ready()?, "it is chosen before it is proven");
    trial.choose_trial(&found)?;
    Ok(found)
}

#[test]
fn a_trial_with_boot_in_the_root_from_arming_to_commit() {
    let Some(machine) = Machine::new("inroot") else { return };
    let trial = machine.one_shot(machine.env_file(), BootPlace::InRoot);
    assert!(!trial.is_ready().unwrap());
    assert!(matches!(prepared(&trial).unwrap_err(), OneShotError::NotArmed { .. }));
    trial.arm(&old()).unwrap();
    let armed = machine.text("old/boot/grub/grub.cfg");
    assert!(armed.contains(&format!("linux '/@/boot/vmlinuz-{OLD}'")), "{armed}");
    assert!(armed.contains("'rootflags=subvolid=300'") && !armed.contains("safe-upgrade-trial"), "{armed}");
    assert_eq!(machine.chosen(), "");
    trial.arm(&old()).unwrap();
    assert_eq!(machine.text("old/boot/grub/grub.cfg"), armed);

    for _ in 0..2 {
        let found = prepared(&trial).unwrap();
        assert_eq!(found.kernel, machine.path("new/boot").join(format!("vmlinuz-{NEW}")));
        assert_eq!(found.initrds[1], machine.path("new/boot/safe-upgrade/deadman.cpio"));
        let ours = "panic=10 softlockup_panic=1 rd.shell=0 rd.emergency=reboot systemd.watchdog_sec=60 safe_upgrade.trial=r1";
        assert!(found.command_line.contains("rootflags=subvol=@safe-upgrade-r1-root"), "{found:?}");
        assert!(found.command_line.ends_with(ours), "{found:?}");
        assert!(trial.is_ready().unwrap());
        let menu = machine.text("old/boot/grub/grub.cfg");
        let deadman = "'/@safe-upgrade-r1-root/boot/safe-upgrade/deadman.cpio'";
        assert!(menu.contains(deadman) && menu.contains("--id safe-upgrade-trial"), "{menu}");
        assert_eq!(machine.chosen(), "r1");
        trial.disarm_trial().unwrap();
        assert!(!trial.is_ready().unwrap());
    }

    trial.commit_menu().unwrap();
    let committed = machine.text("new/boot/grub/grub.cfg");
    assert_eq!(committed, fixture("trixie-inroot-submenu").replace("@safe-upgrade-r1-root", "@"));
    for _ in 0..2 {
        trial.clean_up().unwrap();
    }
    assert_eq!(machine.text("old/boot/grub/grub.cfg"), fixture("bookworm-inroot-submenu"));
    assert!(
        !machine.path("new/boot/safe-upgrade").exists() && !machine.path("esp/EFI/safe-upgrade").exists()
    );
    assert!(machine.text("new/usr/sbin/grub-mkconfig").contains("exec cp"));
}

#[test]
fn with_a_shared_boot_the_old_kernel_is_kept_as_it_was() {
    let Some(machine) = Machine::new("ext4") else { return };
    let trial = machine.one_shot(machine.env_file(), BootPlace::Separate);
    trial.arm(&old()).unwrap();
    let menu = machine.text("new/boot/grub/grub.cfg");
    assert!(menu.contains(&format!("linux '/safe-upgrade/vmlinuz-{OLD}'")), "{menu}");
    let copy = format!("new/boot/safe-upgrade/initrd.img-{OLD}");
    // The upgrade makes the old kernel's initial RAM disk anew.
    fs::write(machine.path("new/boot").join(format!("initrd.img-{OLD}")), "another").unwrap();
    trial.arm(&old()).unwrap();
    assert_eq!(machine.text(&copy), OLD);
    prepared(&trial).unwrap();
    let menu = machine.text("new/boot/grub/grub.cfg");
    assert!(menu.contains(&format!("'/initrd.img-{NEW}' '/safe-upgrade/deadman.cpio'")), "{menu}");
    fs::write(machine.path(&copy), "damaged").unwrap();
    assert!(matches!(prepared(&trial).unwrap_err(), OneShotError::CopyDiffers { .. }));
    assert!(!trial.menu_comes_before_exchange());
    fs::remove_file(machine.path("esp/EFI/safe-upgrade/env")).unwrap();
    assert!(matches!(trial.disarm_trial().unwrap_err(), OneShotError::EnvFileGone { .. }));
    assert!(trial.is_ready().is_err());
    trial.clean_up().unwrap();
    assert_eq!(machine.text("new/boot/grub/grub.cfg"), fixture("bookworm-ext4-submenu"));
}

#[test]
fn after_a_commit_a_shared_boot_boots_the_old_system_from_the_copy() {
    let Some(machine) = Machine::new("ext4") else { return };
    let trial = machine.one_shot(machine.env_file(), BootPlace::Separate);
    let copy = machine.path("copy");
    std::fs::create_dir_all(copy.join("grub")).unwrap();
    // An operator's own entries come first: one that only GRUB understands, and one of another system.
    let own = "menuentry 'iso' {\n set isofile=/x\n linux (loop)/k iso=$isofile\n}\nmenuentry 'rescue' {\n linux /vmlinuz-rescue\n}\n";
    let menu = format!("{own}{}", fixture("bookworm-ext4-submenu"));
    std::fs::write(copy.join("grub/grub.cfg"), menu).unwrap();
    for name in ["vmlinuz", "initrd.img"] {
        std::fs::write(copy.join(format!("{name}-6.1.0-40-amd64")), format!("the old {name}")).unwrap();
    }
    std::fs::write(machine.path("new/boot/grub/grub.cfg"), fixture("trixie-ext4-submenu")).unwrap();
    for _ in 0..2 {
        trial.arm_way_back(&copy, 300).unwrap();
        let menu = machine.text("new/boot/grub/grub.cfg");
        assert!(menu.contains("linux '/safe-upgrade/vmlinuz-6.1.0-40-amd64'"), "{menu}");
        assert!(menu.contains("'rootflags=subvolid=300'") && !menu.contains("safe-upgrade-trial"), "{menu}");
        assert_eq!(machine.text("new/boot/safe-upgrade/initrd.img-6.1.0-40-amd64"), "the old initrd.img");
    }
    assert!(!trial.is_ready().unwrap());
    trial.clean_up().unwrap();
    assert_eq!(machine.text("new/boot/grub/grub.cfg"), fixture("trixie-ext4-submenu"));
    assert!(!machine.path("new/boot/safe-upgrade").exists());
}

#[test]
fn kexec_needs_nothing_from_the_menu_but_the_old_system_as_default() {
    let Some(machine) = Machine::new("inroot") else { return };
    let trial = machine.one_shot(Method::Kexec, BootPlace::InRoot);
    trial.arm(&old()).unwrap();
    let found = prepared(&trial).unwrap();
    let menu = machine.text("old/boot/grub/grub.cfg");
    assert!(menu.contains("set default=safe-upgrade-old") && !menu.contains("load_env --file"), "{menu}");
    assert!(!menu.contains("safe-upgrade-trial"), "{menu}");
    let written: Trial = serde_json::from_str(&machine.text("run/trial.json")).unwrap();
    assert_eq!(written, found);
    assert!(trial.is_ready().unwrap());
    fs::remove_file(&found.kernel).unwrap();
    assert!(matches!(trial.is_ready().unwrap_err(), OneShotError::NoFile { .. }));
    trial.clean_up().unwrap();
    assert_eq!(machine.text("old/boot/grub/grub.cfg"), fixture("bookworm-inroot-submenu"));
    assert!(!trial.is_ready().unwrap());
}

/// An operator's own first entry may boot anything, also what only GRUB knows; what counts is that there is one for the new root.
#[test]
fn an_operators_entry_before_the_distributions_stops_no_commit() {
    let Some(machine) = Machine::new("inroot") else { return };
    let path = format!("{}/tests/fixtures/boot/trixie-inroot-submenu.cfg", env!("CARGO_MANIFEST_DIR"));
    for entry in [
        "menuentry mine {\n linux /memtest\n}\n",
        "menuentry mine {\n linux /vmlinuz-1 root=/dev/sdb1\n initrd /initrd-1\n}\n",
        "menuentry mine {\n set iso=/x\n linux (loop)/k iso=$iso\n}\n",
    ] {
        fs::write(machine.path("mine.cfg"), entry).unwrap();
        let mine = machine.path("mine.cfg").display().to_string();
        machine.program("grub-mkconfig", &format!("exec cat {mine} {path} > \"$2\""));
        let trial = machine.one_shot(machine.env_file(), BootPlace::InRoot);
        trial.arm(&old()).unwrap();
        prepared(&trial).unwrap();
        trial.disarm_trial().unwrap();
        trial.commit_menu().unwrap();
        let committed = machine.text("new/boot/grub/grub.cfg");
        assert!(committed.starts_with(entry) && committed.contains("subvol=@ "), "{committed}");
        trial.clean_up().unwrap();
    }
}

#[test]
fn a_menu_for_another_root_is_never_tried() {
    let Some(machine) = Machine::new("inroot") else { return };
    machine.mkconfig("bookworm-inroot-submenu");
    let trial = machine.one_shot(machine.env_file(), BootPlace::InRoot);
    trial.arm(&old()).unwrap();
    assert!(matches!(prepared(&trial).unwrap_err(), OneShotError::WrongRoot { .. }));
    assert!(!trial.is_ready().unwrap());
    assert_eq!(machine.chosen(), "");
    let unknown = OldSystem { kernel: "5.10".into(), subvolume: 300 };
    trial.clean_up().unwrap();
    assert!(matches!(trial.arm(&unknown).unwrap_err(), OneShotError::NoEntry { .. }));
    trial.clean_up().unwrap();
}
