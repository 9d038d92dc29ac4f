//! One boot entry: a file of the form of the Boot Loader Specification (uapi-group.org, type 1).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Begins the name of every entry of ours; a run's id follows, in lower case, because FAT and systemd-boot know no other.
pub(super) const OURS: &str = "safe-upgrade-";

/// Keys without which a kernel may not start as it did: who does not understand one must not make a copy of the entry.
const NOT_UNDERSTOOD: [&str; 6] = ["efi", "uki", "uki-url", "devicetree", "devicetree-overlay", "extra"];

/// An entry, as far as booting it and sorting it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where the filesystem is mounted that holds the entry, and to which its paths are relative.
    pub volume: PathBuf,
    /// The file's name in `loader/entries`.
    pub file: String,
    /// What the menu shows.
    pub title: Option<String>,
    /// Entries that have one come first, in its order.
    pub sort_key: Option<String>,
    /// Sorts among those with the same key.
    pub machine_id: Option<String>,
    /// Sorts downwards after that.
    pub version: Option<String>,
    /// The kernel: an absolute path on the volume.
    pub linux: Option<String>,
    /// The initial RAM disks, in their order.
    pub initrds: Vec<String>,
    /// The kernel's arguments, word by word as they stand there.
    pub arguments: Vec<String>,
    /// Keys that are not understood, and matter.
    pub foreign: Vec<String>,
}

/// What the name of an entry says of its tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries {
    /// How many are left.
    pub left: u32,
    /// How many were made.
    pub done: u32,
}

impl Entry {
    /// Understands a file of `loader/entries`: a key and a value on each line; of one that may be there once the last counts.
    #[must_use]
    pub fn parse(volume: &Path, file: &str, text: &str) -> Self {
        let mut entry = Self {
            volume: volume.to_owned(),
            file: file.to_owned(),
            title: None,
            sort_key: None,
            machine_id: None,
            version: None,
            linux: None,
            initrds: Vec::new(),
            arguments: Vec::new(),
            foreign: Vec::new(),
        };
        for (key, value) in settings(text) {
            match key {
                "title" => entry.title = Some(value.to_owned()),
                "sort-key" => entry.sort_key = Some(value.to_owned()),
                "machine-id" => entry.machine_id = Some(value.to_owned()),
                "version" => entry.version = Some(value.to_owned()),
                "linux" => entry.linux = Some(value.to_owned()),
                "initrd" => entry.initrds.push(value.to_owned()),
                "options" => entry.arguments.extend(value.split_whitespace().map(str::to_owned)),
                _ if NOT_UNDERSTOOD.contains(&key) => entry.foreign.push(key.to_owned()),
                _ => {}
            }
        }
        entry
    }

    /// The entry as a file.
    #[must_use]
    pub fn text(&self) -> String {
        let one = |key: &str, value: &Option<String>| {
            value.as_ref().map(|value| format!("{key} {value}\n")).unwrap_or_default()
        };
        let initrds: String = self.initrds.iter().map(|path| format!("initrd {path}\n")).collect();
        [
            one("title", &self.title),
            one("sort-key", &self.sort_key),
            one("machine-id", &self.machine_id),
            one("version", &self.version),
            one("linux", &self.linux),
            initrds,
            format!("options {}\n", self.arguments.join(" ")),
        ]
        .concat()
    }

    /// The name by which the boot loader knows it. Newer versions leave the tries out; older ones do not.
    #[must_use]
    pub fn id(&self) -> String {
        self.file.to_lowercase()
    }

    /// Whether it goes by this name, with or without its tries.
    #[must_use]
    pub fn is_called(&self, id: &str) -> bool {
        let id = id.to_lowercase();
        self.id() == id || counted(&self.id()).is_some_and(|(stem, _)| format!("{stem}.conf") == id)
    }

    /// Its tries, when they are counted.
    #[must_use]
    pub fn tries(&self) -> Option<Tries> {
        counted(&self.file).map(|(_, tries)| tries)
    }

    /// Whether safe-upgrade wrote it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.id().starts_with(OURS)
    }

    /// The file itself.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.volume.join("loader/entries").join(&self.file)
    }

    /// A file that it names, as this system sees it; `None` for a path that leads out of the volume.
    #[must_use]
    pub fn local(&self, path: &str) -> Option<PathBuf> {
        let path = path.replace('\\', "/");
        let plain = !path.split('/').any(|part| part == "..");
        plain.then(|| self.volume.join(path.trim_start_matches('/')))
    }

    /// The kernel and the initial RAM disks, as this system sees them; why not, when it boots something else than that.
    ///
    /// # Errors
    /// A sentence without the entry's name.
    pub fn files(&self) -> Result<(PathBuf, Vec<PathBuf>), String> {
        if !self.foreign.is_empty() {
            return Err(format!(
                "it has {}, which safe-upgrade does not understand",
                self.foreign.join(" and ")
            ));
        }
        let local = |path: &String| self.local(path).ok_or_else(|| format!("{path} leads out of its volume"));
        let kernel = self.linux.as_ref().ok_or("it names no kernel (linux)")?;
        let initrds: Vec<PathBuf> = self.initrds.iter().map(local).collect::<Result<_, _>>()?;
        if initrds.is_empty() {
            return Err("it names no initial RAM disk (initrd)".into());
        }
        Ok((local(kernel)?, initrds))
    }
}

/// The settings in a file of the boot loader's: a key, white space, a value, on a line; `#` begins a comment.
pub(super) fn settings(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let (key, value) = line.split_once([' ', '\t'])?;
        let value = value.trim();
        let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        (!key.starts_with('#') && !bare.is_empty()).then_some((key, bare))
    })
}

/// `NAME+LEFT.conf` or `NAME+LEFT-DONE.conf`.
fn counted(file: &str) -> Option<(&str, Tries)> {
    let (stem, counter) = file.strip_suffix(".conf")?.rsplit_once('+')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
    let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
    Some((stem, Tries { left: number(left)?, done: number(done)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kernel-install 252 of Debian 12 writes it.
    const TEXT: &str = include_str!("../../../tests/fixtures/boot/systemd-boot-entry.conf");

    fn entry() -> Entry {
        Entry::parse(
            Path::new("/boot/efi"),
            "5afe0000000000000000000000001ab0-6.1.0-50-cloud-amd64.conf",
            TEXT,
        )
    }

    #[test]
    fn an_entry_of_kernel_install() {
        let entry = entry();
        assert_eq!(entry.sort_key.as_deref(), Some("debian"));
        assert_eq!(entry.version.as_deref(), Some("6.1.0-50-cloud-amd64"));
        assert!(entry.arguments.contains(&"rootflags=subvol=@".to_owned()), "{entry:?}");
        let (kernel, initrds) = entry.files().unwrap();
        let directory = "/boot/efi/5afe0000000000000000000000001ab0/6.1.0-50-cloud-amd64";
        assert_eq!(kernel, Path::new(directory).join("linux"));
        assert_eq!(initrds, [Path::new(directory).join("initrd.img-6.1.0-50-cloud-amd64")]);
        assert_eq!(Entry::parse(&entry.volume, &entry.file, &entry.text()), entry);
    }

    #[test]
    fn what_can_not_be_copied_says_why() {
        let volume = Path::new("/boot/efi");
        for (text, word) in [
            ("efi /shell.efi\n", "efi"),
            ("title x\n", "no kernel"),
            ("linux /a\n", "no initial RAM disk"),
            ("linux /../a\ninitrd /b\n", "leads out"),
            ("linux /a\ninitrd /b\ndevicetree /c\n", "devicetree"),
        ] {
            let why = Entry::parse(volume, "x.conf", text).files().unwrap_err();
            assert!(why.contains(word), "{text}: {why}");
        }
    }

    #[test]
    fn names_with_tries() {
        let called = |file: &str| Entry::parse(Path::new("/efi"), file, "");
        assert_eq!(called("a-1+3.conf").tries(), Some(Tries { left: 3, done: 0 }));
        assert_eq!(called("a-1+0-2.conf").tries(), Some(Tries { left: 0, done: 2 }));
        assert_eq!(called("a-1.conf").tries(), None);
        assert_eq!(called("a+b.conf").tries(), None);
        assert!(
            called("A-1+2-1.conf").is_called("a-1.conf") && called("A-1+2-1.conf").is_called("a-1+2-1.conf")
        );
        assert!(!called("A-1+2-1.conf").is_called("a-1+1.conf"));
        assert!(called("Safe-Upgrade-x.conf").is_ours() && !called("a-1.conf").is_ours());
    }

    #[test]
    fn lines_as_the_boot_loader_reads_them() {
        let found: Vec<_> = settings("# default a\ndefault\n timeout\t3\ntitle \"a b\"\n").collect();
        assert_eq!(found, [("timeout", "3"), ("title", "a b")]);
    }
}
