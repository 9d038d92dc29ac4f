//! Our block at the end of GRUB's menu: the old system by default, the trial once.
//!
//! It stands behind everything that computes a default, so what it sets is what counts. Only one variable is taken from
//! the env file; it is cleared, saved and read back before the trial is chosen, so a trial can never be chosen twice,
//! and a file that cannot be written chooses none. Each file is found by its filesystem's UUID. Nothing here needs a
//! module that the signed GRUB lacks; where modules are files, the old ones are still in place.

use super::menu::Boots;

/// The name of the one variable that GRUB reads and clears.
pub const VARIABLE: &str = "su_trial";
/// The id of the old system's entry.
pub const OLD_ID: &str = "safe-upgrade-old";
/// The id of the trial's entry.
pub const TRIAL_ID: &str = "safe-upgrade-trial";
/// How long the menu is shown, in seconds: time for somebody at the console, and short beside any boot.
const TIMEOUT_SECONDS: u32 = 3;

const BEGIN: &str = "### BEGIN safe-upgrade ";
const END: &str = "### END safe-upgrade ";

/// Built into the signed image, or files beside the menu otherwise.
const MODULES: [&str; 8] =
    ["loadenv", "test", "search", "search_fs_uuid", "part_gpt", "part_msdos", "fat", "ext2"];

/// Where the env file is for GRUB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvPlace {
    /// UUID of its filesystem, as `blkid` and GRUB's `search --fs-uuid` write it (`1A2B-3C4D` on an ESP).
    pub fs_uuid: String,
    /// Its absolute path from the top of that filesystem.
    pub path: String,
}

/// The block of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The run id.
    pub run: String,
    /// Where the choice is; without it the old system is the only one.
    pub env: Option<EnvPlace>,
    /// The system from before the upgrade.
    pub old: Boots,
    /// The upgraded one.
    pub trial: Option<Boots>,
}

/// A value that cannot stand in GRUB's menu.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot stand in GRUB's menu: {value:?}")]
pub struct NotQuotable {
    /// What it is.
    pub what: &'static str,
    /// The value.
    pub value: String,
}

impl Block {
    /// The block as text, from its first marker to its last, each on a line.
    ///
    /// # Errors
    /// When a value contains what cannot be quoted: a single quote, a control character, or one of our own markers.
    pub fn render(&self) -> Result<String, NotQuotable> {
        let run = plain("the run id", &self.run)?;
        let mut text = format!("{BEGIN}{run} ###\n");
        for module in MODULES {
            text += &format!("insmod {module}\n");
        }
        // Neither a fallback nor a pager of the menu's own may wait for somebody.
        text += &format!(
            "set pager=0\nunset fallback\nset timeout_style=menu\nset timeout={TIMEOUT_SECONDS}\n\
             set default={OLD_ID}\nunset {VARIABLE}\n"
        );
        if let (Some(env), Some(_)) = (&self.env, &self.trial) {
            text += &choice(run, env)?;
        }
        text +=
            &entry(&format!("The system before the upgrade (safe-upgrade {run})"), OLD_ID, &self.old, "")?;
        if let Some(trial) = &self.trial {
            // A trial that cannot be loaded must not wait at the menu: the env file is cleared, so a reset is the way back.
            let title = format!("Trial of the upgraded system (safe-upgrade {run})");
            text += &entry(&title, TRIAL_ID, trial, "reboot")?;
        }
        text += &format!("{END}{run} ###\n");
        Ok(text)
    }
}

/// A menu with the block at its end; one that was there before is replaced.
///
/// # Errors
/// As [`Block::render`].
pub fn append(menu: &[u8], block: &Block) -> Result<Vec<u8>, NotQuotable> {
    let mut bytes = strip(menu);
    if bytes.last().is_some_and(|byte| *byte != b'\n') {
        bytes.push(b'\n');
    }
    bytes.extend(block.render()?.bytes());
    Ok(bytes)
}

/// A menu without any block of ours, whatever run it is of; one that was cut off in the middle goes up to the end.
#[must_use]
pub fn strip(menu: &[u8]) -> Vec<u8> {
    let mut inside = false;
    let mut kept = Vec::with_capacity(menu.len());
    for line in menu.split_inclusive(|byte| *byte == b'\n') {
        inside |= line.starts_with(BEGIN.as_bytes());
        if !inside {
            kept.extend(line);
        }
        inside &= !line.starts_with(END.as_bytes());
    }
    kept
}

/// Whether a menu has exactly this block, at its end.
///
/// # Errors
/// As [`Block::render`].
pub fn ends_with(menu: &[u8], block: &Block) -> Result<bool, NotQuotable> {
    Ok(menu.ends_with(block.render()?.as_bytes()))
}

/// Chooses the trial when the env file says so, and only after the file says so no more.
fn choice(run: &str, env: &EnvPlace) -> Result<String, NotQuotable> {
    let uuid = quote("the UUID of the env file's filesystem", &env.fs_uuid)?;
    let file = format!("\"($su_env)\"{}", quote("the path of the env file", &env.path)?);
    Ok(format!(
        "unset su_env
if search --no-floppy --fs-uuid --set=su_env {uuid}; then
  load_env --file {file} {VARIABLE}
  if [ \"${VARIABLE}\" = '{run}' ]; then
    set {VARIABLE}=
    if save_env --file {file} {VARIABLE}; then
      set {VARIABLE}=unread
      load_env --file {file} {VARIABLE}
      if [ -z \"${VARIABLE}\" ]; then
        set default={TRIAL_ID}
      fi
    fi
  fi
fi
unset {VARIABLE}
"
    ))
}

fn entry(title: &str, id: &str, target: &Boots, otherwise: &str) -> Result<String, NotQuotable> {
    let mut text = format!("menuentry '{title}' --unrestricted --id {id} {{\n");
    for line in &target.preamble {
        if line.contains(['\n', '\r', '\0']) || line.starts_with(BEGIN) || line.starts_with(END) {
            return Err(NotQuotable { what: "a line of an entry", value: line.clone() });
        }
        text += &format!("  {line}\n");
    }
    let mut linux = format!("linux {}", quote("the kernel's path", &target.kernel)?);
    for word in &target.arguments {
        linux += &format!(" {}", quote("a kernel argument", word)?);
    }
    let mut commands = vec![linux];
    if !target.initrds.is_empty() {
        let mut initrd = "initrd".to_owned();
        for path in &target.initrds {
            initrd += &format!(" {}", quote("the path of an initial RAM disk", path)?);
        }
        commands.push(initrd);
    }
    for command in commands {
        text += &match otherwise {
            "" => format!("  {command}\n"),
            _ => format!("  if {command}; then true; else {otherwise}; fi\n"),
        };
    }
    text += "}\n";
    Ok(text)
}

/// In single quotes GRUB takes everything as it is, but for the quote itself.
fn quote(what: &'static str, value: &str) -> Result<String, NotQuotable> {
    match value.is_empty() || value.contains('\'') || value.contains(char::is_control) {
        true => Err(NotQuotable { what, value: value.to_owned() }),
        false => Ok(format!("'{value}'")),
    }
}

fn plain<'v>(what: &'static str, value: &'v str) -> Result<&'v str, NotQuotable> {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    match !value.is_empty() && value.bytes().all(usual) {
        true => Ok(value),
        false => Err(NotQuotable { what, value: value.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(trial: bool) -> Block {
        let target = |kernel: &str| Boots {
            preamble: vec!["load_video".into(), "insmod btrfs".into()],
            kernel: kernel.into(),
            arguments: vec!["root=UUID=1".into(), "a=b c".into()],
            initrds: vec!["/i".into()],
        };
        Block {
            run: "r1".into(),
            env: Some(EnvPlace { fs_uuid: "1A2B-3C4D".into(), path: "/EFI/safe-upgrade/env".into() }),
            old: target("/k"),
            trial: trial.then(|| target("/l")),
        }
    }

    #[test]
    fn the_old_system_is_the_default_until_the_file_is_cleared() {
        let text = block(true).render().unwrap();
        let position = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is missing in {text}"));
        let order = [
            position("set default=safe-upgrade-old"),
            position("if [ \"$su_trial\" = 'r1' ]"),
            position("if save_env --file \"($su_env)\"'/EFI/safe-upgrade/env' su_trial"),
            position("set su_trial=unread"),
            position("set default=safe-upgrade-trial"),
        ];
        assert!(order.is_sorted(), "{order:?}");
        assert!(text.contains("linux '/k' 'root=UUID=1' 'a=b c'\n"), "{text}");
        let alone = block(false).render().unwrap();
        assert!(!alone.contains("save_env") && !alone.contains(TRIAL_ID), "{alone}");
    }

    #[test]
    fn what_cannot_be_quoted_is_refused() {
        for bad in ["a'b", "a\nb", "", "a\0b"] {
            let mut block = block(true);
            block.old.arguments.push(bad.into());
            assert_eq!(block.render().unwrap_err().value, bad);
        }
        let mut other = block(true);
        other.run = "r1 ###".into();
        assert!(other.render().is_err());
        let mut other = block(true);
        other.old.preamble.push("### END safe-upgrade r1 ###".into());
        assert!(other.render().is_err());
    }

    #[test]
    fn a_block_that_was_cut_off_goes_away() {
        let whole = append(b"menu", &block(true)).unwrap();
        assert_eq!(strip(&whole), b"menu\n");
        assert_eq!(strip(&whole[..whole.len() - 40]), b"menu\n");
        assert!(ends_with(&whole, &block(true)).unwrap());
        assert!(!ends_with(&whole, &block(false)).unwrap());
    }

    proptest! {
        #[test]
        fn appending_is_idempotent(menu in "([a-z{} ]{1,9}\n){0,6}[a-z]{0,3}", trial: bool) {
            let once = append(menu.as_bytes(), &block(!trial)).unwrap();
            let twice = append(&once, &block(trial)).unwrap();
            prop_assert_eq!(&append(&twice, &block(trial)).unwrap(), &twice);
            prop_assert_eq!(&strip(&twice), &strip(&once));
            let bare = strip(&once);
            prop_assert_eq!(bare.strip_suffix(b"\n").unwrap_or_default(), menu.trim_end_matches('\n').as_bytes());
        }
    }
}
