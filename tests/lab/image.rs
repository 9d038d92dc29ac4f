//! The base system by mmdebstrap, and the golden disk that machines are copied from.
//!
//! Both are kept under `target/lab` by a key of everything that goes into them and of the week, so that point releases arrive.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use safe_upgrade::system::exec::Exec;

use super::disk::{Disk, HOME_SUBVOLUME, ROOT_SUBVOLUME};
use super::mirror::{LOCAL_HOST, Mirror, PORT};
use super::place::{FROM, RunDirectory, lab_directory, locked, unmount_below};
use super::sources::Sources;
use super::{Machine, Result, context, told, tool};

/// The release that machines start with.
pub const RELEASE: &str = "bookworm";

/// A small web server with a database: what restarts in an upgrade really restarts. MariaDB rather than PostgreSQL because it is
/// upgraded in place and its packages are half the size. No udev and no kernel: a container has neither devices nor a boot loader.
const PACKAGES: [&str; 11] = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "iproute2",
    "nginx-light",
    "mariadb-server",
    "rsync",
    "btrfs-progs",
    "procps",
    "ca-certificates",
    "python3-minimal",
];

/// Files of the base system: path, mode, content.
const FILES: [(&str, u32, &str); 7] = [
    ("etc/hostname", 0o644, "lab\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost lab\n"),
    ("etc/nginx/sites-available/default", 0o644, SITE),
    ("srv/www/index.html", 0o644, "<!doctype html><title>lab</title><p>it works</p>\n"),
    ("usr/local/bin/site-check", 0o755, SITE_CHECK),
    ("usr/local/lib/safe-upgrade-lab/site.sql", 0o644, SQL),
    ("root/notes.txt", 0o600, "kept by whoever keeps notes on servers\n"),
];

const SITE: &str = "server {
    listen 127.0.0.1:8080;
    root /srv/www;
}
";

const SITE_CHECK: &str = r#"#!/bin/sh
# Exit codes as Nagios wants them: 0 is well, 2 is not.
text=$(mariadb --batch --skip-column-names --execute 'SELECT body FROM page WHERE id = 1' site 2>&1)
if [ "$text" = "it works, says the database" ]; then
    echo "OK: $text"
    exit 0
fi
echo "CRITICAL: $text"
exit 2
"#;

const SQL: &str = "CREATE DATABASE site;
CREATE TABLE site.page (id INT PRIMARY KEY, body TEXT NOT NULL) ENGINE=InnoDB;
INSERT INTO site.page VALUES (1, 'it works, says the database');
";

/// The slowest bootstrap seen took 81 seconds; a slow mirror may take much longer.
const BOOTSTRAP_LIMIT: Duration = Duration::from_secs(1800);

/// The golden disk: it is made on the first call in a week, by booting it once and loading the database.
pub fn golden() -> Result<PathBuf> {
    let sources = Sources::of_this_machine()?;
    let lab = lab_directory();
    let key = key(&sources);
    fs::create_dir_all(&lab)?;
    let golden = lab.join(format!("golden-{key}.img"));
    if golden.exists() {
        return Ok(golden);
    }
    let _makes_it = locked(&lab.join("golden.lock"))?;
    if golden.exists() {
        return Ok(golden);
    }
    let run = RunDirectory::claim("golden")?;
    forget_older(&lab, &key)?;
    let tarball = base(&lab, &key, &sources)?;
    let started = Instant::now();
    let disk = Disk::format(&run.path().join("disk.img"), &run.path().join("top"))?;
    fill(&disk, &run.path().join("unpack"), &tarball)?;
    let machine = Machine::assemble(run, disk)?;
    machine.boot()?;
    machine.sh("mariadb < /usr/local/lib/safe-upgrade-lab/site.sql && site-check")?;
    machine.power_off()?;
    let image = machine.take_disk_out()?;
    context(fs::rename(image, &golden), "keep the golden disk")?;
    eprintln!("lab: golden disk made in {:.1} s", started.elapsed().as_secs_f64());
    Ok(golden)
}

/// Copies the golden disk: a machine of one's own in a second or two, and less on a file system that shares blocks.
pub fn copy(golden: &Path, to: &Path) -> Result<()> {
    let (from, to) = (golden.to_string_lossy(), to.to_string_lossy());
    tool("cp", &["--reflink=auto", "--sparse=always", &from, &to]).map(drop)
}

/// Gives a copied disk an identity of its own: two filesystems of one UUID are never mounted at the same time.
pub fn new_identity(image: &Path) -> Result<()> {
    tool("btrfstune", &["-f", "-m", &image.to_string_lossy()]).map(drop)
}

/// Lets the copy's own fstab name it.
pub fn name_itself(disk: &Disk, at: &Path) -> Result<()> {
    disk.mount(ROOT_SUBVOLUME, at)?;
    write(&at.join("etc/fstab"), 0o644, &fstab(disk)?)?;
    unmount_below(at)
}

/// Makes `disk.img` in a run directory: what the golden disk holds, on ext4.
pub fn on_ext4(golden: &Path, run: &RunDirectory) -> Result<Disk> {
    let (image, from, to) = (run.path().join(FROM), run.path().join("from"), run.path().join("to"));
    copy(golden, &image)?;
    new_identity(&image)?;
    let (old, new) = (Disk::attach(&image)?, Disk::format_ext4(&run.path().join("disk.img"))?);
    for (disk, at) in [(&old, &from), (&new, &to)] {
        fs::create_dir_all(at)?;
        disk.mount(ROOT_SUBVOLUME, at)?;
    }
    tool("cp", &["-a", &from.join(".").to_string_lossy(), &to.to_string_lossy()])?;
    write(&to.join("etc/fstab"), 0o644, &fstab(&new)?)?;
    for at in [&from, &to] {
        unmount_below(at)?;
    }
    old.detach()?;
    fs::remove_file(image)?;
    Ok(new)
}

fn key(sources: &Sources) -> String {
    let week = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs() / (7 * 86_400);
    let all = format!("{PACKAGES:?}{FILES:?}{sources:?}{week}{}", apt_configuration());
    blake3::hash(all.as_bytes()).to_hex()[..12].to_owned()
}

fn forget_older(lab: &Path, key: &str) -> Result<()> {
    for entry in fs::read_dir(lab)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ours = name.starts_with("golden-") || name.starts_with("base-");
        if ours && !name.contains(key) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn base(lab: &Path, key: &str, sources: &Sources) -> Result<PathBuf> {
    let tarball = lab.join(format!("base-{key}.tar"));
    if tarball.exists() {
        return Ok(tarball);
    }
    let started = Instant::now();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let proxy = format!("http://{}", listener.local_addr()?);
    let mirror = Mirror::new(&lab.join("cache"), lab, sources.https_hosts());
    mirror.serve(listener);
    let part = lab.join(format!("base-{key}.part.tar"));
    let undocumented = ["doc", "locale"];
    mmdebstrap(sources, &PACKAGES.join(","), &undocumented, &proxy, &part)?;
    fs::rename(&part, &tarball)?;
    let (seconds, fetched) = (started.elapsed().as_secs_f64(), mirror.fetched());
    eprintln!("lab: {RELEASE} bootstrapped in {seconds:.1} s, {fetched} files from the mirror");
    Ok(tarball)
}

/// A minimal system of [`RELEASE`] as a tarball, through a proxy, without these parts of its documentation.
pub fn mmdebstrap(
    sources: &Sources,
    packages: &str,
    undocumented: &[&str],
    proxy: &str,
    tarball: &Path,
) -> Result<()> {
    Exec::new("mmdebstrap")
        .map_err(told)?
        .args(["--mode=root", "--variant=apt", "--dpkgopt=force-unsafe-io"])
        .args(["--aptopt=Acquire::Languages \"none\"", "--aptopt=APT::Install-Recommends \"false\""])
        .args(undocumented.iter().map(|dir| format!("--dpkgopt=path-exclude=/usr/share/{dir}/*")))
        .arg(format!("--keyring={}", sources.keyring))
        .arg(format!("--include={packages}"))
        .args([RELEASE, &tarball.to_string_lossy()])
        .args(sources.one_line(RELEASE))
        .env("http_proxy", proxy)
        .limit(BOOTSTRAP_LIMIT)
        .success()
        .map(drop)
        .map_err(told)
}

fn fill(disk: &Disk, at: &Path, tarball: &Path) -> Result<()> {
    fs::create_dir_all(at)?;
    disk.mount(ROOT_SUBVOLUME, at)?;
    let (file, root) = (tarball.to_string_lossy(), at.to_string_lossy());
    tool("tar", &["--extract", "--file", &file, "--directory", &root, "--numeric-owner", "--xattrs"])?;
    for (path, mode, content) in FILES {
        write(&at.join(path), mode, content)?;
    }
    write(&at.join("etc/apt/apt.conf.d/00lab"), 0o644, &apt_configuration())?;
    write(&at.join("etc/fstab"), 0o644, &fstab(disk)?)?;
    fs::create_dir_all(at.join("srv/backup"))?;
    unmount_below(at)
}

fn write(path: &Path, mode: u32, content: &str) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    context(fs::write(path, content), format_args!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn fstab(disk: &Disk) -> Result<String> {
    let uuid = tool("blkid", &["-s", "UUID", "-o", "value", &disk.device().to_string_lossy()])?;
    if !disk.has_subvolumes() {
        return Ok(format!("UUID={} / ext4 defaults 0 1\n", uuid.trim()));
    }
    let line = |point: &str, subvolume: &str| {
        format!("UUID={} {point} btrfs defaults,subvol={subvolume} 0 0\n", uuid.trim())
    };
    Ok(line("/", ROOT_SUBVOLUME) + &line("/home", HOME_SUBVOLUME))
}

/// The lab's own repository is reached through the mirror like everything else.
fn apt_configuration() -> String {
    format!("// {LOCAL_HOST} exists only behind this.\nAcquire::http::Proxy \"http://127.0.0.1:{PORT}\";\n")
}
