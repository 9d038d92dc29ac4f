//! Detached signatures of manifests, made and checked by `ssh-keygen -Y`: the signed bytes are the manifest file as it is, so a
//! person can check one without this program (docs/signatures.md).

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use crate::system::durable::{self, DurableError};
use crate::system::exec::{Exec, ExecError, tail};
use crate::system::show;

/// What a signature is good for: `ssh-keygen` refuses one that was made for another purpose.
pub const NAMESPACE: &str = "safe-upgrade-manifest";

/// Signatures hold no secret.
const SIGNATURE_MODE: u32 = 0o644;

/// Whose signatures count.
#[derive(Debug, Clone)]
pub struct Signers {
    /// A file of keys and whom they belong to, in the form ALLOWED SIGNERS of `ssh-keygen(1)`.
    pub allowed: PathBuf,
    /// The only one whose signature counts; `None` takes anyone in the file.
    pub identity: Option<String>,
    /// Keys that do not count any more: a key revocation list, or public keys, one a line.
    pub revoked: Option<PathBuf>,
}

/// A signature that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// As whom the file of signers knows the key; safe to show.
    pub identity: String,
    /// Its kind and fingerprint; safe to show.
    pub key: String,
}

/// Why a manifest does not count as signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// There is no signature file.
    #[error("there is no signature {}", show::path(.0))]
    NoSignature(PathBuf),
    /// The file holds something else.
    #[error("{} holds no ssh signature: {says}", show::path(.file))]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What ssh-keygen says, safe to show.
        says: String,
    },
    /// The manifest is not the one that was signed.
    #[error("the manifest was changed after it was signed, or the signature belongs to another one")]
    Changed,
    /// A good signature, made to sign something else than manifests.
    #[error("the signature was not made for manifests (its namespace is not {NAMESPACE})")]
    OtherPurpose,
    /// A good signature by a key that is not in the file of signers, or not valid there today.
    #[error("the {key} that signed is not allowed by {}{}", show::path(.allowed), because(.says))]
    UnknownKey {
        /// Its kind and fingerprint.
        key: String,
        /// The file of signers.
        allowed: PathBuf,
        /// What ssh-keygen says besides, safe to show; often nothing.
        says: String,
    },
    /// A good signature by another one than who was asked for.
    #[error("the {key} that signed is not one of {}", show::line(.wanted))]
    OtherIdentity {
        /// Its kind and fingerprint.
        key: String,
        /// Who was asked for.
        wanted: String,
    },
    /// A good signature by a key that was revoked.
    #[error("the {key} that signed is revoked by {}", show::path(.list))]
    Revoked {
        /// Its kind and fingerprint.
        key: String,
        /// The list.
        list: PathBuf,
    },
}

/// A signature that could not be made, or about which nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// ssh-keygen is not installed.
    #[error("failed to start ssh-keygen (package openssh-client)")]
    Tool(#[from] ExecError),
    /// A file could not be read.
    #[error("failed to read {}", show::path(.path))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// ssh-keygen could not be run.
    #[error("failed to run ssh-keygen")]
    Run(#[source] io::Error),
    /// It did not sign.
    #[error("ssh-keygen did not sign with {}: {says}", show::path(.key))]
    NotSigned {
        /// The key.
        key: PathBuf,
        /// What it says, safe to show.
        says: String,
    },
    /// It signed, and the signature could not be kept.
    #[error("failed to write the signature")]
    Write(#[from] DurableError),
    /// It refuses, and none of the reasons that we know applies.
    #[error("ssh-keygen refuses the signature {}: {says}", show::path(.file))]
    Unclear {
        /// The signature.
        file: PathBuf,
        /// What it says, safe to show.
        says: String,
    },
}

/// Where the signature of a manifest lies: beside it, with `.sig` added, as ssh-keygen names it too.
#[must_use]
pub fn beside(manifest: &Path) -> PathBuf {
    let mut name = manifest.as_os_str().to_owned();
    name.push(".sig");
    PathBuf::from(name)
}

/// Signs a manifest and returns where the signature lies; an old one is replaced at once.
///
/// `key` is a private key, or a public one whose private half is with the agent at the socket `agent`. ssh-keygen asks for a
/// passphrase on the terminal.
///
/// # Errors
/// Carries what ssh-keygen said.
pub fn sign(manifest: &Path, key: &Path, agent: Option<&OsStr>) -> Result<PathBuf, SignatureError> {
    let file = open(manifest)?;
    let key = std::path::absolute(key).map_err(|source| SignatureError::Read { path: key.into(), source })?;
    let mut exec = keygen("sign")?.arg("-f").arg(&key).args(["-n", NAMESPACE]);
    if let Some(agent) = agent {
        exec = exec.env("SSH_AUTH_SOCK", agent);
    }
    let output = run(exec, &file)?;
    let signed = output.stdout.starts_with(b"-----BEGIN SSH SIGNATURE-----");
    if !output.status.success() || !signed {
        return Err(SignatureError::NotSigned { key, says: says(&output.stderr) });
    }
    let path = beside(manifest);
    durable::replace_file(&path, &output.stdout, SIGNATURE_MODE)?;
    Ok(path)
}

/// Whether a manifest carries a signature that counts.
///
/// `manifest` is an open file, so that a caller can go on with the very file that was checked, whatever is renamed into its
/// place meanwhile; afterwards it stands at its beginning again. `signature` is the file of the signature, see [`beside`].
///
/// # Errors
/// When it could not be found out. That the signature does not count is an answer, with the reason.
pub fn check(
    manifest: &File,
    signature: &Path,
    signers: &Signers,
) -> Result<Result<Signer, Distrust>, SignatureError> {
    if let Err(error) = File::open(signature) {
        return match error.kind() {
            io::ErrorKind::NotFound => Ok(Err(Distrust::NoSignature(signature.to_owned()))),
            _ => Err(SignatureError::Read { path: signature.to_owned(), source: error }),
        };
    }
    // ssh-keygen says "not good" also when it cannot read these.
    open(&signers.allowed)?;
    signers.revoked.as_deref().map(open).transpose()?;
    let question = Question::new(manifest, signature, signers)?;
    let candidates = match &signers.identity {
        Some(identity) => vec![identity.clone()],
        None => question.who()?.0,
    };
    for identity in &candidates {
        let output = question.verify(identity, signers.revoked.as_deref())?;
        if output.status.success() {
            let key = key_of(&output).unwrap_or_else(|| "key".to_owned());
            return Ok(Ok(Signer { identity: show::line(identity), key }));
        }
    }
    question.why_not(&candidates).map(Err)
}

/// One manifest, one signature, and who may have made it; paths are absolute, because ssh-keygen runs elsewhere.
struct Question<'q> {
    manifest: &'q File,
    signature: PathBuf,
    allowed: PathBuf,
    signers: &'q Signers,
}

impl<'q> Question<'q> {
    fn new(manifest: &'q File, signature: &Path, signers: &'q Signers) -> Result<Self, SignatureError> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|source| SignatureError::Read { path: path.into(), source })
        };
        Ok(Self { manifest, signature: absolute(signature)?, allowed: absolute(&signers.allowed)?, signers })
    }

    /// Whom the file of signers knows the key as, and why nobody. That says nothing about the signature yet.
    fn who(&self) -> Result<(Vec<String>, String), SignatureError> {
        let exec = keygen("find-principals")?.arg("-s").arg(&self.signature).arg("-f").arg(&self.allowed);
        let output = exec.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let known =
            if output.status.success() { text.lines().map(str::to_owned).collect() } else { Vec::new() };
        Ok((known, says(&output.stderr)))
    }

    fn verify(&self, identity: &str, revoked: Option<&Path>) -> Result<Output, SignatureError> {
        let mut exec =
            keygen("verify")?.args(["-n", NAMESPACE]).arg("-I").arg(identity).arg("-f").arg(&self.allowed);
        if let Some(list) = revoked {
            let list = std::path::absolute(list)
                .map_err(|source| SignatureError::Read { path: list.into(), source })?;
            exec = exec.arg("-r").arg(list);
        }
        run(exec.arg("-s").arg(&self.signature), self.manifest)
    }

    /// The signature does not count: finds the first reason by asking for less and less.
    fn why_not(&self, candidates: &[String]) -> Result<Distrust, SignatureError> {
        let exec = keygen("check-novalidate")?.args(["-n", NAMESPACE]).arg("-s").arg(&self.signature);
        let output = run(exec, self.manifest)?;
        let words = says(&output.stderr);
        let Some(key) = key_of(&output).filter(|_| output.status.success()) else {
            return bad_signature(&self.signature, words);
        };
        if let Some(list) = &self.signers.revoked {
            for identity in candidates {
                if self.verify(identity, None)?.status.success() {
                    return Ok(Distrust::Revoked { key, list: list.clone() });
                }
            }
        }
        let (known, says) = self.who()?;
        Ok(match &self.signers.identity {
            Some(wanted) if !known.is_empty() => Distrust::OtherIdentity { key, wanted: wanted.clone() },
            _ => Distrust::UnknownKey { key, allowed: self.signers.allowed.clone(), says },
        })
    }
}

/// What ssh-keygen means by a signature that is not even good by itself. Its words are those of OpenSSH 9.2.
fn bad_signature(signature: &Path, says: String) -> Result<Distrust, SignatureError> {
    if says.contains("incorrect signature") {
        Ok(Distrust::Changed)
    } else if says.contains("namespace does not match") {
        Ok(Distrust::OtherPurpose)
    } else if says.contains("parse signature") || says.contains("sshsig_armor") {
        Ok(Distrust::Malformed { file: signature.to_owned(), says })
    } else {
        Err(SignatureError::Unclear { file: signature.to_owned(), says })
    }
}

fn because(says: &str) -> String {
    if says.is_empty() { String::new() } else { format!(" ({says})") }
}

fn keygen(what: &str) -> Result<Exec, ExecError> {
    Ok(Exec::new("ssh-keygen")?.args(["-Y", what]))
}

fn open(path: &Path) -> Result<File, SignatureError> {
    File::open(path).map_err(|source| SignatureError::Read { path: path.to_owned(), source })
}

/// Runs ssh-keygen with the manifest as its input. It stays in our process group: only there may it ask on the terminal.
fn run(exec: Exec, mut manifest: &File) -> Result<Output, SignatureError> {
    use std::os::unix::process::CommandExt;
    manifest.rewind().map_err(SignatureError::Run)?;
    let input = manifest.try_clone().map_err(SignatureError::Run)?;
    let (_, mut command) = exec.into_command();
    command.process_group(rustix::process::getpgrp().as_raw_nonzero().get());
    let output = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    manifest.rewind().map_err(SignatureError::Run)?;
    output.map_err(SignatureError::Run)
}

/// What ssh-keygen complains about, on one line, safe to show.
fn says(stderr: &[u8]) -> String {
    let words = tail(stderr);
    let noise = ["", "Signing data on standard input", "No principal matched."];
    let lines: Vec<&str> = words.lines().map(str::trim).filter(|line| !noise.contains(line)).collect();
    show::line(&lines.join("; "))
}

/// `ED25519 key SHA256:...` from `Good "..." signature [for ...] with ED25519 key SHA256:...`. The fingerprint stands last, so an
/// identity that holds the word `with` changes nothing.
fn key_of(output: &Output) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with("Good "))?;
    line.rsplit_once(" with ").map(|(_, key)| show::line(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A directory with keys `alice` and `mallory`, signers, and a manifest that alice signed.
    struct Lab(tempfile::TempDir);

    impl Lab {
        fn new() -> Option<Self> {
            if let Err(error) = Exec::new("ssh-keygen") {
                eprintln!("skipped: {error}");
                return None;
            }
            let lab = Self(tempfile::tempdir().unwrap());
            for name in ["alice", "mallory"] {
                let exec = Exec::new("ssh-keygen").unwrap().args(["-q", "-t", "ed25519", "-N", "", "-f"]);
                exec.arg(lab.path(name)).success().unwrap();
            }
            let key = fs::read_to_string(lab.path("alice.pub")).unwrap();
            lab.allow(&format!("alice@a,backup@a namespaces=\"{NAMESPACE}\" {key}"));
            fs::write(lab.path("manifest"), b"every byte of it").unwrap();
            assert_eq!(
                sign(&lab.path("manifest"), &lab.path("alice"), None).unwrap(),
                lab.path("manifest.sig")
            );
            Some(lab)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn allow(&self, line: &str) {
            fs::write(self.path("signers"), line).unwrap();
        }

        fn signers(&self) -> Signers {
            Signers { allowed: self.path("signers"), identity: None, revoked: None }
        }

        fn check(&self, signers: &Signers) -> Result<Result<Signer, Distrust>, SignatureError> {
            let manifest = self.path("manifest");
            check(&File::open(&manifest).unwrap(), &beside(&manifest), signers)
        }

        fn distrust(&self, signers: &Signers) -> Distrust {
            self.check(signers).unwrap().unwrap_err()
        }
    }

    #[test]
    fn a_good_signature_names_its_signer_and_the_file_is_read_on_from_its_beginning() {
        let Some(lab) = Lab::new() else { return };
        let mut file = File::open(lab.path("manifest")).unwrap();
        let signer = check(&file, &lab.path("manifest.sig"), &lab.signers()).unwrap().unwrap();
        assert_eq!(signer.identity, "alice@a");
        assert!(signer.key.starts_with("ED25519 key SHA256:"), "{signer:?}");
        assert_eq!(io::read_to_string(&mut file).unwrap(), "every byte of it");
        let only = Signers { identity: Some("backup@a".to_owned()), ..lab.signers() };
        assert_eq!(lab.check(&only).unwrap().unwrap().identity, "backup@a");
    }

    #[test]
    fn each_reason_has_its_name() {
        let Some(lab) = Lab::new() else { return };
        let signers = lab.signers();
        let other = Signers { identity: Some("bob@a".to_owned()), ..signers.clone() };
        assert!(matches!(lab.distrust(&other), Distrust::OtherIdentity { .. }));
        let revoked = Signers { revoked: Some(lab.path("alice.pub")), ..signers.clone() };
        assert!(matches!(lab.distrust(&revoked), Distrust::Revoked { .. }));
        fs::write(lab.path("manifest"), b"every byte of It").unwrap();
        assert_eq!(lab.distrust(&signers), Distrust::Changed);
        sign(&lab.path("manifest"), &lab.path("mallory"), None).unwrap();
        assert!(matches!(lab.distrust(&signers), Distrust::UnknownKey { .. }));
        fs::write(lab.path("manifest.sig"), "junk").unwrap();
        assert!(matches!(lab.distrust(&signers), Distrust::Malformed { .. }));
        fs::remove_file(lab.path("manifest.sig")).unwrap();
        assert!(matches!(lab.distrust(&signers), Distrust::NoSignature(_)));
    }

    #[test]
    fn a_signature_for_another_purpose_and_a_key_that_ran_out_do_not_count() {
        let Some(lab) = Lab::new() else { return };
        let exec = Exec::new("ssh-keygen").unwrap().args(["-Y", "sign", "-n", "git", "-f"]);
        let text = exec.arg(lab.path("alice")).stdin(b"every byte of it".to_vec()).text().unwrap();
        fs::write(lab.path("manifest.sig"), text).unwrap();
        assert_eq!(lab.distrust(&lab.signers()), Distrust::OtherPurpose);
        sign(&lab.path("manifest"), &lab.path("alice"), None).unwrap();
        let key = fs::read_to_string(lab.path("alice.pub")).unwrap();
        lab.allow(&format!("alice@a valid-before=\"20200101\" {key}"));
        let Distrust::UnknownKey { says, .. } = lab.distrust(&lab.signers()) else { panic!("it counts") };
        assert!(says.contains("expired"), "{says}");
    }

    #[test]
    fn what_cannot_be_read_is_no_answer() {
        let Some(lab) = Lab::new() else { return };
        let none = Signers { allowed: lab.path("none"), ..lab.signers() };
        assert!(matches!(lab.check(&none), Err(SignatureError::Read { .. })));
        let none = Signers { revoked: Some(lab.path("none")), ..lab.signers() };
        assert!(matches!(lab.check(&none), Err(SignatureError::Read { .. })));
        assert!(matches!(
            sign(&lab.path("manifest"), &lab.path("none"), None),
            Err(SignatureError::NotSigned { .. })
        ));
    }

    #[test]
    fn a_key_whose_private_half_is_with_an_agent_signs() {
        let Some(lab) = Lab::new() else { return };
        let socket = lab.path("agent");
        let started = Exec::new("ssh-agent").unwrap().arg("-a").arg(&socket).text().unwrap();
        let pid = started.split("SSH_AGENT_PID=").nth(1).and_then(|rest| rest.split(';').next()).unwrap();
        let add =
            Exec::new("ssh-add").unwrap().env("SSH_AUTH_SOCK", &socket).arg("-q").arg(lab.path("mallory"));
        add.success().unwrap();
        fs::remove_file(lab.path("mallory")).unwrap();
        let signed = sign(&lab.path("manifest"), &lab.path("mallory.pub"), Some(socket.as_os_str()));
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        signed.unwrap();
        assert!(matches!(lab.distrust(&lab.signers()), Distrust::UnknownKey { .. }));
    }
}
