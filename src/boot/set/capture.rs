//! Making a set, and proving that it is whole.

use std::collections::BTreeSet;
use std::path::Path;

use super::members::{self, Look};
use super::record::{self, Captured, KeptMember};
use super::{BootCode, Member, SetError, code};
use crate::manifest::scan::describe;
use crate::manifest::{Report, ScanOptions};
use crate::system::durable::{self, Replacement};

/// How often a source that changes is copied again.
const ATTEMPTS: usize = 3;

/// Copies filesystems and boot code to `to`, a directory on the state volume, and proves the copies byte by byte. When this
/// returns, the set survives a power cut.
///
/// Repeatable: a complete set of the same things is verified and kept, though the sources may have changed since: it is what
/// was there before. An incomplete one is made anew.
///
/// # Errors
/// When a source cannot be read or identified, changes all the time, or the copy is not equal; [`SetError::Damaged`] or
/// [`SetError::OtherSet`] when a complete set is there that must not be kept, nor replaced by what is there now.
pub fn capture(members: &[Member], code: &[BootCode], to: &Path) -> Result<Captured, SetError> {
    capture_from(members, code, to, &members::ground)
}

/// Proves that a stored set is whole: every byte of it is read, past the cache where the kernel lets us, and compared with the
/// manifests and hashes. Nothing outside the set is looked at.
///
/// # Errors
/// [`SetError::NoSet`] when there is no complete one, [`SetError::Damaged`] when it is not what it was; others when that could
/// not be found out.
pub fn verify(set: &Path) -> Result<Captured, SetError> {
    let captured = record::read(set)?;
    for member in &captured.members {
        verify_member(set, member)?;
    }
    for kept in &captured.code {
        code::verify(set, kept)?;
    }
    Ok(captured)
}

pub(super) fn capture_from(
    members: &[Member],
    code: &[BootCode],
    to: &Path,
    look: Look<'_>,
) -> Result<Captured, SetError> {
    check_names(members)?;
    match verify(to) {
        Ok(captured) => return same_things(captured, members, code, to),
        Err(SetError::NoSet(_)) => {}
        Err(error) => return Err(error),
    }
    durable::private_directory(to)?;
    let kept = members.iter().map(|member| keep(member, to, look)).collect::<Result<_, _>>()?;
    let code = code::keep(code, to)?;
    // The description says that the copies are whole, so they must be on the disk before it.
    members::settle(to)?;
    let captured = Captured::new(kept, code);
    record::write(to, &captured)?;
    Ok(captured)
}

fn check_names(members: &[Member]) -> Result<(), SetError> {
    let mut seen = BTreeSet::new();
    for Member { name, point } in members {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name == "code" || !name.bytes().all(plain) {
            return Err(SetError::Asked(format!("{name:?} is no name for a member")));
        }
        if !point.is_absolute() {
            return Err(SetError::Asked(format!("the mount point of {name} is not absolute")));
        }
        if !seen.insert(name) {
            return Err(SetError::Asked(format!("two members are named {name}")));
        }
    }
    Ok(())
}

fn same_things(
    captured: Captured,
    members: &[Member],
    code: &[BootCode],
    to: &Path,
) -> Result<Captured, SetError> {
    let kept: Vec<_> = captured.members.iter().map(|kept| (&kept.name, &kept.point)).collect();
    let asked: Vec<_> = members.iter().map(|member| (&member.name, &member.point)).collect();
    if kept != asked {
        let words = format!("it has {kept:?}, asked for is {asked:?}");
        return Err(SetError::OtherSet { set: to.to_owned(), words });
    }
    if !code::is_of(&captured.code, code) {
        let words = "other boot code".to_owned();
        return Err(SetError::OtherSet { set: to.to_owned(), words });
    }
    Ok(captured)
}

fn keep(member: &Member, to: &Path, look: Look<'_>) -> Result<KeptMember, SetError> {
    let Member { name, point } = member;
    let ground = look(point)?;
    let (tree, manifest) = (record::tree(to, name), record::manifest(to, name));
    durable::private_directory(&tree)?;
    let mut words = String::new();
    for _ in 0..ATTEMPTS {
        let described = describe_source(point, &manifest, to)?;
        if described.unreadable > 0 {
            return Err(SetError::Unreadable { point: point.clone(), unreadable: described.unreadable });
        }
        members::copy_away(point, &tree)?;
        let report = members::compare_copy(&manifest, &tree, to)?;
        if report.is_same() && described.unstable == 0 {
            return Ok(KeptMember {
                name: name.clone(),
                point: point.clone(),
                fs_type: ground.fs_type,
                uuid: ground.uuid,
                manifest: described.summary.id.to_string(),
                entries: described.summary.entries,
                bytes: described.summary.bytes,
            });
        }
        words = sentence(&report);
    }
    Err(SetError::Moving { point: point.clone(), words })
}

fn describe_source(
    point: &Path,
    manifest: &Path,
    scratch: &Path,
) -> Result<crate::manifest::scan::Described, SetError> {
    let mut file = Replacement::begin(manifest, 0o600)?;
    let buffered = std::io::BufWriter::new(file.file());
    let described = describe(point, &ScanOptions::default(), scratch, None, buffered, &|_| {})
        .map_err(|source| SetError::Tree { tree: point.to_owned(), source })?;
    file.commit()?;
    Ok(described)
}

fn verify_member(set: &Path, member: &KeptMember) -> Result<(), SetError> {
    let (tree, manifest) = (member.tree(set), member.manifest(set));
    let report = members::compare_copy(&manifest, &tree, set)?;
    let id = report.manifest.map(|summary| summary.id.to_string());
    if id.as_ref() != Some(&member.manifest) {
        let words = "it is another manifest than the one that was written".to_owned();
        return Err(SetError::Damaged { path: manifest, words });
    }
    if !report.is_same() {
        return Err(SetError::Damaged { path: tree, words: sentence(&report) });
    }
    Ok(())
}

/// What differs, with the first path.
pub(super) fn sentence(report: &Report) -> String {
    let first = report.differences().first().map(|difference| {
        let path = crate::system::show::bytes(&difference.path);
        format!("; first: {path} ({})", difference.class)
    });
    format!("{}{}", report.sentence(), first.unwrap_or_default())
}
