//! The state of the packages as one number: what was proven for one state says nothing about another.

use std::io;
use std::path::{Path, PathBuf};

use crate::system::exec::{Exec, ExecError};

/// Where dpkg keeps what it knows.
pub const ADMIN: &str = "/var/lib/dpkg";

/// The state of the packages could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum PackageStateError {
    /// dpkg itself takes a list that is not there for an empty one.
    #[error("failed to find dpkg's list of packages {}", .path.display())]
    Status {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// dpkg does not answer.
    #[error(transparent)]
    Dpkg(#[from] ExecError),
}

/// BLAKE3, in hexadecimal, of every package with its version and what is wanted of it (installed, held, removed), in the order of names.
/// `admin` is [`ADMIN`], or that of another system.
///
/// # Errors
/// When there is no list of packages, or dpkg does not answer.
pub fn package_state(admin: &Path) -> Result<String, PackageStateError> {
    let path = admin.join("status");
    std::fs::metadata(&path).map_err(|source| PackageStateError::Status { path, source })?;
    let admin = format!("--admindir={}", admin.display());
    let listed = Exec::new("dpkg-query")?
        .args([admin.as_str(), "-W", "-f", "${binary:Package} ${Version} ${db:Status-Want}\\n"])
        .text()?;
    Ok(digest(&listed))
}

fn digest(listed: &str) -> String {
    let mut lines: Vec<&str> = listed.lines().collect();
    lines.sort_unstable();
    blake3::hash(lines.join("\n").as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_does_not_matter_and_everything_else_does() {
        let state = digest("a 1 install\nb 2 install\n");
        assert_eq!(digest("b 2 install\na 1 install\n"), state);
        for other in ["a 1 install\nb 3 install\n", "a 1 install\nb 2 hold\n", "a 1 install\n"] {
            assert_ne!(digest(other), state, "{other}");
        }
    }

    #[test]
    fn a_list_that_is_not_there_is_not_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let none = package_state(dir.path()).unwrap_err();
        assert!(matches!(none, PackageStateError::Status { .. }), "{none:?}");
    }
}
