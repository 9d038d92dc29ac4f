//! `safe-upgrade manifest sign` and `check-signature`; and the demand of `verify --signers` that a manifest be signed.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{SCHEMA, written};
use crate::error::{Exit, Failure};
use crate::manifest::signature::{self, Distrust, Signer, Signers};
use crate::manifest::{Summary, open_file_with};
use crate::system::show;

/// Options of `manifest sign`.
#[derive(Debug, clap::Args)]
pub struct SignArgs {
    /// The manifest; its signature is written beside it, as FILE.sig.
    pub file: PathBuf,
    /// A private ssh key, or a public one whose private half is with the ssh agent.
    #[arg(long, value_name = "KEY")]
    pub key: PathBuf,
    /// The key of a keyed manifest.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Options of `manifest check-signature`.
#[derive(Debug, clap::Args)]
pub struct CheckSignatureArgs {
    /// The manifest; its signature lies beside it, as FILE.sig.
    pub file: PathBuf,
    #[command(flatten)]
    #[expect(missing_docs, reason = "the struct says it")]
    pub signers: SignersArgs,
    /// The key of a keyed manifest.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Whose signatures count.
#[derive(Debug, Clone, clap::Args)]
pub struct SignersArgs {
    /// The keys that may sign: a file in the form ALLOWED SIGNERS of ssh-keygen(1).
    #[arg(long, value_name = "FILE")]
    pub signers: PathBuf,
    /// Only this one of them.
    #[arg(long, value_name = "WHO")]
    pub identity: Option<String>,
    /// Keys that do not count any more: a key revocation list, or public keys, one a line.
    #[arg(long, value_name = "FILE")]
    pub revoked: Option<PathBuf>,
}

impl SignersArgs {
    /// For the check.
    #[must_use]
    pub fn signers(&self) -> Signers {
        Signers {
            allowed: self.signers.clone(),
            identity: self.identity.clone(),
            revoked: self.revoked.clone(),
        }
    }
}

/// Signs a manifest that is whole.
///
/// # Errors
/// When the manifest is not whole, or could not be signed.
pub(super) fn sign(args: &SignArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let Summary { id, .. } = whole(&args.file, args.key_file.as_deref())?;
    let agent = std::env::var_os("SSH_AUTH_SOCK");
    let signature = signature::sign(&args.file, &args.key, agent.as_deref())
        .map_err(|error| Failure::failed(format!("could not sign {}", show::path(&args.file)), error))?;
    let text = if args.json {
        let signature = signature.to_string_lossy();
        let object = json!({"schema": SCHEMA, "command": "manifest sign", "id": id.to_string(), "signature": signature});
        format!("{object}\n")
    } else {
        format!("signed {id}\n{}\n", show::path(&signature))
    };
    written(out.write_all(text.as_bytes()))?;
    Ok(Exit::Done)
}

/// Says whose signature a manifest carries; exit code 7 when none counts.
///
/// # Errors
/// When it could not be found out.
pub(super) fn check_signature(args: &CheckSignatureArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let answer = ask(&open(&args.file)?, &args.file, &args.signers.signers())?;
    let text = match (&answer, args.json) {
        (Ok(signer), false) => {
            let Summary { id, .. } = whole(&args.file, args.key_file.as_deref())?;
            format!("good: {id} is signed by {} with {}\n", signer.identity, signer.key)
        }
        (Err(distrust), false) => format!("not good: {distrust}\n"),
        (Ok(Signer { identity, key }), true) => {
            let id = whole(&args.file, args.key_file.as_deref())?.id.to_string();
            let object = json!({"schema": SCHEMA, "command": "manifest check-signature", "good": true,
                "id": id, "identity": identity, "key": key});
            format!("{object}\n")
        }
        (Err(distrust), true) => {
            let object = json!({"schema": SCHEMA, "command": "manifest check-signature", "good": false,
                "why": reason(distrust), "text": distrust.to_string()});
            format!("{object}\n")
        }
    };
    written(out.write_all(text.as_bytes()))?;
    Ok(if answer.is_ok() { Exit::Done } else { Exit::NotSame })
}

/// Whose signature a manifest carries, for a command that believes nothing else.
///
/// # Errors
/// Refuses (exit code 3) when no signature counts.
pub fn demand(manifest: &Path, signers: &Signers) -> Result<Believed, Failure> {
    let file = open(manifest)?;
    let signer = ask(&file, manifest, signers)?.map_err(|distrust| {
        let message =
            format!("{} is not believed, and nothing was compared: {distrust}", show::path(manifest));
        Failure::new(Exit::Refused, message)
    })?;
    Ok(Believed { file, signer })
}

/// A manifest whose signature was good, held open: whatever is renamed over its name meanwhile, this is the one that is believed.
#[derive(Debug)]
pub struct Believed {
    file: File,
    /// Who signed it.
    pub signer: Signer,
}

impl Believed {
    /// A path to this very file, good as long as this lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

fn open(manifest: &Path) -> Result<File, Failure> {
    File::open(manifest).map_err(|error| Failure::failed(unknown(manifest), error))
}

fn ask(file: &File, manifest: &Path, signers: &Signers) -> Result<Result<Signer, Distrust>, Failure> {
    signature::check(file, &signature::beside(manifest), signers)
        .map_err(|error| Failure::failed(unknown(manifest), error))
}

fn unknown(manifest: &Path) -> String {
    format!("could not find out who signed {}", show::path(manifest))
}

/// Reads a manifest to its end: a signature says nothing about a file that nobody could use.
fn whole(file: &Path, key_file: Option<&Path>) -> Result<Summary, Failure> {
    let unusable = |error| Failure::failed(format!("could not use {}", show::path(file)), error);
    let mut reader = open_file_with(file, &super::keys::hashing(key_file)?).map_err(unusable)?;
    for entry in &mut reader {
        entry.map_err(unusable)?;
    }
    reader.summary().ok_or_else(|| Failure::new(Exit::Failed, format!("{} has no footer", show::path(file))))
}

/// The stable name of a reason, for JSON.
fn reason(distrust: &Distrust) -> &'static str {
    match distrust {
        Distrust::NoSignature(_) => "no-signature",
        Distrust::Malformed { .. } => "malformed",
        Distrust::Changed => "changed",
        Distrust::OtherPurpose => "other-purpose",
        Distrust::UnknownKey { .. } => "unknown-key",
        Distrust::OtherIdentity { .. } => "other-identity",
        Distrust::Revoked { .. } => "revoked",
    }
}
