//! A made-up machine below a directory: what the kernel and the packages would show there.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};

use super::table::{Stretch, Table};
use super::*;
use crate::system::exec::Exec;

struct Fake(tempfile::TempDir);

impl Fake {
    fn new(mounts: &str) -> Self {
        let fake = Self(tempfile::tempdir().unwrap());
        fake.write("proc/sys/kernel/osrelease", b"6.1.0-40-amd64\n");
        fake.write("proc/cmdline", b"root=UUID=1 ro rootflags=subvol=@ quiet\n");
        fake.write("proc/1/environ", b"HOME=/\0TERM=linux\0");
        fake.write("proc/self/mountinfo", mounts.as_bytes());
        fake.write("boot/config-6.1.0-40-amd64", b"CONFIG_KEXEC_FILE=y\nCONFIG_KEXEC_SIG=y\n");
        fake.write("boot/grub/grub.cfg", b"menuentry 'Debian' { }\n");
        fake.write("usr/sbin/mkinitramfs", b"");
        fake.write(
            "var/lib/dpkg/status",
            b"Package: grub-common\nStatus: install ok installed\nVersion: 2.06-13+deb12u1\n\nPackage: x\n",
        );
        for (number, device) in [("254:1", "vda1"), ("254:2", "vda2"), ("254:3", "vda3")] {
            fake.write(&format!("sys/devices/virtio/vda/{device}/partition"), b"1\n");
            fake.link(&format!("sys/dev/block/{number}"), &format!("sys/devices/virtio/vda/{device}"));
        }
        fake.write("sys/devices/virtual/block/md0/dev", b"9:0\n");
        fake.link("sys/dev/block/9:0", "sys/devices/virtual/block/md0");
        fake
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn link(&self, path: &str, to: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(self.root().join(to), path).unwrap();
    }

    fn layout(&self) -> BootLayout {
        let machine = Machine {
            uuid: |device| Ok(Some(if device.ends_with("vda1") { "12AB-34CD" } else { "0f-4e" }.into())),
            core: |_| Ok(vec![CoreImage { place: "disk /dev/vda".into(), prefix: None }]),
            kexec: || Ok(()),
        };
        read_asking(self.root(), &machine).unwrap()
    }
}

const INSIDE: &str = "22 1 0:20 /@ / rw - btrfs /dev/vda4 rw,subvol=/@\n";

fn with(line: &str) -> String {
    format!("{INSIDE}{line}\n")
}

#[test]
fn bios_with_boot_inside_the_root() {
    let fake = Fake::new(INSIDE);
    let layout = fake.layout();
    assert_eq!((layout.container, layout.firmware), (false, Firmware::Bios));
    assert_eq!((&layout.boot, &layout.esp), (&BootPlace::Inside, &None));
    assert_eq!((layout.initramfs, layout.watchdog), (Some(Initramfs::InitramfsTools), false));
    assert_eq!((layout.kernel.as_str(), layout.kexec), ("6.1.0-40-amd64", Kexec::Possible));
    assert_eq!(layout.command_line, "root=UUID=1 ro rootflags=subvol=@ quiet");
    let Loader::Grub(grub) = layout.loader else { panic!("{:?}", layout.loader) };
    assert_eq!(grub.version.as_deref(), Some("2.06-13+deb12u1"));
    assert_eq!((grub.core.len(), grub.menu), (1, true));
    let place = MenuPlace { uuid: "0f-4e".into(), path: "/@/boot/grub".into(), partitions: vec![] };
    assert_eq!(grub.menu_place, Ok(place));
}

#[test]
fn a_separate_boot_and_what_it_lies_on() {
    let boot = |line: &str| match Fake::new(&with(line)).layout().boot {
        BootPlace::Separate(partition) => partition,
        BootPlace::Inside => panic!("{line}"),
    };
    let plain = boot("30 22 254:2 / /boot rw - ext4 /dev/vda2 rw");
    assert_eq!((plain.plain.clone(), plain.read_only), (Ok(()), false));
    assert_eq!((plain.fs_type.as_str(), plain.uuid.as_deref()), ("ext4", Some("0f-4e")));
    let raid = boot("30 22 9:0 / /boot ro - ext4 /dev/md0 ro");
    assert_eq!((raid.plain, raid.read_only), (Err("md0 is a software RAID".into()), true));
    let gone = boot("30 22 7:9 / /boot rw - ext4 /dev/loop9 rw");
    assert_eq!(gone.plain, Err("/dev/loop9 is not known to the kernel".into()));
}

#[test]
fn where_the_menu_lies() {
    let place = |fake: &Fake| match fake.layout().loader {
        Loader::Grub(grub) => grub.menu_place,
        other => panic!("{other:?}"),
    };
    let fake = Fake::new(&with("30 22 254:2 / /boot rw - ext4 /dev/vda2 rw"));
    fake.write("sys/class/block/vda2/partition", b"2\n");
    let wanted = MenuPlace { uuid: "0f-4e".into(), path: "/grub".into(), partitions: vec![2] };
    assert_eq!(place(&fake), Ok(wanted.clone()));
    // A btrfs on two disks, one of which is no partition.
    fake.write("sys/fs/btrfs/0f-4e/devices/vdb3/partition", b"3\n");
    assert_eq!(place(&fake), Ok(MenuPlace { partitions: vec![2, 3], ..wanted.clone() }));
    fake.write("sys/fs/btrfs/0f-4e/devices/vdc/size", b"1\n");
    assert_eq!(place(&fake), Ok(MenuPlace { partitions: vec![], ..wanted }));
    // Ubuntu on ZFS has it on the ESP, by a link or a bind mount.
    fs::rename(fake.root().join("boot/grub"), fake.root().join("boot/elsewhere")).unwrap();
    fake.link("boot/grub", "boot/elsewhere");
    assert_eq!(place(&fake).unwrap().path, "/elsewhere");
    let fake = Fake::new("22 1 0:20 / / rw - zfs rpool/ROOT/debian rw\n");
    assert!(place(&fake).unwrap_err().contains("rpool/ROOT/debian, which is no block device"));
}

#[test]
fn devices_by_their_kernel_names() {
    for (device, disk) in
        [("sda2", "sda"), ("nvme0n1p2", "nvme0n1"), ("xvda2", "xvda"), ("mmcblk0p2", "mmcblk0")]
    {
        assert_eq!(volumes::judge_device(device, Some(disk)), Ok(()));
    }
    for (device, disk, word) in [
        ("dm-3", None, "device mapper"),
        ("md0p1", Some("md0"), "RAID"),
        ("loop0p1", Some("loop0"), "loop device"),
        ("nbd0p1", Some("nbd0"), "no kind of disk"),
        ("sda", None, "without partitions"),
    ] {
        assert!(volumes::judge_device(device, disk).unwrap_err().contains(word), "{device}");
    }
}

#[test]
fn uefi_with_a_signed_grub() {
    let fake = Fake::new(&with("30 22 254:1 / /boot/efi rw - vfat /dev/vda1 rw"));
    fake.write("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", &[6, 0, 0, 0, 1]);
    fake.write("boot/efi/EFI/debian/grubx64.efi", b"no program");
    fake.write("boot/efi/EFI/debian/shimx64.efi", b"");
    fake.write("boot/efi/EFI/debian/grub.cfg", include_bytes!("../../tests/fixtures/boot/esp-stub-grub.cfg"));
    let layout = fake.layout();
    assert_eq!(layout.firmware, Firmware::Uefi { secure_boot: Some(true) });
    let esp = layout.esp.unwrap();
    assert_eq!((esp.uuid.as_deref(), esp.plain), (Some("12AB-34CD"), Ok(())));
    let Loader::Grub(grub) = layout.loader else { panic!("{:?}", layout.loader) };
    let core = CoreImage {
        place: "/boot/efi/EFI/debian/grubx64.efi".into(),
        prefix: Some("(6f1c2f7e-5a0b-4a53-9d2e-0c8f3b1f9a77)/@/boot/grub".into()),
    };
    assert_eq!(grub.core, [core]);
}

#[test]
fn the_loader_that_ran_tells_its_name() {
    let variable = "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    let utf16 = |text: &str| {
        let mut bytes = vec![6, 0, 0, 0];
        bytes.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
        bytes
    };
    let fake = Fake::new(INSIDE);
    fake.write("sys/firmware/efi/fw_platform_size", b"64\n");
    fake.write("boot/efi/loader/loader.conf", b"");
    assert!(matches!(fake.layout().loader, Loader::Grub(_)), "left-over files of systemd-boot");
    fake.write(variable, &utf16("systemd-boot 252.39\0"));
    assert!(matches!(fake.layout().loader, Loader::SystemdBoot(_)));
    fake.write(variable, &utf16("GRUB 2.12\0"));
    assert!(matches!(fake.layout().loader, Loader::Grub(_)));
    fs::remove_dir_all(fake.root().join("boot/grub")).unwrap();
    fs::remove_file(fake.root().join(variable)).unwrap();
    let Loader::SystemdBoot(found) = fake.layout().loader else { panic!("not found by its files") };
    assert_eq!(found.entry, Err("no ESP is mounted".into()));
    assert_eq!(found.variables, Err("/sys/firmware/efi/efivars is not mounted".into()));
    fs::remove_dir_all(fake.root().join("boot/efi")).unwrap();
    fake.write("boot/extlinux/extlinux.conf", b"");
    assert_eq!(fake.layout().loader, Loader::Other("extlinux"));
    fs::remove_dir_all(fake.root().join("boot/extlinux")).unwrap();
    assert_eq!(fake.layout().loader, Loader::None);
}

#[test]
fn systemd_boot_with_an_esp() {
    let efivars = "40 22 0:30 / /sys/firmware/efi/efivars rw - efivarfs efivarfs rw\n";
    let fake = Fake::new(&with(&format!("30 22 254:1 / /efi rw - vfat /dev/vda1 rw\n{efivars}")));
    let vendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    let info: Vec<u8> = "systemd-boot 252.39\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fake.write(
        &format!("sys/firmware/efi/efivars/LoaderInfo-{vendor}"),
        &[&[6, 0, 0, 0][..], &info].concat(),
    );
    fake.write(
        &format!("sys/firmware/efi/efivars/LoaderFeatures-{vendor}"),
        &[6, 0, 0, 0, 0xff, 0x0f, 0, 0, 0, 0, 0, 0],
    );
    fake.write("efi/EFI/systemd/systemd-bootx64.efi", b"");
    fake.write(
        "efi/loader/entries/a.conf",
        b"linux /a/linux\ninitrd /a/initrd\noptions rootflags=subvol=@\n",
    );
    let found = |fake: &Fake| match fake.layout().loader {
        Loader::SystemdBoot(found) => found,
        other => panic!("{other:?}"),
    };
    let first = found(&fake);
    assert_eq!((first.one_shot, first.variables), (true, Ok(())));
    assert!(
        first.entry.unwrap_err().contains("no entry of systemd-boot boots the running kernel 6.1.0-40-amd64")
    );
    fake.write("efi/a/linux", b"no kernel");
    assert!(found(&fake).entry.unwrap_err().contains("is no kernel image"));
    fake.write("efi/a/linux", &crate::boot::kernels::made_up::kernel_image("6.1.0-40-amd64"));
    assert_eq!(found(&fake).entry, Ok("a.conf".into()));
    fake.write("efi/EFI/Linux/b.efi", b"");
    assert!(found(&fake).entry.unwrap_err().contains("unified kernel image"));
}

#[test]
fn containers_dracut_and_watchdogs() {
    let fake = Fake::new(INSIDE);
    fake.write("usr/bin/dracut", b"");
    fake.write("etc/kernel/postinst.d/dracut", b"");
    fake.write("sys/class/watchdog/watchdog0/identity", b"Software Watchdog\n");
    assert_eq!((fake.layout().initramfs, fake.layout().watchdog), (Some(Initramfs::Dracut), false));
    fake.write("sys/class/watchdog/watchdog1/identity", b"iTCO_wdt\n");
    assert!(fake.layout().watchdog);
    fake.write("proc/1/environ", b"A=1\0container=systemd-nspawn\0");
    let layout = fake.layout();
    assert!(layout.container && matches!(layout.kexec, Kexec::Impossible(_)));
}

#[test]
fn why_kexec_is_impossible() {
    let why = |disabled, lockdown, config| match facts::judge_kexec(disabled, lockdown, config) {
        Kexec::Possible => String::new(),
        Kexec::Impossible(why) => why,
    };
    let signed = Some("CONFIG_KEXEC_FILE=y\nCONFIG_KEXEC_SIG=y\n# CONFIG_KEXEC_SIG_FORCE is not set\n");
    assert_eq!(why(Some("0\n"), Some("[none] integrity confidentiality\n"), signed), "");
    assert_eq!(why(None, Some("none [integrity] confidentiality\n"), signed), "");
    assert_eq!(why(None, None, None), "", "the probe has the last word");
    assert!(why(Some("1\n"), None, signed).contains("kexec_load_disabled"));
    assert!(why(None, Some("none [integrity]"), Some("CONFIG_KEXEC_FILE=y")).contains("locked down"));
    assert!(why(None, None, Some("# CONFIG_KEXEC_FILE is not set")).contains("CONFIG_KEXEC_FILE"));
}

/// A disk with a GPT: bios_grub at 1 MiB (1 MiB long), a filesystem after it.
fn gpt_disk(bios_grub: bool) -> fs::File {
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(8 << 20).unwrap();
    let mut first = [0_u8; 512];
    first[0x180..0x184].copy_from_slice(b"GRUB");
    first[0x5c..0x64].copy_from_slice(&2048_u64.to_le_bytes());
    first[446 + 4] = 0xee;
    first[510..].copy_from_slice(&[0x55, 0xaa]);
    let mut entries = vec![0_u8; 128 * 128];
    let mut entry = |index: usize, kind: &[u8; 16], from: u64, to: u64| {
        entries[index * 128..][..16].copy_from_slice(kind);
        entries[index * 128 + 32..][..8].copy_from_slice(&from.to_le_bytes());
        entries[index * 128 + 40..][..8].copy_from_slice(&to.to_le_bytes());
    };
    if bios_grub {
        entry(0, b"Hah!IdontNeedEFI", 2048, 4095);
    }
    entry(3, &[7; 16], 4096, 8191);
    let mut header = [0_u8; 512];
    header[..8].copy_from_slice(b"EFI PART");
    header[12..16].copy_from_slice(&92_u32.to_le_bytes());
    header[72..80].copy_from_slice(&2_u64.to_le_bytes());
    header[80..84].copy_from_slice(&128_u32.to_le_bytes());
    header[84..88].copy_from_slice(&128_u32.to_le_bytes());
    header[88..92].copy_from_slice(&table::checksum(&entries).to_le_bytes());
    let checksum = table::checksum(&header[..92]);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
    for (bytes, offset) in [(&first[..], 0), (&header[..], 512), (&entries[..], 1024)] {
        disk.write_all_at(bytes, offset).unwrap();
    }
    disk
}

fn part(name: &str, offset: u64, length: u64) -> CodePart {
    CodePart { name: name.into(), offset, length }
}

#[test]
fn boot_code_on_gpt() {
    let look = |disk: &fs::File| {
        let found = disk::inspect(disk, Path::new("/dev/vda"), 512)?;
        Ok::<_, LayoutError>(found.map(|found| (found.parts, found.core, found.prefix)))
    };
    let disk = gpt_disk(true);
    let (parts, core, prefix) = look(&disk).unwrap().unwrap();
    assert_eq!(parts, [part("mbr", 0, 440), part("bios-grub-1", 1 << 20, 1 << 20)]);
    assert_eq!((core.as_deref(), prefix), (Some("partition 1 (bios_grub)"), None));
    let (parts, ..) = look(&gpt_disk(false)).unwrap().unwrap();
    assert_eq!(parts, [part("mbr", 0, 440), part("gap", 34 * 512, (2 << 20) - 34 * 512)]);
    // One wrong bit in an entry, then in the header.
    for offset in [1024 + 40, 512 + 72] {
        disk.write_all_at(&[1], offset).unwrap();
        let error = look(&disk).err().unwrap().to_string();
        assert!(error.starts_with("the partition table of /dev/vda makes no sense: the checksum"), "{error}");
    }
    disk.write_all_at(&[0; 440], 0).unwrap();
    assert!(look(&disk).unwrap().is_none(), "no boot code, no opinion");
}

#[test]
fn boot_code_on_mbr() {
    let mut first = [0_u8; 512];
    assert!(table::mbr(&first, 512).is_err());
    first[510..].copy_from_slice(&[0x55, 0xaa]);
    first[446 + 16 + 4] = 0x83;
    first[446 + 16 + 8..][..4].copy_from_slice(&63_u32.to_le_bytes());
    let found = table::mbr(&first, 512).unwrap().unwrap();
    assert_eq!(found, Table { end: 512, first_partition: Some(63 * 512), bios_grub: vec![] });
    assert_eq!(disk::code_parts(&found, 1 << 30), [part("mbr", 0, 440), part("gap", 512, 62 * 512)]);
    let none = Table { first_partition: None, ..found };
    assert_eq!(disk::code_parts(&none, 1 << 30)[1], part("gap", 512, 2 << 20));
    let stretch = Stretch { number: 2, offset: 1 << 20, length: 7 };
    let grub = Table { bios_grub: vec![stretch], ..none };
    assert_eq!(disk::code_parts(&grub, 1 << 30)[1], part("bios-grub-2", 1 << 20, 7));
    first[446 + 16 + 8..][..4].copy_from_slice(&0_u32.to_le_bytes());
    assert!(table::mbr(&first, 512).is_err());
}

#[test]
fn prefixes_in_scripts() {
    let stub =
        "search.fs_uuid 6f1c root hd0,gpt4 \nset prefix=($root)'/@/boot/grub'\nconfigfile $prefix/grub.cfg\n";
    assert_eq!(core_image::prefix_in_script(stub).as_deref(), Some("(6f1c)/@/boot/grub"));
    for options in ["--no-floppy --fs-uuid --set=root", "--fs-uuid --set root --hint=hd0", "-u"] {
        let search = format!("search {options} 6f1c\nset prefix=($root)/grub\n");
        assert_eq!(core_image::prefix_in_script(&search).as_deref(), Some("(6f1c)/grub"), "{options}");
    }
    let by_label = "search --label --set=root boot\nset prefix=($root)/grub\n";
    assert_eq!(core_image::prefix_in_script(by_label).as_deref(), Some("($root)/grub"));
    assert_eq!(core_image::prefix_in_script("search.fs_uuid 6f1c root\n"), None);
}

/// Core images as grub-mkimage makes them, compressed (BIOS) and not (EFI), with a prefix and with a script.
#[test]
fn prefixes_in_real_images() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("load.cfg");
    fs::write(&script, "search.fs_uuid 6f1c root hd0,gpt4 \nset prefix=($root)'/@/boot/grub'\n").unwrap();
    for (format, read) in [
        ("i386-pc", core_image::prefix_of_bios_core as fn(&[u8]) -> Option<String>),
        ("x86_64-efi", core_image::prefix_of),
    ] {
        if Exec::new("grub-mkimage").is_err() || !Path::new("/usr/lib/grub").join(format).exists() {
            println!("skipped: needs grub-mkimage and its modules for {format}");
            continue;
        }
        let image = dir.path().join("image");
        let make = || Exec::new("grub-mkimage").unwrap().args(["-O", format, "-o"]).arg(&image);
        make().args(["-p", "(,gpt4)/@/boot/grub", "btrfs", "part_gpt"]).success().unwrap();
        assert_eq!(read(&fs::read(&image).unwrap()).as_deref(), Some("(,gpt4)/@/boot/grub"));
        make()
            .arg("-c")
            .arg(&script)
            .args(["-p", "/boot/grub", "btrfs", "search_fs_uuid"])
            .success()
            .unwrap();
        let bytes = fs::read(&image).unwrap();
        assert_eq!(read(&bytes).as_deref(), Some("(6f1c)/@/boot/grub"));
        if format == "i386-pc" {
            let disk = gpt_disk(true);
            disk.write_all_at(&bytes, 1 << 20).unwrap();
            let found = disk::inspect(&disk, Path::new("/dev/vda"), 512).unwrap().unwrap();
            assert_eq!(found.prefix.as_deref(), Some("(6f1c)/@/boot/grub"));
        }
        assert_eq!(read(&bytes[..bytes.len() / 2]), None, "half an image");
    }
    assert_eq!(core_image::prefix_of_bios_core(&[0; 4096]), None);
}

#[test]
fn uuids_are_read_from_superblocks() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    fs::write(&image, vec![0; 4 << 20]).unwrap();
    assert_eq!(volumes::uuid(&image).unwrap(), None);
    assert!(volumes::uuid(&dir.path().join("gone")).unwrap_err().to_string().ends_with("gone"));
    let Ok(mkfs) = Exec::new("mkfs.ext4") else {
        println!("skipped: needs mkfs.ext4");
        return;
    };
    let uuid = "6f1c2f7e-5a0b-4a53-9d2e-0c8f3b1f9a77";
    mkfs.args(["-q", "-U", uuid]).arg(&image).success().unwrap();
    assert_eq!(volumes::uuid(&image).unwrap().as_deref(), Some(uuid));
}

#[test]
fn this_machine_can_be_read() {
    let layout = match read(Path::new("/")) {
        Err(LayoutError::Read { path, source }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("skipped: this machine does not show {}", path.display());
            return;
        }
        layout => layout.unwrap(),
    };
    assert!(!layout.kernel.is_empty() && !layout.command_line.is_empty());
    for code in boot_code(Path::new("/")).unwrap() {
        assert_eq!(code.parts[0], part("mbr", 0, 440));
    }
}
