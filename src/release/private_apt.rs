//! An apt of our own beside the machine's: other sources, the same packages, keys, proxies and pins, in a directory that is gone
//! afterwards, so that nothing of the machine's can change by it.
//!
//! Lists are fetched as apt itself does it: apt's unprivileged user downloads and looks at signatures, root puts what is good in its
//! place. Questions are asked as that user, with a group that nobody else is in. It writes to its caches and nothing else: the
//! configuration, the lists and the logs are root's, so that nothing that it could have written is ever believed by root.
//!
//! ```text
//!   apt.conf  etc/  status   root's; readable to apt's user
//!   state/lists              root's, but for what apt downloads into (partial)
//!   log/  root/              root's: logs, and the cache of what runs as root
//!   cache/  and scratch      apt's user's
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, OFlags, flock};
use tempfile::TempDir;

use crate::release::apt::{self, AptSettings, Progress, Stage, StageOutcome};
use crate::release::preview::PreviewError;
use crate::release::sources::entries::Entry;
use crate::system::durable;
use crate::system::exec::{Exec, ExecError, User};
use crate::system::span::Span;

/// Everybody may pass here, and it is no memory filesystem: lists of packages have a hundred megabytes.
const PLACE: &str = "/var/tmp";
const PREFIX: &str = "safe-upgrade-apt-";

/// The user that apt itself downloads as.
const APT_USER: &str = "_apt";

/// Numbers that neither Debian nor systemd gives to a group: Debian's policy reserves 65000 to 65533, and systemd's dynamic users end
/// at 65519.
const FREE_GROUPS: std::ops::RangeInclusive<u32> = 65_520..=65_533;

/// How silent apt may be while it fetches lists.
const SILENCE: Span = Span::seconds(300);

/// A repository that does not answer is a finding, not worth minutes. On the command line, so that the machine's own settings do not
/// count.
const IMPATIENT: [&str; 6] =
    ["-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::https::Timeout=10"];

/// Younger directories of others are left alone: they may be about to be claimed.
const YOUNG: Duration = Duration::from_secs(60);

/// A private apt. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct PrivateApt {
    place: TempDir,
    /// Locked as long as the directory is in use; closed after it is gone.
    _claim: File,
    /// Who asks, with a group of its own; `None` when this process is not root.
    user: Option<User>,
    /// Where lists are kept from one time to the next; closed to everybody else.
    kept: Option<PathBuf>,
}

/// Whose lists the private apt reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lists {
    /// Its own.
    Own,
    /// The machine's, as the last `apt-get update` left them.
    Machine,
}

impl PrivateApt {
    /// Makes the directory and copies what apt needs to know: installed packages, preferences, configuration, credentials. `kept` is
    /// a directory of our own where lists are kept, so that the second time is fast.
    ///
    /// # Errors
    /// Names the file that could not be copied.
    pub fn open(kept: Option<&Path>) -> Result<Self, PreviewError> {
        remove_left_behind(Path::new(PLACE));
        let at_place = |source| PreviewError::Prepare { path: PLACE.into(), source };
        let place = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(fs::Permissions::from_mode(0o711))
            .tempdir_in(PLACE)
            .map_err(at_place)?;
        let claim = File::open(place.path()).map_err(at_place)?;
        flock(&claim, FlockOperation::LockExclusive).map_err(|errno| at_place(errno.into()))?;
        let user = if rustix::process::geteuid().is_root() { Some(apt_user()?) } else { None };
        let private = Self { place, _claim: claim, user, kept: kept.map(|kept| kept.join("lists")) };
        private.fill()?;
        Ok(private)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// Sets the sources: a file for each entry, so that one can be left out.
    ///
    /// # Errors
    /// Names the file that could not be written.
    pub fn set_sources<'e>(&self, entries: impl IntoIterator<Item = &'e Entry>) -> Result<(), PreviewError> {
        let parts = self.path().join("etc/sources.list.d");
        match fs::remove_dir_all(&parts) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(PreviewError::Prepare { path: parts, source });
            }
            _ => make_directory(&parts, 0o755)?,
        }
        for (number, entry) in entries.into_iter().enumerate() {
            let form = if entry.is_stanza() { "sources" } else { "list" };
            // Closed to others, because a URI may hold a password.
            self.write(&parts.join(format!("{number:03}.{form}")), entry.text.as_bytes())?;
        }
        Ok(())
    }

    /// Adds a piece of configuration, read after all others but the last.
    ///
    /// # Errors
    /// Names the file that could not be written.
    pub fn configure(&self, name: &str, text: &str) -> Result<(), PreviewError> {
        let path = self.path().join("etc/parts").join(format!("zzy-{name}"));
        self.write(&path, text.as_bytes())
    }

    /// Where a log of this name lies while it lasts: only root writes there.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.path().join("log").join(name)
    }

    /// The lists that were fetched.
    #[must_use]
    pub fn lists(&self) -> PathBuf {
        self.path().join("state/lists")
    }

    /// A directory in it that its user may write to.
    ///
    /// # Errors
    /// Names what could not be made.
    pub fn scratch(&self, name: &str) -> Result<PathBuf, PreviewError> {
        let path = self.path().join(name);
        self.make_writable(&path)?;
        Ok(path)
    }

    /// Fetches the lists. What was kept is used, and the new ones are kept when all went well.
    ///
    /// # Errors
    /// When apt could not be run; a repository that fails is an outcome.
    pub fn update(&self, log: &Path, progress: &dyn Fn(Progress)) -> Result<StageOutcome, PreviewError> {
        let archives = self.path().join("root/archives");
        let settings = AptSettings {
            log,
            archives: &archives,
            silence: SILENCE,
            lock_wait: Span::seconds(1),
            stop: None,
            user: None,
        };
        let configuration = self.configuration().display().to_string();
        let environment = [("APT_CONFIG", configuration.as_str())];
        let stage = Stage::PreviewUpdate;
        let own = self.as_root();
        let words: Vec<&str> = own.iter().map(String::as_str).chain(IMPATIENT).chain(["update"]).collect();
        let outcome = apt::apt_get(stage, &words, &environment, &settings, progress)?;
        let lists = self.lists();
        for entry in fs::read_dir(&lists).map_err(prepare(&lists))? {
            let entry = entry.map_err(prepare(&lists))?;
            if entry.file_type().map_err(prepare(&entry.path()))?.is_file() {
                // Who asks must read them whatever the umask is.
                let mode = fs::Permissions::from_mode(0o644);
                fs::set_permissions(entry.path(), mode).map_err(prepare(&entry.path()))?;
            }
        }
        Ok(outcome)
    }

    /// A tool of apt's, about to be asked something.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn exec(&self, tool: &str, lists: Lists) -> Result<Exec, ExecError> {
        let mut exec = Exec::new(tool)?
            .env("APT_CONFIG", self.configuration())
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-o", "APT::Default-Release=", "-o", "APT::Get::Show-User-Simulation-Note=false"])
            .args(["-o", "quiet::NoProgress=true"]);
        if lists == Lists::Machine {
            // Its own cache: with other lists, the other one would be made anew each time.
            let cache = self.path().join("cache/machine.bin");
            exec = exec
                .args(["-o", "Dir::State::lists=/var/lib/apt/lists", "-o"])
                .arg(format!("Dir::Cache::pkgcache={}", cache.display()));
        }
        Ok(match self.user {
            Some(user) => exec.user(user),
            None => exec,
        })
    }

    /// Asks, and wants an answer.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn ask(&self, tool: &str, lists: Lists, words: &[&str]) -> Result<String, ExecError> {
        self.exec(tool, lists)?.args(words).text()
    }

    /// Runs a stage as root, for a download into a directory that is closed to others, by configuration and lists to which nobody
    /// but root could write, and without the caches.
    ///
    /// # Errors
    /// When it could not be run.
    pub fn stage_as_root(
        self,
        stage: Stage,
        words: &[&str],
        settings: &AptSettings<'_>,
        progress: &dyn Fn(Progress),
    ) -> Result<(StageOutcome, String), PreviewError> {
        let configuration = self.configuration();
        let shown = configuration.display().to_string();
        let environment = [("APT_CONFIG", shown.as_str())];
        let own = self.as_root();
        // The directory of the archives is closed to apt's user.
        let sandbox = ["-o", "APT::Sandbox::User=root"];
        let words: Vec<&str> =
            own.iter().map(String::as_str).chain(sandbox).chain(words.iter().copied()).collect();
        let outcome = apt::apt_get(stage, &words, &environment, settings, progress)?;
        if !outcome.well() {
            return Ok((outcome, String::new()));
        }
        let missing = Exec::new("apt-get")?
            .args(apt::options(settings))
            .args(&own)
            .args(sandbox)
            .args(["--print-uris", "-qq", "-y", "full-upgrade"])
            .env("APT_CONFIG", &configuration)
            .text()?;
        Ok((outcome, missing))
    }

    /// Keeps the lists for the next time.
    ///
    /// # Errors
    /// Names the file that could not be copied.
    pub fn keep_lists(&self) -> Result<(), PreviewError> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let fresh = kept.with_extension("new");
        for old in [&fresh, kept] {
            match fs::remove_dir_all(old) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(prepare(old)(source)),
                _ => {}
            }
        }
        durable::private_directory(&fresh)?;
        copy_lists(&self.lists(), &fresh)?;
        durable::sync_filesystem(&fresh)?;
        fs::rename(&fresh, kept).map_err(prepare(kept))
    }

    fn configuration(&self) -> PathBuf {
        self.path().join("apt.conf")
    }

    /// What apt-get needs besides when it runs as root: no cache that apt's user may have written is believed.
    fn as_root(&self) -> Vec<String> {
        let own = self.path().join("root");
        ["Dir::Cache::pkgcache=".to_owned(), "Dir::Cache::srcpkgcache=".to_owned()]
            .into_iter()
            .chain([format!("Dir::Cache={}", own.display()), format!("Dir::Log={}", own.display())])
            .flat_map(|option| ["-o".to_owned(), option])
            .collect()
    }

    fn fill(&self) -> Result<(), PreviewError> {
        let at = |name: &str| self.path().join(name);
        // Also those on the way, with their modes, whatever the umask is.
        for name in ["state", "state/lists", "etc", "etc/parts", "etc/preferences.d", "etc/auth.conf.d"] {
            make_directory(&at(name), 0o755)?;
        }
        for name in ["log", "root", "root/archives", "root/archives/partial", "state/lists/partial"] {
            make_directory(&at(name), 0o700)?;
        }
        self.copy(Path::new("/var/lib/dpkg/status"), &at("status"))?;
        self.copy_if_any(Path::new("/var/lib/apt/extended_states"), &at("etc/extended_states"))?;
        self.copy_if_any(Path::new("/etc/apt/preferences"), &at("etc/preferences"))?;
        self.copy_files(Path::new("/etc/apt/preferences.d"), &at("etc/preferences.d"))?;
        self.copy_if_any(Path::new("/etc/apt/auth.conf"), &at("etc/auth.conf"))?;
        self.copy_files(Path::new("/etc/apt/auth.conf.d"), &at("etc/auth.conf.d"))?;
        self.copy_files(Path::new("/etc/apt/apt.conf.d"), &at("etc/parts"))?;
        self.copy_if_any(Path::new("/etc/apt/apt.conf"), &at("etc/parts/zz-main.conf"))?;
        let directories = directories_text(self.path());
        self.write(&at("apt.conf"), directories.as_bytes())?;
        // Read last too: the machine's own drop-ins must not lead out of here.
        let last = format!("{directories}{OURS}{PACKAGE_LISTS_ONLY}");
        self.write(&at("etc/parts/zzz-safe-upgrade.conf"), last.as_bytes())?;
        if let Some(kept) = self.kept.as_deref().filter(|kept| kept.is_dir()) {
            copy_lists(kept, &self.lists())?;
        }
        // Given away from the inside to the outside: nobody else can write above what is still ours.
        for name in ["cache/archives/partial", "cache/archives", "cache/log", "cache"] {
            self.make_writable(&at(name))?;
        }
        Ok(())
    }

    /// A directory that belongs to apt's user, in one that does not yet.
    fn make_writable(&self, path: &Path) -> Result<(), PreviewError> {
        make_directory(path, 0o700)?;
        match self.user {
            Some(user) => lchown(path, Some(user.uid), Some(user.gid)).map_err(prepare(path)),
            None => Ok(()),
        }
    }

    fn copy_files(&self, from: &Path, to: &Path) -> Result<(), PreviewError> {
        let entries = match fs::read_dir(from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(prepare(from))?,
        };
        for entry in entries {
            let path = entry.map_err(prepare(from))?.path();
            if let Some(name) = path.file_name().filter(|_| path.is_file()) {
                self.copy(&path, &to.join(name))?;
            }
        }
        Ok(())
    }

    fn copy_if_any(&self, from: &Path, to: &Path) -> Result<(), PreviewError> {
        if from.exists() { self.copy(from, to) } else { Ok(()) }
    }

    /// What everybody may read stays so: apt's helpers run as apt's user with its usual group.
    fn copy(&self, from: &Path, to: &Path) -> Result<(), PreviewError> {
        let open = fs::metadata(from).map_err(prepare(from))?.mode() & 0o004 != 0;
        self.write_for(to, &fs::read(from).map_err(prepare(from))?, if open { 0o644 } else { 0o640 })
    }

    /// A file of root's that apt's user can read. A URI or a proxy may hold a password.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), PreviewError> {
        self.write_for(path, bytes, 0o640)
    }

    /// Nothing here has to survive a power cut.
    fn write_for(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), PreviewError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut file = file.map_err(prepare(path))?;
        let group = self.user.map_or(Ok(()), |user| fchown(&file, None, Some(user.gid)));
        group
            .and_then(|()| file.set_permissions(fs::Permissions::from_mode(mode)))
            .and_then(|()| io::Write::write_all(&mut file, bytes))
            .map_err(prepare(path))
    }
}

fn directories_text(directory: &Path) -> String {
    let pairs = [
        ("Dir::State", "state"),
        ("Dir::State::lists", "state/lists"),
        ("Dir::State::status", "status"),
        ("Dir::State::extended_states", "etc/extended_states"),
        ("Dir::Cache", "cache"),
        ("Dir::Cache::archives", "cache/archives"),
        ("Dir::Cache::pkgcache", "cache/pkgcache.bin"),
        ("Dir::Log", "cache/log"),
        ("Dir::Etc::sourcelist", "etc/no-sources.list"),
        ("Dir::Etc::sourceparts", "etc/sources.list.d"),
        ("Dir::Etc::preferences", "etc/preferences"),
        ("Dir::Etc::preferencesparts", "etc/preferences.d"),
        ("Dir::Etc::netrc", "etc/auth.conf"),
        ("Dir::Etc::netrcparts", "etc/auth.conf.d"),
        ("Dir::Etc::parts", "etc/parts"),
    ];
    let lines = pairs.map(|(key, name)| format!("{key} \"{}\";\n", directory.join(name).display()));
    format!("{}Dir::Etc::main \"/dev/null\";\nDebug::NoLocking \"true\";\n", lines.concat())
}

/// Of all lists only those of packages. Whoever reads lists that were fetched here and asks for others finds none.
pub const PACKAGE_LISTS_ONLY: &str = "#clear Acquire::Languages;\nAcquire::Languages \"none\";\n\
     Acquire::IndexTargets::deb-src::Sources::DefaultEnabled \"false\";\n\
     Acquire::IndexTargets::deb-src::Contents-dsc::DefaultEnabled \"false\";\n\
     Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
     Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled \"false\";\n\
     Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled \"false\";\n\
     Acquire::IndexTargets::deb::DEP-11-icons-hidpi::DefaultEnabled \"false\";\n\
     Acquire::IndexTargets::deb::DEP-11-icons-large::DefaultEnabled \"false\";\n\
     Acquire::IndexTargets::deb::DEP-11-icons-large-hidpi::DefaultEnabled \"false\";\n\
     Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled \"false\";\n\
     Acquire::IndexTargets::deb::Contents-deb-legacy::DefaultEnabled \"false\";\n\
     Acquire::IndexTargets::deb::Contents-udeb::DefaultEnabled \"false\";\n\
     Acquire::IndexTargets::deb::CNF::DefaultEnabled \"false\";\n";

/// The machine's own hooks (which clean its cache, or wake up other services) do not run here.
const OURS: &str = "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n\
     #clear APT::Update::Post-Invoke-Success;\n#clear APT::Update::Post-Invoke-Stats;\n\
     #clear DPkg::Pre-Invoke;\n#clear DPkg::Post-Invoke;\n#clear DPkg::Pre-Install-Pkgs;\n";

fn apt_user() -> Result<User, PreviewError> {
    let path = Path::new("/etc/passwd");
    let text = fs::read_to_string(path).map_err(prepare(path))?;
    let user = parse_user(&text, APT_USER).ok_or(PreviewError::NoUser)?;
    let path = Path::new("/etc/group");
    let groups = fs::read_to_string(path).map_err(prepare(path))?;
    // apt's user shares its usual group with others, who must not read passwords here.
    let gid = free_group(&[&text, &groups]).ok_or(PreviewError::NoUser)?;
    Ok(User { gid, ..user })
}

/// A group's number that is in none of the texts of passwd(5) and group(5).
fn free_group(texts: &[&str]) -> Option<u32> {
    let taken = |gid: u32| {
        let gid = gid.to_string();
        texts
            .iter()
            .flat_map(|text| text.lines())
            .any(|line| line.split(':').skip(2).take(2).any(|x| x == gid))
    };
    FREE_GROUPS.rev().find(|&gid| !taken(gid))
}

/// Finds a user in the text of passwd(5).
fn parse_user(text: &str, name: &str) -> Option<User> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then_some(())?;
        Some(User { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    })
}

/// Directories whose owner was killed are not locked any more. What can't be removed waits for systemd-tmpfiles.
fn remove_left_behind(place: &Path) {
    let Ok(entries) = fs::read_dir(place) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let Some(facts) = entry.metadata().ok().filter(|facts| ours && facts.is_dir()) else { continue };
        let age = facts.modified().ok().and_then(|then| SystemTime::now().duration_since(then).ok());
        // Anybody may make directories here.
        let own = facts.uid() == rustix::process::geteuid().as_raw();
        let flags = OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let opened =
            OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(entry.path());
        let Some(directory) = opened.ok().filter(|_| own) else { continue };
        if age.is_some_and(|age| age > YOUNG)
            && flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Copies the plain files of one directory of lists with their times, which apt asks the server with.
fn copy_lists(from: &Path, to: &Path) -> Result<(), PreviewError> {
    for entry in fs::read_dir(from).map_err(prepare(from))? {
        let path = entry.map_err(prepare(from))?.path();
        let Some(name) = path.file_name().filter(|name| *name != "lock") else { continue };
        // Lists are plain files: nothing else is opened, nor waited for.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(&path);
        let Ok(mut source) = opened else { continue };
        let facts = source.metadata().map_err(prepare(&path))?;
        if !facts.is_file() {
            continue;
        }
        let target = to.join(name);
        let mut copy = File::create(&target).map_err(prepare(&target))?;
        io::copy(&mut source, &mut copy).map_err(prepare(&target))?;
        copy.set_permissions(fs::Permissions::from_mode(0o644)).map_err(prepare(&target))?;
        copy.set_modified(facts.modified().map_err(prepare(&path))?).map_err(prepare(&target))?;
    }
    Ok(())
}

fn make_directory(path: &Path, mode: u32) -> Result<(), PreviewError> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(prepare(path))
}

fn prepare(path: &Path) -> impl FnOnce(io::Error) -> PreviewError + use<> {
    let path = path.to_owned();
    move |source| PreviewError::Prepare { path, source }
}

#[cfg(test)]
#[path = "private_apt_tests.rs"]
mod tests;
