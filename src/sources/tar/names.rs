//! Users and groups by name, as access control lists in archives have them.

use std::collections::HashMap;
use std::path::Path;

use crate::manifest::acl::Who;

/// The most names that are kept of each kind.
const MOST: usize = 100_000;

/// Who has which number on this machine.
#[derive(Debug, Default)]
pub(super) struct Names {
    users: HashMap<Vec<u8>, u32>,
    groups: HashMap<Vec<u8>, u32>,
}

impl Names {
    /// Reads the machine's own lists. One that cannot be read has no names, and a list that needs one of them is then not
    /// understood.
    pub(super) fn of_machine() -> Self {
        let read = |path: &str| numbers(&std::fs::read(Path::new(path)).unwrap_or_default());
        Self { users: read("/etc/passwd"), groups: read("/etc/group") }
    }

    /// The number of a name.
    pub(super) fn number(&self, who: Who, name: &[u8]) -> Option<u32> {
        let names = match who {
            Who::User => &self.users,
            Who::Group => &self.groups,
        };
        names.get(name).copied()
    }
}

/// `name:password:number:...`, a line each; the first of equal names counts.
fn numbers(text: &[u8]) -> HashMap<Vec<u8>, u32> {
    let mut names = HashMap::new();
    for line in text.split(|&byte| byte == b'\n').take(MOST) {
        let mut fields = line.split(|&byte| byte == b':');
        let (name, number) = (fields.next(), fields.nth(1));
        let number = number.and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
        if let (Some(name), Some(number)) = (name, number) {
            names.entry(name.to_vec()).or_insert(number);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_number_of_its_third_field() {
        let names = numbers(
            b"root:x:0:0:root:/root:/bin/bash\n# comment\nbad:x\nlisa:x:1000:1000::/:\nlisa:x:7::::\n",
        );
        assert_eq!(
            (names.get(&b"root"[..]), names.get(&b"lisa"[..]), names.len()),
            (Some(&0), Some(&1000), 2)
        );
    }
}
