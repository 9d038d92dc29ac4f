//! One golden disk for each layout: partitions, file systems, the base system, a boot loader.
//!
//! The disk is made on the host, without a boot: `update-grub` finds the disk by a link below `/dev/disk/by-uuid`, the ESP is written by
//! mtools, because the host's kernel may have no vfat.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use safe_upgrade::system::exec::Exec;

use super::Layout;
use super::base::{self, PREFIX, RELEASE};
use crate::lab::place::{RunDirectory, detach_loops, lab_directory, unmount_below};
use crate::lab::sources::Sources;
use crate::lab::{Result, context, told, tool};

/// Room for the root, its clones and a whole release upgrade. The file is sparse.
const SIZE: u64 = 10 << 30;

/// The label of the second disk, which each machine mounts at `/srv/backup`.
pub const BACKUP_LABEL: &str = "lab-backup";

/// Files of every machine: path, mode, content.
const FILES: [(&str, u32, &str); 17] = [
    ("etc/hostname", 0o644, "lab\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost lab\n"),
    ("etc/machine-id", 0o444, "5afe0000000000000000000000001ab0\n"),
    ("etc/systemd/network/lab.network", 0o644, include_str!("guest/lab.network")),
    ("etc/systemd/system/lab-agent.service", 0o644, include_str!("guest/lab-agent.service")),
    ("etc/systemd/system/lab-records.service", 0o644, include_str!("guest/lab-records.service")),
    ("etc/udev/rules.d/90-lab.rules", 0o644, include_str!("guest/90-lab.rules")),
    ("usr/local/lib/lab/agent", 0o755, include_str!("guest/agent.sh")),
    ("usr/local/lib/lab/records", 0o755, include_str!("guest/records.sh")),
    ("etc/initramfs-tools/modules", 0o644, include_str!("guest/modules")),
    ("etc/initramfs-tools/conf.d/lab", 0o644, include_str!("guest/initramfs.conf")),
    ("etc/default/grub", 0o644, include_str!("guest/grub")),
    ("etc/nginx/sites-available/default", 0o644, SITE),
    ("srv/www/index.html", 0o644, "<!doctype html><title>lab</title><p>it works</p>\n"),
    ("etc/apt/sources.list", 0o644, ""),
    ("etc/apt/apt.conf.d/00lab", 0o644, APT),
    ("root/notes.txt", 0o600, "kept by whoever keeps notes on servers\n"),
];

const SITE: &str = "server {
    listen 127.0.0.1:8080;
    root /srv/www;
}
";

const APT: &str = "APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\n";

/// What a machine of a few minutes would start at the wrong moment.
const MASKED: &str = "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
    serial-getty@ttyS0.service getty@tty1.service systemd-networkd-wait-online.service";

/// Runs in the new system, without a boot loader yet.
const SET_UP: &str = r#"set -e
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
apt-get -q -o Dir::Etc::sourcelist=/run/lab.list update
apt-get -qy -o Dir::Etc::sourcelist=/run/lab.list -o Dpkg::Options::=--force-unsafe-io -o Dpkg::Options::=--force-confold \
    install --no-install-recommends $PACKAGES
apt-get clean
rm -rf /var/lib/apt/lists/*
systemctl -q mask $MASKED
systemctl -q enable systemd-networkd
update-initramfs -u -k all
"#;

const BIOS: &str = r#"set -e
echo "grub-pc grub-pc/install_devices multiselect /dev/vda" | debconf-set-selections
grub-install --target=i386-pc --recheck "$DISK"
update-grub
"#;

/// As `grub-install` of Debian would, which wants a mounted ESP. The copy in EFI/BOOT is what firmware without boot entries starts.
const UEFI: &str = r#"set -e
mkdir -p /boot/efi /boot/grub/fonts /run/esp/EFI/debian /run/esp/EFI/BOOT
cp -r /usr/lib/grub/x86_64-efi /boot/grub/
cp /usr/share/grub/unicode.pf2 /boot/grub/fonts/
update-grub
cp /usr/lib/shim/shimx64.efi.signed /run/esp/EFI/debian/shimx64.efi
cp /usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed /run/esp/EFI/debian/grubx64.efi
cp /usr/lib/shim/mmx64.efi.signed /run/esp/EFI/debian/mmx64.efi
cp /run/esp/EFI/debian/grubx64.efi /run/esp/EFI/debian/mmx64.efi /run/esp/EFI/BOOT/
cp /run/esp/EFI/debian/shimx64.efi /run/esp/EFI/BOOT/BOOTX64.EFI
printf 'search.fs_uuid %s root\nset prefix=($root)"/@/boot/grub"\nconfigfile $prefix/grub.cfg\n' "$ROOT_UUID" \
    >/run/esp/EFI/debian/grub.cfg
"#;

/// As `bootctl install` and the hooks of systemd-boot's package would, which want a mounted ESP.
const SYSTEMD_BOOT: &str = r#"set -e
mkdir -p /run/esp
# kernel-install names files from the top of the filesystem that they are on.
mount -t tmpfs tmpfs /run/esp
mkdir -p /boot/efi /etc/kernel /run/esp/EFI/systemd /run/esp/EFI/BOOT /run/esp/loader/entries "/run/esp/$(cat /etc/machine-id)"
cp /usr/lib/systemd/boot/efi/systemd-bootx64.efi /run/esp/EFI/systemd/
cp /usr/lib/systemd/boot/efi/systemd-bootx64.efi /run/esp/EFI/BOOT/BOOTX64.EFI
echo 'timeout 0' >/run/esp/loader/loader.conf
echo type1 >/run/esp/loader/entries.srel
echo "root=UUID=$ROOT_UUID ro rootflags=subvol=@ quiet console=ttyS0,115200 net.ifnames=0 no_timer_check" >/etc/kernel/cmdline
for kernel in /boot/vmlinuz-*; do BOOT_ROOT=/run/esp kernel-install add "${kernel#/boot/vmlinuz-}" "$kernel"; done
"#;

/// The golden disk of a layout: it is made on the first call in a week.
pub fn golden(layout: Layout) -> Result<PathBuf> {
    let lab = lab_directory();
    let more = if layout == Layout::SystemdBoot {
        format!("{SYSTEMD_BOOT}{}", packages(layout))
    } else {
        String::new()
    };
    let scripts = format!("{FILES:?}{MASKED}{SET_UP}{BIOS}{UEFI}{SIZE}{more}");
    let golden = lab.join(format!("{PREFIX}golden-{}-{}.img", layout.name(), base::key(&scripts)?));
    if golden.exists() {
        return Ok(golden);
    }
    let run = RunDirectory::claim(&format!("vm-golden-{}", layout.name()))?;
    if golden.exists() {
        return Ok(golden);
    }
    base::forget(&lab, &format!("golden-{}-", layout.name()))?;
    let tarball = base::tarball()?;
    let started = Instant::now();
    let image = run.path().join("disk.img");
    let disk = Partitioned::make(&image, layout)?;
    let root = run.path().join("root");
    fs::create_dir_all(&root)?;
    disk.mount(&root)?;
    fill(&disk, &root, &tarball)?;
    set_up(&disk, &root)?;
    unmount_below(&root)?;
    drop(disk);
    detach_loops(&image)?;
    context(fs::rename(&image, &golden), "keep the golden disk")?;
    eprintln!("lab: golden disk {} made in {:.1} s", layout.name(), started.elapsed().as_secs_f64());
    Ok(golden)
}

/// An overlay over a golden disk: a machine of one's own in a moment.
pub fn overlay(golden: &Path, to: &Path) -> Result<()> {
    let (golden, to) = (golden.to_string_lossy(), to.to_string_lossy());
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &golden, &to]).map(drop)
}

/// A disk image with partitions, each behind a device, and links to them by UUID as udev would make them.
struct Partitioned {
    layout: Layout,
    device: String,
    links: Vec<PathBuf>,
}

impl Partitioned {
    fn make(image: &Path, layout: Layout) -> Result<Self> {
        File::create_new(image)?.set_len(SIZE)?;
        let path = image.to_string_lossy();
        let parts: &[&str] = match layout {
            Layout::BiosInside => &["-n1:2048:+2M", "-t1:ef02", "-n2:0:0", "-t2:8300"],
            Layout::BiosExt4 => {
                &["-n1:2048:+2M", "-t1:ef02", "-n2:0:+400M", "-t2:8300", "-n3:0:0", "-t3:8300"]
            }
            Layout::Uefi => &["-n1:2048:+128M", "-t1:ef00", "-n2:0:0", "-t2:8300"],
            Layout::SystemdBoot => &["-n1:2048:+256M", "-t1:ef00", "-n2:0:0", "-t2:8300"],
        };
        tool("sgdisk", &[&["-o"], parts, &[&path]].concat())?;
        let device = tool("losetup", &["--find", "--show", &path])?.trim().to_owned();
        // The kernel may have no reader of partition tables; this tells it what is there.
        tool("partx", &["--add", &device])?;
        let mut disk = Self { layout, device, links: Vec::new() };
        disk.format()?;
        Ok(disk)
    }

    fn root(&self) -> String {
        format!("{}p{}", self.device, if self.layout == Layout::BiosExt4 { 3 } else { 2 })
    }

    fn boot(&self) -> Option<String> {
        (self.layout == Layout::BiosExt4).then(|| format!("{}p2", self.device))
    }

    fn esp(&self) -> Option<String> {
        self.layout.is_uefi().then(|| format!("{}p1", self.device))
    }

    fn format(&mut self) -> Result<()> {
        tool("mkfs.btrfs", &["--quiet", "--force", "--label", "lab", &self.root()])?;
        if let Some(boot) = self.boot() {
            tool("mkfs.ext4", &["-q", "-F", "-L", "boot", &boot])?;
        }
        if let Some(esp) = self.esp() {
            tool("mkfs.vfat", &["-n", "ESP", &esp])?;
        }
        fs::create_dir_all("/dev/disk/by-uuid")?;
        for device in [Some(self.root()), self.boot()].into_iter().flatten() {
            let link = Path::new("/dev/disk/by-uuid").join(uuid(&device)?);
            context(symlink(&device, &link), format_args!("link {}", link.display()))?;
            self.links.push(link);
        }
        Ok(())
    }

    /// Mounts the system as it will be mounted inside, and what a chroot needs.
    fn mount(&self, at: &Path) -> Result<()> {
        let (root, point) = (self.root(), at.to_string_lossy().into_owned());
        tool("mount", &["-t", "btrfs", &root, &point])?;
        for name in ["@", "@home"] {
            tool("btrfs", &["-q", "subvolume", "create", &at.join(name).to_string_lossy()])?;
        }
        tool("umount", &[&point])?;
        tool("mount", &["-t", "btrfs", "-o", "subvol=@", &root, &point])?;
        for directory in ["home", "boot", "dev", "proc", "sys", "run", "srv/backup"] {
            fs::create_dir_all(at.join(directory))?;
        }
        let inside = |name: &str| at.join(name).to_string_lossy().into_owned();
        tool("mount", &["-t", "btrfs", "-o", "subvol=@home", &root, &inside("home")])?;
        if let Some(boot) = self.boot() {
            tool("mount", &["-t", "ext4", &boot, &inside("boot")])?;
        }
        for name in ["dev", "proc", "sys"] {
            tool("mount", &["--bind", &format!("/{name}"), &inside(name)])?;
        }
        tool("mount", &["-t", "tmpfs", "tmpfs", &inside("run")]).map(drop)
    }

    fn fstab(&self) -> Result<String> {
        let root = uuid(&self.root())?;
        let mut text = format!(
            "UUID={root} / btrfs defaults,subvol=@ 0 0\nUUID={root} /home btrfs defaults,subvol=@home 0 0\n\
             LABEL={BACKUP_LABEL} /srv/backup ext4 defaults,nofail 0 0\n"
        );
        if let Some(boot) = self.boot() {
            text.push_str(&format!("UUID={} /boot ext4 defaults 0 2\n", uuid(&boot)?));
        }
        if let Some(esp) = self.esp() {
            text.push_str(&format!("UUID={} /boot/efi vfat umask=0077 0 1\n", uuid(&esp)?));
        }
        Ok(text)
    }
}

impl Drop for Partitioned {
    fn drop(&mut self) {
        for link in &self.links {
            // A link that stays is overwritten by nobody: its UUID is gone for ever.
            drop(fs::remove_file(link));
        }
    }
}

fn uuid(device: &str) -> Result<String> {
    Ok(tool("blkid", &["-p", "-s", "UUID", "-o", "value", device])?.trim().to_owned())
}

fn fill(disk: &Partitioned, root: &Path, tarball: &Path) -> Result<()> {
    let (file, at) = (tarball.to_string_lossy(), root.to_string_lossy());
    let kept_out = ["./dev", "./proc", "./sys", "./run"].map(|name| format!("--exclude={name}/*"));
    let mut args = vec!["--extract", "--file", &file, "--directory", &at, "--numeric-owner", "--xattrs"];
    args.extend(kept_out.iter().map(String::as_str));
    tool("tar", &args)?;
    for (path, mode, content) in FILES {
        write(&root.join(path), mode, content)?;
    }
    write(&root.join("etc/fstab"), 0o644, &disk.fstab()?)
}

/// The boot loader's.
const fn packages(layout: Layout) -> &'static str {
    match layout {
        Layout::BiosInside | Layout::BiosExt4 => "grub-pc",
        Layout::Uefi => "grub-efi-amd64 grub-efi-amd64-signed shim-signed",
        // Debian's installer brings dosfstools to each machine with an ESP.
        Layout::SystemdBoot => "systemd-boot dosfstools",
    }
}

fn set_up(disk: &Partitioned, root: &Path) -> Result<()> {
    let (_mirror, proxy) = base::mirror()?;
    let sources = Sources::of_this_machine()?.one_line(RELEASE).join("\n");
    write(&root.join("run/lab.list"), 0o644, &format!("{sources}\n"))?;
    let inside = |script: &str| -> Result<()> {
        let exec = Exec::new("chroot").map_err(told)?.arg(root).args(["sh", "-c", script]);
        let exec =
            exec.env("PACKAGES", packages(disk.layout)).env("MASKED", MASKED).env("DISK", &disk.device);
        let exec = exec.env("http_proxy", &proxy).env("ROOT_UUID", uuid(&disk.root())?);
        exec.success().map(drop).map_err(told)
    };
    inside(SET_UP)?;
    let Some(esp) = disk.esp() else { return inside(BIOS) };
    inside(if disk.layout == Layout::SystemdBoot { SYSTEMD_BOOT } else { UEFI })?;
    for tree in fs::read_dir(root.join("run/esp"))? {
        tool("mcopy", &["-i", &esp, "-s", &tree?.path().to_string_lossy(), "::"])?;
    }
    Ok(())
}

fn write(path: &Path, mode: u32, content: &str) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    context(fs::write(path, content), format_args!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}
