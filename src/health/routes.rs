//! Default routes, from `/proc/net/route` and `/proc/net/ipv6_route` (the main table; proc_net(5), net/ipv6/route.c).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{HealthError, read_text, read_text_if_any};

/// `RTF_UP` of route.h: the route is usable.
const UP: u32 = 0x1;
/// `RTF_REJECT` of route.h: the route refuses, it leads nowhere.
const REJECT: u32 = 0x200;

/// A way out of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultRoute {
    /// 4 or 6.
    pub ip_version: u8,
    /// The network interface.
    pub device: String,
    /// The next hop; none when the link itself leads everywhere.
    pub gateway: Option<IpAddr>,
}

/// Reads the default routes of both families.
///
/// # Errors
/// When a table cannot be read or understood. A kernel without IPv6 has no IPv6 routes.
pub fn read(proc: &Path) -> Result<Vec<DefaultRoute>, HealthError> {
    let mut routes = parse_v4(&read_text(proc.join("net/route"))?)?;
    routes.extend(parse_v6(&read_text_if_any(proc.join("net/ipv6_route"))?)?);
    Ok(routes)
}

/// Understands `/proc/net/route`.
///
/// # Errors
/// With the first line that is not understood.
pub fn parse_v4(text: &str) -> Result<Vec<DefaultRoute>, HealthError> {
    let mut routes = Vec::new();
    for line in text.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        let wrong = || HealthError::Understand { what: "/proc/net/route", text: line.to_owned() };
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [device, destination, gateway, flags, _, _, _, mask, ..] = fields[..] else {
            return Err(wrong());
        };
        let hex = |text: &str| u32::from_str_radix(text, 16).map_err(|_| wrong());
        let (destination, mask, flags) = (hex(destination)?, hex(mask)?, hex(flags)?);
        // The kernel prints the big-endian address as a number of this machine.
        let gateway = Ipv4Addr::from(hex(gateway)?.to_ne_bytes());
        if destination == 0 && mask == 0 && flags & UP != 0 && flags & REJECT == 0 {
            let gateway = (!gateway.is_unspecified()).then_some(IpAddr::V4(gateway));
            routes.push(DefaultRoute { ip_version: 4, device: device.to_owned(), gateway });
        }
    }
    Ok(routes)
}

/// Understands `/proc/net/ipv6_route`.
///
/// # Errors
/// With the first line that is not understood.
pub fn parse_v6(text: &str) -> Result<Vec<DefaultRoute>, HealthError> {
    let mut routes = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let wrong = || HealthError::Understand { what: "/proc/net/ipv6_route", text: line.to_owned() };
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, length, _, _, gateway, _, _, _, flags, device] = fields[..] else {
            return Err(wrong());
        };
        let hex = |text: &str| u128::from_str_radix(text, 16).map_err(|_| wrong());
        let flags = u32::from_str_radix(flags, 16).map_err(|_| wrong())?;
        let gateway = Ipv6Addr::from(hex(gateway)?);
        if hex(destination)? == 0
            && hex(length)? == 0
            && flags & UP != 0
            && flags & REJECT == 0
            && device != "lo"
        {
            let gateway = (!gateway.is_unspecified()).then_some(IpAddr::V6(gateway));
            routes.push(DefaultRoute { ip_version: 6, device: device.to_owned(), gateway });
        }
    }
    Ok(routes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t0102000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
        eth0\t0002000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
    const V6: &str = "fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n\
        00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003     eth0\n\
        00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";

    #[test]
    fn finds_the_ways_out() {
        let v4 = parse_v4(V4).unwrap();
        assert_eq!(v4.len(), 1);
        assert_eq!(v4[0].gateway, Some("10.0.2.1".parse().unwrap()));
        let v6 = parse_v6(V6).unwrap();
        assert_eq!(v6.len(), 1);
        assert_eq!((v6[0].device.as_str(), v6[0].gateway), ("eth0", Some("fe80::1".parse().unwrap())));
    }

    #[test]
    fn a_cut_table_is_an_error() {
        assert!(parse_v4("Iface\neth0\t0000").is_err());
        assert!(parse_v6("00000000000000000000000000000000 00").is_err());
        assert!(parse_v6("").unwrap().is_empty());
    }
}
