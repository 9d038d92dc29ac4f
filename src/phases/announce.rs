//! What people are told where they look anyway: at login (pam_motd reads `/run/motd.d`) and on the console. Both lie in memory, so
//! every boot that has something to tell writes them again.
//!
//! agetty shows `/run/issue.d` before the login prompt, but where there is an `/etc/issue`, as on Debian, only files below `/etc` (seen
//! with util-linux 2.38.1), and `/etc` goes back with the root and must be as it was. So each change is also written to the console itself.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::{Result, confirmation, trouble};
use crate::evidence::{CommitRule, Plan};
use crate::journal::Frame;
use crate::machine::State;
use crate::places::StateDirectory;
use crate::system::exec::Exec;
use crate::system::{durable, show};

const MOTD: &str = "motd.d/50-safe-upgrade";
const ISSUE: &str = "issue.d/50-safe-upgrade.issue";
const RUNTIME: &str = "/run";
const CONSOLE: &str = "/dev/console";

/// Sentences for the two places.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Announcement {
    /// For anybody who can see the console: where it stands and what to type, but nothing of what went wrong.
    before_login: Vec<String>,
    /// Added for those who have logged in.
    after_login: Vec<String>,
}

/// Tells the state, or takes back what was told when there is nothing to tell any more. A machine must not fail over this: what can't
/// be written is logged. Repeatable.
pub fn tell(places: &StateDirectory, state: &State, frames: &[Frame]) {
    let announcement = announcement(places, state, frames);
    let issue = Path::new(RUNTIME).join(ISSUE);
    let before = std::fs::read(&issue).ok();
    if let Err(trouble) = write(Path::new(RUNTIME), announcement.as_ref()) {
        tracing::warn!(%trouble, "the state of the run could not be announced");
        return;
    }
    let now = std::fs::read(&issue).ok();
    if let Some(text) = now.as_deref().filter(|text| before.as_deref() != Some(text)) {
        show_on_console(text);
    }
    // Consoles that wait for a login show the new text; where no getty runs there is nobody to show it to.
    drop(Exec::new("agetty").and_then(|exec| exec.arg("--reload").output()));
}

/// A machine without a console has nobody who looks at it, and one that is blocked must not block us.
fn show_on_console(text: &[u8]) {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let opened = OpenOptions::new().write(true).custom_flags(flags).open(CONSOLE);
    let shown =
        opened.and_then(|mut console| console.write_all(b"\n").and_then(|()| console.write_all(text)));
    if let Err(error) = shown {
        tracing::debug!(%error, "nothing was shown on the console");
    }
}

fn write(runtime: &Path, announcement: Option<&Announcement>) -> Result<()> {
    let (motd, issue) = (runtime.join(MOTD), runtime.join(ISSUE));
    let Some(announcement) = announcement else {
        durable::remove_file(&motd).map_err(trouble)?;
        return durable::remove_file(&issue).map_err(trouble);
    };
    let lines = |parts: &[&[String]]| -> String {
        parts.concat().iter().map(|sentence| format!("{}\n", show::line(sentence))).collect()
    };
    let Announcement { before_login, after_login } = announcement;
    write_file(&motd, &lines(&[before_login, after_login]))?;
    // A backslash begins an escape of agetty's.
    write_file(&issue, &(lines(&[before_login]).replace('\\', "?") + "\n"))
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.is_dir()) {
        std::fs::create_dir_all(directory).map_err(trouble)?;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).map_err(trouble)?;
    }
    durable::replace_file(path, text.as_bytes(), 0o644).map_err(trouble)
}

/// What is worth telling about a state, if anything. Pure, but for where the post-mortem lies.
fn announcement(places: &StateDirectory, state: &State, frames: &[Frame]) -> Option<Announcement> {
    let plan = state.plan()?;
    let why = || state.why().map(|why| format!("Why: {why}.")).into_iter().collect::<Vec<_>>();
    let report = "`safe-upgrade report` (as root) tells what went wrong".to_owned();
    let (from, to) = (&plan.from.codename, &plan.to.codename);
    let (before_login, after_login) = match state {
        State::Trial { health: None, .. } => (
            vec![format!("safe-upgrade: this machine runs {to} on trial; its health is being checked.")],
            vec![format!(
                "If it is not well, {from} comes back by itself. `safe-upgrade status` shows how far it is."
            )],
        ),
        State::Trial { .. } => (waiting(plan, state, frames), vec![]),
        State::RollingBack { .. } | State::RollbackRebooting { .. } => {
            (vec![format!("safe-upgrade: this machine goes back to {from}, and will reboot.")], why())
        }
        State::RolledBack { snapshot: Some(_), .. } => {
            let path = places.run(&plan.run).join(super::post_mortem::FILE);
            let mut lines = why();
            lines.push(format!("{report}; it is kept in {}.", show::path(&path)));
            lines.push("This notice stays until `safe-upgrade prune` has deleted the failed system, or the next run.".into());
            let told = format!(
                "safe-upgrade: the upgrade to {to} was rolled back; this is {from}, proven restored."
            );
            (vec![told], lines)
        }
        State::Stuck { snapshot, .. } => {
            let mut lines = why();
            lines.push(match snapshot {
                Some(_) => {
                    "Mend it, then `safe-upgrade rollback`; or begin anew: `safe-upgrade run --leave-stuck`."
                        .into()
                }
                None => "Mend it, then `safe-upgrade run --leave-stuck`.".into(),
            });
            let told = "safe-upgrade: the run is stuck and a human is needed: log in as root and type `safe-upgrade status`.";
            (vec![told.to_owned()], lines)
        }
        _ => return None,
    };
    Some(Announcement { before_login, after_login })
}

/// A healthy trial waits for somebody.
fn waiting(plan: &Plan, state: &State, frames: &[Frame]) -> Vec<String> {
    let (from, to) = (&plan.from.codename, &plan.to.codename);
    let told = format!("safe-upgrade: this machine runs {to} on trial, and it is healthy.");
    let next = match (plan.commit, confirmation::until(state, frames)) {
        (CommitRule::Confirm, Some(time)) => format!(
            "It goes back to {from} at {} unless somebody types `safe-upgrade commit`.",
            time.strftime("%Y-%m-%d %H:%M:%S UTC")
        ),
        (CommitRule::Confirm, None) => {
            format!("It goes back to {from} soon, unless somebody types `safe-upgrade commit`.")
        }
        _ => "It waits for `safe-upgrade commit` or `safe-upgrade rollback`.".into(),
    };
    vec![told, next]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Why;
    use crate::sim;

    #[test]
    fn it_is_written_and_taken_back() {
        let runtime = tempfile::tempdir().unwrap();
        let announcement =
            Announcement { before_login: vec!["one\x1b[2J \\n".into()], after_login: vec!["why".into()] };
        write(runtime.path(), Some(&announcement)).unwrap();
        let read = |path: &str| std::fs::read_to_string(runtime.path().join(path)).unwrap();
        assert_eq!(read(MOTD), "one\\x1b[2J \\\\n\nwhy\n");
        assert_eq!(read(ISSUE), "one?x1b[2J ??n\n\n");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&runtime.path().join(MOTD)), 0o644);
        assert_eq!(mode(&runtime.path().join("issue.d")), 0o755);
        for _ in 0..2 {
            write(runtime.path(), None).unwrap();
        }
        assert!(!runtime.path().join(MOTD).exists() && !runtime.path().join(ISSUE).exists());
    }

    #[test]
    fn nothing_is_left_to_take_back_where_nothing_was_told() {
        let runtime = tempfile::tempdir().unwrap();
        write(runtime.path(), None).unwrap();
    }

    #[test]
    fn what_went_wrong_is_not_told_before_login() {
        let plan = sim::plan(CommitRule::Automatic);
        let state = State::Stuck { plan, why: Why::NotRestored, snapshot: None };
        let told = announcement(&StateDirectory::at("/s"), &state, &[]).unwrap();
        assert!(told.before_login.iter().all(|line| !line.contains("Why")));
        assert_eq!(told.after_login[0], "Why: the machine did not boot the restored root.");
        assert_eq!(announcement(&StateDirectory::at("/s"), &State::New, &[]), None);
    }
}
