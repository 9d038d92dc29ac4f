//! Bringing a set back.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};

use super::capture::{sentence, verify};
use super::members::{self, Look};
use super::record::{Captured, KeptCode, KeptMember};
use super::{SetError, code};
use crate::manifest::Report;
use crate::system::show;

/// What is restored, and in which order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Names of members that are left as they are.
    pub skip: BTreeSet<String>,
    /// Leave the boot code as it is.
    pub skip_code: bool,
    /// Of each member by its name, paths in it that are written or removed only after everything else is back, one after the
    /// other, each durable before the next: what the machine boots by until then (the menu, then the kernels that it names).
    pub last: BTreeMap<String, Vec<PathBuf>>,
}

/// A part of the work that is done and durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A member is back, but for its last paths.
    Copied {
        /// Its name.
        member: String,
    },
    /// The boot code of a disk is back.
    Code {
        /// The disk.
        disk: PathBuf,
    },
    /// One of the last paths is back, or gone.
    Last {
        /// The member's name.
        member: String,
        /// The path in it.
        path: PathBuf,
    },
}

/// A set that was brought back, and what was found afterwards.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// Of each member that was not skipped, how its place compares with the manifest.
    pub members: Vec<(String, Report)>,
    /// Of each disk, which parts of its boot code differed and were written.
    pub code: Vec<(PathBuf, Vec<String>)>,
}

impl Restored {
    /// What differs, a sentence for each member; empty when all that was restored is byte-equal to what was copied.
    #[must_use]
    pub fn differences(&self) -> Vec<String> {
        let differing = self.members.iter().filter(|(_, report)| !report.is_same());
        differing.map(|(name, report)| format!("{name}: {}", sentence(report))).collect()
    }
}

/// Brings members and boot code back to what the set holds, and compares every byte afterwards.
///
/// Nothing is touched before the stored set is proven whole and every place is recognised: the same filesystem, mounted there
/// and writable, the same disk with the same partitions. `step` is told of all that is done and durable, and can end the work
/// there. Repeatable, also after a power cut at any point.
///
/// # Errors
/// When the set is not whole, a place is not recognised, or something could not be written. Differences that remain are no
/// error: see [`Restored::differences`].
pub fn restore(
    set: &Path,
    options: &RestoreOptions,
    step: &mut dyn FnMut(&Step) -> ControlFlow<()>,
) -> Result<Restored, SetError> {
    restore_to(set, options, &members::ground, step)
}

/// What is in the set, when [`restore`] would begin: it is proven whole, and every place is recognised. Touches nothing.
///
/// # Errors
/// As [`restore`].
pub fn ready(set: &Path) -> Result<Captured, SetError> {
    ready_for(set, &members::ground)
}

pub(super) fn ready_for(set: &Path, look: Look<'_>) -> Result<Captured, SetError> {
    let captured = verify(set)?;
    let chosen: Vec<&KeptMember> = captured.members.iter().collect();
    recognise(&chosen, &captured.code, look)?;
    Ok(captured)
}

fn recognise(chosen: &[&KeptMember], disks: &[KeptCode], look: Look<'_>) -> Result<(), SetError> {
    for member in chosen {
        members::recognise(member, &look(&member.point)?)?;
    }
    disks.iter().try_for_each(code::recognise)
}

pub(super) fn restore_to(
    set: &Path,
    options: &RestoreOptions,
    look: Look<'_>,
    step: &mut dyn FnMut(&Step) -> ControlFlow<()>,
) -> Result<Restored, SetError> {
    let captured = verify(set)?;
    check(options, &captured)?;
    let chosen: Vec<&KeptMember> =
        captured.members.iter().filter(|member| !options.skip.contains(&member.name)).collect();
    let disks = if options.skip_code { &[][..] } else { &captured.code[..] };
    recognise(&chosen, disks, look)?;
    let mut told = |done: Step| match step(&done) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(SetError::Stopped),
    };
    let last = |member: &KeptMember| options.last.get(&member.name).map_or(&[][..], Vec::as_slice);
    for member in &chosen {
        members::copy_back(&member.tree(set), member, last(member))?;
        told(Step::Copied { member: member.name.clone() })?;
    }
    // Right after GRUB's modules: a core image and modules of two versions do not start.
    let mut written = Vec::new();
    for kept in disks {
        written.push((kept.disk.clone(), code::put_back(set, kept)?));
        told(Step::Code { disk: kept.disk.clone() })?;
    }
    for member in &chosen {
        let last = last(member);
        for (number, path) in last.iter().enumerate() {
            members::copy_back(&member.tree(set), member, &last[number + 1..])?;
            told(Step::Last { member: member.name.clone(), path: path.clone() })?;
        }
    }
    let compared = chosen.iter().map(|member| {
        let report = members::compare_place(set, member)?;
        Ok((member.name.clone(), report))
    });
    Ok(Restored { members: compared.collect::<Result<_, SetError>>()?, code: written })
}

/// A name that is not there, or a path that leads elsewhere, is a mistake that must not pass in silence.
fn check(options: &RestoreOptions, captured: &Captured) -> Result<(), SetError> {
    let known = |name: &String| captured.members.iter().any(|member| member.name == *name);
    if let Some(name) = options.skip.iter().chain(options.last.keys()).find(|name| !known(name)) {
        return Err(SetError::Asked(format!("the set has no member {}", show::line(name))));
    }
    let inside = |path: &&PathBuf| {
        let plain = path.components().all(|component| matches!(component, Component::Normal(_)));
        !plain || path.as_os_str().is_empty()
    };
    match options.last.values().flatten().find(inside) {
        Some(path) => Err(SetError::Asked(format!("{} is no path in a member", show::path(path)))),
        None => Ok(()),
    }
}
