//! Where a member wants to be: its name, made a path of the tree or refused.

/// The tree that is verified, within the archive.
#[derive(Debug, Clone)]
pub(super) struct Places {
    strip: Vec<u8>,
    absolute: bool,
    longest: usize,
    deepest: usize,
}

/// A name that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A path of the tree; empty for the tree itself.
    Inside(Vec<u8>),
    /// A directory above the tree.
    Above,
    /// Somewhere else in the archive.
    Outside,
}

impl Places {
    /// The tree is what is below `strip`, or everything when that is empty. With a leading slash the archive holds absolute
    /// names.
    pub(super) fn new(strip: &[u8], longest: usize, deepest: usize) -> Self {
        let parts: Vec<&[u8]> = strip.split(|&byte| byte == b'/').filter(|part| !is_nothing(part)).collect();
        Self { strip: parts.join(&b'/'), absolute: strip.first() == Some(&b'/'), longest, deepest }
    }

    /// Finds the place of a name; the error says what is wrong with it.
    pub(super) fn of(&self, name: &[u8]) -> Result<Place, String> {
        if name.len() > self.longest {
            return Err(format!("a name of {} bytes, more than {} are allowed", name.len(), self.longest));
        }
        if name.contains(&0) {
            return Err("a name with a NUL".to_owned());
        }
        let Some(name) = self.relative(name) else { return Err("an absolute name".to_owned()) };
        let mut path = Vec::with_capacity(name.len());
        let mut depth = 0;
        for part in name.strip_suffix(b"/").unwrap_or(name).split(|&byte| byte == b'/') {
            match part {
                b"" if name.is_empty() && self.absolute => {}
                b"" => return Err("a name with an empty component".to_owned()),
                b"." => {}
                b".." => return Err("a name with \"..\"".to_owned()),
                _ => {
                    if depth > 0 {
                        path.push(b'/');
                    }
                    path.extend_from_slice(part);
                    depth += 1;
                }
            }
        }
        if depth > self.deepest {
            return Err(format!("a name of {depth} components, more than {} are allowed", self.deepest));
        }
        Ok(self.below_strip(path))
    }

    /// Whether a name is refused for no other reason than that the archive was not said to hold absolute ones.
    pub(super) fn is_absolute_by_surprise(&self, name: &[u8]) -> bool {
        !self.absolute && name.first() == Some(&b'/')
    }

    fn relative<'n>(&self, name: &'n [u8]) -> Option<&'n [u8]> {
        match name.strip_prefix(b"/") {
            Some(rest) if self.absolute => Some(rest),
            Some(_) => None,
            None => Some(name),
        }
    }

    fn below_strip(&self, path: Vec<u8>) -> Place {
        if self.strip.is_empty() {
            return Place::Inside(path);
        }
        match path.strip_prefix(&self.strip[..]) {
            Some([]) => Place::Inside(Vec::new()),
            Some([b'/', rest @ ..]) => Place::Inside(rest.to_vec()),
            _ if crate::manifest::entry::is_at_or_below(&self.strip, &path) => Place::Above,
            _ => Place::Outside,
        }
    }
}

fn is_nothing(part: &[u8]) -> bool {
    matches!(part, b"" | b".")
}

/// What is wrong with the target of a symlink.
pub(super) fn bad_target(target: &[u8], longest: usize) -> Option<String> {
    if target.is_empty() {
        return Some("a symlink to nothing".to_owned());
    }
    if target.contains(&0) {
        return Some("a symlink with a NUL in its target".to_owned());
    }
    (target.len() > longest).then(|| format!("a symlink with a target of {} bytes", target.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(strip: &str, name: &[u8]) -> Result<Place, String> {
        Places::new(strip.as_bytes(), 40, 4).of(name)
    }

    #[test]
    fn honest_names_have_a_place() {
        let inside = |path: &str| Ok(Place::Inside(path.into()));
        for (strip, name, wanted) in [
            ("", &b"a/b"[..], inside("a/b")),
            ("", b"./a/b/", inside("a/b")),
            ("", b"./", inside("")),
            ("", b".", inside("")),
            ("", b"a/./b", inside("a/b")),
            ("srv/www", b"srv/www/x", inside("x")),
            ("./srv/www/", b"./srv/www/", inside("")),
            ("srv/www", b"srv/", Ok(Place::Above)),
            ("srv/www", b"./", Ok(Place::Above)),
            ("srv/www", b"srv/www2/x", Ok(Place::Outside)),
            ("/srv", b"/srv/x", inside("x")),
            ("/srv", b"srv/x", inside("x")),
            ("/", b"/srv/x", inside("srv/x")),
            ("/", b"/", inside("")),
        ] {
            assert_eq!(of(strip, name), wanted, "{strip} {}", name.escape_ascii());
        }
    }

    #[test]
    fn names_that_nobody_honest_writes_are_refused() {
        let long = [b'a'; 41];
        for name in [
            &b"/etc/passwd"[..],
            b"..",
            b"a/../b",
            b"a/..",
            b"a\0b",
            b"a//b",
            b"a//",
            b"",
            b"//a",
            b"1/2/3/4/5",
            &long,
        ] {
            assert!(of("", name).is_err(), "{}", name.escape_ascii());
        }
        assert!(of("/", b"//a").is_err());
    }
}
