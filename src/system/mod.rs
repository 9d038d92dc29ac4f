//! The only code that touches the machine underneath: programs, durable files, mounts, locks, boots.

pub mod answered;
pub mod beneath;
pub mod checkpoint;
pub mod disks;
pub mod durable;
pub mod enter;
pub mod exec;
pub mod fresh;
pub mod host_calls;
pub mod identity;
pub mod lock;
pub mod marked;
pub mod mounts;
pub mod own_run;
pub mod room;
pub mod sandbox;
pub mod show;
pub mod span;
pub mod told_to_stop;
pub mod watched;
