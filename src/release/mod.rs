//! The release upgrade, Debian's by apt and Ubuntu's by its own upgrader ([`ubuntu`]): which hop, its sources, a preview with everything downloaded, the upgrade itself, and
//! the facts that say whether it finished.
//!
//! In the order of the story: [`hop`] · [`sources`] · [`preview`] · [`holdoff`] · [`upgrade`] · [`completion`]. What they share:
//! [`apt`] runs one stage, [`status_fd`] understands its progress, [`apt_log`] its log, [`simulation`]
//! what it would do, [`prediction`] keeps it, [`private_apt`] is whom to ask. The configuration files that it meets: [`crate::conffiles`].

pub mod apt;
pub mod apt_log;
pub mod completion;
pub mod holdoff;
pub mod hop;
pub mod package_state;
pub mod prediction;
pub mod preview;
pub mod private_apt;
pub mod simulation;
pub mod sources;
pub mod status_fd;
pub mod ubuntu;
pub mod upgrade;
