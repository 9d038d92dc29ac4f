//! A network that leads nowhere: two namespaces of our own and a cable between them. The host's network has no end of it.

use std::path::Path;
use std::time::Duration;

use super::names::{NETWORKS, Names};
use super::{RehearsalError, Result};
use crate::system::exec::{Exec, ExecError, tail};

/// What the cable is called at both of its ends.
const CABLE: &str = "rehearsal0";

/// The smallest network for two. It exists in the two namespaces only; the second one is taken where the host uses the first.
const ADDRESSES: [(&str, &str); 2] = [("10.213.77.1", "10.213.77.2"), ("192.168.213.1", "192.168.213.2")];

/// A network whose both ends are ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Where `systemd-nspawn` finds the clone's end.
    pub path: String,
    /// The clone's address, as seen from the namespace of the tests.
    pub address: String,
    /// The name of the namespace of the tests.
    pub tests: String,
}

/// Makes both namespaces and the cable. The clone's end also gets every address of the host, which nobody can reach there: a service
/// that listens on one of them starts as it does on the host.
///
/// # Errors
/// When `ip` refuses.
pub fn make(names: &Names) -> Result<Network> {
    let (clone, tests) = (names.network(), names.test_network());
    let of_host = addresses_of_host()?;
    let taken = |ours: &str| {
        let net = ours.rsplit_once('.').map_or(ours, |(net, _)| net);
        of_host.iter().any(|address| address.starts_with(&format!("{net}.")))
    };
    let (ours, theirs) = ADDRESSES.into_iter().find(|(ours, _)| !taken(ours)).unwrap_or(ADDRESSES[0]);
    for name in [&clone, &tests] {
        ip(&["netns", "add", name])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
    }
    ip(&["-n", &clone, "link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", &tests])?;
    for (name, address) in [(&clone, theirs), (&tests, ours)] {
        ip(&["-n", name, "address", "add", &format!("{address}/30"), "dev", CABLE])?;
        ip(&["-n", name, "link", "set", CABLE, "up"])?;
    }
    for address in of_host {
        let whole = if address.contains(':') { "128" } else { "32" };
        let mut words = vec!["-n", &clone, "address", "add"];
        let address = format!("{address}/{whole}");
        words.extend([address.as_str(), "dev", "lo"]);
        // One that the kernel does not want there is one that a service may miss, in both boots alike.
        drop(ip(&words));
    }
    Ok(Network { path: format!("{NETWORKS}/{clone}"), address: theirs.to_owned(), tests })
}

/// Removes what is left of a rehearsal's network. Probes first.
///
/// # Errors
/// When `ip` refuses.
pub fn remove(names: &Names) -> Result<()> {
    for name in [names.network(), names.test_network()] {
        if Path::new(NETWORKS).join(&name).exists() {
            ip(&["netns", "delete", &name])?;
        }
    }
    Ok(())
}

/// Runs a program of the host in the namespace of the tests: it reaches the clone, and nothing else. Says why it did not pass, if so:
/// one that takes longer than its limit has failed.
///
/// # Errors
/// When it cannot be started.
pub fn test(network: &Network, argv: &[String], limit: Duration) -> Result<std::result::Result<(), String>> {
    let ended = Exec::new("ip").and_then(|exec| {
        exec.args(["netns", "exec", &network.tests])
            .args(argv)
            .env("SAFE_UPGRADE_TEST_HOST", &network.address)
            .limit(limit)
            .output()
    });
    match ended {
        Ok(output) if output.status.success() => Ok(Ok(())),
        Ok(output) => Ok(Err(format!(
            "it ended with {}: {}",
            output.status,
            tail(&[output.stdout, output.stderr].concat())
        ))),
        Err(ExecError::TimedOut { limit, .. }) => {
            Ok(Err(format!("it did not end within its limit of {} s", limit.as_secs())))
        }
        Err(error) => Err(RehearsalError::exec("run a functional test")(error)),
    }
}

fn addresses_of_host() -> Result<Vec<String>> {
    let text = Exec::new("ip")
        .and_then(|exec| exec.args(["-o", "address", "show", "scope", "global"]).text())
        .map_err(RehearsalError::exec("list the addresses of this machine"))?;
    Ok(parse_addresses(&text))
}

/// `2: eth0    inet 192.0.2.7/24 brd ...`
fn parse_addresses(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip_while(|word| *word != "inet" && *word != "inet6");
            words.next()?;
            Some(words.next()?.split('/').next()?.to_owned())
        })
        .collect()
}

fn ip(words: &[&str]) -> Result<()> {
    Exec::new("ip")
        .and_then(|exec| exec.args(words).success())
        .map(drop)
        .map_err(RehearsalError::exec("make or remove the rehearsal's own network"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_ip_writes_them() {
        let text = "2: eth0    inet 192.0.2.7/24 brd 192.0.2.255 scope global eth0\\       valid_lft forever\n\
                    2: eth0    inet6 2001:db8::7/64 scope global dynamic \\       valid_lft 1s\n\
                    3: wg0    inet 198.51.100.1 peer 198.51.100.2/32 scope global wg0\n";
        assert_eq!(parse_addresses(text), ["192.0.2.7", "2001:db8::7", "198.51.100.1"]);
    }
}
