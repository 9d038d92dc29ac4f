//! Which system the next boot lands on, and what of the boot loader goes with it.
//!
//! In the order of the story: [`layout`] reads how the machine boots, [`judge`] says what that can promise (`menu_place`: whether GRUB
//! looks for its menu where this system writes it). [`named_root`]
//! switches roots by name. [`one_shot`] boots the trial once: [`frozen`] holds the installers off, [`menu`] and [`block`] are what
//! GRUB reads, [`env_block`] is what it clears ([`for_grub`] puts both where it finds them), [`deadman`] resets a trial that hangs; [`kexec`] where GRUB can't write. [`kernels`] and
//! [`initrd`] keep a trial from being tried that could not boot; [`set`] copies and brings back what no snapshot of the root holds,
//! [`space`] predicts the room. [`proof`] proves all of that by booting. [`grub`] knows where the menu lies, [`default_entry`] which of its
//! entries the operator wants.

pub mod block;
pub mod deadman;
pub mod default_entry;
pub mod env_block;
pub mod for_grub;
pub mod frozen;
pub mod grub;
pub mod initrd;
pub mod judge;
pub mod kernels;
pub mod kexec;
pub mod layout;
pub mod menu;
mod menu_place;
pub mod named_root;
pub mod one_shot;
pub mod proof;
pub mod set;
pub mod space;
pub mod systemd_boot;

pub use named_root::{BootTree, Effect, Facts, NamedRoot, NamedRootError, Refusal, Wish};
