//! Kernel arguments of the old system and of the trial.

/// By this a trial knows itself; the run's id stands behind it.
pub(in crate::boot) const TOKEN: &str = "safe_upgrade.trial=";

/// Mounts the root by subvolume id: `subvol=` and `subvolid=` in any `rootflags=` give way, and the last `rootflags=` (the
/// one that counts) names the id.
pub(in crate::boot) fn by_subvolume_id(arguments: &[String], id: u64) -> Vec<String> {
    by_flag(arguments, &format!("subvolid={id}"))
}

/// The same by a subvolume's name.
pub(in crate::boot) fn by_subvolume_name(arguments: &[String], name: &str) -> Vec<String> {
    by_flag(arguments, &format!("subvol={name}"))
}

fn by_flag(arguments: &[String], flag: &str) -> Vec<String> {
    let mut changed: Vec<String> = Vec::with_capacity(arguments.len() + 1);
    let mut last = None;
    for argument in arguments {
        if let Some(flags) = argument.strip_prefix("rootflags=") {
            let others: Vec<&str> = flags.split(',').filter(|flag| !names_subvolume(flag)).collect();
            last = Some((changed.len(), others.join(",")));
            changed.push(format!("rootflags={}", others.join(",")));
        } else {
            changed.push(argument.clone());
        }
    }
    match last {
        Some((at, others)) if others.is_empty() => changed[at] = format!("rootflags={flag}"),
        Some((at, others)) => changed[at] = format!("rootflags={flag},{others}"),
        None => insert(&mut changed, [format!("rootflags={flag}")]),
    }
    changed
}

/// Whether the root is mounted by this subvolume name.
pub(in crate::boot) fn boots_subvolume(arguments: &[String], name: &str) -> bool {
    let flags = arguments.iter().rev().find_map(|argument| argument.strip_prefix("rootflags="));
    let named = |flag: &str| flag.strip_prefix("subvol=").map(|found| found.trim_start_matches('/') == name);
    flags.is_some_and(|flags| flags.split(',').filter_map(named).next_back() == Some(true))
}

/// What makes a dead trial reset itself: for the kernel and initramfs-tools, for dracut, and the token by which the trial
/// knows itself. What the system says of the same things gives way.
pub(in crate::boot) fn for_trial(arguments: &[String], run: &str) -> Vec<String> {
    let ours = ["panic=", "softlockup_panic=", "rd.shell", "rd.emergency=", "systemd.watchdog_sec=", TOKEN];
    let mut changed: Vec<String> = arguments
        .iter()
        .filter(|argument| !ours.iter().any(|name| argument.starts_with(name)))
        .cloned()
        .collect();
    // A hardware watchdog, where there is one, is fed by systemd and resets a machine whose systemd has stopped (systemd(1)).
    let added =
        ["panic=10", "softlockup_panic=1", "rd.shell=0", "rd.emergency=reboot", "systemd.watchdog_sec=60"];
    let token = format!("{TOKEN}{run}");
    insert(&mut changed, added.map(str::to_owned).into_iter().chain([token]));
    changed
}

/// One line of it, as GRUB hands it to the kernel: words with spaces in double quotes.
pub(in crate::boot) fn command_line(arguments: &[String]) -> String {
    let word = |argument: &String| {
        let escaped: String = argument
            .chars()
            .flat_map(|c| matches!(c, '\\' | '\'' | '"').then_some('\\').into_iter().chain([c]))
            .collect();
        if argument.contains(' ') { format!("\"{escaped}\"") } else { escaped }
    };
    arguments.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn names_subvolume(flag: &str) -> bool {
    flag.is_empty() || flag.starts_with("subvol=") || flag.starts_with("subvolid=")
}

/// At the end, but before `--`: what follows that is not for the kernel.
fn insert(arguments: &mut Vec<String>, added: impl IntoIterator<Item = String>) {
    let at = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    arguments.splice(at..at, added);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_id_replaces_the_name() {
        for (before, after) in [
            ("ro rootflags=subvol=@ quiet", "ro rootflags=subvolid=7 quiet"),
            (
                "rootflags=subvol=@,ssd rootflags=noatime,subvolid=5",
                "rootflags=ssd rootflags=subvolid=7,noatime",
            ),
            ("ro -- x", "ro rootflags=subvolid=7 -- x"),
        ] {
            assert_eq!(by_subvolume_id(&words(before), 7), words(after), "{before}");
        }
    }

    #[test]
    fn the_last_flags_count() {
        assert!(boots_subvolume(&words("rootflags=subvol=@a"), "@a"));
        assert!(boots_subvolume(&words("rootflags=subvol=@ rootflags=ssd,subvol=/@a"), "@a"));
        assert!(!boots_subvolume(&words("rootflags=subvol=@a rootflags=subvol=@"), "@a"));
        assert!(!boots_subvolume(&words("rootflags=subvol=@ab"), "@a"));
        assert!(!boots_subvolume(&words("quiet"), "@a"));
    }

    #[test]
    fn a_trial_resets_itself() {
        let ours = "panic=10 softlockup_panic=1 rd.shell=0 rd.emergency=reboot systemd.watchdog_sec=60 safe_upgrade.trial=r1";
        assert_eq!(for_trial(&words("ro panic=0 quiet -- s"), "r1"), words(&format!("ro quiet {ours} -- s")));
        let once = for_trial(&words("ro"), "r1");
        assert_eq!(for_trial(&once, "r1"), once);
    }

    #[test]
    fn the_line_is_the_one_that_grub_makes() {
        let line = command_line(&["a=b c".into(), "d\"e".into(), "f".into()]);
        assert_eq!(line, "\"a=b c\" d\\\"e f");
    }
}
