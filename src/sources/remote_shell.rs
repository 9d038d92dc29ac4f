//! Another machine, reached by ssh: its address, how it is called, and how words pass through its shell unharmed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use crate::system::exec::{Exec, ExecError, tail};
use crate::system::show;

/// What ssh must not do for us: ask, forward anything, or wait for ever for a machine that went away (4 × 15 s).
const MANNERS: [&str; 8] = [
    "BatchMode=yes",
    "ConnectTimeout=20",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
];

/// A directory on another machine: `[USER@]HOST[:PORT]:/PATH`.
///
/// The path is absolute, so that a number between two colons can only be a port. An IPv6 address stands in brackets. HOST may be
/// an alias from ssh's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    user: Option<String>,
    host: String,
    port: Option<u16>,
    path: Vec<u8>,
}

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not [USER@]HOST[:PORT]:/PATH: {what}", show::bytes(.text))]
pub struct AddressError {
    text: Vec<u8>,
    what: &'static str,
}

impl Address {
    /// Understands `[USER@]HOST[:PORT]:/PATH`; the path may hold any bytes but NUL.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &OsStr) -> Result<Self, AddressError> {
        let text = text.as_bytes();
        parse_address(text).map_err(|what| AddressError { text: text.to_owned(), what })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &OsStr {
        OsStr::from_bytes(&self.path)
    }

    /// `USER@HOST`, as ssh and rsync take it.
    #[must_use]
    pub fn login(&self) -> String {
        match &self.user {
            Some(user) => format!("{user}@{}", self.host),
            None => self.host.clone(),
        }
    }

    /// `USER@HOST:/PATH`, as rsync takes it: an IPv6 address in brackets.
    #[must_use]
    pub fn for_rsync(&self) -> OsString {
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let mut text = OsString::from(format!("{user}{host}:"));
        text.push(self.path());
        text
    }

    /// Safe to show.
    #[must_use]
    pub fn shown(&self) -> String {
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}{port}:{}", show::line(&self.login()), show::bytes(&self.path))
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(OsStr::new(text))
    }
}

fn parse_address(text: &[u8]) -> Result<Address, &'static str> {
    let slash = text.iter().position(|&byte| byte == b'/').ok_or("the path must begin with a slash")?;
    let (front, path) = text.split_at(slash);
    let front = std::str::from_utf8(front).map_err(|_| "the host is not UTF-8")?;
    let front = front.strip_suffix(':').ok_or("there is no colon before the path")?;
    if path.contains(&0) {
        return Err("the path holds a NUL");
    }
    let (user, machine) = match front.rsplit_once('@') {
        Some((user, machine)) => (Some(user), machine),
        None => (None, front),
    };
    let (host, port) = match machine.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("the bracket is not closed")?;
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err("something stands between the bracket and the colon"),
            }
        }
        None => match machine.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (machine, None),
        },
    };
    let port =
        port.map(|port| port.parse::<u16>().ok().filter(|port| *port > 0)).map_or(Ok(None), |port| {
            port.map(Some).ok_or("the port is not a number from 1 to 65535 (an IPv6 address needs brackets)")
        })?;
    for name in user.into_iter().chain([host]) {
        plain_name(name)?;
    }
    Ok(Address { user: user.map(str::to_owned), host: host.to_owned(), port, path: path.to_owned() })
}

/// What begins with a dash would be an option to ssh, and spaces and quotes would fall apart in rsync's own command line.
fn plain_name(name: &str) -> Result<(), &'static str> {
    let plain = |c: char| c.is_alphanumeric() || "._-:%+@".contains(c);
    if name.is_empty() {
        Err("the user or the host is empty")
    } else if name.starts_with('-') || !name.chars().all(plain) {
        Err("the user or the host holds something that is no part of a name")
    } else {
        Ok(())
    }
}

/// How ssh is called besides the address.
#[derive(Debug, Clone, Default)]
pub struct Transport {
    /// The only configuration that ssh reads; `None` leaves it the usual ones.
    pub config: Option<PathBuf>,
    /// Options as ssh takes them, such as `-p2222` or `-i` and a file.
    pub options: Vec<OsString>,
    /// The socket of the ssh agent.
    pub agent: Option<OsString>,
    /// The program on the other machine when it is not found as `safe-upgrade`.
    pub program: Option<PathBuf>,
    /// Become root on the other machine by `sudo -n`.
    pub sudo: bool,
}

impl Transport {
    /// Options as a person gives them: those of ssh, and two of our own, which ssh cannot mistake because all of its own have one
    /// letter. `--sudo` becomes root there, `--program=PATH` names the program there.
    #[must_use]
    pub fn with_options(options: &[OsString]) -> Self {
        let mut transport = Self::default();
        for option in options {
            if option == "--sudo" {
                transport.sudo = true;
            } else if let Some(path) = option.as_bytes().strip_prefix(b"--program=") {
                transport.program = Some(OsStr::from_bytes(path).into());
            } else {
                transport.options.push(option.clone());
            }
        }
        transport
    }

    /// ssh, told to run these words on the other machine; each of them arrives there as one word.
    ///
    /// # Errors
    /// When ssh is not installed.
    pub fn command(&self, address: &Address, words: &[&OsStr]) -> Result<Exec, ExecError> {
        let mut exec = Exec::new("ssh")?.args(self.options(address)).arg("--").arg(address.login());
        if let Some(agent) = &self.agent {
            exec = exec.env("SSH_AUTH_SOCK", agent);
        }
        Ok(exec.arg(remote_line(words)))
    }

    /// The options of ssh, without the machine.
    #[must_use]
    pub fn options(&self, address: &Address) -> Vec<OsString> {
        let mut options: Vec<OsString> = vec!["-T".into()];
        for manner in MANNERS {
            options.extend(["-o".into(), manner.into()]);
        }
        if let Some(config) = &self.config {
            // ssh runs in another directory. Only an empty path cannot be made absolute, and ssh says that better.
            let config = std::path::absolute(config).unwrap_or_else(|_| config.clone());
            options.extend(["-F".into(), config.into()]);
        }
        options.extend_from_slice(&self.options);
        if let Some(port) = address.port {
            options.extend(["-p".into(), port.to_string().into()]);
        }
        options
    }

    /// ssh and its options as the one text that `rsync -e` takes apart again: at spaces outside of quotes.
    #[must_use]
    pub fn for_rsync(&self, address: &Address) -> OsString {
        let mut text = b"ssh".to_vec();
        for option in self.options(address) {
            text.push(b' ');
            if option.as_bytes().iter().any(|byte| b" '\"".contains(byte)) {
                text.push(b'\'');
                for &byte in option.as_bytes() {
                    // rsync takes a doubled quote inside quotes as one.
                    text.extend_from_slice(if byte == b'\'' { b"''" } else { std::slice::from_ref(&byte) });
                }
                text.push(b'\'');
            } else {
                text.extend_from_slice(option.as_bytes());
            }
        }
        OsString::from_vec(text)
    }
}

/// The end of what a program wrote to stderr, on one line, safe to show.
#[must_use]
pub fn said(stderr: &[u8]) -> String {
    let words = tail(stderr);
    let lines: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    show::line(&lines.join("; "))
}

/// One line for the shell of another machine, which takes it apart into exactly these words.
#[must_use]
pub fn remote_line(words: &[&OsStr]) -> OsString {
    let mut line = Vec::new();
    for word in words {
        if !line.is_empty() {
            line.push(b' ');
        }
        push_quoted(word.as_bytes(), &mut line);
    }
    OsString::from_vec(line)
}

/// Quotes for whatever shell a login may have: sh, dash, bash, zsh, ksh and fish agree on a backslash before a single punctuation
/// mark and on a newline between single quotes. They do not agree on a backslash between quotes.
fn push_quoted(word: &[u8], line: &mut Vec<u8>) {
    if word.is_empty() {
        line.extend_from_slice(b"''");
    }
    for &byte in word {
        match byte {
            b'\n' => line.extend_from_slice(b"'\n'"),
            // Bytes above ASCII mean nothing to a shell and may be parts of one character.
            _ if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) || byte >= 0x80 => line.push(byte),
            _ => line.extend_from_slice(&[b'\\', byte]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_read() {
        let parts = |text: &str| {
            let address: Address = text.parse().unwrap();
            (address.login(), address.port, address.path().to_str().unwrap().to_owned())
        };
        let some = |login: &str, port, path: &str| (login.to_owned(), port, path.to_owned());
        assert_eq!(parts("db1:/srv"), some("db1", None, "/srv"));
        assert_eq!(parts("root@db1:2222:/srv/a:b@c"), some("root@db1", Some(2222), "/srv/a:b@c"));
        assert_eq!(parts("[2001:db8::1]:22:/"), some("2001:db8::1", Some(22), "/"));
        assert_eq!(parts("u@[fe80::1%eth0]:/x"), some("u@fe80::1%eth0", None, "/x"));
        assert_eq!(parts("me@corp@db1:/srv"), some("me@corp@db1", None, "/srv"));
    }

    #[test]
    fn what_is_no_address_is_told_why() {
        for (text, why) in [
            ("db1:srv", "must begin with a slash"),
            ("/srv", "no colon"),
            (":/srv", "empty"),
            ("@db1:/srv", "empty"),
            ("-oProxyCommand=x:/srv", "no part of a name"),
            ("a b:/srv", "no part of a name"),
            ("2001:db8::1:/srv", "needs brackets"),
            ("db1:0:/srv", "from 1 to"),
            ("[::1:/srv", "not closed"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn our_own_options_do_not_reach_ssh() {
        let options = ["--sudo", "-p2222", "--program=/opt/safe upgrade"].map(OsString::from);
        let transport = Transport::with_options(&options);
        assert_eq!((transport.sudo, transport.program), (true, Some("/opt/safe upgrade".into())));
        assert_eq!(transport.options, ["-p2222"]);
    }

    #[test]
    fn rsync_gets_one_text() {
        let address: Address = "db1:2222:/srv".parse().unwrap();
        let transport = Transport { config: Some("/a b/it's".into()), ..Transport::default() };
        let text = transport.for_rsync(&address).into_string().unwrap();
        assert!(text.starts_with("ssh -T -o BatchMode=yes "), "{text}");
        assert!(text.ends_with(" -F '/a b/it''s' -p 2222"), "{text}");
    }

    /// The shells of this machine; fish and zsh only where they are installed.
    fn words_as_seen_by(shell: &str, words: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let words: Vec<&OsStr> = words.iter().map(|word| OsStr::from_bytes(word)).collect();
        let mut all = vec![OsStr::new("printf"), OsStr::new("%s\\0")];
        all.extend(&words);
        let output = Exec::new(shell).unwrap().arg("-c").arg(remote_line(&all)).success().unwrap();
        output.stdout.split_inclusive(|&byte| byte == 0).map(|word| word[..word.len() - 1].to_vec()).collect()
    }

    #[test]
    fn nothing_in_a_word_means_anything_to_any_shell() {
        let every: Vec<u8> = (1..=255).collect();
        let mut words = vec![b"".to_vec(), b"~".to_vec(), b"=ls".to_vec(), b"{a,b}".to_vec(), b"-n".to_vec()];
        words.extend([
            b"a\n\nb'\n".to_vec(),
            b"$(touch /tmp/x)`x`;x|x&x>x".to_vec(),
            b"\\n\\\\".to_vec(),
            every,
        ]);
        words.push("gr\u{fc}n \u{2028}".as_bytes().to_vec());
        let mut tried = 0;
        for shell in ["sh", "dash", "bash", "zsh", "ksh", "fish"] {
            if crate::system::exec::find_tool(shell).is_ok() {
                assert_eq!(words_as_seen_by(shell, &words), words, "{shell}");
                tried += 1;
            }
        }
        assert!(tried > 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_words_arrive(words in proptest::collection::vec(proptest::collection::vec(1u8.., 0..12), 1..5)) {
            prop_assert_eq!(words_as_seen_by("bash", &words), words);
        }
    }
}
