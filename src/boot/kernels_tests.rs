use super::made_up::kernel_image;
use super::*;
use std::fs;

const VERSION: &str = "6.1.0-40-amd64";

/// One entry of an archive.
fn entry(name: &str) -> Vec<u8> {
    let numbers = [1, 0o100_644, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() + 1, 0];
    let mut bytes = b"070701".to_vec();
    bytes.extend(numbers.iter().flat_map(|number| format!("{number:08X}").into_bytes()));
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(lab.modules()).unwrap();
        fs::create_dir(lab.boot()).unwrap();
        fs::write(lab.kernel(), kernel_image(VERSION)).unwrap();
        let needs = "kernel/fs/btrfs/btrfs.ko: kernel/lib/raid6/raid6_pq.ko kernel/lib/lib-crc.ko\n\
                     kernel/fs/ext4/ext4.ko: kernel/lib/mbcache.ko\n";
        fs::write(lab.modules().join("modules.dep"), needs).unwrap();
        fs::write(lab.modules().join("modules.builtin"), "kernel/lib/lib-crc.ko\n").unwrap();
        lab.holding(&["btrfs.ko", "raid6_pq.ko.xz"]);
        lab
    }

    fn boot(&self) -> PathBuf {
        self.dir.path().join("boot")
    }

    fn modules(&self) -> PathBuf {
        self.dir.path().join("usr/lib/modules").join(VERSION)
    }

    fn kernel(&self) -> PathBuf {
        self.boot().join(format!("vmlinuz-{VERSION}"))
    }

    fn initrd(&self) -> PathBuf {
        self.boot().join(format!("initrd.img-{VERSION}"))
    }

    fn holding(&self, modules: &[&str]) {
        let path = |module: &&str| entry(&format!("usr/lib/modules/{VERSION}/kernel/{module}"));
        let mut bytes: Vec<u8> = modules.iter().flat_map(path).collect();
        bytes.extend(entry("TRAILER!!!"));
        fs::write(self.initrd(), bytes).unwrap();
    }

    fn prove(&self, root_fs: &str) -> Result<Proof, Unproven> {
        prove(&self.kernel(), &self.initrd(), self.dir.path(), root_fs)
    }

    fn is_listed_complete(&self) -> bool {
        let kernels = bootable(&self.boot(), self.dir.path()).unwrap();
        assert_eq!(kernels.len(), 1);
        kernels[0].is_complete()
    }
}

#[test]
fn images_of_other_kinds_are_named() {
    let at = |place: usize, bytes: &[u8]| {
        let mut head = vec![0; 4096];
        head[place..place + bytes.len()].copy_from_slice(bytes);
        head
    };
    let zboot = [b"MZ\0\0zimg".as_slice(), &[0; 100]].concat();
    for (head, word) in [
        (at(56, b"ARM\x64"), Some("arm64")),
        (zboot, Some("zboot")),
        (at(0, b"\x1f\x8b\x08"), Some("gzip")),
        (at(0, b"\x7fELF"), Some("ELF")),
        (at(0, b"MZ"), None),
        (Vec::new(), None),
    ] {
        let lab = Lab::new();
        fs::write(lab.kernel(), &head).unwrap();
        let error = crate::error::chain(&image(&lab.kernel()).unwrap_err());
        assert!(error.contains(word.unwrap_or("is no kernel image")), "{error}");
        assert_eq!(foreign(&head).is_some(), word.is_some());
    }
    assert_eq!(foreign(&kernel_image(VERSION)), None);
}

#[test]
fn what_belongs_together_is_proven() {
    let lab = Lab::new();
    assert!(lab.is_listed_complete());
    let proof = lab.prove("btrfs").unwrap();
    assert_eq!((proof.version.as_str(), proof.driver), (VERSION, Driver::InInitrd));
    assert_eq!(proof.initrd.entries, 2);
    // Built in: an initrd without modules will do.
    fs::write(lab.modules().join("modules.builtin"), "kernel/fs/btrfs/btrfs.ko\n").unwrap();
    lab.holding(&[]);
    assert_eq!(lab.prove("btrfs").unwrap().driver, Driver::BuiltIn);
}

#[test]
fn what_the_root_needs_must_be_in_the_initrd() {
    let lab = Lab::new();
    let missing = |root_fs: &str| match lab.prove(root_fs) {
        Err(Unproven::No(NotBootable::NoDriver { module, .. })) => module,
        other => panic!("{other:?}"),
    };
    assert_eq!(missing("ext4"), "ext4");
    assert_eq!(missing("zfs"), "zfs");
    lab.holding(&["btrfs.ko"]);
    assert_eq!(missing("btrfs"), "raid6_pq");
    lab.holding(&[]);
    assert_eq!(missing("btrfs"), "btrfs");
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let lab = Lab::new();
    let initrd = fs::read(lab.initrd()).unwrap();
    let refused = || match lab.prove("btrfs") {
        Err(Unproven::No(why)) => why,
        other => panic!("{other:?}"),
    };
    fs::write(lab.initrd(), &initrd[..initrd.len() / 2]).unwrap();
    assert!(matches!(refused(), NotBootable::Initrd { .. }));
    fs::remove_file(lab.initrd()).unwrap();
    assert!(matches!(refused(), NotBootable::Missing(_)));
    assert!(!lab.is_listed_complete());
    let other = [entry("lib/modules/6.12.1-amd64/btrfs.ko"), entry("TRAILER!!!")].concat();
    fs::write(lab.initrd(), other).unwrap();
    let why = refused();
    assert!(why.to_string().contains("6.12.1-amd64, the kernel is 6.1.0-40-amd64"), "{why}");
    fs::write(lab.initrd(), initrd).unwrap();
    fs::write(lab.modules().join("modules.dep"), "").unwrap();
    assert!(matches!(refused(), NotBootable::NoModules { .. }));
    assert!(!lab.is_listed_complete());
}

#[test]
fn an_image_is_what_it_says() {
    let lab = Lab::new();
    let image = kernel_image(VERSION);
    for (bytes, is_cut) in
        [(&image[..image.len() - 1], true), (&image[..0x400], false), (&image[..20], false), (&[][..], false)]
    {
        fs::write(lab.kernel(), bytes).unwrap();
        match lab.prove("btrfs") {
            Err(Unproven::No(NotBootable::CutImage { length, expected, .. })) => {
                assert!(is_cut && length + 1 == expected);
            }
            Err(Unproven::No(NotBootable::NoImage(_))) => assert!(!is_cut),
            other => panic!("{other:?}"),
        }
        assert!(!lab.is_listed_complete());
    }
    // A signature behind it; then another version under this name.
    fs::write(lab.kernel(), [&image[..], b"signature"].concat()).unwrap();
    assert!(lab.is_listed_complete());
    fs::write(lab.kernel(), kernel_image("6.1.0-41-amd64")).unwrap();
    assert!(!lab.is_listed_complete());
}

#[test]
fn a_link_that_leaves_the_root_is_not_followed() {
    let lab = Lab::new();
    let elsewhere = lab.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(lab.dir.path().join("usr/lib/modules"), elsewhere.join("modules")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, lab.dir.path().join("lib")).unwrap();
    assert!(matches!(lab.prove("btrfs"), Err(Unproven::No(NotBootable::NoModules { .. }))));
}

#[test]
fn what_cannot_be_read_is_no_answer() {
    let lab = Lab::new();
    fs::remove_file(lab.initrd()).unwrap();
    fs::create_dir(lab.initrd()).unwrap();
    assert!(matches!(lab.prove("btrfs"), Err(Unproven::Initrd(InitrdError::Read { .. }))));
    assert!(matches!(bootable(Path::new("/no/such"), lab.dir.path()), Err(Unproven::Read { .. })));
}
