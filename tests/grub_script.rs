//! What GRUB and dpkg themselves say: rendered menus go through `grub-script-check`, diversions through real packages.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that can't go on has failed, and says what it skips"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use safe_upgrade::boot::block::{Block, EnvPlace, append};
use safe_upgrade::boot::frozen::{Frozen, FrozenError};
use safe_upgrade::boot::menu::{self, Boots};
use safe_upgrade::system::exec::{Exec, find_tool};

fn fixtures() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/boot");
    let all = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut menus: Vec<PathBuf> =
        all.filter(|path| path.extension().is_some_and(|extension| extension == "cfg")).collect();
    menus.sort();
    assert!(menus.len() >= 8, "{menus:?}");
    menus
}

#[test]
fn each_menu_with_our_block_is_one_that_grub_reads() {
    if find_tool("grub-script-check").is_err() {
        println!("skipped: grub-script-check is not installed");
        return;
    }
    let check = |text: &[u8]| {
        Exec::new("grub-script-check").unwrap().stdin(text.to_vec()).output().unwrap().status.success()
    };
    assert!(!check(b"menuentry 'x' {\n"), "the checker must be able to say no");
    for path in fixtures() {
        let text = fs::read_to_string(&path).unwrap();
        let entries = menu::parse(&text).unwrap();
        for entry in &entries {
            let Some(boots) = entry.boots().unwrap() else { continue };
            let arguments = [boots.arguments.clone(), vec!["dyndbg=file x +p; {}$a\"\\#".into()]].concat();
            let target = Boots { arguments, ..boots };
            for (env, trial) in [(false, false), (false, true), (true, false), (true, true)] {
                let place = EnvPlace { fs_uuid: "1A2B-3C4D".into(), path: "/EFI/safe-upgrade/env".into() };
                let block = Block {
                    run: "20261126T163000Z-4f2a".into(),
                    env: env.then_some(place),
                    old: target.clone(),
                    trial: trial.then(|| target.clone()),
                };
                let menu = append(text.as_bytes(), &block).unwrap();
                assert!(check(&menu), "{}: {}", path.display(), String::from_utf8_lossy(&menu));
                let again = menu::parse(std::str::from_utf8(&menu).unwrap()).unwrap();
                assert_eq!(again.len(), entries.len() + 1 + usize::from(trial));
                let ours = again[entries.len()].boots().unwrap().unwrap();
                assert_eq!(ours.arguments, target.arguments);
            }
        }
    }
}

/// A root with nothing but a dpkg database, and packages that hold a `grub-install`.
struct Root {
    dir: tempfile::TempDir,
}

impl Root {
    fn new() -> Option<Self> {
        let tools = ["dpkg", "dpkg-deb", "dpkg-divert"];
        if tools.iter().any(|tool| find_tool(tool).is_err()) || !rustix::process::geteuid().is_root() {
            println!("skipped: this test needs dpkg and root");
            return None;
        }
        let root = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["root/var/lib/dpkg/updates", "root/var/lib/dpkg/info", "run"] {
            fs::create_dir_all(root.path(name)).unwrap();
        }
        for name in ["status", "available"] {
            fs::write(root.path("root/var/lib/dpkg").join(name), "").unwrap();
        }
        Some(root)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn program(&self, name: &str) -> String {
        fs::read_to_string(self.path("root/usr/sbin").join(name)).unwrap()
    }

    fn install(&self, version: &str) {
        let tree = self.path(version);
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        fs::create_dir_all(tree.join("usr/sbin")).unwrap();
        let control = format!(
            "Package: grub-tiny\nVersion: {version}\nArchitecture: all\nMaintainer: N <n@example.org>\nDescription: x\n"
        );
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        for name in ["grub-install", "grub-mkconfig"] {
            let program = tree.join("usr/sbin").join(name);
            fs::write(&program, format!("#!/bin/sh\necho real {version}\n")).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let package = self.path(&format!("{version}.deb"));
        let build =
            Exec::new("dpkg-deb").unwrap().args(["--root-owner-group", "-b"]).arg(&tree).arg(&package);
        build.success().unwrap();
        let install = Exec::new("dpkg").unwrap().arg("--root").arg(self.path("root")).arg("-i").arg(&package);
        install.success().unwrap();
    }

    fn frozen(&self) -> Frozen {
        let calls = self.path("run/grub-install.calls");
        Frozen { root: self.path("root"), run: "r1".into(), calls }
    }
}

#[test]
fn an_upgrade_replaces_the_kept_program_and_thawing_brings_it_back() {
    let Some(root) = Root::new() else { return };
    let frozen = root.frozen();
    frozen.freeze().unwrap();
    assert!(!frozen.is_frozen().unwrap(), "nothing is installed yet");
    root.install("1.0");
    for _ in 0..2 {
        frozen.freeze().unwrap();
        assert!(frozen.is_frozen().unwrap());
    }
    assert!(root.program("grub-install.safe-upgrade").contains("real 1.0"));
    root.install("2.0");
    assert!(root.program("grub-install.safe-upgrade").contains("real 2.0"));
    let called = Exec::new(root.path("root/usr/sbin/grub-install").to_str().unwrap()).unwrap();
    let said = called.args(["--target=i386-pc", "/dev/a b"]).success().unwrap();
    assert!(!String::from_utf8_lossy(&said.stdout).contains("real"), "{said:?}");
    assert_eq!(frozen.recorded().unwrap(), [["--target=i386-pc", "/dev/a b"]]);
    assert!(root.program("grub-mkconfig").contains("held off"));
    assert_eq!(frozen.mkconfig().unwrap(), root.path("root/usr/sbin/grub-mkconfig.safe-upgrade"));
    for _ in 0..2 {
        frozen.thaw().unwrap();
        assert!(!frozen.is_frozen().unwrap());
    }
    for name in ["grub-install", "grub-mkconfig"] {
        assert!(root.program(name).contains("real 2.0"));
        assert!(!root.path("root/usr/sbin").join(format!("{name}.safe-upgrade")).exists());
    }
}

/// Every state in which a cut can leave one program: where it is, whether dpkg knows, whether the stub is there.
#[test]
fn freezing_and_thawing_go_on_from_wherever_they_were_cut() {
    let Some(root) = Root::new() else { return };
    let frozen = root.frozen();
    root.install("1.0");
    let named = root.path("root/usr/sbin/grub-install");
    let kept = root.path("root/usr/sbin/grub-install.safe-upgrade");
    for wish in ["freeze", "thaw"] {
        for cut in ["renamed, not listed", "listed, not renamed", "no stub"] {
            frozen.thaw().unwrap();
            match cut {
                "renamed, not listed" => fs::rename(&named, &kept).unwrap(),
                "listed, not renamed" => {
                    frozen.freeze().unwrap();
                    fs::rename(&kept, &named).unwrap();
                }
                _ => {
                    frozen.freeze().unwrap();
                    fs::remove_file(&named).unwrap();
                }
            }
            match wish {
                "freeze" => {
                    frozen.freeze().unwrap();
                    assert!(frozen.is_frozen().unwrap(), "{cut}");
                    assert!(root.program("grub-install.safe-upgrade").contains("real 1.0"), "{cut}");
                }
                _ => {
                    frozen.thaw().unwrap();
                    assert!(root.program("grub-install").contains("real 1.0"), "{cut}");
                    assert!(!kept.exists(), "{cut}");
                }
            }
        }
    }
}

#[test]
fn somebody_elses_diversion_is_not_touched() {
    let Some(root) = Root::new() else { return };
    root.install("1.0");
    let divert = Exec::new("dpkg-divert").unwrap().arg("--root").arg(root.path("root"));
    let to = "/usr/sbin/grub-install.real";
    divert
        .args(["--local", "--rename", "--divert", to, "--add", "/usr/sbin/grub-install"])
        .success()
        .unwrap();
    assert!(matches!(root.frozen().freeze().unwrap_err(), FrozenError::Foreign { .. }));
    assert!(root.program("grub-install.real").contains("real 1.0"));
}
