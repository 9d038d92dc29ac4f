//! Who listens: the kernel's socket tables under `/proc/net`, and the processes that hold the sockets.
//!
//! No `ss`: its output is for people, and iproute2 is being replaced while we may want to look.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{HealthError, read_text, read_text_if_any};

/// `TCP_LISTEN` of tcp_states.h, as the tables print it.
const TCP_LISTEN: &str = "0A";
/// An unconnected UDP socket is shown as `TCP_CLOSE`.
const UDP_UNCONNECTED: &str = "07";
/// `__SO_ACCEPTCON` of linux/net.h: a UNIX socket that listens.
const UNIX_ACCEPTS: u32 = 0x10000;

/// Transport protocol of a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// UDP over IPv4 or IPv6.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A process that holds a socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The program's name as the kernel keeps it (at most 15 bytes); none for sockets of the kernel.
    pub program: Option<String>,
    /// The systemd unit that the process belongs to.
    pub unit: Option<String>,
}

/// A socket that waits for others to speak first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Its protocol.
    pub protocol: Protocol,
    /// The local address; unspecified means all addresses.
    pub address: IpAddr,
    /// The local port.
    pub port: u16,
    /// Who holds it.
    #[serde(flatten)]
    pub owner: Owner,
}

/// A listening UNIX socket with a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixListener {
    /// Its path.
    pub path: String,
    /// Who holds it.
    #[serde(flatten)]
    pub owner: Owner,
}

/// Everything that listens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sockets {
    /// TCP and UDP.
    pub listeners: Vec<Listener>,
    /// UNIX sockets with a path.
    pub unix: Vec<UnixListener>,
}

/// Reads all listening sockets of this network namespace with their owners; needs root to see the owners.
///
/// # Errors
/// When a table or a process cannot be looked at. A process that ended meanwhile is none.
pub fn read(proc: &Path) -> Result<Sockets, HealthError> {
    let mut rows = Vec::new();
    for (table, protocol) in
        [("tcp", Protocol::Tcp), ("tcp6", Protocol::Tcp), ("udp", Protocol::Udp), ("udp6", Protocol::Udp)]
    {
        rows.extend(parse_inet(&read_text_if_any(proc.join("net").join(table))?, protocol)?);
    }
    let unix = parse_unix(&read_text(proc.join("net/unix"))?)?;
    let owners = read_owners(proc)?;
    let owner = |inode: u64| owners.get(&inode).cloned().unwrap_or_default();
    let mut sockets = Sockets {
        listeners: rows
            .into_iter()
            .map(|row| Listener {
                protocol: row.protocol,
                address: row.address,
                port: row.port,
                owner: owner(row.inode),
            })
            .collect(),
        unix: unix.into_iter().map(|(path, inode)| UnixListener { path, owner: owner(inode) }).collect(),
    };
    sockets.listeners.sort_by_key(|one| (one.protocol, one.port, one.address));
    sockets.unix.sort_by(|one, other| one.path.cmp(&other.path));
    sockets.unix.dedup();
    Ok(sockets)
}

/// Reads the ports that the kernel hands out by itself, first and last.
///
/// # Errors
/// When it cannot be read or understood.
pub fn read_ephemeral_ports(proc: &Path) -> Result<(u16, u16), HealthError> {
    let text = read_text(proc.join("sys/net/ipv4/ip_local_port_range"))?;
    let ports: Option<Vec<u16>> = text.split_whitespace().map(|port| port.parse().ok()).collect();
    match ports.as_deref() {
        Some([first, last]) => Ok((*first, *last)),
        _ => Err(HealthError::Understand { what: "ip_local_port_range", text: text.trim().to_owned() }),
    }
}

/// A listening row of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The table's protocol.
    pub protocol: Protocol,
    /// The local address; an IPv4 address in an IPv6 table is given as IPv4.
    pub address: IpAddr,
    /// The local port.
    pub port: u16,
    /// The socket's inode, 0 for sockets of the kernel.
    pub inode: u64,
}

/// Finds the listening sockets in `/proc/net/{tcp,tcp6,udp,udp6}`.
///
/// # Errors
/// With the first line that is not understood.
pub fn parse_inet(text: &str, protocol: Protocol) -> Result<Vec<Row>, HealthError> {
    let mut rows = Vec::new();
    for line in text.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        let wrong = || HealthError::Understand { what: "a socket table", text: line.to_owned() };
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, state, _, _, _, _, _, inode, ..] = fields[..] else { return Err(wrong()) };
        let (address, port) = parse_address(local).ok_or_else(wrong)?;
        let (_, remote_port) = parse_address(remote).ok_or_else(wrong)?;
        let listens = match protocol {
            Protocol::Tcp => state == TCP_LISTEN,
            Protocol::Udp => state == UDP_UNCONNECTED && remote_port == 0,
        };
        if listens {
            rows.push(Row { protocol, address, port, inode: inode.parse().map_err(|_| wrong())? });
        }
    }
    Ok(rows)
}

/// `0100007F:0050` or the same with 32 hexadecimal digits: words of 32 bits in this machine's byte order.
fn parse_address(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(index * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some((address, port))
}

/// Finds the listening sockets with a path in `/proc/net/unix`: path and inode.
///
/// # Errors
/// With the first line that is not understood.
pub fn parse_unix(text: &str) -> Result<Vec<(String, u64)>, HealthError> {
    let mut found = Vec::new();
    for line in text.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        let wrong = || HealthError::Understand { what: "/proc/net/unix", text: line.to_owned() };
        let mut fields = line.split_whitespace();
        let flags = fields.nth(3).and_then(|flags| u32::from_str_radix(flags, 16).ok()).ok_or_else(wrong)?;
        let inode = fields.nth(2).and_then(|inode| inode.parse().ok()).ok_or_else(wrong)?;
        // Sockets without a path, and abstract ones (`@...`), have nothing that a restart could break.
        if let Some(path) = line.find(" /").map(|at| &line[at + 1..])
            && flags & UNIX_ACCEPTS != 0
        {
            found.push((path.to_owned(), inode));
        }
    }
    Ok(found)
}

/// The systemd unit in `/proc/PID/cgroup`: the outermost service or scope.
#[must_use]
pub fn parse_cgroup(text: &str) -> Option<String> {
    let hierarchies = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        fields.next().zip(fields.next())
    });
    // With both hierarchies mounted, systemd uses one of them and leaves `/` in the other.
    hierarchies.filter(|(controllers, _)| matches!(*controllers, "" | "name=systemd")).find_map(
        |(_, path)| {
            path.split('/')
                .find(|part| part.ends_with(".service") || part.ends_with(".scope"))
                .map(str::to_owned)
        },
    )
}

/// Which process holds which socket inode. Of several holders the one that is not systemd itself counts, then the oldest id.
fn read_owners(proc: &Path) -> Result<BTreeMap<u64, Owner>, HealthError> {
    let mut pids: Vec<u32> = list(proc)?.iter().filter_map(|name| name.parse().ok()).collect();
    pids.sort_unstable_by_key(|pid| (*pid == 1, *pid));
    let mut owners = BTreeMap::new();
    for pid in pids {
        let process = proc.join(pid.to_string());
        let Some(inodes) = unless_gone(read_socket_inodes(&process))? else { continue };
        if inodes.iter().all(|inode| owners.contains_key(inode)) {
            continue;
        }
        let Some(program) = unless_gone(read_text(process.join("comm")))? else { continue };
        let Some(cgroup) = unless_gone(read_text(process.join("cgroup")))? else { continue };
        let owner = Owner { program: Some(program.trim_end().to_owned()), unit: parse_cgroup(&cgroup) };
        for inode in inodes {
            owners.entry(inode).or_insert_with(|| owner.clone());
        }
    }
    Ok(owners)
}

pub(crate) fn read_socket_inodes(process: &Path) -> Result<Vec<u64>, HealthError> {
    let directory = process.join("fd");
    let mut inodes = Vec::new();
    for name in list(&directory)? {
        let path = directory.join(&name);
        match std::fs::read_link(&path) {
            Ok(target) => {
                let target = target.to_string_lossy();
                let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
                inodes.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
            }
            // Closed since the directory was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(HealthError::Read { path, source }),
        }
    }
    Ok(inodes)
}

pub(crate) fn list(directory: &Path) -> Result<Vec<String>, HealthError> {
    let wrong = |source| HealthError::Read { path: directory.to_owned(), source };
    std::fs::read_dir(directory)
        .map_err(wrong)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).map_err(wrong))
        .collect()
}

/// A process that ended while it was looked at: its files are gone (`ENOENT`) or refuse to be read (`ESRCH`).
pub(crate) fn unless_gone<T>(result: Result<T, HealthError>) -> Result<Option<T>, HealthError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(HealthError::Read { source, .. })
            if source.kind() == ErrorKind::NotFound
                || source.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
        0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000   104        0 9001 1 0 100 0 0 10 0\n\
        1: 0100007F:9C40 0100007F:1538 01 00000000:00000000 00:00000000 00000000   104        0 9002 1 0 20 4 30 10 -1\n";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
        0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 9003 1 0 100 0 0 10 0\n\
        1: 00000000000000000000000001000000:0277 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 9004 1 0 100 0 0 10 0\n";
    const UDP: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
        10: 0100007F:0143 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 9005 2 0 0\n\
        11: 0A000002:A000 0A000001:0035 01 00000000:00000000 00:00000000 00000000     0        0 9006 2 0 0\n";

    #[test]
    fn only_listeners_are_found() {
        let tcp = parse_inet(TCP, Protocol::Tcp).unwrap();
        assert_eq!(tcp.len(), 1);
        assert_eq!((tcp[0].address, tcp[0].port, tcp[0].inode), ("127.0.0.1".parse().unwrap(), 5432, 9001));
        let tcp6 = parse_inet(TCP6, Protocol::Tcp).unwrap();
        assert_eq!((tcp6[0].address, tcp6[0].port), ("::".parse().unwrap(), 80));
        assert_eq!(tcp6[1].address, "::1".parse::<IpAddr>().unwrap());
        let udp = parse_inet(UDP, Protocol::Udp).unwrap();
        assert_eq!(udp.iter().map(|row| row.port).collect::<Vec<_>>(), [323]);
    }

    #[test]
    fn a_cut_table_is_an_error() {
        assert!(parse_inet("head\n 0: 0100007F", Protocol::Tcp).is_err());
        assert!(parse_inet("head\n", Protocol::Tcp).unwrap().is_empty());
        assert!(parse_unix("head\nffff: 1 2").is_err());
    }

    #[test]
    fn unix_sockets_with_a_path_that_listen() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 21000 /run/php/php8.2 fpm.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 21001 @abstract\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 21002 /run/dbus/system_bus_socket\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 21003\n";
        assert_eq!(parse_unix(text).unwrap(), [("/run/php/php8.2 fpm.sock".to_owned(), 21000)]);
    }

    #[test]
    fn the_unit_of_a_process() {
        let unit = |text| parse_cgroup(text);
        let postgres = "0::/system.slice/system-postgresql.slice/postgresql@15-main.service\n";
        assert_eq!(unit(postgres).as_deref(), Some("postgresql@15-main.service"));
        assert_eq!(unit("0::/user.slice/user-0.slice/session-3.scope\n").as_deref(), Some("session-3.scope"));
        assert_eq!(
            unit("2:cpu:/a\n1:name=systemd:/system.slice/ssh.service\n").as_deref(),
            Some("ssh.service")
        );
        let both = "1:name=systemd:/\n0::/system.slice/nginx.service\n";
        assert_eq!(unit(both).as_deref(), Some("nginx.service"));
        assert_eq!(unit("0::/\n"), None);
    }

    #[test]
    fn sees_a_listener_of_this_process() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        match read(Path::new("/proc")) {
            Ok(sockets) => {
                let mine = sockets.listeners.iter().find(|one| one.port == port).unwrap();
                assert!(mine.owner.program.is_some());
            }
            Err(error) => println!("skipped: needs root to look at other processes: {error}"),
        }
        assert!(read_ephemeral_ports(Path::new("/proc")).unwrap().0 > 0);
    }
}
