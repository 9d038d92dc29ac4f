//! Whatever rclone reaches. One rclone lists the remote, another serves its files through two pipes (`serve sftp --stdio`):
//! every byte is read, nothing is copied, and no port is opened.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::thread;

use super::rclone_listing::{Features, Listed, ListingError, MAX_LINE, Made, parse_features, parse_line};
use super::remote_shell::said;
use super::sftp::{Fetched, Sftp, SftpError, Wanted};
use super::{Gathered, Reading};
use crate::manifest::collect::Collector;
use crate::manifest::entry::Edge;
use crate::manifest::sorter::SortError;
use crate::manifest::verdict::{Class, Difference};
use crate::manifest::{Entry, Facts, Found, Kind, Progress, Status};
use crate::system::exec::{Exec, ExecError};
use crate::system::show;

/// What rclone adds to the name of a symlink that it keeps as a file (`--links`).
const LINK_SUFFIX: &str = ".rclonelink";

/// The errno of a file that the backend could not read: EIO. rclone tells why in words only.
const UNREADABLE: u32 = 5;

/// How many files that could not be read are named with rclone's words.
const NAMED: usize = 20;

/// How rclone is called.
#[derive(Debug, Clone, Default)]
pub struct Remote {
    /// `REMOTE:PATH`, as rclone names it.
    pub name: OsString,
    /// The only configuration that it reads; without one only remotes that are spelled out (`:local:/srv`) can be named.
    pub config: Option<PathBuf>,
    /// The password of that configuration, when it is encrypted.
    pub password: Option<OsString>,
    /// How the copy was made.
    pub made: Made,
}

/// A remote about which nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub enum RcloneError {
    /// It is not installed.
    #[error("failed to start rclone")]
    Start(#[from] ExecError),
    /// Without its configuration rclone would take any name for an unknown remote.
    #[error("failed to read the configuration of rclone {}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be talked to.
    #[error("failed to talk to rclone")]
    Talk(#[from] io::Error),
    /// It gave up.
    #[error("rclone {what} ended with {status}: {says}")]
    Failed {
        /// What it was doing.
        what: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote, safe to show.
        says: String,
    },
    /// It listed something odd.
    #[error("failed to understand rclone")]
    Listing(#[from] ListingError),
    /// The list ended before its end.
    #[error("rclone's listing is cut short")]
    CutShort,
    /// A line without end.
    #[error("rclone's listing has a line of more than {MAX_LINE} bytes")]
    LongLine,
    /// Files could not be fetched.
    #[error("failed to fetch files from rclone{}", in_brackets(.says))]
    Fetch {
        /// The end of what it wrote, safe to show.
        says: String,
        /// Why.
        source: SftpError,
    },
    /// It listed more than a copy of this tree can hold.
    #[error("rclone listed more than {0} entries, more than a copy of this tree can hold")]
    TooMany(u64),
    /// What was found could not be sorted.
    #[error("failed to put in order what was found")]
    Sort(#[from] SortError),
}

fn in_brackets(says: &str) -> String {
    if says.is_empty() { String::new() } else { format!(" ({says})") }
}

impl From<SftpError> for RcloneError {
    fn from(source: SftpError) -> Self {
        Self::Fetch { says: String::new(), source }
    }
}

/// Reads every file of a remote.
///
/// # Errors
/// When the remote cannot be reached or listed. A file that cannot be read is marked and stops nothing.
pub fn read(remote: &Remote, reading: &Reading<'_>, into: &mut Collector) -> Result<Gathered, RcloneError> {
    let exec = remote.rclone(reading.scratch, &["backend", "features"])?;
    let output = exec.arg("--").arg(&remote.name).output()?;
    if !output.status.success() {
        let (what, status) = ("backend features", output.status);
        return Err(RcloneError::Failed { what, status, says: said(&output.stderr) });
    }
    let features = parse_features(&output.stdout)?;
    let carries = features.carries(remote.made);
    let mut gathering = Gathering::new(remote, features, reading, into);
    // The tree itself is never listed.
    gathering.push(Entry::new("", Kind::Directory { edge: Edge::Inside }), Facts::NONE)?;
    let mut lister = remote.lister(features, reading.scratch)?;
    let mut server = remote.server(reading.scratch)?;
    let (Some(lines), Some(to), Some(from)) =
        (lister.stdout.take(), server.stdin.take(), server.stdout.take())
    else {
        return Err(io::Error::other("a pipe is missing").into());
    };
    let (done, list_words, serve_words) = thread::scope(|scope| {
        let list_words = collect_words(scope, &mut lister);
        let serve_words = collect_words(scope, &mut server);
        let done = gathering.run(Listing::new(lines), from, to);
        if done.is_err() {
            // Nothing more is wanted from them; they may have ended by themselves.
            let _ = (lister.kill(), server.kill());
        }
        (done, joined(list_words), joined(serve_words))
    });
    let (listed, served) = (lister.wait()?, server.wait()?);
    judge(done, (listed, said(&list_words?)), (served, said(&serve_words?)))?;
    Ok(gathering.gathered(carries))
}

/// What both programs and we ourselves say, taken together: rclone's own words come first.
fn judge(
    done: Result<(), RcloneError>,
    (listed, list_says): (ExitStatus, String),
    (served, serve_says): (ExitStatus, String),
) -> Result<(), RcloneError> {
    match done {
        Ok(()) if listed.success() => Ok(()),
        Ok(()) | Err(RcloneError::CutShort) if !listed.success() => {
            Err(RcloneError::Failed { what: "lsjson", status: listed, says: list_says })
        }
        Err(RcloneError::Fetch { source: SftpError::Io(_), .. })
            if served.code().is_some_and(|code| code != 0) =>
        {
            Err(RcloneError::Failed { what: "serve sftp", status: served, says: serve_says })
        }
        Err(RcloneError::Fetch { source, .. }) => Err(RcloneError::Fetch { says: serve_says, source }),
        other => other,
    }
}

impl Remote {
    /// rclone with what every call needs; it keeps nothing outside of `scratch` and asks nobody.
    fn rclone(&self, scratch: &Path, words: &[&str]) -> Result<Exec, RcloneError> {
        let mut exec = Exec::new("rclone")?.args(words).arg("--ask-password=false");
        exec = exec.arg("--cache-dir").arg(scratch.join("rclone"));
        exec = exec.arg("--config").arg(match &self.config {
            Some(path) => {
                readable(path).map_err(|source| RcloneError::Config { path: path.clone(), source })?
            }
            // A configuration in memory.
            None => PathBuf::new(),
        });
        if let Some(password) = &self.password {
            exec = exec.env("RCLONE_CONFIG_PASS", password);
        }
        if self.made.links {
            exec = exec.arg("--links");
        }
        Ok(exec)
    }

    fn lister(&self, features: Features, scratch: &Path) -> Result<Child, RcloneError> {
        let mut exec = self.rclone(scratch, &["lsjson", "-R", "--no-mimetype"])?;
        if self.made.metadata && features.metadata {
            exec = exec.arg("--metadata");
        }
        if !features.carries(self.made).has(Facts::MTIME) {
            exec = exec.arg("--no-modtime");
        }
        let (_, mut command) = exec.arg("--").arg(&self.name).into_command();
        Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    fn server(&self, scratch: &Path) -> Result<Child, RcloneError> {
        let exec =
            self.rclone(scratch, &["serve", "sftp", "--stdio", "--read-only", "--vfs-cache-mode=off"])?;
        // What is listed stays as it was listed; times are not asked for again; small buffers, because several files are open.
        let more = ["--dir-cache-time=1000h", "--poll-interval=0", "--no-modtime", "--buffer-size=4M"];
        let (_, mut command) = exec.args(more).arg("--").arg(&self.name).into_command();
        Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }
}

/// The whole path of a file that can be read.
fn readable(path: &Path) -> io::Result<PathBuf> {
    std::fs::File::open(path)?;
    std::path::absolute(path)
}

type Words<'s> = thread::ScopedJoinHandle<'s, io::Result<Vec<u8>>>;

fn collect_words<'s>(scope: &'s thread::Scope<'s, '_>, child: &mut Child) -> Words<'s> {
    let stderr = child.stderr.take();
    scope.spawn(move || {
        let mut bytes = Vec::new();
        stderr.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes)).map(|_| bytes)
    })
}

fn joined(words: Words<'_>) -> io::Result<Vec<u8>> {
    words.join().unwrap_or_else(|_| Err(io::Error::other("the thread that reads stderr panicked")))
}

/// The lines of `rclone lsjson`, with its end.
struct Listing<R> {
    lines: BufReader<R>,
    line: Vec<u8>,
}

impl<R: Read> Listing<R> {
    fn new(pipe: R) -> Self {
        Self { lines: BufReader::with_capacity(128 << 10, pipe), line: Vec::new() }
    }

    fn next(&mut self) -> Result<Option<Listed>, RcloneError> {
        loop {
            let ended = self.line.trim_ascii() == b"]" || self.line.trim_ascii() == b"[]";
            self.line.clear();
            let got = self.lines.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut self.line)?;
            if got == 0 {
                return if ended { Ok(None) } else { Err(RcloneError::CutShort) };
            }
            if got == MAX_LINE {
                return Err(RcloneError::LongLine);
            }
            if self.line.trim_ascii() != b"[]"
                && let Some(listed) = parse_line(&self.line)?
            {
                return Ok(Some(listed));
            }
        }
    }
}

/// What is known so far.
struct Gathering<'g, 'r> {
    made: Made,
    carries: Facts,
    reading: &'g Reading<'r>,
    into: &'g mut Collector,
    state: Progress,
    replaced: u64,
    unreadable: Vec<String>,
    unreadable_count: u64,
    findings: Vec<Difference>,
}

impl<'g, 'r> Gathering<'g, 'r> {
    fn new(remote: &Remote, features: Features, reading: &'g Reading<'r>, into: &'g mut Collector) -> Self {
        Self {
            made: remote.made,
            carries: features.carries(remote.made),
            reading,
            into,
            state: Progress::default(),
            replaced: 0,
            unreadable: Vec::new(),
            unreadable_count: 0,
            findings: Vec::new(),
        }
    }

    /// Fetches every file of the list as it comes.
    fn run(
        &mut self,
        mut listing: Listing<impl Read>,
        from: impl Read,
        to: impl io::Write,
    ) -> Result<(), RcloneError> {
        let reading = self.reading;
        let this = std::cell::RefCell::new(self);
        let mut sftp = Sftp::begin(BufReader::with_capacity(64 << 10, from), to)?;
        sftp.read_all(
            &reading.hashing,
            reading.limits.bytes,
            &mut || {
                while let Some(listed) = listing.next()? {
                    if let Some(wanted) = this.borrow_mut().listed(listed)? {
                        return Ok(Some(wanted));
                    }
                }
                Ok(None)
            },
            &mut |listed: Listed, read| this.borrow_mut().fetched(&listed, read),
        )
    }

    /// Takes a directory, or says that a file is wanted.
    fn listed(&mut self, listed: Listed) -> Result<Option<Wanted<Listed>>, RcloneError> {
        let path = listed.path();
        if self.reading.excludes.covers(&path) {
            return Ok(None);
        }
        self.state.entries += 1;
        if self.state.entries > self.reading.limits.entries {
            return Err(RcloneError::TooMany(self.reading.limits.entries));
        }
        self.replaced += u64::from(listed.name.contains('\u{fffd}'));
        if !listed.directory {
            let keep = self.made.links && listed.name.ends_with(LINK_SUFFIX);
            return Ok(Some(Wanted { path: format!("/{}", listed.name), keep, item: listed }));
        }
        // A directory's own time and mode are the remote's, not the source's.
        let carries = self.carries.and(Facts::DIRECTORIES);
        self.push(Entry::new(path, Kind::Directory { edge: Edge::Inside }), carries)?;
        Ok(None)
    }

    fn fetched(&mut self, listed: &Listed, read: Result<Fetched, String>) -> Result<(), RcloneError> {
        let mut path = listed.path();
        let mut carries = self.carries;
        let mut status = Status::Stable;
        let kind = match read {
            Ok(Fetched { bytes: Some(target), .. }) => {
                path.truncate(path.len() - LINK_SUFFIX.len());
                carries = carries.and(Facts::SYMLINKS.with(Facts::MTIME).with(Facts::MTIME_NANOS));
                Kind::Symlink { target }
            }
            Ok(Fetched { content, .. }) => {
                self.state.bytes = self.state.bytes.saturating_add(content.size);
                (self.reading.progress)(self.state);
                Kind::file(content)
            }
            Err(words) => {
                self.unreadable_count += 1;
                if self.unreadable.len() < NAMED {
                    self.unreadable.push(format!("{}: {words}", show::bytes(&path)));
                }
                status = Status::Unreadable(UNREADABLE);
                Kind::unread_file(listed.size.unwrap_or(0))
            }
        };
        let mut entry = Entry { status, ..Entry::new(path, kind) };
        match listed.mtime {
            Some(mtime) => entry.mtime = mtime,
            None => carries = carries.without(Facts::MTIME).without(Facts::MTIME_NANOS),
        }
        match listed.mode {
            Some(mode) => entry.mode = mode,
            None => carries = carries.without(Facts::MODE),
        }
        match listed.owner {
            Some(owner) => (entry.uid, entry.gid) = owner,
            None => carries = carries.without(Facts::OWNER),
        }
        self.push(entry, carries)
    }

    /// A remote may list any name; one that no tree can hold is named and goes no further.
    fn push(&mut self, entry: Entry, carries: Facts) -> Result<(), RcloneError> {
        match entry.check() {
            Ok(()) => Ok(self.into.push(&Found { entry, carries })?),
            Err(wrong) => {
                let (expected, found) = ("a name that a file can have".to_owned(), wrong.to_string());
                self.findings.push(Difference { class: Class::Hostile, path: entry.path, expected, found });
                Ok(())
            }
        }
    }

    fn gathered(self, carries: Facts) -> Gathered {
        let mut remarks = Vec::new();
        if self.replaced > 0 {
            remarks.push(format!(
                "{} names hold U+FFFD: where the source's names were not UTF-8, rclone changed them for good",
                self.replaced
            ));
        }
        if self.unreadable_count > 0 {
            remarks.push(format!("rclone could not read {} files:", self.unreadable_count));
            remarks.extend(self.unreadable);
        }
        Gathered { carries, findings: self.findings, remarks, restored: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, RcloneError> {
        let mut listing = Listing::new(text.as_bytes());
        let mut names = Vec::new();
        while let Some(listed) = listing.next()? {
            names.push(listed.name);
        }
        Ok(names)
    }

    #[test]
    fn a_listing_that_is_cut_short_is_noticed() {
        let line = "{\"Path\":\"a\",\"Name\":\"a\",\"Size\":3,\"IsDir\":false}";
        assert_eq!(names(&format!("[\n{line},\n{line}\n]\n")).unwrap(), ["a", "a"]);
        assert!(names("[\n]\n").unwrap().is_empty());
        assert!(names("[]\n").unwrap().is_empty());
        for cut in ["", "[\n", &format!("[\n{line},\n"), &format!("[\n{line}\n")] {
            assert!(matches!(names(cut), Err(RcloneError::CutShort)), "{cut:?}");
        }
        assert!(matches!(names(&format!("[\n{}", &line[..9])), Err(RcloneError::Listing(_))));
    }
}
