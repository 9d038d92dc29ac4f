//! Names of users and groups, from the files themselves: a program without shared libraries cannot ask the name service, so who is
//! only known to LDAP or systemd-homed has no name here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::format::Trailer;

/// The ids that own something in a tree.
#[derive(Debug, Default)]
pub(super) struct Owners {
    users: BTreeSet<u32>,
    groups: BTreeSet<u32>,
}

/// Ids that are remembered: a file system with more owners than this has no use for names.
const MOST: usize = 100_000;

impl Owners {
    pub(super) fn add(&mut self, user: u32, group: u32) {
        for (ids, id) in [(&mut self.users, user), (&mut self.groups, group)] {
            if ids.len() < MOST {
                ids.insert(id);
            }
        }
    }

    /// Their names on this machine, as far as `/etc/passwd` and `/etc/group` know them.
    pub(super) fn names(&self) -> (BTreeMap<u32, Vec<u8>>, BTreeMap<u32, Vec<u8>>) {
        // A hint: a machine without these files has no names.
        let read = |path: &str| std::fs::read(Path::new(path)).unwrap_or_default();
        (names(&read("/etc/passwd"), &self.users), names(&read("/etc/group"), &self.groups))
    }
}

/// passwd(5) and group(5) agree in what is first and third: `name:password:id:`. Of several names the first counts, as for getpwuid.
fn names(file: &[u8], wanted: &BTreeSet<u32>) -> BTreeMap<u32, Vec<u8>> {
    let mut names = BTreeMap::new();
    for line in file.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b':');
        let (Some(name), Some(id)) = (fields.next(), fields.nth(1)) else { continue };
        let Some(id) = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok()) else { continue };
        if !name.is_empty() && wanted.contains(&id) && names.len() < Trailer::MAX_NAMES {
            names.entry(id).or_insert_with(|| name.to_vec());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wanted_ids_have_names_and_the_first_counts() {
        let file = b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\n# odd\nshort\n+::::::\njo\xff:*:1000:\n:x:7:\nx:y:z:\n";
        let found = names(file, &BTreeSet::from([0, 7, 1000, 1001]));
        assert_eq!(found, BTreeMap::from([(0, b"root".to_vec()), (1000, b"jo\xff".to_vec())]));
    }

    #[test]
    fn this_machine_knows_root() {
        let mut owners = Owners::default();
        owners.add(0, 0);
        if !std::fs::read_to_string("/etc/passwd").is_ok_and(|text| text.starts_with("root:x:0:0:")) {
            return println!("skipped: this machine has no ordinary /etc/passwd");
        }
        assert_eq!(owners.names().0.get(&0), Some(&b"root".to_vec()));
    }
}
