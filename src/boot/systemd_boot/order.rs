//! Which entry systemd-boot boots by itself: the sorting of the Boot Loader Specification, and the settings that come before it.

use std::cmp::Ordering;

use super::entry::Entry;

/// What names the default entry, the strongest first. Each is a pattern of the shell's kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins {
    /// The firmware's variable `LoaderEntryDefault`.
    pub variable: Option<String>,
    /// `default` in `loader.conf`.
    pub file: Option<String>,
    /// The variable `LoaderEntryLastBooted`, for who has `default @saved`.
    pub last_booted: Option<String>,
}

/// The entry that boots when nobody chooses one. `entries` are in the order of [`sort`].
#[must_use]
pub fn default<'e>(entries: &'e [Entry], pins: &Pins) -> Option<&'e Entry> {
    let last = |pin: &String| if pin == "@saved" { pins.last_booted.clone() } else { Some(pin.clone()) };
    let named = [&pins.variable, &pins.file].into_iter().flatten().filter_map(last);
    let mut found = named.filter_map(|pin| entries.iter().find(|entry| is_meant(entry, &pin)));
    found.next().or_else(|| entries.first())
}

/// Sorts entries as the boot loader's menu shows them: without tries last, those with a key first and by it, the newest version
/// first.
pub fn sort(entries: &mut [Entry]) {
    entries.sort_by(compare);
}

fn compare(a: &Entry, b: &Entry) -> Ordering {
    let used_up = |entry: &Entry| entry.tries().is_some_and(|tries| tries.left == 0);
    let version = |entry: &Entry| entry.version.clone().unwrap_or_default();
    let by_key = match (&a.sort_key, &b.sort_key) {
        (Some(key), Some(other)) => key
            .cmp(other)
            .then_with(|| a.machine_id.cmp(&b.machine_id))
            .then_with(|| compare_versions(&version(b), &version(a))),
        (has, other) => has.is_none().cmp(&other.is_none()),
    };
    used_up(a).cmp(&used_up(b)).then(by_key).then_with(|| compare_versions(&b.id(), &a.id()))
}

fn is_meant(entry: &Entry, pattern: &str) -> bool {
    let pattern = pattern.to_lowercase();
    entry.is_called(&pattern) || matches(pattern.as_bytes(), entry.id().as_bytes())
}

/// `*` is anything, `?` any one character, `[...]` one of these.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|skipped| matches(rest, &name[skipped..])),
        ([b'?', rest @ ..], [_, after @ ..]) => matches(rest, after),
        ([b'[', set @ ..], [one, after @ ..]) => match set.iter().position(|byte| *byte == b']') {
            Some(end) => in_set(&set[..end], *one) && matches(&set[end + 1..], after),
            None => *one == b'[' && matches(set, after),
        },
        ([wanted, rest @ ..], [one, after @ ..]) => wanted == one && matches(rest, after),
        _ => false,
    }
}

fn in_set(set: &[u8], one: u8) -> bool {
    match set {
        [from, b'-', to, rest @ ..] => (*from..=*to).contains(&one) || in_set(rest, one),
        [first, rest @ ..] => *first == one || in_set(rest, one),
        [] => false,
    }
}

/// Compares two versions by the rules of the UAPI group's version format: `~` is older than the end, the end older than anything
/// else, then `-`, `^` and `.` in this order, numbers by value and newer than words, words by their bytes.
#[must_use]
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        (a, b) = (skip_others(a), skip_others(b));
        if let Some(order) = separator(&mut a, &mut b, b'~') {
            return order;
        }
        if a.is_empty() || b.is_empty() {
            return (!a.is_empty()).cmp(&!b.is_empty());
        }
        for byte in [b'-', b'^', b'.'] {
            if let Some(order) = separator(&mut a, &mut b, byte) {
                return order;
            }
        }
        let digits = |text: &[u8]| text.first().is_some_and(u8::is_ascii_digit);
        let order = if digits(a) || digits(b) {
            let (left, right) = (split(&mut a, u8::is_ascii_digit), split(&mut b, u8::is_ascii_digit));
            compare_numbers(left, right)
        } else {
            let letter = u8::is_ascii_alphabetic;
            split(&mut a, letter).cmp(split(&mut b, letter))
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// When only one has the separator it is the older; when both have it, it is taken off.
fn separator(a: &mut &[u8], b: &mut &[u8], byte: u8) -> Option<Ordering> {
    let has = |text: &[u8]| text.first() == Some(&byte);
    match (has(a), has(b)) {
        (true, true) => {
            (*a, *b) = (&a[1..], &b[1..]);
            None
        }
        (false, false) => None,
        (has, other) => Some(other.cmp(&has)),
    }
}

/// No number at all is older than any.
fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    let value = |digits: &[u8]| digits.iter().position(|digit| *digit != b'0').unwrap_or(digits.len());
    let (left, right) = (&a[value(a)..], &b[value(b)..]);
    (!a.is_empty()).cmp(&!b.is_empty()).then(left.len().cmp(&right.len())).then_with(|| left.cmp(right))
}

fn split<'t>(text: &mut &'t [u8], belongs: impl Fn(&u8) -> bool) -> &'t [u8] {
    let end = text.iter().position(|byte| !belongs(byte)).unwrap_or(text.len());
    let (part, rest) = text.split_at(end);
    *text = rest;
    part
}

fn skip_others(text: &[u8]) -> &[u8] {
    let counts = |byte: &u8| byte.is_ascii_alphanumeric() || b"~-^.".contains(byte);
    &text[text.iter().position(counts).unwrap_or(text.len())..]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn entry(file: &str, text: &str) -> Entry {
        Entry::parse(Path::new("/boot/efi"), file, text)
    }

    fn sorted(entries: &[(&str, &str)]) -> Vec<String> {
        let mut entries: Vec<Entry> = entries.iter().map(|(file, text)| entry(file, text)).collect();
        sort(&mut entries);
        entries.into_iter().map(|entry| entry.file).collect()
    }

    /// The examples of the specification, from the oldest to the newest.
    #[test]
    fn versions_as_specified() {
        for ascending in [
            &["~rc1", "", "1"][..],
            &[
                "122.1",
                "123~rc1-1",
                "123",
                "123-a",
                "123-a.1",
                "123-1",
                "123-1.1",
                "123^post1",
                "123.a-1",
                "123.1-1",
                "123a-1",
                "124-1",
            ],
            &["6.1.0-9-amd64", "6.1.0-40-amd64", "6.12.48+deb13-amd64", "6.12.63+deb13-amd64"],
            &["a", "b", "b1"],
        ] {
            for (index, older) in ascending.iter().enumerate() {
                assert_eq!(compare_versions(older, older), Ordering::Equal);
                for newer in &ascending[index + 1..] {
                    assert_eq!(compare_versions(older, newer), Ordering::Less, "{older} {newer}");
                    assert_eq!(compare_versions(newer, older), Ordering::Greater, "{newer} {older}");
                }
            }
        }
        assert_eq!(compare_versions("1.01", "1.1"), Ordering::Equal);
        assert_eq!(compare_versions("1_2", "12"), Ordering::Less);
    }

    #[test]
    fn the_newest_kernel_is_first() {
        let text = |version: &str| format!("sort-key debian\nmachine-id 5a\nversion {version}\n");
        let (old, new) = (text("6.1.0-40-amd64"), text("6.12.48+deb13-amd64"));
        let order = sorted(&[("safe-upgrade-x-old.conf", ""), ("5a-6.1.conf", &old), ("5a-6.12.conf", &new)]);
        assert_eq!(order, ["5a-6.12.conf", "5a-6.1.conf", "safe-upgrade-x-old.conf"]);
        let without = sorted(&[("5a-6.1.0-9.conf", ""), ("5a-6.12.conf", ""), ("5a-6.1.0-40+0-3.conf", "")]);
        assert_eq!(without, ["5a-6.12.conf", "5a-6.1.0-9.conf", "5a-6.1.0-40+0-3.conf"]);
        assert_eq!(sorted(&[("b.conf", "sort-key b\n"), ("a.conf", "sort-key a\n")]), ["a.conf", "b.conf"]);
    }

    #[test]
    fn the_strongest_pin_counts() {
        let entries = [entry("b-2+3.conf", ""), entry("b-1.conf", ""), entry("a.conf", "")];
        let pins = |variable: Option<&str>, file: Option<&str>| Pins {
            variable: variable.map(str::to_owned),
            file: file.map(str::to_owned),
            last_booted: Some("b-1.conf".into()),
        };
        for (variable, file, wanted) in [
            (None, None, "b-2+3.conf"),
            (None, Some("a.conf"), "a.conf"),
            (None, Some("B-*"), "b-2+3.conf"),
            (Some("b-2.conf"), Some("a.conf"), "b-2+3.conf"),
            (Some("gone.conf"), Some("[a]?conf"), "a.conf"),
            (None, Some("@saved"), "b-1.conf"),
            (None, Some("gone"), "b-2+3.conf"),
        ] {
            let found = default(&entries, &pins(variable, file)).unwrap();
            assert_eq!(found.file, wanted, "{variable:?} {file:?}");
        }
        assert_eq!(default(&[], &Pins::default()), None);
    }
}
