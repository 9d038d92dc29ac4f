//! A URL: its status, and a text in its body. Redirections are not followed: the status is what is asked about.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, config::Config};

use super::{CheckState, Seen, resolve};
use crate::error;

/// How much of a body is searched: a page that says it is well says so early.
const BODY_LIMIT: u64 = 1 << 20;
/// Lets the operator tell our requests from visitors.
const USER_AGENT: &str = concat!("safe-upgrade-health/", env!("CARGO_PKG_VERSION"));
/// How many addresses of one name are tried; ureq keeps no more.
const MOST_ADDRESSES: usize = 16;

/// A URL and the answer that it should give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    /// `http://...` or `https://...`.
    pub url: String,
    /// The expected status.
    pub status: u16,
    /// A text that the body must contain.
    pub body: Option<String>,
    /// Certificates (PEM) to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Trust any certificate.
    pub insecure: bool,
}

impl HttpCheck {
    /// The check itself when its URL is one.
    pub(super) fn checked(self) -> Result<Self, String> {
        match self.url.parse::<Uri>() {
            Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) => Ok(self),
            _ => Err(format!("{:?} is not a URL", self.url)),
        }
    }
}

/// Asks once, over a new connection, without any proxy.
pub(super) fn try_once(check: &HttpCheck, limit: Duration) -> Seen {
    let tls = match tls(check) {
        Ok(tls) => tls,
        Err(problem) => return Seen::new(CheckState::Unknown, problem),
    };
    let config = Agent::config_builder()
        .timeout_global(Some(limit))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(USER_AGENT)
        .tls_config(tls)
        .build();
    let resolver = GetentResolver { deadline: Instant::now() + limit };
    let agent = Agent::with_parts(config, DefaultConnector::default(), resolver);
    match agent.get(&check.url).call() {
        Ok(response) => {
            let status = response.status().as_u16();
            judge(check, status, response.into_body().into_reader())
        }
        Err(error) => Seen::new(CheckState::Critical, error::chain(&error)),
    }
}

fn judge(check: &HttpCheck, status: u16, body: impl Read) -> Seen {
    if status != check.status {
        return Seen::new(CheckState::Critical, format!("status {status} instead of {}", check.status));
    }
    let Some(wanted) = check.body.as_deref().filter(|wanted| !wanted.is_empty()) else {
        return Seen::new(CheckState::Ok, format!("status {status}"));
    };
    let mut bytes = Vec::new();
    if let Err(error) = body.take(BODY_LIMIT).read_to_end(&mut bytes) {
        return Seen::new(CheckState::Critical, format!("status {status}, but the body broke off: {error}"));
    }
    if bytes.windows(wanted.len()).any(|window| window == wanted.as_bytes()) {
        return Seen::new(CheckState::Ok, format!("status {status}, and the body contains {wanted:?}"));
    }
    let detail = format!("status {status}, but {wanted:?} is not in the {} bytes of the body", bytes.len());
    Seen::new(CheckState::Critical, detail)
}

fn tls(check: &HttpCheck) -> Result<TlsConfig, String> {
    let roots = match &check.ca_file {
        Some(path) => RootCerts::Specific(Arc::new(read_certificates(path)?)),
        None => RootCerts::PlatformVerifier,
    };
    Ok(TlsConfig::builder().root_certs(roots).disable_verification(check.insecure).build())
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let wrong = |problem: String| format!("failed to read certificates from {}: {problem}", path.display());
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&bytes) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| wrong(error.to_string()))? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(wrong("there are none in it".to_owned()));
    }
    Ok(certificates)
}

/// See [`resolve`]: never the C library's resolver.
#[derive(Debug)]
struct GetentResolver {
    deadline: Instant,
}

impl Resolver for GetentResolver {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?;
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let left = self.deadline.saturating_duration_since(Instant::now());
        let addresses = resolve::resolve(host, left).map_err(|error| ureq::Error::Other(Box::new(error)))?;
        let mut found = self.empty();
        for address in addresses.into_iter().take(MOST_ADDRESSES) {
            found.push(SocketAddr::new(address, port));
        }
        Ok(found)
    }
}
