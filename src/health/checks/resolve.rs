//! Names to addresses, without the C library's resolver: it loads plug-ins (NSS), which a static program must not do while
//! an upgrade replaces them. The machine's own `getent` does it, in a process of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::system::exec::{Exec, ExecError};

/// `getent` says with this exit code that the name is not known.
const NOT_KNOWN: i32 = 2;

/// A name that has no address, or for which none could be found out.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    /// There is no such name.
    #[error("the name {0:?} is not known")]
    NotKnown(String),
    /// `getent` gave no answer.
    #[error("failed to look up the name {name:?}")]
    Ask {
        /// The name.
        name: String,
        /// Why.
        source: ExecError,
    },
}

/// The addresses of a host: a literal (also in brackets), `localhost`, or a name.
pub(super) fn resolve(host: &str, limit: Duration) -> Result<Vec<IpAddr>, ResolveError> {
    if let Some(addresses) = without_asking(host) {
        return Ok(addresses);
    }
    let ask = |source| ResolveError::Ask { name: host.to_owned(), source };
    let output = Exec::new("getent")
        .and_then(|exec| exec.args(["ahosts", host]).limit(limit).output())
        .map_err(ask)?;
    let addresses = parse(&String::from_utf8_lossy(&output.stdout));
    match output.status.code() {
        Some(0) if !addresses.is_empty() => Ok(addresses),
        Some(0 | NOT_KNOWN) => Err(ResolveError::NotKnown(host.to_owned())),
        _ => {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(ask(ExecError::Failed { program: "getent".into(), status: output.status, stderr }))
        }
    }
}

fn without_asking(host: &str) -> Option<Vec<IpAddr>> {
    if host.eq_ignore_ascii_case("localhost") {
        // IPv4 first: what listens on one family only, mostly listens there.
        return Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok().map(|address| vec![address])
}

/// The first word of each line is an address; each comes once per socket type.
fn parse(text: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for address in text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_localhost_ask_nobody() {
        assert_eq!(without_asking("[::1]"), Some(vec!["::1".parse().unwrap()]));
        assert_eq!(without_asking("10.0.0.1"), Some(vec!["10.0.0.1".parse().unwrap()]));
        assert_eq!(without_asking("LocalHost").unwrap().len(), 2);
        assert_eq!(without_asking("example.org"), None);
    }

    #[test]
    fn reads_getent() {
        let text =
            "::1             STREAM ip6-localhost\n::1             DGRAM  \n127.0.0.1       STREAM x\n";
        assert_eq!(parse(text), ["::1".parse::<IpAddr>().unwrap(), "127.0.0.1".parse().unwrap()]);
    }

    #[test]
    fn an_unknown_name_is_not_known() {
        let error = resolve("no-such-host.invalid", Duration::from_secs(30)).unwrap_err();
        assert!(matches!(error, ResolveError::NotKnown(_)), "{error}");
    }
}
