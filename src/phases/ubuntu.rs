//! What only an Ubuntu machine needs: its findings, and a second way in while packages change.

use super::{Machine, store};
use crate::finding::Finding;
use crate::release::completion::CompletionFacts;
use crate::release::hop::{Distribution, Hop};
use crate::release::ubuntu::findings::{self, facts};
use crate::release::ubuntu::rescue_sshd::RescueSshd;

/// The findings for the hop that comes next; none on another distribution, and none where there is no hop: the plan refuses that.
pub(super) fn findings(packages: &CompletionFacts) -> Vec<Finding> {
    if Distribution::of(&packages.os_release) != Some(Distribution::Ubuntu) {
        return Vec::new();
    }
    let Ok(hop) = Hop::next(&packages.os_release) else { return Vec::new() };
    match facts::collect(packages) {
        Ok(facts) => findings::judge(&facts, &hop),
        Err(error) => vec![store::unknown("what Ubuntu's upgrader would object to", &error)],
    }
}

/// Opens the second way in where one is configured. Without it the upgrade goes on: nobody is worse off than without the setting.
pub(super) fn rescue(machine: &Machine) -> Option<RescueSshd> {
    let port = machine.config.upgrade.rescue_ssh_port?;
    match RescueSshd::start(port) {
        Ok(sshd) => {
            machine
                .progress
                .line(&format!("a second sshd listens on port {port} until packages are changed"));
            Some(sshd)
        }
        Err(error) => {
            tracing::warn!("{}", crate::error::chain(&error));
            None
        }
    }
}
