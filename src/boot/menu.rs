//! Reading GRUB's menu: which entries there are, and what each of them boots.
//!
//! Only as much of GRUB's script language as `grub-mkconfig` writes is understood; an entry that uses more of it can be
//! listed, but what it boots is an error that names the line.

mod script;

use script::{Command, Word};

/// Commands that load a kernel.
const LINUX: [&str; 3] = ["linux", "linuxefi", "linux16"];
/// Commands that load initial RAM disks.
const INITRD: [&str; 3] = ["initrd", "initrdefi", "initrd16"];
/// Lines that remember something for the next boot; nothing of ours may do that.
const REMEMBERS: [&str; 4] = ["savedefault", "recordfail", "initrdfail", "save_env"];
/// Arguments that boot into something else than the whole system.
const NOT_WHOLE: [&str; 7] = ["single", "s", "S", "1", "recovery", "emergency", "rescue"];

/// A menu that is not what GRUB could read either, or an entry that says more than we understand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the boot menu: {problem}")]
pub struct MenuError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// One entry of a menu, also one inside a submenu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What the menu shows.
    pub title: String,
    /// The name by which it can be chosen.
    pub id: Option<String>,
    /// Where it starts, from 1.
    pub line: usize,
    /// The lines between its braces, without indentation; a line that goes on after a backslash is one line.
    pub body: Vec<String>,
    commands: Vec<Command>,
}

/// What an entry boots: as it was read, or as a block of ours shall have it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Boots {
    /// The lines before and beside the kernel's: drivers, `search` and the like.
    pub preamble: Vec<String>,
    /// The kernel, as GRUB sees it.
    pub kernel: String,
    /// The kernel's arguments, word by word, without quotes.
    pub arguments: Vec<String>,
    /// The initial RAM disks, as GRUB sees them.
    pub initrds: Vec<String>,
}

/// All entries of a menu in their order.
///
/// # Errors
/// When braces or quotes are not closed.
pub fn parse(text: &str) -> Result<Vec<Entry>, MenuError> {
    let found = script::entries(text)?;
    Ok(found.into_iter().map(entry).collect())
}

/// The first entry that boots the whole system with this kernel (`uname -r`).
///
/// # Errors
/// When there is none, and one of the entries could not be understood.
pub fn entry_for<'e>(kernel: &str, entries: &'e [Entry]) -> Result<Option<(&'e Entry, Boots)>, MenuError> {
    let wanted = format!("vmlinuz-{kernel}");
    let mut not_understood = None;
    for entry in entries {
        match entry.boots() {
            Ok(Some(boots)) if boots.is_whole() && boots.kernel_name() == wanted => {
                return Ok(Some((entry, boots)));
            }
            Ok(_) => {}
            Err(error) => not_understood = not_understood.or(Some(error)),
        }
    }
    not_understood.map_or(Ok(None), Err)
}

/// Why a menu has no entry that boots the whole system with this kernel; `None` when it has one.
#[must_use]
pub fn lacks_entry(kernel: &str, text: &str) -> Option<String> {
    match parse(text).and_then(|entries| Ok(entry_for(kernel, &entries)?.is_some())) {
        Ok(true) => None,
        Ok(false) => Some(format!("no entry boots the whole system with the kernel that runs, {kernel}")),
        Err(error) => Some(error.to_string()),
    }
}

/// The first entry that boots a whole system: what a fresh menu boots when nobody chooses.
///
/// # Errors
/// When an entry before it could not be understood: it could be the one.
pub fn first(entries: &[Entry]) -> Result<Option<(&Entry, Boots)>, MenuError> {
    for entry in entries {
        match entry.boots()? {
            Some(boots) if boots.is_whole() => return Ok(Some((entry, boots))),
            _ => {}
        }
    }
    Ok(None)
}

impl Entry {
    /// What it boots; `None` when it loads no kernel (firmware settings, another loader).
    ///
    /// # Errors
    /// Names the line that we do not understand.
    pub fn boots(&self) -> Result<Option<Boots>, MenuError> {
        let mut linux = self.commands.iter().filter(|command| LINUX.contains(&command.name()));
        let Some(command) = linux.next() else { return Ok(None) };
        if let Some(second) = linux.next() {
            return Err(second.error("a second kernel in one entry"));
        }
        let mut words = fixed(command)?;
        if words.is_empty() {
            return Err(command.error("no kernel"));
        }
        let kernel = words.remove(0);
        let mut initrds = Vec::new();
        for command in self.commands.iter().filter(|command| INITRD.contains(&command.name())) {
            initrds.extend(fixed(command)?);
        }
        let preamble = self.body.iter().filter(|line| is_preamble(line)).cloned().collect();
        Ok(Some(Boots { preamble, kernel, arguments: words, initrds }))
    }
}

impl Boots {
    /// Whether it boots the whole system, not a shell for repairs.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.arguments.iter().any(|word| {
            NOT_WHOLE.contains(&word.as_str())
                || word
                    .strip_prefix("systemd.unit=")
                    .is_some_and(|unit| unit.starts_with("rescue") || unit.starts_with("emergency"))
        })
    }

    /// The kernel's file name.
    #[must_use]
    pub fn kernel_name(&self) -> &str {
        self.kernel.rsplit('/').next().unwrap_or(&self.kernel)
    }
}

fn entry(found: script::Found) -> Entry {
    let mut words = found.head.into_iter().skip(1);
    let mut title = None;
    let mut id = None;
    while let Some(word) = words.next() {
        match word.text.as_str() {
            "$menuentry_id_option" | "${menuentry_id_option}" | "--id" => {
                id = words.next().map(|word| word.text);
            }
            "--class" | "--users" | "--hotkey" | "--source" => drop(words.next()),
            option if option.starts_with("--") => {
                if let Some(value) = option.strip_prefix("--id=") {
                    id = Some(value.to_owned());
                }
            }
            text => title = title.or_else(|| Some(text.to_owned())),
        }
    }
    Entry {
        title: title.unwrap_or_default(),
        id,
        line: found.line,
        body: found.body,
        commands: found.commands,
    }
}

fn is_preamble(line: &str) -> bool {
    let name = line.split_whitespace().next().unwrap_or_default();
    !line.is_empty()
        && !line.starts_with('#')
        && !LINUX.contains(&name)
        && !INITRD.contains(&name)
        && !REMEMBERS.contains(&name)
}

/// The words after the command, each of which must mean the same at any time.
fn fixed(command: &Command) -> Result<Vec<String>, MenuError> {
    let value = |word: &Word| match word.fixed {
        true => Ok(word.text.clone()),
        false => Err(command.error(&format!("{} depends on a variable that only GRUB knows", word.text))),
    };
    command.words.iter().skip(1).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> String {
        let path = format!("{}/tests/fixtures/boot/{name}.cfg", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn reads_what_grub_mkconfig_writes() {
        for (release, new, root) in
            [("bookworm", "6.1.0-40-amd64", "@"), ("trixie", "6.12.48+deb13-amd64", "@safe-upgrade-r1-root")]
        {
            for (layout, prefix) in [("inroot", format!("/{root}/boot")), ("ext4", String::new())] {
                for (shape, count) in [("submenu", 5), ("flat", 4)] {
                    let entries = parse(&fixture(&format!("{release}-{layout}-{shape}"))).unwrap();
                    let with_kernel = entries.iter().filter(|e| e.boots().unwrap().is_some()).count();
                    assert_eq!(with_kernel, count, "{release} {layout} {shape}");
                    let (entry, boots) = first(&entries).unwrap().unwrap();
                    assert!(entry.title.starts_with("Debian GNU/Linux"), "{}", entry.title);
                    assert!(entry.id.as_ref().unwrap().starts_with("gnulinux-"), "{:?}", entry.id);
                    assert_eq!(boots.kernel, format!("{prefix}/vmlinuz-{new}"));
                    assert_eq!(boots.initrds, [format!("{prefix}/initrd.img-{new}")]);
                    assert_eq!(
                        boots.arguments,
                        [
                            "root=UUID=5f3e0c1a-7d42-4b6e-9a10-c0ffee000001",
                            "ro",
                            &format!("rootflags=subvol={root}"),
                            "console=ttyS0",
                            "quiet"
                        ]
                    );
                    assert_eq!(boots.preamble[0], "load_video");
                    assert!(boots.preamble.iter().any(|line| line.starts_with("search --no-floppy")));
                }
            }
        }
    }

    #[test]
    fn finds_the_kernel_that_runs_and_never_its_recovery() {
        let entries = parse(&fixture("bookworm-inroot-submenu")).unwrap();
        let (entry, boots) = entry_for("6.1.0-39-amd64", &entries).unwrap().unwrap();
        assert_eq!(entry.title, "Debian GNU/Linux, with Linux 6.1.0-39-amd64");
        assert!(boots.is_whole());
        assert!(entry_for("6.1.0-3", &entries).unwrap().is_none());
        let entries = parse(&fixture("trixie-ext4-flat")).unwrap();
        assert!(entries.iter().any(|entry| entry.title == "UEFI Firmware Settings"));
    }

    #[test]
    fn a_menu_without_an_entry_says_why() {
        let text = fixture("bookworm-inroot-submenu");
        assert_eq!(lacks_entry("6.1.0-39-amd64", &text), None);
        assert!(lacks_entry("6.1.0-3", &text).unwrap().contains("with the kernel that runs, 6.1.0-3"));
        let twice = "menuentry 'a' {\n if true; then\n linux /vmlinuz-1 root=PARTUUID=x\n else\n linux /vmlinuz-1 root=UUID=y\n fi\n}\n";
        assert!(lacks_entry("1", twice).unwrap().contains("a second kernel in one entry"));
        assert!(lacks_entry("1", "menuentry 'a' {\n").is_some());
    }

    #[test]
    fn quotes_escapes_and_lines_that_go_on() {
        let text = "menuentry \"a \\\"b\\\" c\" --id=x {\n linux /k \\\n  a='b c' \"d e\" f\\ g\n initrd /i /j # last\n}";
        let entries = parse(text).unwrap();
        let boots = entries[0].boots().unwrap().unwrap();
        assert_eq!((entries[0].title.as_str(), entries[0].id.as_deref()), ("a \"b\" c", Some("x")));
        assert_eq!(boots.arguments, ["a=b c", "d e", "f g"]);
        assert_eq!(boots.initrds, ["/i", "/j"]);
        assert!(boots.preamble.is_empty(), "{:?}", boots.preamble);
    }

    #[test]
    fn what_only_grub_knows_is_an_error_with_its_line() {
        let text = "menuentry 'iso' {\n set isofile=/x\n linux (loop)/k iso=$isofile\n}\nmenuentry 'b' {\nlinux /vmlinuz-1\n}\n";
        let entries = parse(text).unwrap();
        assert_eq!(entries[0].boots().unwrap_err().line, 3);
        assert_eq!(first(&entries).unwrap_err().line, 3);
        assert!(entry_for("1", &entries).unwrap().is_some());
        assert_eq!(entry_for("2", &entries).unwrap_err().line, 3);
        assert_eq!(parse("a\nmenuentry 'x' {\n linux /k\n").unwrap_err().line, 2);
        assert_eq!(parse("echo 'x\n").unwrap_err().line, 1);
        assert_eq!(parse("echo x\n}\n").unwrap_err().line, 2);
        let two = "menuentry 'x' {\nif [ a = b ]; then linux /k; else\nlinux /l\nfi\n}";
        assert_eq!(parse(two).unwrap()[0].boots().unwrap_err().line, 3);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[a-z '\"\\\\${}#;\n/=-]{0,200}") {
            if let Ok(entries) = parse(&text) {
                for entry in entries {
                    drop(entry.boots());
                }
            }
        }
    }
}
