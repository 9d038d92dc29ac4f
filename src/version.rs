//! Versions of Debian packages: in order, and their upstream part.

use std::cmp::Ordering;

/// Compares two versions as dpkg does: epoch, upstream part, revision (deb-version(7)).
#[must_use]
pub fn compare(one: &str, other: &str) -> Ordering {
    let (a, b) = (split(one), split(other));
    a.0.cmp(&b.0).then_with(|| fragment(a.1, b.1)).then_with(|| fragment(a.2, b.2))
}

/// The upstream part: `1.22.1` of `2:1.22.1-9+deb12u3`.
#[must_use]
pub fn upstream(version: &str) -> &str {
    split(version).1
}

/// The first `depth` numbers of the upstream part: `[3, 11]` of `3.11.2-1+b1` for 2. Fewer when there are fewer.
#[must_use]
pub fn leading(version: &str, depth: usize) -> Vec<u64> {
    let numbers = upstream(version).split('.').map_while(|part| {
        let digits = &part[..part.find(|character: char| !character.is_ascii_digit()).unwrap_or(part.len())];
        digits.parse().ok()
    });
    numbers.take(depth).collect()
}

/// [`leading`] as people write it: `3.11`.
#[must_use]
pub fn short(version: &str, depth: usize) -> String {
    leading(version, depth).iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

fn split(version: &str) -> (u64, &str, &str) {
    let (epoch, rest) = match version.split_once(':') {
        Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
        None => (0, version),
    };
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// Alternates between what is no digit, where `~` comes before everything and letters before the rest, and numbers.
fn fragment(one: &str, other: &str) -> Ordering {
    let (mut a, mut b) = (one.as_bytes(), other.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        let (text_a, text_b) = (take(&mut a, false), take(&mut b, false));
        for at in 0..text_a.len().max(text_b.len()) {
            match weight(text_a.get(at)).cmp(&weight(text_b.get(at))) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
        }
        let (number_a, number_b) = (zeros_off(take(&mut a, true)), zeros_off(take(&mut b, true)));
        match number_a.len().cmp(&number_b.len()).then_with(|| number_a.cmp(number_b)) {
            Ordering::Equal => {}
            unequal => return unequal,
        }
    }
    Ordering::Equal
}

fn take<'b>(bytes: &mut &'b [u8], digits: bool) -> &'b [u8] {
    let end = bytes.iter().position(|byte| byte.is_ascii_digit() != digits).unwrap_or(bytes.len());
    let (taken, rest) = bytes.split_at(end);
    *bytes = rest;
    taken
}

fn zeros_off(digits: &[u8]) -> &[u8] {
    &digits[digits.iter().position(|byte| *byte != b'0').unwrap_or(digits.len())..]
}

/// Nothing left weighs 0: more than `~`, less than a letter.
fn weight(byte: Option<&u8>) -> i32 {
    match byte {
        None => 0,
        Some(b'~') => -1,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
        Some(byte) => i32::from(*byte) + 256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each pair was put to `dpkg --compare-versions ... lt`.
    #[test]
    fn the_order_of_dpkg() {
        for (less, more) in [
            ("1.0", "1.0-1"),
            ("1.0~rc1", "1.0"),
            ("1.0", "1.0+b1"),
            ("1.9", "1.10"),
            ("9:1", "10:0"),
            ("1:9.2p1-2+deb12u6", "1:9.2p1-2+deb12u7"),
            ("10.11.19-0+deb12u1", "11.8.9-0+deb13u1"),
            ("1.0a", "1.0+"),
            ("2.36-9+deb12u14", "2.41-12+deb13u5"),
        ] {
            assert_eq!(compare(less, more), Ordering::Less, "{less} {more}");
            assert_eq!(compare(more, less), Ordering::Greater, "{less} {more}");
        }
        assert_eq!(compare("0:1.0-0", "1.0"), Ordering::Equal);
        assert_eq!(compare("1.01", "1.1"), Ordering::Equal);
    }

    #[test]
    fn the_upstream_part() {
        assert_eq!(upstream("2:1.22.1-9+deb12u3"), "1.22.1");
        assert_eq!(leading("1:2.3.19.1+dfsg1-2.1", 2), [2, 3]);
        assert_eq!(short("3.11.2-1+b1", 2), "3.11");
        assert_eq!(short("15+248", 2), "15");
        assert_eq!(short("5:7.0.15-1~deb12u1", 1), "7");
    }
}
