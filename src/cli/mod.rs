//! What was typed, and what is shown. No decisions.

pub mod manifest;
pub mod verify;
