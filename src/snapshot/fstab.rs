//! How the root will be mounted at the next boot: fstab(5) and the kernel's command line. Pure.

/// One line of fstab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is mounted.
    pub point: String,
    /// `btrfs`, `ext4`, ...
    pub fs_type: String,
    /// The mount options.
    pub options: Vec<String>,
}

/// The subvolume that a set of mount options names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// By name (without the leading slash that some write).
    pub name: Option<String>,
    /// By id.
    pub id: Option<String>,
}

/// Understands an fstab. Lines with fewer than four fields are passed over, as mount(8) gives them no options either.
#[must_use]
pub fn parse(text: &str) -> Vec<Entry> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            Some(Entry {
                point: unescape(fields.next()?),
                fs_type: fields.next()?.to_owned(),
                options: fields.next()?.split(',').map(unescape).collect(),
            })
        })
        .collect()
}

/// What fstab says about the root.
#[must_use]
pub fn root_choice(text: &str) -> Choice {
    // mount(8) takes the last of several lines for one mount point.
    let entry = parse(text).into_iter().rfind(|entry| entry.point == "/");
    choice(entry.iter().flat_map(|entry| entry.options.iter().map(String::as_str)))
}

/// What the kernel's command line says about the root: all `rootflags=` on it.
#[must_use]
pub fn cmdline_choice(text: &str) -> Choice {
    let flags = text.split_ascii_whitespace().filter_map(|word| word.strip_prefix("rootflags="));
    choice(flags.flat_map(|flags| flags.trim_matches('"').split(',')))
}

fn choice<'o>(options: impl Iterator<Item = &'o str>) -> Choice {
    let mut choice = Choice::default();
    for option in options {
        if let Some(name) = option.strip_prefix("subvol=") {
            choice.name = Some(name.trim_start_matches('/').to_owned());
        } else if let Some(id) = option.strip_prefix("subvolid=") {
            choice.id = Some(id.to_owned());
        }
    }
    choice
}

/// fstab writes a space as `\040` and a tab as `\011`.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(name: Option<&str>, id: Option<&str>) -> Choice {
        Choice { name: name.map(Into::into), id: id.map(Into::into) }
    }

    #[test]
    fn what_debian_and_ubuntu_write() {
        let debian = "# /etc/fstab\nUUID=x /  btrfs defaults,subvol=@rootfs 0 0\nUUID=y /boot/efi vfat umask=0077 0 1\n";
        assert_eq!(root_choice(debian), chosen(Some("@rootfs"), None));
        let ubuntu = "/dev/disk/by-uuid/x\t/\tbtrfs\tdefaults,subvolid=256,subvol=/@\t0\t1";
        assert_eq!(root_choice(ubuntu), chosen(Some("@"), Some("256")));
    }

    #[test]
    fn no_word_on_the_root() {
        assert_eq!(root_choice("#UUID=x / btrfs subvol=@ 0 0\n\nproc /proc proc\n"), Choice::default());
        assert_eq!(parse("a /srv/my\\040disk ext4 ro")[0].point, "/srv/my disk");
    }

    #[test]
    fn the_command_line() {
        let line = "BOOT_IMAGE=/@/boot/vmlinuz root=UUID=x ro rootflags=subvol=@,subvolid=256 quiet";
        assert_eq!(cmdline_choice(line), chosen(Some("@"), Some("256")));
        assert_eq!(cmdline_choice("root=/dev/vda quiet"), Choice::default());
    }
}
