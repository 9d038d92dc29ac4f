//! Accounts of MySQL that log in by a plugin that MySQL 8.4 does not load: they could not log in any more.

use std::path::Path;
use std::time::Duration;

use super::reading;
use crate::finding::Finding;
use crate::health::packages::Packages;
use crate::system::exec::Exec;
use crate::system::show;

const QUERY: &str = "SELECT CONCAT(user, '@', host) FROM mysql.user WHERE plugin = 'mysql_native_password'";

/// A server that does not answer by then is not asked.
const LIMIT: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Facts {
    /// There is no server of MySQL (MariaDB is none).
    NoServer,
    /// The server said which accounts.
    Accounts(Vec<String>),
    /// It could not be asked without a password, and none is guessed; why.
    NotAsked(String),
}

pub(super) fn facts(root: &Path, packages: &Packages) -> Facts {
    let server = |name: &&String| {
        let name = name.split(':').next().unwrap_or(name);
        name.starts_with("mysql-server-") || name == "mysql-server" || name == "mysql-community-server"
    };
    if !packages.installed.keys().any(|name| server(&name))
        || reading::version(packages, "mariadb-server").is_some()
    {
        return Facts::NoServer;
    }
    if root != Path::new("/") {
        return Facts::NotAsked("the server of another root cannot be asked".into());
    }
    let asked = Exec::new("mysql").and_then(|exec| {
        exec.args([
            "--no-defaults",
            "--protocol=socket",
            "--user=root",
            "--skip-password",
            "--batch",
            "--skip-column-names",
            "-e",
            QUERY,
        ])
        .limit(LIMIT)
        .text()
    });
    match asked {
        Ok(text) => Facts::Accounts(text.lines().map(str::to_owned).collect()),
        Err(error) => Facts::NotAsked(error.to_string()),
    }
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    match facts {
        Facts::NoServer => Vec::new(),
        Facts::Accounts(accounts) if accounts.is_empty() => Vec::new(),
        Facts::Accounts(accounts) => vec![
            Finding::warning(
                "mysql-native-password",
                "accounts of MySQL log in by mysql_native_password, which MySQL 8.4 does not load: they could not log in any more.",
                "ALTER USER 'name'@'host' IDENTIFIED WITH caching_sha2_password BY 'a new password'",
            )
            .with_evidence(accounts.iter().map(|account| show::line(account))),
        ],
        Facts::NotAsked(why) => vec![
            Finding::note(
                "mysql-accounts-not-seen",
                "MySQL was not asked how its accounts log in: without a password it does not answer, and none is guessed.",
                format!("as an administrator of MySQL: {QUERY}"),
            )
            .with_evidence(why.lines().map(show::line)),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::super::reading::made_up::ids;
    use super::*;

    #[test]
    fn nothing_is_guessed() {
        let with = |names: &[&str]| {
            let installed = names.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect();
            findings(&facts(Path::new("/no-such-root"), &Packages { installed, ..Packages::default() }))
        };
        assert!(with(&["mysql-common", "mariadb-server", "mysql-client-8.0"]).is_empty());
        assert_eq!(ids(&with(&["mysql-server-8.0"])), ["note mysql-accounts-not-seen"]);
        let asked = Facts::Accounts(vec!["app@%".into()]);
        assert_eq!(ids(&findings(&asked)), ["warning mysql-native-password"]);
        assert!(findings(&Facts::Accounts(Vec::new())).is_empty());
    }
}
