//! Names of network interfaces: a server whose only interface gets another name is out of reach.

use std::path::Path;

use super::reading::{self, InspectError};
use crate::finding::Finding;
use crate::system::show;

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Network cards that are there.
    cards: Vec<Card>,
    /// Every interface that is there.
    present: Vec<String>,
    /// Names of cards in the configuration, and the file.
    configured: Vec<(String, String)>,
    /// Names that somebody gives on purpose: link files, udev rules.
    given: Vec<String>,
    /// The kernel's own names are kept: `net.ifnames=0`.
    kernel_names: bool,
}

/// A network card.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Card {
    name: String,
    driver: String,
    /// The firmware gives its slot a number, by which systemd 257 may name it.
    slot: Option<String>,
}

pub(super) fn facts(root: &Path) -> Result<Facts, InspectError> {
    let present = reading::names(root, "sys/class/net")?;
    let mut cards = Vec::new();
    for name in &present {
        let device = format!("sys/class/net/{name}/device");
        if !reading::at(root, &device).exists() {
            continue;
        }
        let driver = std::fs::read_link(reading::at(root, &format!("{device}/driver"))).unwrap_or_default();
        let driver = driver.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let slot =
            reading::text(root, &format!("{device}/firmware_node/sun"))?.map(|text| text.trim().to_owned());
        cards.push(Card { name: name.clone(), driver, slot });
    }
    let line = reading::text(root, "proc/cmdline")?.unwrap_or_default();
    Ok(Facts {
        cards,
        present,
        configured: configured(root)?,
        given: given(root)?,
        kernel_names: line.split_ascii_whitespace().any(|word| word == "net.ifnames=0"),
    })
}

/// Names of cards that ifupdown and netplan bring up. Names of bridges, bonds, VLANs and tunnels are made, not found.
fn configured(root: &Path) -> Result<Vec<(String, String)>, InspectError> {
    let mut found = Vec::new();
    let parts = reading::names(root, "etc/network/interfaces.d")?;
    let files = parts.iter().map(|name| format!("etc/network/interfaces.d/{name}"));
    for file in std::iter::once("etc/network/interfaces".to_owned()).chain(files) {
        let text = reading::text(root, &file)?.unwrap_or_default();
        for line in reading::settings(&text) {
            let mut words = line.split_ascii_whitespace();
            if words.next().is_some_and(|word| word == "auto" || word == "allow-auto") {
                found.extend(
                    words.filter(|name| is_card(name)).map(|name| (name.to_owned(), format!("/{file}"))),
                );
            }
        }
    }
    for name in reading::names(root, "etc/netplan")?.iter().filter(|name| name.ends_with(".yaml")) {
        let file = format!("etc/netplan/{name}");
        let text = reading::text(root, &file)?.unwrap_or_default();
        found.extend(netplan_cards(&text).into_iter().map(|name| (name, format!("/{file}"))));
    }
    Ok(found)
}

/// Whether a name is one that a card has: `eth0`, `enp1s0`, `ens3`, `wlan0`; not `eth0.10`, `eth0:1`, `br0`.
fn is_card(name: &str) -> bool {
    ["eth", "en", "wl", "ww"].iter().any(|start| name.starts_with(start))
        && name.ends_with(|last: char| last.is_ascii_alphanumeric())
        && !name.contains(['.', ':', '*', '/', '=', '@'])
}

/// The keys below `ethernets:` that have no `match:` of their own: those are names. Reads the shape by its indentation, as people
/// and cloud-init write it; what is written in braces is not seen.
fn netplan_cards(text: &str) -> Vec<String> {
    let mut cards: Vec<(String, bool)> = Vec::new();
    let (mut section, mut key) = (None, None);
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.trim().starts_with('#')) {
        let depth = line.len() - line.trim_start().len();
        let word = line.trim().trim_end_matches(':').trim_matches('"');
        match section {
            _ if line.trim() == "ethernets:" => (section, key) = (Some(depth), None),
            Some(at) if depth <= at => section = None,
            Some(_) if key.is_none_or(|at| depth <= at) => {
                key = Some(depth);
                cards.push((word.to_owned(), false));
            }
            Some(_) if word == "match" => {
                if let Some((_, matched)) = cards.last_mut() {
                    *matched = true;
                }
            }
            _ => {}
        }
    }
    cards.into_iter().filter(|(name, matched)| !matched && is_card(name)).map(|(name, _)| name).collect()
}

/// Names that link files and udev rules give.
fn given(root: &Path) -> Result<Vec<String>, InspectError> {
    let mut given = Vec::new();
    for name in reading::names(root, "etc/systemd/network")?.iter().filter(|name| name.ends_with(".link")) {
        let text = reading::text(root, &format!("etc/systemd/network/{name}"))?.unwrap_or_default();
        given.extend(
            reading::settings(&text).filter_map(|line| line.strip_prefix("Name=")).map(str::to_owned),
        );
    }
    for name in reading::names(root, "etc/udev/rules.d")?.iter().filter(|name| name.ends_with(".rules")) {
        let text = reading::text(root, &format!("etc/udev/rules.d/{name}"))?.unwrap_or_default();
        let of_rule = |line: &str| {
            Some(
                line.split_once("NAME=\"")
                    .or_else(|| line.split_once("NAME:=\""))?
                    .1
                    .split_once('"')?
                    .0
                    .to_owned(),
            )
        };
        given.extend(
            reading::settings(&text).filter(|line| line.contains("SUBSYSTEM==\"net\"")).filter_map(of_rule),
        );
    }
    Ok(given)
}

pub(super) fn findings(facts: &Facts, to_trixie: bool) -> Vec<Finding> {
    if facts.present.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let absent: Vec<String> = facts
        .configured
        .iter()
        .filter(|(name, _)| !facts.present.contains(name))
        .map(|(name, file)| format!("{}: {}", show::line(file), show::line(name)))
        .collect();
    if !absent.is_empty() {
        let what = "the network configuration brings up cards that are not there: after the next reboot an interface may have \
                    another name than the configuration expects.";
        let remedy = "correct the names (`ip link` shows them), or remove what is not used any more";
        found.push(Finding::warning("interface-not-there", what, remedy).with_evidence(absent));
    }
    found.extend(kernel_names(facts));
    if to_trixie {
        found.extend(new_names(facts));
    }
    found
}

/// With one card the kernel has no choice; with several, the order in which they are found decides.
fn kernel_names(facts: &Facts) -> Option<Finding> {
    let by_kernel = |card: &&Card| {
        card.name.strip_prefix("eth").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
            && !facts.given.contains(&card.name)
    };
    let cards: Vec<&Card> = facts.cards.iter().filter(by_kernel).collect();
    if cards.len() < 2 {
        return None;
    }
    let mut evidence: Vec<String> = cards
        .iter()
        .map(|card| format!("{} ({})", show::line(&card.name), show::line(&card.driver)))
        .collect();
    if facts.kernel_names {
        evidence.push("/proc/cmdline: net.ifnames=0".into());
    }
    let what = "several cards have the names that the kernel gave them in the order in which it found them: a new kernel may find \
                them in another order.";
    let remedy =
        "give each a fixed name: a file in /etc/systemd/network with [Match] MACAddress= and [Link] Name=";
    Some(Finding::warning("interface-names-by-kernel", what, remedy).with_evidence(evidence))
}

/// Cards that systemd 257 names otherwise than systemd 252. Source: systemd.net-naming-scheme(7), schemes v253 to v257.
fn new_names(facts: &Facts) -> Option<Finding> {
    let renamed = |card: &&Card| {
        let by_path = card.name.starts_with("enp") || card.name.starts_with("wlp");
        let new_port = card.driver == "i40e" && card.name.starts_with("en") && !has_port(&card.name);
        let new_slot =
            by_path && card.slot.as_ref().is_some_and(|slot| slot.parse::<u32>().is_ok_and(|slot| slot > 0));
        !facts.kernel_names && !facts.given.contains(&card.name) && (new_port || new_slot)
    };
    let evidence: Vec<String> = facts
        .cards
        .iter()
        .filter(renamed)
        .map(|card| match &card.slot {
            Some(slot) => format!(
                "{} ({}): the firmware says slot {}",
                show::line(&card.name),
                show::line(&card.driver),
                show::line(slot)
            ),
            None => format!("{} ({})", show::line(&card.name), show::line(&card.driver)),
        })
        .collect();
    if evidence.is_empty() {
        return None;
    }
    let what = "the new release may name these network cards otherwise: the machine could be out of reach after the reboot.";
    let remedy = "fix the name before: a file in /etc/systemd/network with [Match] MACAddress= and [Link] Name=, or net.naming-scheme=v252 \
                  on the kernel's command line";
    Some(Finding::warning("interface-may-be-renamed", what, remedy).with_evidence(evidence))
}

/// Whether a name ends with the name of a port, as `enp1s0f0np0` does.
fn has_port(name: &str) -> bool {
    name.get(3..).is_some_and(|rest| rest.contains("np"))
}

#[cfg(test)]
mod tests {
    use super::super::reading::made_up::{ids, put, tree};
    use super::*;

    fn card(root: &Path, name: &str, driver: &str) {
        put(root, &format!("sys/class/net/{name}/device/vendor"), "");
        std::os::unix::fs::symlink(
            format!("../../drivers/{driver}"),
            root.join(format!("sys/class/net/{name}/device/driver")),
        )
        .unwrap();
    }

    #[test]
    fn a_plain_server() {
        let dir = tree(&[
            (
                "etc/network/interfaces",
                "source /etc/network/interfaces.d/*\nauto lo\niface lo inet loopback\nallow-hotplug enp9s0\nauto enp1s0\nauto br0\n",
            ),
            ("sys/class/net/lo/type", ""),
        ]);
        card(dir.path(), "enp1s0", "virtio_net");
        card(dir.path(), "eth0", "hv_netvsc");
        assert!(findings(&facts(dir.path()).unwrap(), true).is_empty());
    }

    #[test]
    fn names_that_are_gone_or_left_to_chance() {
        let dir = tree(&[
            ("etc/network/interfaces", "auto eth7\n"),
            (
                "etc/netplan/50.yaml",
                "network:\n  version: 2\n  ethernets:\n    ens9:\n      dhcp4: true\n    any:\n      match:\n        name: en*\n    ens8:\n      match: {macaddress: x}\n      dhcp4: true\n  bridges:\n    br0:\n      dhcp4: true\n",
            ),
            ("proc/cmdline", "net.ifnames=0\n"),
        ]);
        for name in ["eth0", "eth1"] {
            card(dir.path(), name, "virtio_net");
        }
        let found = findings(&facts(dir.path()).unwrap(), true);
        assert_eq!(ids(&found), ["warning interface-not-there", "warning interface-names-by-kernel"]);
        assert_eq!(found[0].evidence[0], "/etc/network/interfaces: eth7");
        assert_eq!(found[0].evidence[1], "/etc/netplan/50.yaml: ens9");
        put(dir.path(), "etc/systemd/network/10.link", "[Match]\nMACAddress=x\n[Link]\nName=eth0\n");
        put(
            dir.path(),
            "etc/udev/rules.d/70.rules",
            "SUBSYSTEM==\"net\", ATTR{address}==\"x\", NAME=\"eth1\"\n",
        );
        assert_eq!(ids(&findings(&facts(dir.path()).unwrap(), true)), ["warning interface-not-there"]);
    }

    #[test]
    fn cards_with_new_names() {
        let dir = tree(&[("sys/class/net/enp3s0/device/firmware_node/sun", "3\n")]);
        card(dir.path(), "enp3s0", "igb");
        card(dir.path(), "ens1f0", "i40e");
        card(dir.path(), "ens1f1np1", "i40e");
        card(dir.path(), "enp5s0", "igb");
        let found = findings(&facts(dir.path()).unwrap(), true);
        assert_eq!(found[0].evidence, ["enp3s0 (igb): the firmware says slot 3", "ens1f0 (i40e)"]);
        assert!(findings(&facts(dir.path()).unwrap(), false).is_empty());
    }
}
