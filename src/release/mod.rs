//! The Debian release upgrade by apt: which hop, its sources, a preview with everything downloaded, the upgrade itself, and
//! the facts that say whether it finished.
//!
//! In the order of the story: [`hop`] · [`sources`] · [`preview`] · [`holdoff`] · [`upgrade`] · [`completion`]. What they share:
//! [`apt`] runs one stage, [`status_fd`] understands its progress, [`apt_log`] its log, [`conffiles`] the configuration files
//! that it met, [`simulation`] what it would do.

pub mod apt;
pub mod apt_log;
pub mod completion;
pub mod conffiles;
pub mod holdoff;
pub mod hop;
pub mod package_state;
pub mod preview;
pub mod simulation;
pub mod sources;
pub mod status_fd;
pub mod upgrade;
