//! `/boot`, the EFI system partition and boot code: copied before the upgrade, brought back by a rollback.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::{Machine, Result, trouble};
use crate::boot::kernels;
use crate::boot::layout::{self, BootLayout, BootPlace, Loader, Partition};
use crate::boot::set::{self, Captured, Member, RestoreOptions};
use crate::boot::space::{self, Needed};
use crate::boot::systemd_boot::{self, Places};
use crate::driver::Trouble;
use crate::evidence::{BootMember, FallbackMethod, Plan, RestoredMember};
use crate::finding::Finding;
use crate::manifest::verdict::Difference;
use crate::system::show;

/// The name under which the plan's evidence knows the boot code of a disk.
const CODE: &str = "boot code of ";

/// The member that is `/boot`, and the one that is the ESP.
const BOOT: &str = "boot";
const ESP: &str = "esp";

/// What the machine boots by until everything else is back: the menu, then the kernels that it names.
const LAST_OF_BOOT: [&str; 2] = ["grub/grub.cfg", "safe-upgrade"];
const LAST_OF_ESP: [&str; 1] = ["EFI/safe-upgrade"];

/// Where the set has its copies of what both systems share; `None` where there is no filesystem of that kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Copies {
    /// Of `/boot`.
    pub(super) boot: Option<PathBuf>,
    /// Of the ESP.
    pub(super) esp: Option<PathBuf>,
}

/// A release upgrade brings one new kernel.
const NEW_KERNELS: u64 = 1;

/// What shim, GRUB, MokManager and their like take on an ESP, in bytes: 5.4 MiB with Debian 13, rounded up.
const LOADER_BYTES: u64 = 8 << 20;

/// The name of the set in a run's directory.
pub(super) const DIRECTORY: &str = "boot";

/// Where the set of a run lies.
fn directory(machine: &Machine) -> PathBuf {
    machine.directory.join(DIRECTORY)
}

/// Copies the boot loader's places and reads the copies back. Probes first; durable when it returns.
pub(super) fn capture(machine: &Machine) -> Result<Vec<BootMember>> {
    let layout = layout::read(Path::new("/")).map_err(trouble)?;
    if layout.container {
        return Ok(Vec::new());
    }
    let code = layout::boot_code(Path::new("/")).map_err(trouble)?;
    let captured = set::capture(&members(&layout), &code, &directory(machine)).map_err(trouble)?;
    evidence(&captured)
}

/// Reads the copies again; the second list says what is not whole any more.
pub(super) fn facts(machine: &Machine) -> Result<(Vec<BootMember>, Vec<String>)> {
    let directory = directory(machine);
    if !directory.try_exists().map_err(trouble)? {
        return Ok((Vec::new(), Vec::new()));
    }
    match set::verify(&directory) {
        Ok(captured) => Ok((evidence(&captured)?, Vec::new())),
        Err(error) => Ok((Vec::new(), vec![crate::error::chain(&error)])),
    }
}

/// The set, proven whole and with every place of it there, without touching one; `None` when the machine has none (a container).
pub(super) fn ready(machine: &Machine) -> Result<Option<Captured>> {
    let directory = directory(machine);
    if !directory.try_exists().map_err(trouble)? {
        return Ok(None);
    }
    set::ready(&directory).map(Some).map_err(trouble)
}

/// Forgets a set of which no snapshot was taken yet: the machine may have changed since. Repeatable.
pub(super) fn forget(machine: &Machine) -> Result<()> {
    match std::fs::remove_dir_all(directory(machine)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(trouble(error)),
        _ => Ok(()),
    }
}

/// The set's copies.
pub(super) fn copies(machine: &Machine, captured: &Captured) -> Copies {
    let copy = |name: &str| {
        let member = captured.members.iter().find(|member| member.name == name);
        member.map(|member| member.tree(&directory(machine)))
    };
    Copies { boot: copy(BOOT), esp: copy(ESP) }
}

/// Brings all of it back, and compares every byte. Repeatable; durable when it returns.
pub(super) fn restore(machine: &Machine, plan: &Plan, captured: &Captured) -> Result<Vec<RestoredMember>> {
    let mut options = RestoreOptions::default();
    for member in &captured.members {
        options.last.insert(member.name.clone(), last_of(&member.name, plan));
    }
    let restored =
        set::restore(&directory(machine), &options, &mut |_| ControlFlow::Continue(())).map_err(trouble)?;
    let members = restored.members.iter().map(|(name, report)| RestoredMember {
        name: name.clone(),
        differences: report.differences().iter().map(sentence).collect(),
    });
    // What of the boot code differed was written and read back; a failure to do so is an error above.
    let code =
        restored.code.iter().map(|(disk, _)| RestoredMember { name: code_name(disk), differences: vec![] });
    Ok(members.chain(code).collect())
}

/// What of a member comes last: with systemd-boot the pin of our entry, the entry, and what it boots.
fn last_of(member: &str, plan: &Plan) -> Vec<PathBuf> {
    let grub: &[&str] = if member == BOOT { &LAST_OF_BOOT } else { &LAST_OF_ESP };
    if plan.promise.method != FallbackMethod::LoaderOneShot {
        return grub.iter().map(PathBuf::from).collect();
    }
    let entry = Path::new(systemd_boot::ENTRIES).join(systemd_boot::old_entry(plan.run.as_str()));
    vec![PathBuf::from(systemd_boot::LOADER_CONF), entry, PathBuf::from(systemd_boot::DIRECTORY)]
}

/// Whether there is room for new kernels and boot loaders, and for what is kept of the old ones until the verdict.
pub(super) fn space(layout: &BootLayout) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let places = match &layout.loader {
        Loader::SystemdBoot(_) => Places::of(layout),
        _ => None,
    };
    let volumes = places.as_ref().map_or_else(|| Ok(Vec::new()), Places::stock).map_err(trouble)?;
    if let BootPlace::Separate(partition) = &layout.boot
        && !volumes.iter().any(|(volume, _)| *volume == partition.point)
    {
        let kernels = match kernels::bootable(Path::new("/boot"), Path::new("/")) {
            Ok(kernels) => kernels,
            Err(error) => return Ok(vec![super::store::unknown("the kernels in /boot", &error)]),
        };
        let pairs = space::stock(&kernels).map_err(|(path, error)| {
            Trouble::new(format!("failed to look at {}: {error}", path.display()))
        })?;
        let kept = pairs.iter().max_by_key(|pair| pair.kernel + pair.initrd);
        findings.extend(shortage(&space::needed(&pairs, NEW_KERNELS, kept.copied()), &partition.point)?);
    }
    for (volume, pairs) in &volumes {
        let kept = pairs.iter().max_by_key(|pair| pair.kernel + pair.initrd).copied();
        // In a /boot that the boot loader reads itself, each kernel lies twice: as its package and as kernel-install put it there.
        let copies = if volume == Path::new("/boot") { 2 } else { 1 };
        let fresh = if pairs.is_empty() { 0 } else { NEW_KERNELS * copies };
        findings.extend(shortage(&space::needed(pairs, fresh, kept), volume)?);
    }
    if let (Some(esp), None) = (&layout.esp, &places) {
        findings.extend(shortage(&space::needed_on_esp(LOADER_BYTES), &esp.point)?);
    }
    Ok(findings)
}

fn shortage(needed: &Needed, point: &Path) -> Result<Option<Finding>> {
    let free = space::free(point).map_err(trouble)?;
    Ok(needed.shortage(point, free).map(|what| {
        Finding::inhibitor(
            "space-for-boot",
            format!("{what}."),
            "apt-get autoremove --purge takes old kernels away; look also for what else lies there",
        )
    }))
}

/// The mounted filesystems that belong to the set.
fn members(layout: &BootLayout) -> Vec<Member> {
    let boot = match &layout.boot {
        BootPlace::Separate(partition) => Some(Member { name: BOOT.into(), point: partition.point.clone() }),
        BootPlace::Inside => None,
    };
    // An ESP at /boot is one filesystem, not two.
    let same = |esp: &&Partition| boot.as_ref().is_none_or(|boot| boot.point != esp.point);
    let esp = layout.esp.as_ref().filter(same);
    let esp = esp.map(|esp| Member { name: ESP.into(), point: esp.point.clone() });
    boot.into_iter().chain(esp).collect()
}

fn evidence(captured: &Captured) -> Result<Vec<BootMember>> {
    let members = captured.members.iter().map(|member| {
        Ok(BootMember { name: member.name.clone(), manifest: member.manifest.parse().map_err(trouble)? })
    });
    let code = captured.code.iter().map(|code| {
        let hashes: String = code.parts.iter().map(|part| part.blake3.as_str()).collect();
        Ok(BootMember { name: code_name(&code.disk), manifest: super::plan::digest(hashes.as_bytes()) })
    });
    members.chain(code).collect()
}

fn sentence(found: &Difference) -> String {
    format!("{}: {}", show::bytes(&found.path), found.class.name())
}

fn code_name(disk: &Path) -> String {
    format!("{CODE}{}", disk.display())
}
