//! Proving a copy of any kind, by any level of proof that was asked for, against a manifest or a live tree.
//!
//! | file | what |
//! |---|---|
//! | [`request`] | what is asked |
//! | [`run`] | the way to the answer |
//! | `gather`, `remote` | from the name of a copy to its reader |
//! | `engines` | what restic and borg are told |
//! | [`budget`] | a directory verified in part, by share, size or time, and its coverage over many runs |
//! | [`select`] | which files are read, and in which order |
//! | [`ledger`] | what was proven when, on disk |
//! | [`book`] | the manifest and the ledger side by side |

mod apart;
mod beneath;
pub mod book;
pub mod budget;
mod crew;
mod engines;
mod gather;
pub mod ledger;
mod pinned;
mod plan;
mod remote;
pub mod request;
mod reread;
pub mod run;
pub mod select;

pub use request::{Against, Engine, Request};
pub use run::{VerifyError, verify};
