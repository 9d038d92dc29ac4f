//! Big jumps that a table of versions cannot tell: PHP, Python with its environments, PostgreSQL's clusters, MariaDB's files.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::jumps::{arrow, jumps};
use super::services::{MysqlDirectory, Services};
use crate::finding::Finding;
use crate::release::hop::Hop;
use crate::release::prediction::Prediction;
use crate::release::simulation::Change;
use crate::system::show;
use crate::version;

/// More environments than this are counted, not listed.
const MOST_LINES: usize = 40;

/// Everything about these services.
#[must_use]
pub fn findings(prediction: &Prediction, services: &Services, hop: &Hop) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(php(prediction));
    findings.extend(python(prediction, services));
    findings.extend(postgresql(prediction, services, hop));
    if let Some(directory) = &services.mysql {
        findings.extend(mariadb(prediction, directory));
    }
    findings
}

/// The packages of a version of PHP make room for those of another one; configuration and sockets have the version in their names.
fn php(prediction: &Prediction) -> Option<Finding> {
    let versions = |changes: &[Change]| -> BTreeSet<String> {
        changes.iter().filter_map(|change| php_version(&change.package)).collect()
    };
    let (old, new) = (versions(&prediction.removed), versions(&prediction.new));
    let (old, new) = (old.into_iter().next_back()?, new.into_iter().next_back()?);
    let of = |change: &&Change| php_version(&change.package).is_some();
    let leaving = prediction.removed.iter().filter(of).map(|change| format!("removed: {}", change.package));
    let arriving =
        prediction.new.iter().filter(of).map(|change| format!("new: {} {}", change.package, change.new));
    Some(
        Finding::warning(
            "php-major",
            format!(
                "PHP goes from {old} to {new}: programs have to support it, settings below /etc/php/{old} are not taken over, and what \
                 names the socket /run/php/php{old}-fpm.sock finds nobody there."
            ),
            format!(
                "compare /etc/php/{old} with the new defaults in a rehearsal, and name the socket /run/php/php-fpm.sock in the web \
                 server (grep -rn php{old}-fpm.sock /etc)"
            ),
        )
        .with_evidence(leaving.chain(arriving)),
    )
}

/// `8.2` of `php8.2-fpm` and `libapache2-mod-php8.2`.
fn php_version(package: &str) -> Option<String> {
    let rest = package.strip_prefix("libapache2-mod-").unwrap_or(package).strip_prefix("php")?;
    let number = rest.split('-').next()?;
    let numeric = number.contains('.') && number.chars().all(|one| one.is_ascii_digit() || one == '.');
    numeric.then(|| number.to_owned())
}

fn python(prediction: &Prediction, services: &Services) -> Vec<Finding> {
    let change = prediction.upgraded.iter().find(|change| change.package == "python3");
    let Some(change) = change else { return Vec::new() };
    let Some((old, new)) = change.old.as_deref().and_then(|before| jumps(before, &change.new, 2)) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let ours = |found: &str| found == old || found.starts_with(&format!("{old}."));
    let environments: Vec<String> = services
        .environments
        .iter()
        .filter(|one| ours(&one.version))
        .map(|one| format!("{}: Python {}", one.path.display(), one.version))
        .collect();
    if !environments.is_empty() {
        findings.push(
            Finding::warning(
                "python-environments",
                format!(
                    "Python goes from {old} to {new}: {} virtual environments were made with {old}, and do not find their modules afterwards.",
                    environments.len()
                ),
                "keep a list of each (BIN/pip freeze > requirements.txt) now; make it anew after the upgrade: python3 -m venv --clear PLACE",
            )
            .with_evidence(shortened(environments)),
        );
    }
    let stale = format!("python{old}/");
    let modules = services.python_modules.iter().map(|path| path.display().to_string());
    let modules: Vec<String> = modules.filter(|path| path.contains(&stale)).collect();
    if !modules.is_empty() {
        findings.push(
            Finding::warning(
                "python-local-modules",
                format!("Python goes from {old} to {new}: modules that were installed with pip for {old} are not found afterwards."),
                "pip3 freeze --path DIRECTORY > requirements.txt, and install what is needed in a virtual environment after the upgrade",
            )
            .with_evidence(modules),
        );
    }
    if findings.is_empty() {
        findings.push(
            Finding::note(
                "python-major",
                format!("Python goes from {old} to {new}; nothing was found that was made for {old} only."),
                "nothing",
            )
            .with_evidence([arrow(change)]),
        );
    }
    const LISTED: usize = 20;
    let not_searched = &services.not_searched;
    findings.extend((!not_searched.is_empty()).then(|| {
        Finding::note(
            "places-not-searched",
            format!("{} places were not searched to the end for environments of Python.", not_searched.len()),
            "look for files named pyvenv.cfg there",
        )
        .with_evidence(not_searched.iter().take(LISTED).map(|line| show::line(line)))
    }));
    findings
}

fn postgresql(prediction: &Prediction, services: &Services, hop: &Hop) -> Vec<Finding> {
    let mut findings = Vec::new();
    let shown: Vec<String> = services
        .clusters
        .iter()
        .map(|one| format!("cluster {} {}: {}", one.version, one.name, one.path.display()))
        .collect();
    for cluster in &services.clusters {
        let server = format!("postgresql-{}", cluster.version);
        if prediction.removes(&server) {
            findings.push(
                Finding::inhibitor(
                    "postgresql-server-removed",
                    format!(
                        "the upgrade removes {server}, which the cluster {} {} runs on.",
                        cluster.version, cluster.name
                    ),
                    "move the cluster first (pg_upgradecluster), or find out what is in conflict with it",
                )
                .with_evidence([format!("{}", cluster.path.display())]),
            );
        }
    }
    let stays = |version: &str| {
        let server = format!("postgresql-{version}");
        prediction.arriving(&server).is_none() && !prediction.removes(&server)
    };
    let old: Vec<&String> = shown
        .iter()
        .zip(&services.clusters)
        .filter(|(_, one)| stays(&one.version))
        .map(|(line, _)| line)
        .collect();
    if !old.is_empty() {
        findings.push(
            Finding::warning(
                "postgresql-cluster-stays",
                format!(
                    "PostgreSQL's clusters stay at their version, which {} has no packages and no security updates for.",
                    hop.to()
                ),
                "some days after the upgrade: pg_dumpall > dump.sql, then pg_upgradecluster VERSION NAME for each",
            )
            .with_evidence(old.iter().map(|line| (*line).clone())),
        );
    }
    let libc = prediction.arriving("libc6");
    let libc =
        libc.filter(|change| change.old.as_deref().is_some_and(|old| jumps(old, &change.new, 2).is_some()));
    if let Some(libc) = libc.filter(|_| !shown.is_empty()) {
        findings.push(
            Finding::warning(
                "postgresql-collation",
                "the C library's order of words changes, and indexes on text of PostgreSQL that were built by the old order may \
                 miss rows or let duplicates in.",
                "after the upgrade, in each database: REINDEX DATABASE name; ALTER DATABASE name REFRESH COLLATION VERSION",
            )
            .with_evidence(std::iter::once(arrow(libc)).chain(shown)),
        );
    }
    findings
}

/// Debian's packages move a directory that they take for newer out of the way and begin with an empty one: the service is up, and
/// everything is gone from view.
fn mariadb(prediction: &Prediction, directory: &MysqlDirectory) -> Option<Finding> {
    let server = prediction.arriving("mariadb-server")?;
    let target = version::short(&server.new, 2);
    let newer: Vec<String> = directory
        .flags
        .iter()
        .filter(|flag| version::compare(flag, &target) == Ordering::Greater)
        .map(|flag| format!("{}/debian-{flag}.flag", directory.path.display()))
        .collect();
    let remedy = "dump everything with the server that wrote it, and restore the dump into the new one; or remove a flag file that is \
                  there by mistake";
    if !newer.is_empty() {
        return Some(
            Finding::inhibitor(
                "mariadb-newer-on-disk",
                format!("MariaDB's directory says that a newer version than {target} wrote it: the upgrade would move it away and begin with an empty one."),
                remedy,
            )
            .with_evidence(newer)
            .with_evidence([arrow(server)]),
        );
    }
    directory.of_mysql.then(|| {
        Finding::inhibitor(
            "mysql-under-mariadb",
            "MySQL wrote the directory that MariaDB would use: the upgrade would move it away and begin with an empty one.",
            remedy,
        )
        .with_evidence([format!("{}/undo_001", directory.path.display()), arrow(server)])
    })
}

fn shortened(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(MOST_LINES);
    lines.truncate(MOST_LINES);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}
