//! `init`: a commented configuration for this very server, and, where runs are possible, a subvolume of its own for the journal.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::args::InitArgs;
use super::{SCHEMA, needs_root, print_json, written};
use crate::config;
use crate::error::{Exit, Failure};
use crate::phases::ground;
use crate::places::StateDirectory;
use crate::system::{durable, show};

/// What is possible on a machine that has no snapshots.
const NO_GROUND: &str = "/ is not on btrfs: `safe-upgrade run` needs its snapshots and refuses here. \
    `check`, `backup`, `rehearse` and `verify` work as everywhere.";

/// Trees that hold what a server is for, where they are there.
const USUAL_TREES: [(&str, &str); 8] = [
    ("/etc", "how this server is set up"),
    ("/root", "the administrator's home"),
    ("/home", "people's homes"),
    ("/srv", "what it serves"),
    ("/var/www", "web sites"),
    (
        "/var/lib/postgresql",
        "PostgreSQL; a copy of a busy database differs: stop it, or name a directory with dumps instead",
    ),
    (
        "/var/lib/mysql",
        "MariaDB or MySQL; a copy of a busy database differs: stop it, or name a directory with dumps instead",
    ),
    ("/var/mail", "mail"),
];

/// Services that a check can be suggested for: a file that shows that one is there, and the check.
const USUAL_CHECKS: [(&str, &str); 5] = [
    (
        "/usr/sbin/nginx",
        "[[health.check]]\nname = \"web\"\nkind = \"http\"\nurl = \"http://127.0.0.1/\"\nstatus = 200\n# body = \"a text that only the healthy site shows\"\n",
    ),
    (
        "/usr/sbin/apache2",
        "[[health.check]]\nname = \"web\"\nkind = \"http\"\nurl = \"http://127.0.0.1/\"\nstatus = 200\n# body = \"a text that only the healthy site shows\"\n",
    ),
    ("/usr/sbin/sshd", "[[health.check]]\nname = \"ssh\"\nkind = \"tcp\"\naddress = \"127.0.0.1:22\"\n"),
    (
        "/usr/sbin/mariadbd",
        "[[health.check]]\nname = \"mariadb\"\nkind = \"unit\"\nunit = \"mariadb.service\"\n",
    ),
    (
        "/usr/bin/pg_lsclusters",
        "[[health.check]]\nname = \"postgresql\"\nkind = \"tcp\"\naddress = \"127.0.0.1:5432\"\n",
    ),
];

/// Writes the configuration and makes the ground for the journal.
///
/// # Errors
/// When a configuration is there already, or something cannot be written.
pub(super) fn run(args: &InitArgs, places: &StateDirectory, out: &mut dyn Write) -> Result<Exit, Failure> {
    needs_root("init")?;
    let path = &args.common.config;
    if path.exists() && !args.force {
        return Err(Failure::usage(format!("{} is there already", show::path(path)))
            .hint("edit it, or write a new one with --force"));
    }
    let text = text(&args.store, |place| Path::new(place).exists());
    config::parse(&text).map_err(|wrong| {
        Failure::new(Exit::Usage, format!("the new configuration would be wrong: {wrong}"))
    })?;
    if let Some(parent) = path.parent() {
        durable::private_directory(parent)
            .map_err(|error| Failure::failed("failed to write the configuration", error))?;
    }
    durable::replace_file(path, text.as_bytes(), 0o600)
        .map_err(|error| Failure::failed("failed to write the configuration", error))?;
    let ground = ground::prepare_without_runs(places)?;
    if args.common.json {
        print_json(out, &json!({"schema": SCHEMA, "command": "init", "config": path, "state": ground}))?;
    } else {
        let ground = ground.map_or_else(|| NO_GROUND.to_owned(), |ground| ground.to_string());
        written(writeln!(out, "Wrote {}. Read it, then `safe-upgrade check`.\n{ground}", show::path(path)))?;
    }
    Ok(Exit::Done)
}

fn text(store: &Path, exists: impl Fn(&str) -> bool) -> String {
    let trees: String = USUAL_TREES
        .iter()
        .filter(|(tree, _)| exists(tree) && !store.starts_with(tree))
        .map(|(tree, what)| format!("  \"{tree}\",  # {what}\n"))
        .collect();
    let mut checks: Vec<&str> =
        USUAL_CHECKS.iter().filter(|(program, _)| exists(program)).map(|(_, check)| *check).collect();
    checks.dedup();
    let store = toml::Value::String(store.to_string_lossy().into_owned());
    format!(
        r#"# safe-upgrade: what this server is, and what "well" means for it. `safe-upgrade check` says what is missing.
# Durations: 45s, 10m, 2h, 14d.

[backup]
# Where the copies lie: on another disk than the data, or on another machine's disk that is mounted here.
store = {store}
# Everything that must be restorable before anything is touched. Without btrfs a rehearsal needs "/" in it.
trees = [
{trees}]
# Left out of every tree.
exclude = []
# false: somebody else fills the store; a run only verifies what lies there.
copy = true
# Where restored trees are put while they are compared; it needs as much room as the trees.
# scratch = "/mnt/scratch"
# After a restart a proof of the backup counts again when it is younger than this and so many files, read again, are equal.
max_age = "24h"
sample = 64

[upgrade]
# Package tools that write nothing for so long are ended, and the run goes back.
silence = "30m"
# A: a dead kernel comes back by itself. B: only a living userspace does. C: a human must.
minimum_level = "B"
# A run asks for a proof by booting (`safe-upgrade check --prove-boot`) that is not older than this.
# boot_proof = "30d"
# A second sshd listens here while packages change; keys only, and no firewall is opened for it.
# rescue_ssh_port = 1022

[health]
# How long the new system must stay healthy, and how long services may take to start.
soak = "2m"
settle = "5m"
# Counted from its boot: a trial without a verdict by then goes back by itself. More than twice settle and soak together.
deadline = "30m"

# Units that go by another name on the new release, besides those that safe-upgrade knows.
[health.renames]
# "php8.2-fpm.service" = "php8.4-fpm.service"

{}
{}
{}"#,
        checks.join("\n"),
        ENDINGS,
        VERIFICATIONS
    )
}

/// How a trial ends, and what stays of it.
const ENDINGS: &str = r#"[commit]
# automatic: a healthy trial is committed. manual: it waits for `safe-upgrade commit`. confirm: it waits too, and goes back when
# nobody types `safe-upgrade commit` in time: for machines that might be healthy and out of reach.
rule = "automatic"
confirm = "10m"
# How often a waiting trial may be booted before the machine goes back by itself.
trial_boots = 3

[rollback]
# New and changed files below these directories are copied from the failed root into the restored one, such as logs and mail. A file
# that both have written to is kept beside, as NAME.before-rollback.
carry = ["/var/log"]

[rehearsal]
# "required": a run is refused without a `safe-upgrade rehearse` that passed with these very packages.
mode = "off"
max_age = "7d"

[retention]
# `safe-upgrade prune` deletes the way back when it is older than this.
keep = "14d"

# An inhibitor that shall not stop a run, by its id from `safe-upgrade check`:
# [[waiver]]
# id = "..."
# reason = "why it may pass"
# expires = "2027-01-31"
"#;

/// How verification without a run is configured.
const VERIFICATIONS: &str = r#"# Copies that are verified again and again (docs/scheduled.md), once `systemctl enable --now safe-upgrade-verify.timer` was typed:
# [[verify]]
# name = "offsite"
# copy = "restic:/mnt/restic"              # or a directory, tar:, send:, borg:, ssh:, rclone:
# password_file = "/etc/safe-upgrade/restic.password"
# manifest = "/var/lib/manifests/srv"      # or against = "/srv", the tree as it is now
# every = "1d"
# max_age = "7d"                           # how old the last good result may grow
# accept_lost = ["sockets", "flags"]       # what such a copy cannot hold
# metrics = "/var/lib/prometheus/node-exporter/safe_upgrade.prom"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_writes_is_a_valid_configuration() {
        let config = config::parse(&text(Path::new("/mnt/backup"), |_| true)).unwrap();
        assert_eq!(config.backup.trees.len(), USUAL_TREES.len());
        assert!(config.health.checks.len() >= 4);
    }

    /// Whoever takes away the comment signs must have something that works.
    #[test]
    fn its_example_of_a_verification_is_valid() {
        let text = text(Path::new("/mnt/backup"), |_| true);
        let (before, example) = text.split_once("# [[verify]]").unwrap();
        let example = format!("{before}[[verify]]{}", example.replace("\n# ", "\n"));
        assert_eq!(config::parse(&example).unwrap().scheduled[0].name.as_str(), "offsite");
    }

    #[test]
    fn a_store_below_a_usual_tree_leaves_that_tree_out() {
        let config =
            config::parse(&text(Path::new("/srv/backup"), |place| place == "/etc" || place == "/srv"))
                .unwrap();
        assert_eq!(config.backup.trees.len(), 1);
    }
}
