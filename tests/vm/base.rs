//! The system that all images share, by mmdebstrap: a small bookworm server with a kernel and no boot loader yet.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use crate::lab::Result;
use crate::lab::image::mmdebstrap;
use crate::lab::mirror::Mirror;
use crate::lab::place::lab_directory;
use crate::lab::sources::Sources;

pub use crate::lab::image::RELEASE;

/// What a small web server has. `busybox` because the initramfs of an ordinary installation has it.
const PACKAGES: [&str; 13] = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "udev",
    "kmod",
    "iproute2",
    "nginx-light",
    "rsync",
    "btrfs-progs",
    "procps",
    "initramfs-tools",
    "busybox",
    "zstd",
];

/// The smallest of Debian's kernels.
pub const KERNEL: &str = "linux-image-cloud-amd64";

/// Begins the name of whatever the VM lab keeps.
pub const PREFIX: &str = "vm-";

/// A key of everything that goes into an image, and of the week, so that point releases arrive.
pub fn key(more: &str) -> Result<String> {
    let sources = Sources::of_this_machine()?;
    let week = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs() / (7 * 86_400);
    let all = format!("{PACKAGES:?}{KERNEL}{sources:?}{week}{more}");
    Ok(blake3::hash(all.as_bytes()).to_hex()[..12].to_owned())
}

/// A mirror on the host's own loopback, with the lab's cache behind it, and the URL at which it is a proxy.
pub fn mirror() -> Result<(Mirror, String)> {
    let sources = Sources::of_this_machine()?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let proxy = format!("http://{}", listener.local_addr()?);
    let mirror = Mirror::new(&lab_directory().join("cache"), &lab_directory(), sources.https_hosts());
    mirror.serve(listener);
    Ok((mirror, proxy))
}

/// The tarball of the base system: it is made on the first call in a week. The lab's lock is held.
pub fn tarball() -> Result<PathBuf> {
    let lab = lab_directory();
    let key = key("")?;
    let tarball = lab.join(format!("{PREFIX}base-{key}.tar"));
    if tarball.exists() {
        return Ok(tarball);
    }
    forget(&lab, "base-")?;
    let started = Instant::now();
    let sources = Sources::of_this_machine()?;
    let (mirror, proxy) = mirror()?;
    let part = lab.join(format!("{PREFIX}base-{key}.part.tar"));
    let (packages, undocumented) = (format!("{},{KERNEL}", PACKAGES.join(",")), ["doc", "locale", "man"]);
    mmdebstrap(&sources, &packages, &undocumented, &proxy, &part)?;
    fs::rename(&part, &tarball)?;
    let (seconds, fetched) = (started.elapsed().as_secs_f64(), mirror.fetched());
    eprintln!("lab: base system of the VMs in {seconds:.1} s, {fetched} files from the mirror");
    Ok(tarball)
}

/// Removes what earlier weeks have left of one kind.
pub fn forget(lab: &Path, kind: &str) -> Result<()> {
    for entry in fs::read_dir(lab)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(&format!("{PREFIX}{kind}")) {
            if path.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
        }
    }
    Ok(())
}
