//! Takes a Debian or Ubuntu server to its next release, or puts it back: proven either way.
//!
//! The story of one run, in the order in which it happens:
//! a *plan* is written to the journal; *preflight* looks for inhibitors and takes the *baseline*; the *backup* is made and
//! really restored; a *snapshot* of the root is sealed; the *fallback* is armed, so that from here on any boot lands on the
//! old system; the *gate* opens on all of these proofs at once and the release upgrade runs, once; the machine reboots into a
//! *trial*; *health* is judged against the baseline; the run is *committed*, or the snapshot takes its place again and a
//! second proof after the reboot says so.
//!
//! | module | what it is | may use |
//! |---|---|---|
//! | [`machine`] | pure: the states, the records, the one table of order and the one table of what comes next | `evidence` |
//! | [`evidence`] | pure: facts in, proof or refusal out; the gate | nothing |
//! | [`journal`] | records on disk: digest chain, torn tail, lock | `machine`, `system` |
//! | [`driver`] | replay, next step, perform, record, again | `machine`, `evidence` |
//! | [`phases`] | doing: one file per phase | everything below |
//! | [`verify`] | proving a copy of any kind | `backup`, `sources`, `manifest`, `system` |
//! | [`scheduled`] | verification without anybody watching: what is due, what came out, metrics | `config`, `manifest`, `system` |
//! | [`sources`] | copies of any kind, read as entries | `manifest`, `system` |
//! | [`rehearsal`] | a disposable clone in a container | `backup`, `boot`, `compat`, `conffiles`, `health`, `release`, `snapshot`, `system` |
//! | [`conffiles`] | configuration files: what the upgrade will ask, what is answered, what it left | `finding`, `manifest`, `sources`, `system` |
//! | [`inspect`] | the machine before an upgrade: what would make it fail, or would not be as before | `boot`, `snapshot`, `health`, `release`, `system` |
//! | [`libraries`] | programs that no package brought, and libraries that the new release does not have | `sources`, `system` |
//! | [`manifest`] [`backup`] [`snapshot`] [`boot`] [`release`] [`health`] | what each phase is made of | `finding`, `system` |
//! | [`compat`] | whether this machine's packages fit the target, known beforehand | `release`, `health`, `finding`, `system` |
//! | [`system`] | the only code that touches the machine underneath | nothing |
//! | [`finding`] | what a look at the machine can say | nothing |
//! | [`version`] | pure: Debian versions in order | nothing |
//! | [`sim`] | a machine in memory that can lose power | `driver` |
//! | [`cli`] | what was typed, what is shown | everything |

pub mod backup;
pub mod boot;
pub mod cli;
pub mod compat;
pub mod conffiles;
pub mod config;
pub mod driver;
pub mod error;
pub mod evidence;
pub mod finding;
pub mod health;
pub mod inspect;
pub mod journal;
pub mod libraries;
pub mod machine;
pub mod manifest;
pub mod phases;
pub mod places;
pub mod progress;
pub mod rehearsal;
pub mod release;
pub mod scheduled;
pub mod sim;
pub mod snapshot;
pub mod sources;
pub mod system;
pub mod verify;
pub mod version;
