//! What was foretold of the packages, kept with the run before they change, and compared with what became of them. It decides nothing.

use std::path::Path;

use super::{Result, trouble};
use crate::compat;
use crate::error::chain;
use crate::release::prediction::{Foretold, Verdict};
use crate::system::{durable, show};

/// What was foretold, in the directory of a run.
pub const FORETOLD: &str = "foretold.json";

/// What came of it, beside it: a [`Verdict`].
pub const FILE: &str = "packages.json";

/// Keeps with a run what was foretold. Repeatable: as long as no package has changed, the last word counts.
pub(super) fn keep(run: &Path, foretold: &Foretold) -> Result<()> {
    let text = serde_json::to_vec(foretold).map_err(trouble)?;
    durable::replace_file(&run.join(FORETOLD), &text, 0o600).map_err(trouble)
}

/// Compares what a run has kept with the packages below a root.
pub(super) fn compare(run: &Path, root: &Path) -> Verdict {
    let compared = read(run).and_then(|kept| {
        let now = compat::installed(root).map_err(|error| chain(&error))?;
        Ok(kept.compare(now))
    });
    compared.into()
}

/// Keeps for the report what came of it. The upgrade does not fail for it.
pub(super) fn keep_verdict(run: &Path, verdict: &Verdict) {
    let kept = serde_json::to_vec(verdict)
        .map_err(|error| error.to_string())
        .and_then(|text| durable::replace_file(&run.join(FILE), &text, 0o600).map_err(|error| chain(&error)));
    if let Err(error) = kept {
        tracing::warn!(error, "whether the packages became what was foretold is not kept");
    }
}

fn read(run: &Path) -> std::result::Result<Foretold, String> {
    let path = run.join(FORETOLD);
    let bytes =
        std::fs::read(&path).map_err(|error| format!("{} could not be read ({error})", show::path(&path)))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| format!("{} was not understood ({error})", show::path(&path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat::status::STATUS;
    use crate::release::prediction::Prediction;
    use crate::release::simulation::Change;

    const INSTALLED: &str =
        "Package: dpkg\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.22\n";

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let status = root.path().join(STATUS);
        std::fs::create_dir_all(status.parent().unwrap()).unwrap();
        std::fs::write(status, INSTALLED).unwrap();
        root
    }

    fn foretold(new: &str) -> Foretold {
        let upgraded = Change {
            package: "dpkg".into(),
            old: Some("1.21".into()),
            new: new.into(),
            origin: "Debian:13.1/stable".into(),
        };
        Foretold {
            prediction: Prediction { upgraded: vec![upgraded], ..Prediction::default() },
            before: [("dpkg".to_owned(), "1.21".to_owned())].into(),
        }
    }

    #[test]
    fn what_was_kept_is_compared_with_what_is_there() {
        let (root, run) = (root(), tempfile::tempdir().unwrap());
        keep(run.path(), &foretold("1.22")).unwrap();
        let verdict = compare(run.path(), root.path());
        assert_eq!(verdict.sentence(), "1 of 1 package changes came true.");
        assert!(verdict.deviations().is_empty());
        keep(run.path(), &foretold("1.23")).unwrap();
        let verdict = compare(run.path(), root.path());
        assert_eq!(verdict.deviations(), ["dpkg was to be upgraded to 1.23, and it is 1.22"]);
        keep_verdict(run.path(), &verdict);
        let kept = std::fs::read(run.path().join(FILE)).unwrap();
        assert_eq!(serde_json::from_slice::<Verdict>(&kept).unwrap(), verdict);
    }

    #[test]
    fn what_cannot_be_compared_is_said() {
        let (root, run) = (root(), tempfile::tempdir().unwrap());
        let unknown = |part: &str| {
            let verdict = compare(run.path(), root.path());
            assert!(
                matches!(&verdict, Verdict::Unknown { unknown } if unknown.contains(part)),
                "{verdict:?}"
            );
            let text = serde_json::to_string(&verdict).unwrap();
            assert_eq!(serde_json::from_str::<Verdict>(&text).unwrap(), verdict);
        };
        unknown("foretold.json could not be read");
        std::fs::write(run.path().join(FORETOLD), "{").unwrap();
        unknown("foretold.json was not understood");
        keep(run.path(), &foretold("1.22")).unwrap();
        std::fs::remove_file(root.path().join(STATUS)).unwrap();
        unknown("failed to read");
    }
}
