//! Our block in GRUB's menu.

/// Where the env file is for GRUB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvPlace {
    /// UUID of its filesystem, as `blkid` and GRUB's `search --fs-uuid` write it (`1A2B-3C4D` on an ESP).
    pub fs_uuid: String,
    /// Its absolute path from the top of that filesystem.
    pub path: String,
}
