//! The same files once more, held by the kernel's Landlock where it has it.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, path_beneath_rules,
};

use super::barriers::Standing;
use super::room;
use super::wire::Spec;

/// The newest rules that are asked for (Linux 6.10); an older kernel holds those that it knows.
const NEWEST: ABI = ABI::V5;

/// Restricts this process and all that it starts, for good.
pub(super) fn hold(spec: &Spec) -> Standing {
    match restrict(spec) {
        Ok(status) => match status.ruleset {
            RulesetStatus::FullyEnforced => Standing::Held,
            RulesetStatus::PartiallyEnforced => {
                Standing::Missing("this kernel knows only a part of the rules; that part holds".to_owned())
            }
            RulesetStatus::NotEnforced => Standing::Missing("this kernel has no Landlock".to_owned()),
        },
        Err(error) => Standing::Missing(error.to_string()),
    }
}

fn restrict(spec: &Spec) -> Result<RestrictionStatus, RulesetError> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?;
    let ruleset = match spec.network {
        Some(_) => ruleset,
        None => ruleset.handle_access(AccessNet::from_all(NEWEST))?,
    };
    let readable = room::system_paths(spec.network.is_some())
        .into_iter()
        .chain(spec.read.iter().map(PathBuf::from))
        .chain([PathBuf::from(&spec.program), PathBuf::from("/proc"), PathBuf::from("/dev")]);
    let writable = spec.write.iter().map(Path::new).chain([Path::new(&spec.home), Path::new("/tmp")]);
    let devices = ["null", "zero", "full"].map(|name| Path::new("/dev").join(name));
    ruleset
        .create()?
        .add_rules(path_beneath_rules(readable, AccessFs::from_read(NEWEST)))?
        .add_rules(path_beneath_rules(writable, AccessFs::from_all(NEWEST)))?
        .add_rules(path_beneath_rules(devices, AccessFs::from_all(NEWEST)))?
        .restrict_self()
}
