//! Whether GRUB looks for its menu where this system writes it. Pure.
//!
//! A core image names the place in one of three ways: by the filesystem's UUID (a script searches for it), by a partition of the disk
//! that the firmware started (`(,gpt4)`), or by a name that says nothing here (`(lvm/vg-boot)`). The path counts from the filesystem's
//! own top, so on btrfs it names the subvolume.

use super::layout::{Grub, MenuPlace};
use crate::snapshot::names;

/// What the places where GRUB looks say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Looks {
    /// At least one looks here, or nothing speaks against it; and what a person should know of the others.
    Here(Vec<String>),
    /// Some look elsewhere and none looks here: why, as a part of a sentence.
    Elsewhere(String),
}

/// What one prefix says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Here,
    Elsewhere,
    Nothing,
}

/// Compares every place from which the firmware may start GRUB. What could not be read never counts for "here", and never against it.
pub(super) fn look(grub: &Grub) -> Looks {
    let place = match &grub.menu_place {
        Ok(place) => place,
        Err(why) => {
            return Looks::Here(vec![format!(
                "whether GRUB looks for its menu where this system writes it could not be found out: {why} (check --prove-boot \
                 shows it by booting)"
            )]);
        }
    };
    let mut here = false;
    let mut elsewhere = Vec::new();
    let mut unread = Vec::new();
    for core in &grub.core {
        match core.prefix.as_deref().map(|prefix| (prefix, says(prefix, place))) {
            Some((_, Says::Here)) => here = true,
            Some((prefix, Says::Elsewhere)) => {
                elsewhere.push(format!("GRUB at {} looks for its menu at {prefix}", core.place));
            }
            Some((_, Says::Nothing)) | None => unread.push(core.place.as_str()),
        }
    }
    let written = format!("this system writes it to {} on the filesystem {}", place.path, place.uuid);
    if !here && !elsewhere.is_empty() {
        return Looks::Elsewhere(format!("{}, and {written}", elsewhere.join("; ")));
    }
    let mut remarks: Vec<String> = elsewhere
        .into_iter()
        .map(|one| format!("{one}, and {written}: the firmware must not start that one"))
        .collect();
    if !here && !unread.is_empty() {
        remarks.push(format!(
            "where GRUB at {} looks for its menu could not be read, so nobody compared it with where this system writes it \
             (check --prove-boot shows it by booting)",
            unread.join(", ")
        ));
    }
    Looks::Here(remarks)
}

fn says(prefix: &str, place: &MenuPlace) -> Says {
    let Some((device, path)) = prefix.strip_prefix('(').and_then(|rest| rest.split_once(')')) else {
        return Says::Nothing;
    };
    if matches!(device, "memdisk" | "cd") || !same_device(device, place) {
        // What is in memory can lead anywhere.
        return if device == "memdisk" || device == "cd" { Says::Nothing } else { Says::Elsewhere };
    }
    if same_path(path, &place.path) { Says::Here } else { Says::Elsewhere }
}

/// Whether nothing in a device's name speaks against the filesystem.
fn same_device(device: &str, place: &MenuPlace) -> bool {
    let is_uuid = device.len() >= 8 && device.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if is_uuid {
        return device.eq_ignore_ascii_case(&place.uuid);
    }
    let number = device.split_once(',').map(|(_, partition)| {
        partition.trim_start_matches(|letter: char| letter.is_ascii_alphabetic()).parse::<u32>()
    });
    match number {
        // Which of the disks it is depends on what the firmware has started.
        Some(Ok(number)) => place.partitions.is_empty() || place.partitions.contains(&number),
        Some(Err(_)) | None => true,
    }
}

/// While a run is under way, the running root has a name of the run's, and the name by which GRUB finds a menu belongs to its clone.
fn same_path(looks: &str, written: &str) -> bool {
    let parts = |path: &str| -> Vec<String> {
        path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let (looks, written) = (parts(looks), parts(written));
    match (looks.split_first(), written.split_first()) {
        (Some((_, looks)), Some((ours, written))) if names::parse(ours).is_some() => looks == written,
        _ => looks == written,
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::CoreImage;
    use super::*;

    const UUID: &str = "6f1c2f7e-5a0b-4a53-9d2e-0c8f3b1f9a77";
    const OTHER: &str = "0a1b2c3d-5a0b-4a53-9d2e-0c8f3b1f9a77";

    fn place(path: &str) -> MenuPlace {
        MenuPlace { uuid: UUID.into(), path: path.into(), partitions: vec![4] }
    }

    fn grub(prefixes: &[Option<&str>]) -> Grub {
        let core = |(number, prefix): (usize, &Option<&str>)| CoreImage {
            place: format!("place {number}"),
            prefix: prefix.map(str::to_owned),
        };
        Grub {
            version: None,
            core: prefixes.iter().enumerate().map(core).collect(),
            directory: "/boot/grub".into(),
            menu: true,
            menu_place: Ok(place("/@/boot/grub")),
        }
    }

    #[test]
    fn each_form_of_a_prefix() {
        let uuid = |path: &str| format!("({UUID}){path}");
        for (prefix, written, wanted) in [
            (uuid("/@/boot/grub"), "/@/boot/grub", Says::Here),
            (
                uuid("/@/boot/grub").to_uppercase().replace("/@/BOOT/GRUB", "//@/boot/grub/"),
                "/@/boot/grub",
                Says::Here,
            ),
            (uuid("/@old/boot/grub"), "/@/boot/grub", Says::Elsewhere),
            (uuid("/boot/grub"), "/@/boot/grub", Says::Elsewhere),
            (uuid("/grub"), "/grub", Says::Here),
            (format!("({OTHER})/@/boot/grub"), "/@/boot/grub", Says::Elsewhere),
            ("(12AB-34CD)/grub".into(), "/grub", Says::Elsewhere),
            ("(,gpt4)/@/boot/grub".into(), "/@/boot/grub", Says::Here),
            ("(,msdos4)/grub".into(), "/grub", Says::Here),
            ("(hd0,4)/grub".into(), "/grub", Says::Here),
            ("(,gpt3)/@/boot/grub".into(), "/@/boot/grub", Says::Elsewhere),
            ("(,gpt4)/@/boot/grub".into(), "/boot/grub", Says::Elsewhere),
            ("(hd0)/grub".into(), "/grub", Says::Here),
            ("(lvm/vg-boot)/grub".into(), "/grub", Says::Here),
            ("(lvmid/XhBxEC-xxxx/b0Vx)/boot/grub".into(), "/grub", Says::Elsewhere),
            ("($root)/grub".into(), "/grub", Says::Here),
            ("(memdisk)/grub".into(), "/grub", Says::Nothing),
            ("/EFI/debian".into(), "/grub", Says::Nothing),
            // A run's own name of the running root is not the one by which GRUB finds it.
            (uuid("/@/boot/grub"), "/@safe-upgrade-20261127T010203Z-0a1b-root/boot/grub", Says::Here),
            (uuid("/@/grub"), "/@safe-upgrade-20261127T010203Z-0a1b-root/boot/grub", Says::Elsewhere),
            (
                format!("({OTHER})/@/boot/grub"),
                "/@safe-upgrade-20261127T010203Z-0a1b-root/boot/grub",
                Says::Elsewhere,
            ),
        ] {
            assert_eq!(says(&prefix, &place(written)), wanted, "{prefix} and {written}");
        }
        let spread = MenuPlace { partitions: Vec::new(), ..place("/grub") };
        assert_eq!(says("(,gpt7)/grub", &spread), Says::Here, "LVM, RAID: the number says nothing");
    }

    #[test]
    fn all_places_together() {
        let here = format!("({UUID})/@/boot/grub");
        let gone = format!("({OTHER})/boot/grub");
        let (here, gone) = (Some(here.as_str()), Some(gone.as_str()));
        let remarks = |prefixes: &[Option<&str>]| match look(&grub(prefixes)) {
            Looks::Here(remarks) => remarks,
            Looks::Elsewhere(why) => panic!("{why}"),
        };
        for good in [&[here][..], &[here, here], &[here, None], &[]] {
            assert!(remarks(good).is_empty(), "{good:?}");
        }
        let beside = remarks(&[here, gone]);
        assert_eq!(beside.len(), 1);
        assert!(beside[0].starts_with("GRUB at place 1 looks for its menu at (0a1b2c3d"), "{beside:?}");
        let unread = remarks(&[None, Some("/EFI/debian")]);
        assert_eq!(unread.len(), 1);
        assert!(unread[0].starts_with("where GRUB at place 0, place 1 looks for its menu could not be read"));
        for bad in [&[gone][..], &[gone, None]] {
            let Looks::Elsewhere(why) = look(&grub(bad)) else { panic!("{bad:?}") };
            assert!(
                why.ends_with(&format!("this system writes it to /@/boot/grub on the filesystem {UUID}")),
                "{why}"
            );
        }
        let lacking = Grub { menu_place: Err("overlay is no device".into()), ..grub(&[gone]) };
        let Looks::Here(remarks) = look(&lacking) else { panic!("facts that lack speak against nothing") };
        assert!(remarks[0].contains("overlay is no device"));
    }
}
