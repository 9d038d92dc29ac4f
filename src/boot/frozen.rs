//! Holding the boot loader's installers off while packages change.
//!
//! Package scripts call `grub-install` and `grub-mkconfig` (through `update-grub`) whenever they like. Until commit neither may
//! run: the boot code and the menu are the old system's way back. So dpkg is told to keep both programs under another name
//! (a diversion, which an upgrade of the package follows), and stubs take their places. What `grub-install` was asked for
//! is written down and done at commit.
//!
//! The snapshot is older than the diversion: the old system never sees it.

use std::io;
use std::path::{Path, PathBuf};

use crate::system::durable::{DurableError, remove_file, replace_file, sync_filesystem};
use crate::system::exec::{Exec, ExecError};

/// The program that writes boot code.
const INSTALL: &str = "/usr/sbin/grub-install";
/// The program that writes the menu.
const MKCONFIG: &str = "/usr/sbin/grub-mkconfig";
/// What is added to a diverted name.
const SUFFIX: &str = ".safe-upgrade";
/// By this a stub is told from a program.
const MARK: &str = "# A stub of safe-upgrade";

/// The installers could not be held off or let go.
#[derive(Debug, thiserror::Error)]
pub enum FrozenError {
    /// dpkg-divert, or an installer.
    #[error(transparent)]
    Program(#[from] ExecError),
    /// A stub.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// A file.
    #[error("failed to read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file could not be given its right name.
    #[error("failed to rename {}", .path.display())]
    Rename {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else diverts the same program.
    #[error("{program} is already diverted to {to}, and not by safe-upgrade")]
    Foreign {
        /// The program.
        program: String,
        /// Where it is kept.
        to: String,
    },
    /// dpkg does not list the diversion that it has just made.
    #[error("dpkg does not keep {program} away after it was told to")]
    NotDiverted {
        /// The program.
        program: String,
    },
    /// The record of calls.
    #[error("line {line} of {} is no record of a call", .path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A path that cannot stand in a shell script.
    #[error("{} cannot stand in a shell script", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
}

/// The installers of one root during one run.
#[derive(Debug, Clone)]
pub struct Frozen {
    /// The top of the root; `/` but in tests.
    pub root: PathBuf,
    /// The run id, for whoever reads what the stub says.
    pub run: String,
    /// Where calls of `grub-install` are written down: an absolute path as the stub sees it, in a directory that exists.
    pub calls: PathBuf,
}

impl Frozen {
    /// Holds them off. A program that is not installed needs none. Repeatable; on disk when it returns.
    ///
    /// # Errors
    /// When dpkg refuses, or somebody else diverts them. Call [`Frozen::thaw`] then.
    pub fn freeze(&self) -> Result<(), FrozenError> {
        for program in [INSTALL, MKCONFIG] {
            let stub = self.stub(program)?;
            let diverted = self.is_diverted(program)?;
            let installed = self.at(program).is_file() || self.at(&kept(program)).is_file();
            if !installed {
                continue;
            }
            if !diverted {
                self.divert("--add", program)?;
            }
            if !self.is_diverted(program)? {
                return Err(FrozenError::NotDiverted { program: program.to_owned() });
            }
            self.settle(program)?;
            replace_file(&self.at(program), stub.as_bytes(), 0o755)?;
        }
        Ok(sync_filesystem(&self.root)?)
    }

    /// Lets them go: the programs, in the version that is installed by now, are back. Repeatable; on disk when it returns.
    ///
    /// # Errors
    /// When dpkg refuses.
    pub fn thaw(&self) -> Result<(), FrozenError> {
        for program in [INSTALL, MKCONFIG] {
            if self.is_stub(program)? {
                remove_file(&self.at(program))?;
            }
            if self.is_diverted(program)? {
                self.divert("--remove", program)?;
            }
            self.settle(program)?;
        }
        Ok(sync_filesystem(&self.root)?)
    }

    /// Whether each installed program is held off. `false` too when none is installed.
    ///
    /// # Errors
    /// When dpkg or a file cannot be asked.
    pub fn is_frozen(&self) -> Result<bool, FrozenError> {
        let mut any = false;
        for program in [INSTALL, MKCONFIG] {
            let diverted = self.is_diverted(program)?;
            if diverted != self.is_stub(program)? || (!diverted && self.at(program).is_file()) {
                return Ok(false);
            }
            any |= diverted;
        }
        Ok(any)
    }

    /// The arguments of each call of `grub-install` that was held off, in order, the same ones once.
    ///
    /// # Errors
    /// When the record cannot be read, or is damaged.
    pub fn recorded(&self) -> Result<Vec<Vec<String>>, FrozenError> {
        let path = self.calls.clone();
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(FrozenError::Read { path, source }),
            Ok(text) => text,
        };
        let mut calls = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let call =
                call(line).ok_or_else(|| FrozenError::Record { path: path.clone(), line: index + 1 })?;
            if !calls.contains(&call) {
                calls.push(call);
            }
        }
        Ok(calls)
    }

    /// Runs the calls that were held off, after [`Frozen::thaw`], on the running system. Returns how many.
    ///
    /// # Errors
    /// The first one that failed. Repeatable: `grub-install` may run twice.
    pub fn run_recorded(&self) -> Result<usize, FrozenError> {
        let calls = self.recorded()?;
        for call in &calls {
            Exec::new(INSTALL)?.args(call).success()?;
        }
        Ok(calls.len())
    }

    /// The real `grub-mkconfig`, held off or not; `None` when there is none.
    #[must_use]
    pub fn mkconfig(&self) -> Option<PathBuf> {
        [kept(MKCONFIG), MKCONFIG.to_owned()].iter().map(|name| self.at(name)).find(|path| path.is_file())
    }

    fn at(&self, program: &str) -> PathBuf {
        self.root.join(program.trim_start_matches('/'))
    }

    fn dpkg_divert(&self) -> Result<Exec, FrozenError> {
        let exec = Exec::new("dpkg-divert")?;
        Ok(match self.root == Path::new("/") {
            true => exec,
            false => exec.arg("--root").arg(&self.root),
        })
    }

    fn divert(&self, action: &str, program: &str) -> Result<(), FrozenError> {
        let exec = self.dpkg_divert()?.args(["--quiet", "--local", "--rename"]);
        exec.args(["--divert", &kept(program), action, program]).success()?;
        Ok(())
    }

    /// dpkg-divert writes its list and renames the file; cut in between, the file has the wrong name of the two.
    fn settle(&self, program: &str) -> Result<(), FrozenError> {
        let (named, kept) = (self.at(program), self.at(&kept(program)));
        let (from, to) = match self.is_diverted(program)? {
            true if named.is_file() && !kept.exists() && !self.is_stub(program)? => (named, kept),
            false if kept.is_file() && !named.exists() => (kept, named),
            _ => return Ok(()),
        };
        std::fs::rename(&from, to).map_err(|source| FrozenError::Rename { path: from, source })
    }

    fn is_diverted(&self, program: &str) -> Result<bool, FrozenError> {
        match diversion(&self.dpkg_divert()?.args(["--list", program]).text()?, program) {
            None => Ok(false),
            Some(to) if to == format!("local {}", kept(program)) => Ok(true),
            Some(to) => Err(FrozenError::Foreign { program: program.to_owned(), to }),
        }
    }

    fn is_stub(&self, program: &str) -> Result<bool, FrozenError> {
        let path = self.at(program);
        match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(FrozenError::Read { path, source }),
            Ok(bytes) => Ok(bytes.windows(MARK.len()).take(64).any(|part| part == MARK.as_bytes())),
        }
    }

    /// Arguments are written down in hexadecimal: they may contain anything but a NUL.
    fn stub(&self, program: &str) -> Result<String, FrozenError> {
        let run = &self.run;
        let name = program.rsplit('/').next().unwrap_or(program);
        let unusable = || FrozenError::Path { path: self.calls.clone() };
        let calls = self.calls.to_str().filter(|path| !path.contains(['\'', '\n'])).ok_or_else(unusable)?;
        let said =
            format!("echo '{name}: held off by safe-upgrade, run {run}, until the upgrade is committed'");
        let head = format!("#!/bin/sh\n{MARK}, run {run}. The program is {}.\n", kept(program));
        if program == MKCONFIG {
            return Ok(format!("{head}{said} >&2\nexit 0\n"));
        }
        Ok(format!(
            "{head}case \"$1\" in
-V|--version|-'?'|--help|--usage) exec {real} \"$@\" ;;
esac
line=call
for argument in \"$@\"; do
  line=\"$line $(printf %s \"$argument\" | od -An -v -tx1 | tr -d ' \\n')-\" || exit 1
done
printf '%s\\n' \"$line\" >>'{calls}' || exit 1
sync '{calls}' || exit 1
{said} >&2
exit 0
",
            real = kept(program)
        ))
    }
}

fn kept(program: &str) -> String {
    format!("{program}{SUFFIX}")
}

/// Who diverts a program and to where, from dpkg's list: `local PATH`, or `PACKAGE PATH`.
fn diversion(list: &str, program: &str) -> Option<String> {
    let middle = format!("diversion of {program} to ");
    list.lines().find_map(|line| {
        let (whose, to) = line.split_once(&middle)?;
        match whose.trim() {
            "local" => Some(format!("local {to}")),
            _ => Some(to.to_owned()),
        }
    })
}

/// The arguments of one line of the record.
fn call(line: &str) -> Option<Vec<String>> {
    let mut words = line.split(' ');
    (words.next() == Some("call")).then_some(())?;
    words.map(|word| unhex(word.strip_suffix('-')?)).collect()
}

fn unhex(text: &str) -> Option<String> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).ok();
    String::from_utf8((0..text.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_dpkgs_list() {
        let list = "local diversion of /usr/sbin/grub-install to /usr/sbin/grub-install.safe-upgrade\n\
                    diversion of /usr/sbin/grub-mkconfig to /usr/sbin/grub-mkconfig.real by other\n";
        assert_eq!(diversion(list, INSTALL).unwrap(), "local /usr/sbin/grub-install.safe-upgrade");
        assert_eq!(diversion(list, MKCONFIG).unwrap(), "/usr/sbin/grub-mkconfig.real by other");
        assert_eq!(diversion("", INSTALL), None);
    }

    #[test]
    fn reads_what_the_stub_writes() {
        let dir = tempfile::tempdir().unwrap();
        let calls = dir.path().join("calls");
        let frozen = Frozen { root: dir.path().into(), run: "r1".into(), calls };
        let stub = dir.path().join("stub");
        std::fs::write(&stub, frozen.stub(INSTALL).unwrap()).unwrap();
        let run = |args: &[&str]| Exec::new("sh").unwrap().arg(&stub).args(args).success().unwrap();
        assert!(frozen.recorded().unwrap().is_empty());
        let long = "x".repeat(300);
        let first = ["--target=i386-pc", "a b", "", "c\nd", "'\"$x", "ä", &long];
        let said = run(&first);
        assert!(String::from_utf8_lossy(&said.stderr).contains("held off by safe-upgrade, run r1"));
        run(&[]);
        run(&first);
        assert_eq!(frozen.recorded().unwrap(), [first.map(str::to_owned).to_vec(), vec![]]);
        std::fs::write(&frozen.calls, "call\ncall 4\n").unwrap();
        assert!(matches!(frozen.recorded(), Err(FrozenError::Record { line: 2, .. })));
    }

    #[test]
    fn a_call_that_cannot_be_written_down_fails() {
        let dir = tempfile::tempdir().unwrap();
        let frozen =
            Frozen { root: dir.path().into(), run: "r1".into(), calls: dir.path().join("none/calls") };
        let script = frozen.stub(INSTALL).unwrap();
        let out = Exec::new("sh").unwrap().args(["-c", &script, "stub", "/dev/sda"]).output().unwrap();
        assert_eq!(out.status.code(), Some(1));
    }
}
