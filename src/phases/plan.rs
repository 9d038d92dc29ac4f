//! The plan: what a run is going to do, written down before anything else.

use std::path::Path;

use super::boot::{running_release, volume_id};
use super::{loader, trouble};
use crate::config::Config;
use crate::config::rehearsal::Mode;
use crate::error::{Exit, Failure};
use crate::evidence::{ManifestId, Plan, ReattestRule, RehearsalRule, Release, RootVolume, RunId};
use crate::places::StateDirectory;
use crate::release::hop::Hop;
use crate::snapshot::{layout, names};
use crate::system::{durable, identity};

/// The name of a run's copy of its configuration.
pub const CONFIG_NAME: &str = "config.toml";

/// BLAKE3 of bytes, in the form in which the journal names things by content.
///
/// # Panics
/// Never: a BLAKE3 digest is 64 lower-case hexadecimal digits.
#[must_use]
pub fn digest(bytes: &[u8]) -> ManifestId {
    blake3::hash(bytes).to_hex().to_string().parse().unwrap_or_else(|_| unreachable!("64 hexadecimal digits"))
}

/// The way from the running release to the one that was asked for, or to the next one.
///
/// # Errors
/// Refused, with the remedy, when there is no supported way.
pub fn hop(to: Option<&str>) -> Result<Hop, Failure> {
    let current = identity::os_release(Path::new("/"))
        .map_err(|error| Failure::failed("failed to find out the release", error))?;
    let planned = match to {
        Some(to) => Hop::plan(&current, to),
        None => Hop::next(&current),
    };
    planned.map_err(|error| Failure::new(Exit::Refused, error.to_string()))
}

/// Plans a run of this machine.
///
/// # Errors
/// When the machine's root cannot be found out.
pub fn make(config: &Config, config_bytes: &[u8], hop: &Hop) -> Result<Plan, Failure> {
    let failed = |error| Failure::failed("failed to plan the run", error);
    let layout = layout::read(Path::new("/"), None).map_err(|error| failed(trouble(error)))?;
    let Some((root, name)) = layout.btrfs.as_ref().and_then(|btrfs| Some((&btrfs.root, btrfs.root_name()?)))
    else {
        let message =
            "the root is not a named subvolume of a btrfs: there is no name that could be exchanged";
        return Err(Failure::new(Exit::Refused, message).hint("`safe-upgrade check` says what is missing"));
    };
    if names::parse(name).is_some() {
        let message = format!("the root {name} has the name of an earlier run: that run has not ended");
        return Err(Failure::new(Exit::Refused, message)
            .hint("`safe-upgrade status` says where it stands; reboot, then `safe-upgrade resume`"));
    }
    Ok(Plan {
        run: new_run_id()?,
        host: identity::host_name(),
        from: running_release().map_err(failed)?,
        to: Release { codename: hop.to().codename.into(), version_id: hop.to().version.into() },
        root: RootVolume { uuid: volume_id(root.uuid).map_err(failed)?, name: name.to_owned() },
        trees: config.backup.trees.iter().map(|tree| tree.as_path().to_string_lossy().into_owned()).collect(),
        reattest: ReattestRule {
            max_age_seconds: config.backup.max_age.duration().as_secs(),
            sample: config.backup.sample,
        },
        rehearsal: RehearsalRule {
            required: config.rehearsal.mode == Mode::Required,
            max_age_seconds: config.rehearsal.max_age.duration().as_secs(),
        },
        commit: config.commit.rule,
        confirm_seconds: config.commit.confirm.duration().as_secs(),
        trial_boots: config.commit.trial_boots,
        promise: loader::promise(&loader::verdict().map_err(failed)?.1),
        waivers: config.waivers.clone(),
        config: digest(config_bytes),
    })
}

pub(super) fn new_run_id() -> Result<RunId, Failure> {
    let mut random = [0_u8; 2];
    rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| Failure::failed("failed to get random bytes", std::io::Error::from(errno)))?;
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let text = format!("{now}-{:02x}{:02x}", random[0], random[1]);
    text.parse().map_err(|error| Failure::failed("failed to name the run", error))
}

/// Makes the directory of a run and keeps its configuration there. Repeatable; durable when it returns.
///
/// # Errors
/// Names what could not be written.
pub fn keep(places: &StateDirectory, plan: &Plan, config_bytes: &[u8]) -> Result<(), Failure> {
    let directory = places.run(&plan.run);
    let failed = |error| Failure::failed("failed to keep the run's configuration", error);
    durable::private_directory(&directory).map_err(failed)?;
    durable::replace_file(&directory.join(CONFIG_NAME), config_bytes, 0o600).map_err(failed)
}
