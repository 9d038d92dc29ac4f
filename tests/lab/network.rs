//! A network of its own: nothing but the loopback device, and the lab's mirror on one of its ports.
//!
//! The namespace lives as long as this value does, so it stays the same over reboots of the machine, and what listens on the
//! host is never mistaken for a service of the machine.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Result, context};

/// How long a web server inside may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A network namespace with a loopback device that is up.
#[derive(Debug)]
pub struct Network {
    namespace: File,
}

impl Network {
    /// Makes an empty network.
    pub fn create() -> Result<Self> {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo up && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(stdout) = holder.stdout.as_mut() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let namespace = File::open(format!("/proc/{}/ns/net", holder.id()));
        // Closes its stdin: `cat` ends, and the open file alone keeps the namespace.
        holder.wait()?;
        if line != "up\n" {
            return Err(io::Error::other("failed to make a network namespace with a loopback device"));
        }
        Ok(Self { namespace: namespace? })
    }

    /// A path by which `systemd-nspawn` finds the namespace while this value lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd()))
    }

    /// Listens inside this network, on its loopback device.
    pub fn listen(&self, port: u16) -> Result<TcpListener> {
        context(self.inside(move || TcpListener::bind((Ipv4Addr::LOCALHOST, port))), "listen inside")
    }

    /// Asks a web server inside for a page and returns its whole answer, status line and headers included.
    pub fn get(&self, port: u16, path: &str) -> Result<String> {
        let mut stream = self.inside(move || TcpStream::connect((Ipv4Addr::LOCALHOST, port)))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// A socket belongs to the network in which it was made: a thread goes in, makes it, and ends.
    fn inside<T: Send>(&self, make: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let namespace = self.namespace.as_fd();
        std::thread::scope(|scope| {
            let made = scope.spawn(move || {
                move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
                make()
            });
            made.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside panicked")))
        })
    }
}
