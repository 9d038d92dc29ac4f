//! `check --prove-boot`: reboots this machine through its boot chain, twice, before anybody relies on it.

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use super::{Result, boot, loader, plan, trouble};
use crate::boot::layout;
use crate::boot::proof::{self, Chain, Next, Proof, Seen, Stage, Way};
use crate::driver::Trouble;
use crate::evidence::FallbackMethod;
use crate::finding::{Finding, Severity};
use crate::places::StateDirectory;
use crate::system::span::Span;
use crate::system::{durable, identity};

/// Where a proof is kept, in the state directory.
const FILE: &str = "boot-proof.json";

/// The last proof, if there ever was one.
///
/// # Errors
/// When it can't be read or understood.
pub fn last(places: &StateDirectory) -> Result<Option<Proof>> {
    let path = places.path().join(FILE);
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(trouble)?,
    };
    let proof: Proof = serde_json::from_slice(&bytes).map_err(trouble)?;
    if proof.version != Proof::VERSION {
        return Err(Trouble::new(format!(
            "{} is of version {}, which is not known",
            path.display(),
            proof.version
        )));
    }
    Ok(Some(proof))
}

/// Begins a proof: arms the marked boot and reboots.
///
/// # Errors
/// When this machine has no boot chain of ours to prove, or it can't be armed; then nothing is left armed.
pub fn begin(places: &StateDirectory) -> Result<Infallible> {
    let (layout, verdict) = loader::verdict()?;
    let promise = loader::promise(&verdict);
    if !promise.method.is_one_shot() {
        return Err(Trouble::new(format!("there is nothing to prove: {}", promise.reason)));
    }
    let id = plan::new_run_id().map_err(|failure| Trouble::new(failure.to_string()))?.to_string();
    let mut proof = Proof {
        version: Proof::VERSION,
        id,
        method: promise.method.words().into(),
        kernel: layout.kernel,
        stage: Stage::Arming,
        armed_in: String::new(),
        left: 0,
        marked_seconds: None,
        return_seconds: None,
        ended: None,
    };
    let chain = chain(&proof, promise.method)?;
    let begun = arm_and_reboot(places, &mut proof, &chain, promise.method, Chain::arm_marked);
    if let Err(trouble) = &begun {
        give_up(places, &mut proof, &trouble.to_string());
    }
    begun
}

/// Goes on with a proof that is under way; to be called at each boot before anything else. Returns whether there was one.
///
/// # Errors
/// When it can't go on; nothing is left armed then.
pub fn go_on(places: &StateDirectory) -> Result<bool> {
    let Some(mut proof) = last(places)?.filter(|proof| !proof.is_over()) else { return Ok(false) };
    let gone_on = go_on_with(places, &mut proof);
    if let Err(trouble) = &gone_on {
        give_up(places, &mut proof, &trouble.to_string());
    }
    gone_on
}

/// Told and disarmed as far as it can be: the next boot finds nothing that it would fail at again.
fn give_up(places: &StateDirectory, proof: &mut Proof, why: &str) {
    if !proof.is_over() {
        proof.give_up(now(), why.to_owned());
    }
    let disarmed = method_of(proof)
        .and_then(|method| chain(proof, method))
        .and_then(|chain| chain.disarm().map_err(trouble));
    for failed in [keep(places, proof), disarmed].into_iter().filter_map(Result::err) {
        tracing::warn!(%failed, "the proof of the boot chain could not be ended cleanly");
    }
}

/// The method that was armed; what this machine promises may have changed since.
fn method_of(proof: &Proof) -> Result<FallbackMethod> {
    let methods = [
        FallbackMethod::EnvFileEsp,
        FallbackMethod::EnvFileBoot,
        FallbackMethod::LoaderOneShot,
        FallbackMethod::Kexec,
    ];
    let known = methods.into_iter().find(|method| method.words() == proof.method);
    known.ok_or_else(|| Trouble::new(format!("the proof's method is not known: {}", proof.method)))
}

fn go_on_with(places: &StateDirectory, proof: &mut Proof) -> Result<bool> {
    let method = method_of(proof)?;
    let chain = chain(proof, method)?;
    let line = std::fs::read_to_string("/proc/cmdline").map_err(trouble)?;
    let seen = Seen {
        boot: identity::boot_id().map_err(trouble)?,
        mark: proof::mark_in(&line),
        cleared: chain.is_cleared().map_err(trouble)?,
        now: now(),
    };
    match proof.judge(&seen) {
        Next::Reboot => reboot(method).map(|never| match never {}),
        Next::ArmDying => {
            arm_and_reboot(places, proof, &chain, method, Chain::arm_dying).map(|never| match never {})
        }
        Next::Over => {
            chain.disarm().map_err(trouble)?;
            keep(places, proof)?;
            Ok(true)
        }
    }
}

/// What the last proof means for a run. With `wanted`, a run wants one that is younger.
pub(super) fn findings(
    places: &StateDirectory,
    wanted: Option<Span>,
    kernel: &str,
    method: FallbackMethod,
) -> Vec<Finding> {
    let finding = |severity, what: String| {
        Finding::new("boot-proof", severity, what, "safe-upgrade check --prove-boot (it reboots the machine)")
    };
    let missing = if wanted.is_some() { Severity::Inhibitor } else { Severity::Note };
    let proof = match last(places) {
        Ok(Some(proof)) => proof,
        Ok(None) => {
            return vec![finding(
                missing,
                "that a dead kernel comes back by itself was never proven on this machine.".into(),
            )];
        }
        Err(trouble) => {
            return vec![finding(
                missing,
                format!("the last proof of the boot chain can't be read: {trouble}."),
            )];
        }
    };
    let (Some(back), Some(ended)) = (proof.return_seconds, proof.ended) else {
        let why = match &proof.stage {
            Stage::Failed { why } => why.clone(),
            _ => "it has not ended".into(),
        };
        return vec![finding(
            Severity::Inhibitor,
            format!("the proof of the boot chain did not succeed: {why}."),
        )];
    };
    let age = now().saturating_sub(ended);
    let stale = wanted.is_some_and(|wanted| age > wanted.duration().as_secs())
        || proof.kernel != kernel
        || proof.method != method.words();
    let text = format!(
        "a kernel that dies comes back by itself: proven {} days ago with {}, after {back} seconds ({}).",
        age / 86_400,
        proof.kernel,
        proof.method
    );
    vec![finding(if stale { missing } else { Severity::Note }, text)]
}

fn arm_and_reboot(
    places: &StateDirectory,
    proof: &mut Proof,
    chain: &Chain,
    method: FallbackMethod,
    arm: impl Fn(&Chain) -> std::result::Result<(), proof::ChainError>,
) -> Result<Infallible> {
    proof.armed_in = identity::boot_id().map_err(trouble)?;
    proof.left = now();
    // Power that is lost before the second of these says nothing about the machine.
    keep(places, proof)?;
    arm(chain).map_err(trouble)?;
    proof.armed();
    keep(places, proof)?;
    reboot(method)
}

fn reboot(method: FallbackMethod) -> Result<Infallible> {
    boot::go_down(if method == FallbackMethod::Kexec { "kexec" } else { "reboot" })
}

fn chain(proof: &Proof, method: FallbackMethod) -> Result<Chain> {
    let layout = layout::read(Path::new("/")).map_err(trouble)?;
    let way = match (method, loader::env_file(method, &layout)?) {
        (FallbackMethod::LoaderOneShot, _) => Way::SystemdBoot(loader::places(&layout)?),
        (_, Some((file, place))) => Way::EnvFile(file, place),
        (_, None) => Way::Kexec,
    };
    Ok(Chain { id: proof.id.clone(), menu: PathBuf::from("/boot/grub/grub.cfg"), kernel: layout.kernel, way })
}

fn keep(places: &StateDirectory, proof: &Proof) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(proof).map_err(trouble)?;
    durable::replace_file(&places.path().join(Path::new(FILE)), &bytes, 0o600).map_err(trouble)
}

fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_go_on_is_over_and_tried_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let places = StateDirectory::at(dir.path());
        let proof = Proof {
            version: Proof::VERSION,
            id: "20261126T163000Z-4f2a".into(),
            method: "a method of another version".into(),
            kernel: "6.1.0-1-amd64".into(),
            stage: Stage::Marked,
            armed_in: "1".into(),
            left: 1000,
            marked_seconds: None,
            return_seconds: None,
            ended: None,
        };
        keep(&places, &proof).unwrap();
        assert!(go_on(&places).unwrap_err().to_string().contains("method is not known"));
        let over = last(&places).unwrap().unwrap();
        assert!(matches!(&over.stage, Stage::Failed { why } if why.contains("not known")), "{over:?}");
        assert!(over.ended.is_some());
        assert!(!go_on(&places).unwrap(), "the next boot has nothing to go on with");
    }
}
