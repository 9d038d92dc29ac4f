//! A caching mirror that can be taken away.
//!
//! A forward proxy for apt: GET and HEAD only. Packages and index files by hash never change and are kept for ever under
//! `target/lab/cache`; everything else is asked for anew. One host name, [`LOCAL_HOST`], is served from a directory.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::Result;

/// The host whose files come from the lab's own repository.
pub const LOCAL_HOST: &str = "repo.lab.invalid";

/// The port inside the machine; the base image names it in its apt configuration.
pub const PORT: u16 = 3142;

/// The largest package in Debian is below this.
const LARGEST: u64 = 2 << 30;

/// What clients still get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Open,
    /// Gone as soon as this many more packages were served.
    Debs(usize),
    /// Connections are closed without an answer, as by a host that went down.
    Gone,
}

/// A mirror; all its clones are the same one.
#[derive(Debug, Clone)]
pub struct Mirror {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cache: PathBuf,
    local: PathBuf,
    https_hosts: Vec<String>,
    tally: Mutex<Tally>,
}

#[derive(Debug)]
struct Tally {
    service: Service,
    debs: usize,
    fetched: usize,
}

impl Mirror {
    /// Prepares a mirror with this cache; files of [`LOCAL_HOST`] come from `local`.
    pub fn new(cache: &Path, local: &Path, https_hosts: Vec<String>) -> Self {
        let tally = Mutex::new(Tally { service: Service::Open, debs: 0, fetched: 0 });
        Self { shared: Arc::new(Shared { cache: cache.into(), local: local.into(), https_hosts, tally }) }
    }

    /// Serves whoever connects, until the program ends.
    pub fn serve(&self, listener: TcpListener) {
        let mirror = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mirror = mirror.clone();
                // A client that goes away in the middle is no business of the mirror's.
                thread::spawn(move || drop(mirror.converse(&stream)));
            }
        });
    }

    /// From now on the mirror is gone.
    pub fn take_away(&self) {
        self.tally().service = Service::Gone;
    }

    /// The mirror is gone once it has served this many more packages.
    pub fn take_away_after_debs(&self, debs: usize) {
        self.tally().service = Service::Debs(debs);
    }

    /// The mirror is back.
    pub fn bring_back(&self) {
        self.tally().service = Service::Open;
    }

    /// How many packages were served so far.
    pub fn debs_served(&self) -> usize {
        self.tally().debs
    }

    /// How many files had to come from the original mirror.
    pub fn fetched(&self) -> usize {
        self.tally().fetched
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.shared.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// apt sends several requests ahead on one connection; they are answered in their order.
    fn converse(&self, stream: &TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream);
        while let Some(request) = Request::read(&mut reader)? {
            if !self.still_serves(&request) {
                return Ok(());
            }
            let answer = self.answer(&request).unwrap_or_else(|error| Answer::plain(502, &error.to_string()));
            answer.write(stream, request.head_only)?;
        }
        Ok(())
    }

    fn still_serves(&self, request: &Request) -> bool {
        let mut tally = self.tally();
        if !request.path.ends_with(".deb") {
            return tally.service != Service::Gone;
        }
        tally.service = match tally.service {
            Service::Open => Service::Open,
            Service::Debs(0) | Service::Gone => Service::Gone,
            Service::Debs(left) => Service::Debs(left - 1),
        };
        if tally.service == Service::Gone {
            return false;
        }
        tally.debs += 1;
        true
    }

    fn answer(&self, request: &Request) -> Result<Answer> {
        let below = relative(&request.path)?;
        if request.host == LOCAL_HOST {
            return Ok(match fs::read(self.shared.local.join(below)) {
                Ok(body) => Answer { status: 200, headers: Vec::new(), body },
                Err(_) => Answer::plain(404, "not in the lab's repository"),
            });
        }
        let never_changes = request.path.ends_with(".deb") || request.path.contains("/by-hash/");
        if !never_changes {
            return self.fetch(request);
        }
        let kept = self.shared.cache.join(&request.host).join(below);
        if let Ok(body) = fs::read(&kept) {
            return Ok(Answer { status: 200, headers: Vec::new(), body });
        }
        let answer = self.fetch(request)?;
        if answer.status == 200 {
            keep(&kept, &answer.body)?;
        }
        Ok(answer)
    }

    fn fetch(&self, request: &Request) -> Result<Answer> {
        self.tally().fetched += 1;
        let https = self.shared.https_hosts.contains(&request.host);
        let url = format!("{}://{}{}", if https { "https" } else { "http" }, request.host, request.path);
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let mut call = agent.get(&url);
        if let Some(since) = &request.since {
            call = call.header("If-Modified-Since", since);
        }
        let mut response = call.call().map_err(io::Error::other)?;
        let headers = ["Last-Modified", "Content-Type"].into_iter().filter_map(|name| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some((name, value.to_owned()))
        });
        let headers = headers.collect();
        let body =
            response.body_mut().with_config().limit(LARGEST).read_to_vec().map_err(io::Error::other)?;
        Ok(Answer { status: response.status().as_u16(), headers, body })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Request {
    head_only: bool,
    host: String,
    path: String,
    since: Option<String>,
}

impl Request {
    /// Reads one request; nothing when the client has closed the connection.
    fn read(reader: &mut impl BufRead) -> Result<Option<Self>> {
        let mut first = String::new();
        if reader.take(16_384).read_line(&mut first)? == 0 {
            return Ok(None);
        }
        let mut since = None;
        loop {
            let mut header = String::new();
            if reader.take(16_384).read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("If-Modified-Since")
            {
                since = Some(value.trim().to_owned());
            }
        }
        Self::from_line(&first, since).map(Some).ok_or_else(|| io::Error::other("not a request for a proxy"))
    }

    fn from_line(line: &str, since: Option<String>) -> Option<Self> {
        let mut words = line.split_whitespace();
        let head_only = match words.next()? {
            "GET" => false,
            "HEAD" => true,
            _ => return None,
        };
        let (host, path) = words.next()?.strip_prefix("http://")?.split_once('/')?;
        Some(Self { head_only, host: host.to_owned(), path: format!("/{path}"), since })
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn plain(status: u16, text: &str) -> Self {
        Self { status, headers: Vec::new(), body: text.as_bytes().to_vec() }
    }

    fn write(&self, mut stream: &TcpStream, head_only: bool) -> Result<()> {
        let mut head = format!("HTTP/1.1 {} Lab\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.status != 304 {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        if !head_only && self.status != 304 {
            stream.write_all(&self.body)?;
        }
        Ok(())
    }
}

/// A path of a URL as a path below a directory: nothing that leads out of it.
fn relative(path: &str) -> Result<&Path> {
    let below = Path::new(path.trim_start_matches('/'));
    let tame = below.components().all(|part| matches!(part, Component::Normal(_)));
    if tame { Ok(below) } else { Err(io::Error::other(format!("{path} leads out of the mirror"))) }
}

/// Two clients may fetch the same file at once: each writes its own and gives it its name in one step.
fn keep(path: &Path, body: &[u8]) -> Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::other("a cached file has a directory"))?;
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(body)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_apt_is_understood() {
        let mut text = &b"GET http://d.example/debian/x.deb HTTP/1.1\r\nHost: d.example\r\nif-modified-since: then\r\n\r\nnext"[..];
        let request = Request::read(&mut text).unwrap().unwrap();
        let expected = Request {
            head_only: false,
            host: "d.example".into(),
            path: "/debian/x.deb".into(),
            since: Some("then".into()),
        };
        assert_eq!(request, expected);
        assert_eq!(text, b"next");
    }

    #[test]
    fn nothing_outside_the_mirror_is_served() {
        assert!(relative("/debian/pool/a.deb").is_ok());
        for bad in ["/../etc/shadow", "/debian/../../etc/shadow"] {
            assert!(relative(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_mirror_goes_after_the_agreed_number_of_packages() {
        let mirror = Mirror::new(Path::new("/nowhere"), Path::new("/nowhere"), Vec::new());
        let deb = Request { head_only: false, host: "h".into(), path: "/a.deb".into(), since: None };
        mirror.take_away_after_debs(2);
        let served: Vec<bool> = (0..4).map(|_| mirror.still_serves(&deb)).collect();
        assert_eq!(served, [true, true, false, false]);
        assert_eq!(mirror.debs_served(), 2);
        let index = Request { path: "/InRelease".into(), ..deb };
        assert!(!mirror.still_serves(&index));
        mirror.bring_back();
        assert!(mirror.still_serves(&index));
    }
}
