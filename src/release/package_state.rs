//! The state of the packages as one number: what was proven for one state says nothing about another.

use std::path::Path;

use crate::system::exec::{Exec, ExecError};

/// BLAKE3, in hexadecimal, of every package with its version and what is wanted of it (installed, held, removed), in the order of names.
///
/// # Errors
/// When dpkg does not answer.
pub fn package_state(root: &Path) -> Result<String, ExecError> {
    let admin = format!("--admindir={}", root.join("var/lib/dpkg").display());
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
}
