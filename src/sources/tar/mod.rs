//! Tar archives: ustar, pax, GNU and v7, plain or compressed, read as a stream and never unpacked.
//!
//! | file | what |
//! |---|---|
//! | `pump` | reading and decompressing in another thread |
//! | `blocks` | the stream in blocks, with an end |
//! | `header` | one header block |
//! | `pax` | extended headers |
//! | `sparse`, `layout` | maps of sparse files, and where they stand |
//! | `members` | one member after another |
//! | `place` | where a name leads, or why it is refused |
//! | `findings` | what is wrong with it |
//! | `found` | a member as an entry, and what the archive can carry |
//! | `ledger` | questions that only the whole archive answers: links, duplicates, implied directories |
//! | `names` | numbers of the users and groups in access control lists |
//!
//! Whatever an honest archive does not hold is named ([`crate::manifest::Class::Hostile`]) and not followed. Where readers are known to
//! disagree (two sizes, two names, content where none belongs) that is named as well, because somebody may be meant to see something
//! else than we do.

mod blocks;
mod findings;
mod found;
mod header;
mod layout;
mod ledger;
mod members;
mod names;
mod pax;
mod place;
mod pump;
mod read;
mod sparse;

pub use read::{TarError, read, read_unpacked};
pub(super) use read::{Whole, read_streamed};

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod made_tests;
