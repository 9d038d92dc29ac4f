//! apt without a network: in the place of its download methods stands this program, which answers each question with "what you
//! have is the newest". The lists were fetched before, so the real `apt-get update` of the real upgrade runs to its end.
//!
//! The protocol is that of apt's methods (`/usr/share/doc/libapt-pkg-doc/method.html`): blocks of `Field: value` lines, ended by an
//! empty one, each after a line with a number and words.

use std::io::{self, BufRead, Write};
use std::path::Path;

use super::inside::{HOME, PROGRAM, WORD};
use crate::release::private_apt::PACKAGE_LISTS_ONLY;

/// The directory of methods, in the clone's [`HOME`].
pub const METHODS: &str = "methods";

/// What stands for a download method, in the clone's [`HOME`].
pub const SCRIPT: &str = "method";

/// The file among apt's configuration.
pub const CONF: &str = "zzzz-safe-upgrade-rehearsal";

/// Methods that would go out.
const REMOTE: [&str; 7] = ["http", "https", "ftp", "mirror", "mirror+http", "mirror+https", "tor+http"];

/// Methods that do not, and stay apt's own.
const LOCAL: [&str; 8] = ["cdrom", "copy", "file", "gpgv", "mirror+file", "rred", "sqv", "store"];

/// Every name in the directory of methods, and where it leads.
pub fn methods() -> impl Iterator<Item = (&'static str, String)> {
    let ours = REMOTE.iter().map(|name| (*name, format!("{HOME}/{SCRIPT}")));
    ours.chain(LOCAL.iter().map(|name| (*name, format!("/usr/lib/apt/methods/{name}"))))
}

/// What stands for a download method.
#[must_use]
pub fn script() -> String {
    format!("#!{HOME}/{PROGRAM} {WORD}\n")
}

/// What apt is told: where its methods are, and to ask for no other lists than those that were fetched.
#[must_use]
pub fn configuration() -> String {
    format!(
        "// Written by safe-upgrade for a rehearsal, in its clone only.\nDir::Bin::methods \"{HOME}/{METHODS}/\";\n\
         {PACKAGE_LISTS_ONLY}"
    )
}

/// Answers apt until it has no more questions.
///
/// # Errors
/// When the pipe to apt breaks.
pub fn answer(questions: &mut dyn BufRead, answers: &mut dyn Write) -> io::Result<()> {
    write!(answers, "100 Capabilities\nVersion: 1.2\nSingle-Instance: true\n\n")?;
    answers.flush()?;
    let mut block = Vec::new();
    for line in questions.lines() {
        let line = line?;
        if !line.is_empty() {
            block.push(line);
            continue;
        }
        if let Some(text) = reply(&std::mem::take(&mut block), |name| has_list(Path::new("/"), name)) {
            answers.write_all(text.as_bytes())?;
            answers.flush()?;
        }
    }
    Ok(())
}

/// The lists are where apt keeps them.
fn has_list(root: &Path, name: &str) -> bool {
    !name.contains('/') && root.join("var/lib/apt/lists").join(name).is_file()
}

/// What to say to one block; only a wish to fetch something has an answer.
fn reply(block: &[String], has_list: impl Fn(&str) -> bool) -> Option<String> {
    if !block.first()?.starts_with("600 ") {
        return None;
    }
    let field = |name: &str| block.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let uri = field("URI")?;
    let target = field("Filename").unwrap_or_default();
    let name = target.rsplit('/').next().unwrap_or_default();
    if !has_list(name) {
        return Some(format!(
            "400 URI Failure\nURI: {uri}\nMessage: it was not fetched before the rehearsal, which has no network\n\n"
        ));
    }
    let time = field("Last-Modified").map(|time| format!("Last-Modified: {time}\n")).unwrap_or_default();
    Some(format!("201 URI Done\nURI: {uri}\nFilename: {target}\n{time}IMS-Hit: true\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_there_is_the_newest() {
        let asked = block(
            "600 URI Acquire\nURI: http://mirror.invalid/debian/dists/trixie/InRelease\n\
             Filename: /var/lib/apt/lists/partial/mirror.invalid_debian_dists_trixie_InRelease\n\
             Last-Modified: Sat, 06 Sep 2025 10:00:00 GMT\nIndex-File: true",
        );
        let said = reply(&asked, |name| name == "mirror.invalid_debian_dists_trixie_InRelease").unwrap();
        assert!(said.starts_with("201 URI Done\nURI: http://mirror.invalid/"), "{said}");
        assert!(said.contains("\nIMS-Hit: true\n") && said.ends_with("\n\n"), "{said}");
        assert!(reply(&asked, |_| false).unwrap().starts_with("400 URI Failure\n"));
    }

    #[test]
    fn nothing_else_is_answered() {
        assert_eq!(reply(&block("601 Configuration\nConfig-Item: A=B"), |_| true), None);
        let mut out = Vec::new();
        let asked =
            "601 Configuration\nConfig-Item: A=B\n\n600 URI Acquire\nURI: http://x/y\nFilename: /no/such\n\n";
        answer(&mut asked.as_bytes(), &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.matches("400 URI Failure").count(), 1, "{out}");
    }
}
