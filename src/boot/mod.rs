//! Which system the next boot lands on.
//!
//! So far the one way that needs no boot loader's help: the root is mounted by name, so the boot lands on the tree that has
//! the name ([`named_root`]). What the boot loaders themselves keep (menus, counters, boot code) has its place beside it.

pub mod grub;
pub mod initrd;
pub mod kernels;
pub mod named_root;
pub mod set;
pub mod space;

pub use named_root::{BootTree, Effect, Facts, NamedRoot, NamedRootError, Refusal, Wish};
