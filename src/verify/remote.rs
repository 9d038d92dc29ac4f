//! What a request says about a copy that rclone reaches.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::request::Request;
use crate::manifest::collect::Collector;
use crate::sources::rclone::{self, RcloneError, Remote};
use crate::sources::rclone_listing::Made;
use crate::sources::{Gathered, Reading, SourceError};

/// Reads a remote. Among the options, `--links` and `--metadata` say how the copy was made, and mean what they mean to rclone.
pub(super) fn by_rclone(
    name: &OsStr,
    request: &Request,
    reading: &Reading<'_>,
    into: &mut Collector,
) -> Result<Gathered, SourceError> {
    let password = request.engine.password_file.as_deref().map(|path| {
        let trouble = |source| RcloneError::Config { path: path.to_owned(), source };
        let bytes = std::fs::read(path).map_err(trouble)?;
        Ok::<_, RcloneError>(OsStr::from_bytes(bytes.trim_ascii_end()).to_owned())
    });
    let made = |option: &str| request.engine.options.iter().any(|given| given == option);
    let remote = Remote {
        name: name.to_owned(),
        config: request.engine.config.clone(),
        password: password.transpose()?,
        made: Made { links: made("--links"), metadata: made("--metadata") },
    };
    Ok(rclone::read(&remote, reading, into)?)
}
