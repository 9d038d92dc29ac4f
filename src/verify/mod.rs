//! Proving a copy of any kind, by any level of proof that was asked for, against a manifest or a live tree.
//!
//! | file | what |
//! |---|---|
//! | [`request`] | what is asked |
//! | [`run`] | the way to the answer |
//! | `gather` | from the name of a copy to its reader |

mod gather;
pub mod request;
pub mod run;

pub use request::{Against, Engine, Request};
pub use run::{VerifyError, verify};
