//! What the way in which a machine boots can promise: the method for the trial, and the guarantee level. Pure.

use super::layout::BootLayout;

/// How the trial is booted once, and only once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A variable in a file on the ESP, which GRUB clears before it starts the trial.
    EnvFileEsp,
    /// The same in a file on an ext4 `/boot`.
    EnvFileBoot,
    /// The running kernel starts the trial's; nothing that outlives a reset is written.
    Kexec,
    /// The root's name is given to the new system for the trial.
    ByName,
}

/// How much of the way back needs no hand. The order is that of the level in a run's evidence: the better one is the smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GuaranteeLevel {
    /// The machine comes back by itself even when the new kernel dies.
    A,
    /// It comes back by itself while a userspace of the new system lives.
    B,
    /// A human must.
    C,
}

/// What this machine's way of booting can promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The best method that works here.
    pub method: Method,
    /// What it guarantees.
    pub level: GuaranteeLevel,
    /// Why this method and this level, in one sentence.
    pub reason: String,
    /// Each better method, and why it does not work here.
    pub better: Vec<String>,
    /// What an operator should know besides.
    pub remarks: Vec<String>,
}

/// Judges what a machine's way of booting can promise.
#[must_use]
pub fn judge(layout: &BootLayout) -> Verdict {
    let _ = layout;
    Verdict {
        method: Method::ByName,
        level: GuaranteeLevel::C,
        reason: "not judged yet".into(),
        better: Vec::new(),
        remarks: Vec::new(),
    }
}
