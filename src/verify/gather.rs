//! From the name of a copy to its reader.

use std::path::Path;

use super::engines::{self, Brought};
use super::remote;
use super::request::Request;
use crate::manifest::collect::Collector;
use crate::sources::compressed::Decompressed;
use crate::sources::input::{self, Holds};
use crate::sources::remote_shell::{Address, Transport};
use crate::sources::{Gathered, Input, Reading, Source, SourceError, directory, send_stream, ssh, tar};

/// What the copy holds, in the order of a manifest. `tree` is where the manifest was taken.
pub(super) fn gather(
    request: &Request,
    cross_mounts: bool,
    tree: &Path,
    reading: &Reading<'_>,
) -> Result<Brought, SourceError> {
    let mut into = Collector::new(reading.scratch);
    let gathered = match resolved(&request.copy)? {
        Source::Path(path) => {
            let (sorted, gathered) = directory::read(&path, cross_mounts, reading)?;
            return Ok((sorted, gathered, None));
        }
        Source::Restic(repository) => return engines::restic(repository, request, tree, reading),
        Source::Borg(name) => return engines::borg(&name, request, tree, reading),
        Source::Tar(from) => tar::read(input::open(&from)?, &request.strip, reading, &mut into)?,
        Source::Ssh(text) => {
            let address = Address::parse(&text).map_err(ssh::SshError::from)?;
            ssh::read(&address, &transport(request), cross_mounts, reading, &mut into)?
        }
        Source::Rclone(name) => remote::by_rclone(&name, request, reading, &mut into)?,
        Source::SendStream(from) => by_send_stream(&from, reading, &mut into)?,
    };
    Ok((into.finish()?, gathered, None))
}

/// A stream that can be opened again is read twice where files share their extents.
fn by_send_stream(
    from: &Input,
    reading: &Reading<'_>,
    into: &mut Collector,
) -> Result<Gathered, SourceError> {
    let unpacked = || {
        let stream = input::open(from)?;
        Decompressed::new(stream).map_err(|source| SourceError::Unpack(from.to_string(), source))
    };
    if input::reopens(from) {
        let again = || unpacked().map_err(std::io::Error::other);
        Ok(send_stream::read_twice(again, reading, into)?)
    } else {
        Ok(send_stream::read(unpacked()?, reading, into)?)
    }
}

/// What a path that is no directory holds.
fn resolved(copy: &Source) -> Result<Source, SourceError> {
    let Source::Path(path) = copy else { return Ok(copy.clone()) };
    if path.is_dir() || !path.exists() {
        return Ok(copy.clone());
    }
    let from = Input::File(path.clone());
    Ok(match input::holds(path)? {
        Holds::SendStream => Source::SendStream(from),
        Holds::Archive => Source::Tar(from),
    })
}

fn transport(request: &Request) -> Transport {
    Transport {
        config: request.engine.config.clone(),
        agent: std::env::var_os("SSH_AUTH_SOCK"),
        ..Transport::with_options(&request.engine.options)
    }
}
