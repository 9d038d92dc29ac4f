//! The environment in which Ubuntu's upgrader and everything that it starts asks nothing, reports nothing and opens no screen.

/// The variables, on top of `PATH`, `HOME` and `LC_ALL`.
///
/// `RELEASE_UPRADER_NO_APPORT` is no slip: jammy and noble read it spelt that way, resolute reads the right spelling.
/// `PYTHONUNBUFFERED` lets its output be seen as it is made: a download says nothing anywhere else.
pub const VARIABLES: [(&str, &str); 11] = [
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
    ("APT_LISTCHANGES_FRONTEND", "none"),
    ("RELEASE_UPGRADER_NO_APPORT", "1"),
    ("RELEASE_UPRADER_NO_APPORT", "1"),
    ("RELEASE_UPGRADER_NO_SCREEN", "1"),
    ("NEEDRESTART_SUSPEND", "1"),
    ("UCF_FORCE_CONFFOLD", "1"),
    ("PYTHONUNBUFFERED", "1"),
    ("PAGER", "cat"),
    ("TERM", "dumb"),
];

/// Keeps sources of mirrors that are not on Ubuntu's list.
pub const ALLOW_THIRD_PARTY: (&str, &str) = ("RELEASE_UPGRADER_ALLOW_THIRD_PARTY", "1");

/// The upgrader of the old release. `-m` and `-e` are gone in 26.04 and are never given.
pub const PROGRAM: &str = "do-release-upgrade";

/// Its argument: the view that asks nothing. Not `--quiet`: what it prints is all that is known when it does not start.
pub const ARGUMENTS: [&str; 1] = ["--frontend=DistUpgradeViewNonInteractive"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_and_no_removed_flags() {
        let names: Vec<&str> = VARIABLES.iter().map(|(name, _)| *name).collect();
        assert!(
            names.contains(&"RELEASE_UPGRADER_NO_APPORT") && names.contains(&"RELEASE_UPRADER_NO_APPORT")
        );
        for argument in ARGUMENTS {
            let short = argument.starts_with("-m") || argument.starts_with("-e");
            let long = argument.starts_with("--mode") || argument.starts_with("--env");
            assert!(!short && !long, "{argument}");
        }
    }
}
