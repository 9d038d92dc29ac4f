//! Which of two Debian versions is newer (deb-version(7)).

use std::cmp::Ordering;

/// Compares two versions as dpkg does; nonsense has some order too.
#[must_use]
pub fn compare(one: &str, other: &str) -> Ordering {
    let ((epoch, one), (other_epoch, other)) = (epoch(one), epoch(other));
    let ((upstream, revision), (other_upstream, other_revision)) = (revision(one), revision(other));
    epoch
        .cmp(&other_epoch)
        .then_with(|| part(upstream.as_bytes(), other_upstream.as_bytes()))
        .then_with(|| part(revision.as_bytes(), other_revision.as_bytes()))
}

fn epoch(version: &str) -> (u64, &str) {
    match version.split_once(':') {
        Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
        None => (0, version),
    }
}

fn revision(version: &str) -> (&str, &str) {
    version.rsplit_once('-').unwrap_or((version, ""))
}

/// In turn a run without digits, in which `~` comes before the end and letters before all else, and a number.
fn part(mut one: &[u8], mut other: &[u8]) -> Ordering {
    while !one.is_empty() || !other.is_empty() {
        loop {
            let next = |text: &[u8]| text.first().copied().filter(|byte| !byte.is_ascii_digit());
            let (left, right) = (next(one), next(other));
            if left.is_none() && right.is_none() {
                break;
            }
            let order = weight(left).cmp(&weight(right));
            if order != Ordering::Equal {
                return order;
            }
            (one, other) = (&one[1..], &other[1..]);
        }
        let (left, right);
        (left, one) = number(one);
        (right, other) = number(other);
        let order = left.len().cmp(&right.len()).then_with(|| left.cmp(right));
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

fn weight(byte: Option<u8>) -> u16 {
    match byte {
        Some(b'~') => 0,
        None => 1,
        Some(byte) if byte.is_ascii_alphabetic() => 2 + u16::from(byte),
        Some(byte) => 1000 + u16::from(byte),
    }
}

/// The digits at the beginning, without leading zeros, and the rest.
fn number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let zeros = digits.iter().position(|&byte| byte != b'0').unwrap_or(digits.len());
    (&digits[zeros..], rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_dpkg_says() {
        // Each is newer than the one before; every pair was given to `dpkg --compare-versions`.
        let order = [
            "1.0~~",
            "1.0~rc1-1",
            "1.0",
            "1.0-1~deb12u1",
            "1.0-1",
            "1.0-1+b1",
            "1.0a",
            "1.0+dfsg-1",
            "1.0.1",
            "1.2",
            "1.10",
            "2024-01",
            "1:0.1",
            "2:0",
        ];
        for (at, one) in order.iter().enumerate() {
            for (other_at, other) in order.iter().enumerate() {
                assert_eq!(compare(one, other), at.cmp(&other_at), "{one} and {other}");
            }
        }
        assert_eq!(compare("1.00", "1.0"), Ordering::Equal);
        assert_eq!(compare("1.0-0", "1.0"), Ordering::Equal);
    }
}
