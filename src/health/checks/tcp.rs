//! A TCP port that accepts a connection.

use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::{CheckState, Seen, resolve};
use crate::error;

/// Splits `HOST:PORT`; an IPv6 address stands in brackets.
pub(super) fn split(address: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("{address:?} is not HOST:PORT, such as \"localhost:5432\" or \"[::1]:5432\"");
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || host.contains(char::is_whitespace) || (host.contains(':') && !bracketed) {
        return Err(wrong());
    }
    match port.parse() {
        Ok(port) if port > 0 => Ok((host, port)),
        _ => Err(wrong()),
    }
}

/// Connects once, to each address of the host until one accepts.
pub(super) fn try_once(address: &str, deadline: Instant) -> Seen {
    let (host, port) = match split(address) {
        Ok(parts) => parts,
        Err(problem) => return Seen::new(CheckState::Unknown, problem),
    };
    let addresses = match resolve::resolve(host, deadline.saturating_duration_since(Instant::now())) {
        Ok(addresses) => addresses,
        Err(problem) => return Seen::new(CheckState::Critical, error::chain(&problem)),
    };
    let mut refusals = Vec::new();
    for ip in addresses {
        let peer = SocketAddr::new(ip, port);
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            refusals.push(format!("{peer}: no time left"));
            break;
        }
        match TcpStream::connect_timeout(&peer, left) {
            Ok(_) => return Seen::new(CheckState::Ok, format!("{peer} accepts connections")),
            Err(error) => refusals.push(format!("{peer}: {error}")),
        }
    }
    Seen::new(CheckState::Critical, refusals.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        assert_eq!(split("localhost:80"), Ok(("localhost", 80)));
        assert_eq!(split("[::1]:80"), Ok(("[::1]", 80)));
        for text in ["localhost", ":80", "::1:80", "a:0", "a:b", "a b:1", "a:99999"] {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
