use std::net::IpAddr;

use super::*;
use crate::health::baseline::{MountFact, VERSION};
use crate::health::packages::Packages;
use crate::health::routes::DefaultRoute;
use crate::health::sockets::{Listener, Owner, Protocol};
use crate::health::units::Unit;

pub(crate) fn service(name: &str, active: &str, sub: &str) -> Unit {
    let text = |text: &str| text.to_owned();
    Unit { name: text(name), load: text("loaded"), active: text(active), sub: text(sub), ..Unit::default() }
}

pub(crate) fn machine(units: Vec<Unit>) -> Baseline {
    Baseline {
        version: VERSION,
        system_state: "running".to_owned(),
        units,
        unit_files: BTreeMap::new(),
        listeners: Vec::new(),
        unix_listeners: Vec::new(),
        ephemeral_ports: (32768, 60999),
        mounts: Vec::new(),
        default_routes: Vec::new(),
        packages: Packages::default(),
        unit_packages: BTreeMap::new(),
    }
}

fn running(name: &str) -> Unit {
    service(name, "active", "running")
}

fn dead(name: &str) -> Unit {
    service(name, "inactive", "dead")
}

fn required(before: &Baseline, after: &Baseline) -> Vec<String> {
    let changes = compare(before, after, &BTreeMap::new());
    changes.into_iter().filter(Change::is_required).map(|change| change.sentence).collect()
}

fn units(before: Vec<Unit>, after: Vec<Unit>) -> Vec<String> {
    required(&machine(before), &machine(after))
}

fn listener(protocol: Protocol, address: &str, port: u16, program: &str) -> Listener {
    let address: IpAddr = address.parse().unwrap();
    let program = (!program.is_empty()).then(|| program.to_owned());
    Listener { protocol, address, port, owner: Owner { program, unit: None } }
}

fn sockets(before: Vec<Listener>, after: Vec<Listener>) -> Vec<String> {
    let with = |listeners| Baseline { listeners, ..machine(Vec::new()) };
    required(&with(before), &with(after))
}

#[test]
fn nothing_changed_is_nothing_told() {
    let before = machine(vec![running("nginx.service")]);
    assert!(compare(&before, &before, &BTreeMap::new()).is_empty());
}

#[test]
fn a_service_that_is_gone_or_dead_or_failed_is_required_once() {
    let was = || vec![running("nginx.service")];
    assert_eq!(units(was(), vec![]), ["nginx.service was active and does not exist any more"]);
    assert_eq!(
        units(was(), vec![dead("nginx.service")]),
        ["nginx.service was active and is now inactive (dead)"]
    );
    assert_eq!(
        units(was(), vec![service("nginx.service", "failed", "failed")]),
        ["nginx.service failed, and it had not failed before the upgrade"]
    );
    assert_eq!(units(was(), vec![service("nginx.service", "activating", "start")]).len(), 1);
    let mut unloaded = machine(vec![]);
    unloaded.unit_files.insert("nginx.service".to_owned(), "disabled".to_owned());
    assert_eq!(
        required(&machine(was()), &unloaded),
        ["nginx.service was active and is not running now (disabled)"]
    );
}

#[test]
fn a_unit_that_had_failed_before_is_not_ours() {
    let failed = || vec![service("old.service", "failed", "failed")];
    assert!(units(failed(), failed()).is_empty());
    assert_eq!(units(vec![], failed()).len(), 1);
}

#[test]
fn a_program_that_ended_behind_an_active_unit_is_required() {
    let after = |service_type: &str| Unit {
        service_type: Some(service_type.to_owned()),
        ..service("old-init.service", "active", "exited")
    };
    assert_eq!(units(vec![running("old-init.service")], vec![after("forking")]).len(), 1);
    assert!(units(vec![running("old-init.service")], vec![after("oneshot")]).is_empty());
}

#[test]
fn what_comes_and_goes_is_not_missed() {
    let before = vec![
        running("user@0.service"),
        running("getty@tty1.service"),
        Unit { transient: true, ..running("backup-of-today.service") },
        service("systemd-sysusers.service", "active", "exited"),
    ];
    assert!(units(before, vec![]).is_empty());
}

#[test]
fn php_counts_only_when_its_successor_is_active() {
    let was = || vec![running("php8.2-fpm.service")];
    assert!(units(was(), vec![running("php8.4-fpm.service")]).is_empty());
    assert_eq!(units(was(), vec![dead("php8.4-fpm.service")]).len(), 1);
    let (mut before, mut after) = (machine(was()), machine(vec![]));
    before.unit_files.insert("php8.2-fpm.service".to_owned(), "enabled".to_owned());
    before.unit_packages.insert("php8.2-fpm.service".to_owned(), "php8.2-fpm".to_owned());
    after.packages.installed.insert("bash".to_owned(), "5.2".to_owned());
    assert_eq!(
        required(&before, &after),
        ["php8.2-fpm.service was active and is gone: its package php8.2-fpm is no longer installed"]
    );
}

#[test]
fn an_alias_or_a_socket_keeps_a_service_present() {
    let alias = Unit { aliases: vec!["mysql.service".to_owned()], ..running("mariadb.service") };
    assert!(units(vec![running("mysql.service")], vec![alias]).is_empty());
    let after = vec![dead("ssh.service"), service("ssh.socket", "active", "listening")];
    assert!(units(vec![running("ssh.service")], after).is_empty());
    assert_eq!(units(vec![running("ssh.service")], vec![dead("ssh.service"), dead("ssh.socket")]).len(), 1);
}

#[test]
fn enablement_is_compared() {
    let with = |state: Option<&str>| {
        let mut machine = machine(vec![]);
        machine.unit_files.extend(state.map(|state| ("certbot.timer".to_owned(), state.to_owned())));
        machine
    };
    let before = with(Some("enabled"));
    assert_eq!(required(&before, &with(Some("disabled"))), ["certbot.timer was enabled and is now disabled"]);
    assert_eq!(required(&before, &with(Some("masked"))).len(), 1);
    assert_eq!(required(&before, &with(None)), ["certbot.timer was enabled and does not exist any more"]);
    assert!(required(&before, &with(Some("static"))).is_empty());
    assert!(required(&with(Some("disabled")), &with(None)).is_empty());
}

#[test]
fn a_port_without_a_listener_is_required_whoever_it_was() {
    use Protocol::{Tcp, Udp};
    let web = || listener(Tcp, "0.0.0.0", 443, "nginx");
    assert_eq!(
        sockets(vec![web()], vec![]),
        ["nobody listens on tcp/443 any more; before it was nginx on 0.0.0.0"]
    );
    assert_eq!(sockets(vec![web()], vec![listener(Udp, "0.0.0.0", 443, "nginx")]).len(), 1);
    assert!(sockets(vec![web()], vec![listener(Tcp, "::", 443, "haproxy")]).is_empty());
    assert_eq!(
        sockets(vec![web()], vec![listener(Tcp, "127.0.0.1", 443, "nginx")]),
        ["tcp/443 (nginx on 127.0.0.1) is reachable only from this machine now"]
    );
}

#[test]
fn ports_that_the_kernel_chooses_may_move() {
    use Protocol::{Tcp, Udp};
    let mountd = |port| listener(Tcp, "0.0.0.0", port, "rpc.mountd");
    assert!(sockets(vec![mountd(40001)], vec![mountd(50002)]).is_empty());
    assert_eq!(sockets(vec![mountd(40001)], vec![]).len(), 1);
    assert!(sockets(vec![listener(Udp, "0.0.0.0", 45000, "chronyd")], vec![]).is_empty());
    // WireGuard's socket belongs to the kernel and has a fixed port.
    assert_eq!(sockets(vec![listener(Udp, "0.0.0.0", 51820, "")], vec![]).len(), 1);
    assert!(sockets(vec![listener(Udp, "0.0.0.0", 68, "dhclient")], vec![]).is_empty());
}

#[test]
fn a_socket_of_a_login_is_not_missed() {
    let mut own = listener(Protocol::Tcp, "0.0.0.0", 8000, "python3");
    own.owner.unit = Some("session-3.scope".to_owned());
    assert!(sockets(vec![own], vec![]).is_empty());
}

fn mount(point: &str, fs_type: &str, read_only: bool) -> MountFact {
    let (point, fs_type, source) = (point.to_owned(), fs_type.to_owned(), "/dev/vda".to_owned());
    MountFact { point, fs_type, source, configured: true, read_only }
}

#[test]
fn mounts_are_compared() {
    let with = |mounts| Baseline { mounts, ..machine(vec![]) };
    let before = with(vec![mount("/srv", "nfs4", false)]);
    assert_eq!(required(&before, &with(vec![])), ["/srv (nfs4 from /dev/vda) is not mounted any more"]);
    assert_eq!(required(&before, &with(vec![mount("/srv", "nfs4", true)])), ["/srv became read-only"]);
    assert!(required(&before, &with(vec![mount("/srv", "autofs", false)])).is_empty());
    assert_eq!(before.mounted_by_hand(), Vec::<&str>::new());
}

#[test]
fn a_lost_way_out_is_required_another_is_noted() {
    let route =
        |ip_version, device: &str| DefaultRoute { ip_version, device: device.to_owned(), gateway: None };
    let with = |default_routes| Baseline { default_routes, ..machine(vec![]) };
    let before = with(vec![route(4, "eth0"), route(6, "eth0")]);
    assert_eq!(
        required(&before, &with(vec![route(4, "ens3")])),
        ["there is no default route (IPv6) any more; it was through eth0"]
    );
}

#[test]
fn unfinished_packages_are_required_when_new() {
    let with = |names: &[&str]| {
        let mut machine = machine(vec![]);
        let states = names.iter().map(|name| ((*name).to_owned(), "half-configured".to_owned()));
        machine.packages.unfinished.extend(states);
        machine
    };
    assert_eq!(
        required(&with(&[]), &with(&["nginx"])),
        ["package nginx is not fully installed: half-configured"]
    );
    assert!(required(&with(&["nginx"]), &with(&["nginx"])).is_empty());
}

#[test]
fn names_cannot_forge_lines() {
    let changes = compare(&machine(vec![running("a\x1b[2J\n.service")]), &machine(vec![]), &BTreeMap::new());
    assert!(changes.iter().all(|change| !change.sentence.contains(['\n', '\x1b'])));
}

#[test]
fn what_no_boot_starts_again_is_known_beforehand() {
    let by_hand = Unit { enablement: Some("disabled".to_owned()), ..running("shop.service") };
    let pulled_in = Unit { pulled_in: true, name: "db.service".to_owned(), ..by_hand.clone() };
    assert_eq!(machine(vec![by_hand, pulled_in]).started_by_hand(), ["shop.service"]);
}
