//! `[[verify]]`: copies that are verified again and again, unattended.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::Deserialize;

use super::AbsolutePath;
use crate::manifest::Facts;
use crate::sources::{Input, Source};
use crate::system::span::Span;
use crate::verify::select::{Sample, SampleError};

/// One copy and what is asked of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheduled {
    /// By which it is known: to the command line, in `status`, in metrics.
    pub name: Name,
    /// The copy, as `safe-upgrade verify` takes it: a directory, or `restic:...`, `ssh:...` and the like.
    pub copy: CopyText,
    /// The manifest of what it should be.
    pub manifest: Option<AbsolutePath>,
    /// Instead of a manifest: the tree that it is a copy of, as it is now.
    pub against: Option<AbsolutePath>,
    /// Which snapshot or archive of a repository.
    pub snapshot: Option<String>,
    /// Who must have signed the manifest: a file in the form ALLOWED SIGNERS of ssh-keygen(1).
    pub signers: Option<AbsolutePath>,
    /// How long after one run the next is due. A run that found no answer is due again at once.
    #[serde(default = "one_day")]
    pub every: Span,
    /// How much of a directory is read in one run, what was proven longest ago first; all of it when this is not given.
    pub sample: Option<SampleText>,
    /// How long one run on a directory may take.
    pub max_duration: Option<Span>,
    /// How old a proof may be: the run first reads what was not proven for so long, and an alarm can be set on it.
    pub max_age: Option<Span>,
    /// Really restore, into a fresh directory in this one.
    pub restore_to: Option<AbsolutePath>,
    /// Losses that are known and wanted, as `--accept-lost` takes them.
    #[serde(default)]
    pub accept_lost: Vec<LostFact>,
    /// What an archive has in front of the paths of the manifest.
    pub strip: Option<String>,
    /// Where in the snapshot the tree is; by default where the manifest was taken.
    pub inside: Option<AbsolutePath>,
    /// The key of a keyed manifest.
    pub key_file: Option<AbsolutePath>,
    /// Where temporary files go.
    pub scratch: Option<AbsolutePath>,
    /// A file of metrics in the form that Prometheus' node exporter collects (`*.prom`); several may name the same.
    pub metrics: Option<MetricsFile>,
    /// A configuration file of the engine: ssh's or rclone's.
    pub engine_config: Option<AbsolutePath>,
    /// Options for the engine, as `--engine-option` takes them.
    #[serde(default)]
    pub engine_options: Vec<String>,
    /// A file that holds the password of a repository.
    pub password_file: Option<AbsolutePath>,
}

fn one_day() -> Span {
    Span::seconds(86_400)
}

/// A name that can be a file name and a label: letters, digits, `.`, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

impl Name {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        // 64 leave room for what is added in file names.
        if (1..=64).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with(['.', '-']) {
            return Ok(Self(text));
        }
        Err(format!(
            "{text:?} is not a name: write up to 64 letters, digits, '.', '_' or '-', not beginning with '.' or '-'"
        ))
    }
}

/// A copy as the command line takes it; paths in it are absolute, because a service has no place that a person would know.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct CopyText {
    text: String,
    source: Source,
}

impl CopyText {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// As it was understood.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }
}

impl TryFrom<String> for CopyText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let source = Source::parse(text.as_ref()).map_err(|error| error.to_string())?;
        let usable = match &source {
            Source::Path(path) => path.is_absolute(),
            Source::Tar(input) | Source::SendStream(input) => {
                matches!(input, Input::File(path) if path.is_absolute())
            }
            _ => true,
        };
        if usable && !text.contains('\0') {
            return Ok(Self { text, source });
        }
        Err(format!("{text:?} is neither a path from / nor something like \"restic:/srv/restic\""))
    }
}

/// How much is read in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SampleText(Sample);

impl SampleText {
    /// As it was understood.
    #[must_use]
    pub fn sample(self) -> Sample {
        self.0
    }
}

impl TryFrom<String> for SampleText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error: SampleError| error.to_string())
    }
}

/// A loss that can be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct LostFact(Facts);

impl LostFact {
    /// As it was understood.
    #[must_use]
    pub fn fact(self) -> Facts {
        self.0
    }
}

impl TryFrom<String> for LostFact {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let acceptable = Facts::ALL.without(Facts::CONTENT);
        Facts::named(&text).filter(|fact| acceptable.has(*fact)).map(Self).ok_or_else(|| {
            let known: Vec<&str> = acceptable.names().collect();
            format!("{text:?} is no loss that can be accepted: known are {}", known.join(", "))
        })
    }
}

/// A file that the node exporter takes: its name must end in `.prom`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct MetricsFile(AbsolutePath);

impl MetricsFile {
    /// The path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        self.0.as_path()
    }
}

impl TryFrom<String> for MetricsFile {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if !text.ends_with(".prom") {
            return Err(format!(
                "{text:?} does not end in \".prom\", so the node exporter would not read it"
            ));
        }
        AbsolutePath::try_from(text).map(Self)
    }
}

/// What the types cannot say, as [`super::validate`].
pub(super) fn validate(jobs: &[Scheduled]) -> Result<(), (String, String)> {
    let mut names = BTreeSet::new();
    for job in jobs {
        let wrong = |what: String| Err((format!("\"{}\"", job.name), what));
        if !names.insert(&job.name) {
            return wrong(format!("two verifications are named \"{}\"", job.name));
        }
        match (&job.manifest, &job.against) {
            (Some(_), Some(_)) => {
                return wrong(format!("\"{}\" has a manifest and an against: write one of them", job.name));
            }
            (None, None) => {
                return wrong(format!(
                    "\"{}\" has nothing to compare with: write manifest or against",
                    job.name
                ));
            }
            _ => {}
        }
        if job.signers.is_some() && job.manifest.is_none() {
            return wrong(format!(
                "\"{}\" names signers and no manifest that they could have signed",
                job.name
            ));
        }
        let whole = !matches!(job.copy.source(), Source::Path(_)) || job.restore_to.is_some();
        if whole && (job.sample.is_some() || job.max_duration.is_some()) {
            return wrong(format!(
                "\"{}\" is read as a whole: sample and max_duration are for directories that are read where they are",
                job.name
            ));
        }
        if let Some(age) = job.max_age.filter(|age| *age < job.every) {
            return wrong(format!(
                "\"{}\" runs every {} and so cannot keep its proofs younger than max_age = \"{age}\"",
                job.name, job.every
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::parse_scheduled;

    const GOOD: &str =
        "[[verify]]\nname = \"mail\"\ncopy = \"/srv/backup/mail\"\nmanifest = \"/srv/mail.manifest\"\n";

    #[test]
    fn it_needs_no_other_section_and_has_sane_defaults() {
        let jobs = parse_scheduled(GOOD).unwrap();
        assert_eq!((jobs[0].name.as_str(), jobs[0].every.to_string().as_str()), ("mail", "1d"));
        assert!(parse_scheduled("").unwrap().is_empty());
        let whole = format!("[backup]\nstore = \"/srv/b\"\ntrees = [\"/etc\"]\n{GOOD}");
        assert_eq!(parse_scheduled(&whole).unwrap().len(), 1);
    }

    #[test]
    fn every_error_names_its_line_and_its_value() {
        let with = |line: &str| parse_scheduled(&format!("{GOOD}{line}\n")).unwrap_err();
        assert!(with("colour = 1").starts_with("5:1: unknown field `colour`"));
        assert!(with("max_duration = \"soon\"").starts_with("5:16: \"soon\" is not a duration"));
        assert!(with("sample = \"5 %\"").starts_with("5:10: \"5 %\" is not a sample"));
        assert!(with("accept_lost = [\"owner\", \"content\"]").contains("\"content\" is no loss"));
        assert!(with("restore_to = \"/mnt\"\nsample = \"5%\"").contains("is read as a whole"));
        assert!(with("metrics = \"/var/x.txt\"").starts_with("5:11: \"/var/x.txt\" does not end in"));
        assert!(with("against = \"/srv/mail\"").starts_with("2:8: \"mail\" has a manifest and an against"));
        assert!(with("every = \"10d\"\nmax_age = \"5d\"").contains("max_age = \"5d\""));
        let twice = parse_scheduled(&format!("{GOOD}{GOOD}")).unwrap_err();
        assert!(twice.contains("two verifications are named \"mail\""), "{twice}");
        for (name, copy) in
            [("../x", "/a"), ("a b", "/a"), ("", "/a"), ("x", "relative"), ("x", "tar:-"), ("x", "restic:")]
        {
            let text = format!("[[verify]]\nname = \"{name}\"\ncopy = \"{copy}\"\nagainst = \"/a\"\n");
            let error = parse_scheduled(&text).unwrap_err();
            assert!(error.starts_with("2:8: ") || error.starts_with("3:8: "), "{error}");
        }
        let none = parse_scheduled("[[verify]]\nname = \"x\"\ncopy = \"restic:/r\"\n").unwrap_err();
        assert!(none.contains("nothing to compare with"), "{none}");
        assert!(parse_scheduled("[helth]\n").unwrap_err().starts_with("1:2: unknown field `helth`"));
    }
}
