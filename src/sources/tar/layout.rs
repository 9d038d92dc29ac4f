//! How the stored bytes of a member make up a file: whole, or by one of five kinds of sparse map.

use std::io::BufRead;
use std::rc::Rc;

use super::blocks::Broken;
use super::header::{self, Header, SparseHeader};
use super::members::Members;
use super::pax::Records;
use super::sparse::{self, Map, MapReader};

/// How the stored bytes make up a file.
#[derive(Debug, Clone)]
pub(super) enum Layout {
    Plain(u64),
    /// Shared, because a map may take 16 MiB.
    Sparse(Rc<Map>),
    /// The map could not be read: how long the file is, is not known.
    Unknown,
}

impl Layout {
    pub(super) fn is_sparse(&self) -> bool {
        matches!(self, Self::Sparse(_))
    }

    /// The size with holes; `None` when it is not known.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::Plain(size) => Some(*size),
            Self::Sparse(map) => Some(map.real_size),
            Self::Unknown => None,
        }
    }
}

impl<R: BufRead> Members<R> {
    /// The map of old GNU sparse files, which goes on in blocks of its own.
    pub(super) fn header_map(&mut self, header: Header<'_>) -> Result<Result<Option<Map>, String>, Broken> {
        let Ok(SparseHeader { mut pairs, mut more, real_size }) = header.sparse() else {
            return Ok(Err("it holds something that is no number".to_owned()));
        };
        let mut fits = true;
        while more {
            let inside = "a sparse map";
            let block = self.blocks.block()?.ok_or(Broken::Cut { inside })?;
            let Ok((following, again)) = header::sparse_block(&block) else {
                return Ok(Err("it holds something that is no number".to_owned()));
            };
            more = again;
            fits &= pairs.len() + following.len() <= sparse::MAX_EXTENTS;
            if fits {
                pairs.extend(following);
            }
        }
        if !fits {
            return Ok(Err("it has more than a million pieces".to_owned()));
        }
        Ok(Map::new(&pairs, real_size).map(Some).map_err(|bad| bad.0.to_owned()))
    }

    /// The map of pax sparse files, in the records or before the content; with what is then left of the stored size.
    pub(super) fn record_map(
        &mut self,
        size: u64,
        records: &mut Records,
    ) -> Result<(u64, Result<Option<Map>, String>), Broken> {
        let sparse = &mut records.sparse;
        let pairs = match (sparse.version, sparse.pairs.take()) {
            ((Some(1), Some(0)), None) => return self.content_map(size, sparse.real_size),
            ((None, None) | (Some(0), Some(0 | 1)), Some(pairs)) => pairs,
            ((None, None), None) => return Ok((size, Ok(None))),
            _ => return Ok((size, Err("its format is not known".to_owned()))),
        };
        let Some(real_size) = sparse.real_size else {
            return Ok((size, Err("it has no real size".to_owned())));
        };
        Ok((size, Map::new(&pairs, real_size).map(Some).map_err(|bad| bad.0.to_owned())))
    }

    fn content_map(
        &mut self,
        size: u64,
        real_size: Option<u64>,
    ) -> Result<(u64, Result<Option<Map>, String>), Broken> {
        let Some(real_size) = real_size else { return Ok((size, Err("it has no real size".to_owned()))) };
        let mut reader = MapReader::default();
        let mut left = size;
        while let Some(rest) = left.checked_sub(header::BLOCK as u64) {
            let block = self.blocks.block()?.ok_or(Broken::Cut { inside: "a sparse map" })?;
            left = rest;
            match reader.block(&block) {
                Ok(None) => {}
                Ok(Some(pairs)) => {
                    let map = Map::new(&pairs, real_size).map(Some).map_err(|bad| bad.0.to_owned());
                    return Ok((left, map));
                }
                Err(bad) => return Ok((left, Err(bad.0.to_owned()))),
            }
        }
        Ok((left, Err("it is longer than the content".to_owned())))
    }
}
