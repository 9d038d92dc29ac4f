//! System calls that reach past a container, refused for good.
//!
//! Whoever enters a container by `nsenter` gets its namespaces, but not the filter of system calls that `systemd-nspawn` has put on the
//! processes it started. A container without a user namespace of its own keeps some capabilities of the machine's root
//! (`CAP_SYS_ADMIN`, `CAP_DAC_READ_SEARCH`, `CAP_SYS_BOOT` ...), and with those these calls reach the machine itself.
//!
//! What is refused is what `systemd-nspawn` knowingly leaves out of its own list and what no script of a package needs: files by their
//! numbers instead of their names, kernels and modules, swap, programs in the kernel and its measurements, its log, keys (which no
//! namespace separates), quotas, the clock, ports of devices. They answer EPERM, as there; only a socket to the kernel's audit is "no
//! such family" there too, which programs take for a kernel without audit. Everything else is allowed, also what
//! `systemd-nspawn` refuses although it harms nobody (memory locks, protection keys).
//!
//! **No new privileges.** A filter can be set without that by whoever has `CAP_SYS_ADMIN`, but the crate that sets it always gives up
//! new privileges first. For the scripts of packages, which root runs, that changes little: root loses nothing, and `su`, `runuser` and
//! `setpriv` called by root work. A program with a setuid or setgid bit, or with capabilities of its file, that is started by
//! somebody else than root does not get them: `su postgres -c 'sudo ...'` in a script fails here and not on the machine. A profile of
//! AppArmor cannot be left for another one that is not part of it either. What systemd starts for a script is not touched.
//! The other way would be unsafe code of our own.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// A filter that does not stand.
#[derive(Debug, thiserror::Error)]
pub enum HostCallsError {
    /// Nobody has listed the numbers of the system calls for this processor.
    #[error("the system calls of this processor ({0}) are not known to this program")]
    Processor(&'static str),
    /// The filter could not be put together.
    #[error("failed to build the filter of system calls")]
    Build(#[source] seccompiler::BackendError),
    /// The crate puts it together in another way than was looked at.
    #[error("the filter of system calls does not begin with its check of the processor")]
    Unlike,
    /// The kernel does not take it.
    #[error("the kernel did not take the filter of system calls")]
    Apply(#[source] seccompiler::Error),
}

/// Refuses them to this program and all that it starts from here on. Nothing takes that back. See above what else it changes.
///
/// # Errors
/// [`HostCallsError::Processor`] on a processor whose numbers are not known: then nothing is refused.
pub fn refuse() -> Result<(), HostCallsError> {
    let own = numbers::OWN.ok_or(HostCallsError::Processor(std::env::consts::ARCH))?;
    // All of them before the first is set.
    let filters = filters(own)?;
    filters
        .iter()
        .try_for_each(|filter| seccompiler::apply_filter_all_threads(filter).map_err(HostCallsError::Apply))
}

/// The numbers of one kind of programs that a kernel runs.
struct Kind {
    /// As the kernel names it to filters (`AUDIT_ARCH_...`).
    audit: u32,
    /// Calls that are refused. The names are for whoever compares them with the kernel's own list.
    refused: &'static [(&'static str, i64)],
    /// `socket`. Programs of 32 bits have a second call for it, whose arguments no filter can see: that one is left alone.
    socket: i64,
    /// A bit that calls the same in another way; 0 where there is none.
    other_way: i64,
}

/// What this program is compiled for.
struct Own {
    processor: TargetArch,
    /// Its own kind first, then the programs of 32 bits that the same kernel runs.
    kinds: &'static [Kind],
}

const NETLINK_AUDIT: u64 = 9;

fn filters(own: &Own) -> Result<Vec<BpfProgram>, HostCallsError> {
    let mut filters = Vec::new();
    for kind in own.kinds {
        let both = |number: i64| [number, number | kind.other_way];
        let refused = kind.refused.iter().flat_map(|(_, number)| both(*number));
        filters.push(filter(own, kind, refused.map(|number| (number, Vec::new())).collect(), libc::EPERM)?);
        let is = |argument, value| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
        };
        let audit = || {
            let family = u64::from(libc::AF_NETLINK.unsigned_abs());
            SeccompRule::new(vec![is(0, family)?, is(2, NETLINK_AUDIT)?])
        };
        let audit = audit().map_err(HostCallsError::Build)?;
        let sockets = both(kind.socket).into_iter().map(|number| (number, vec![audit.clone()]));
        filters.push(filter(own, kind, sockets.collect(), libc::EAFNOSUPPORT)?);
    }
    Ok(filters)
}

/// One filter about one kind of programs. As the crate makes it, it ends every program of another kind, and packages of 32 bits have
/// scripts too: it is told to leave those to their own filter.
fn filter(
    own: &Own,
    kind: &Kind,
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    answer: i32,
) -> Result<BpfProgram, HostCallsError> {
    let answer = SeccompAction::Errno(answer.unsigned_abs());
    let mut program: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, answer, own.processor)
        .and_then(TryInto::try_into)
        .map_err(HostCallsError::Build)?;
    match program.as_mut_slice() {
        [_, is, otherwise, ..]
            if is.k == own.kinds[0].audit && otherwise.k == libc::SECCOMP_RET_KILL_PROCESS =>
        {
            is.k = kind.audit;
            otherwise.k = libc::SECCOMP_RET_ALLOW;
            Ok(program)
        }
        _ => Err(HostCallsError::Unlike),
    }
}

/// From the kernel's own lists: `arch/x86/entry/syscalls/syscall_64.tbl` and `syscall_32.tbl`.
#[cfg(target_arch = "x86_64")]
mod numbers {
    use super::{Kind, Own, TargetArch, native};

    pub(super) const OWN: Option<&Own> =
        Some(&Own { processor: TargetArch::x86_64, kinds: &[NATIVE, SHORT] });

    /// With the same numbers and this bit programs of the x32 kind call the same, but for `kexec_load`.
    const X32: i64 = 0x4000_0000;

    const NATIVE: Kind = Kind {
        audit: 0xc000_003e,
        refused: &native![
            ("ioperm", libc::SYS_ioperm),
            ("iopl", libc::SYS_iopl),
            ("kexec_load of x32", X32 | 528),
        ],
        socket: libc::SYS_socket,
        other_way: X32,
    };

    pub(super) const SHORT: Kind = Kind {
        audit: 0x4000_0003,
        refused: &[
            ("stime", 25),
            ("acct", 51),
            ("settimeofday", 79),
            ("swapon", 87),
            ("ioperm", 101),
            ("syslog", 103),
            ("iopl", 110),
            ("swapoff", 115),
            ("adjtimex", 124),
            ("init_module", 128),
            ("delete_module", 129),
            ("quotactl", 131),
            ("nfsservctl", 169),
            ("lookup_dcookie", 253),
            ("clock_settime", 264),
            ("kexec_load", 283),
            ("add_key", 286),
            ("request_key", 287),
            ("keyctl", 288),
            ("perf_event_open", 336),
            ("fanotify_init", 338),
            ("fanotify_mark", 339),
            ("open_by_handle_at", 342),
            ("clock_adjtime", 343),
            ("finit_module", 350),
            ("bpf", 357),
            ("clock_settime64", 404),
            ("clock_adjtime64", 405),
            ("pidfd_getfd", 438),
            ("quotactl_fd", 443),
        ],
        socket: 359,
        other_way: 0,
    };
}

/// From the kernel's own lists: `include/uapi/asm-generic/unistd.h` and `arch/arm/tools/syscall.tbl`.
#[cfg(target_arch = "aarch64")]
mod numbers {
    use super::{Kind, Own, TargetArch, native};

    pub(super) const OWN: Option<&Own> =
        Some(&Own { processor: TargetArch::aarch64, kinds: &[NATIVE, SHORT] });

    const NATIVE: Kind =
        Kind { audit: 0xc000_00b7, refused: &native![], socket: libc::SYS_socket, other_way: 0 };

    const SHORT: Kind = Kind {
        audit: 0x4000_0028,
        refused: &[
            ("acct", 51),
            ("settimeofday", 79),
            ("swapon", 87),
            ("syslog", 103),
            ("swapoff", 115),
            ("adjtimex", 124),
            ("init_module", 128),
            ("delete_module", 129),
            ("quotactl", 131),
            ("nfsservctl", 169),
            ("lookup_dcookie", 249),
            ("clock_settime", 262),
            ("add_key", 309),
            ("request_key", 310),
            ("keyctl", 311),
            ("kexec_load", 347),
            ("perf_event_open", 364),
            ("fanotify_init", 367),
            ("fanotify_mark", 368),
            ("open_by_handle_at", 371),
            ("clock_adjtime", 372),
            ("finit_module", 379),
            ("bpf", 386),
            ("kexec_file_load", 401),
            ("clock_settime64", 404),
            ("clock_adjtime64", 405),
            ("pidfd_getfd", 438),
            ("quotactl_fd", 443),
        ],
        socket: 281,
        other_way: 0,
    };
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod numbers {
    pub(super) const OWN: Option<&super::Own> = None;
}

/// What both processors have, and what only one of them has.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! native {
    ($($more:expr),* $(,)?) => {
        [
            ("acct", libc::SYS_acct),
            ("add_key", libc::SYS_add_key),
            ("adjtimex", libc::SYS_adjtimex),
            ("bpf", libc::SYS_bpf),
            ("clock_adjtime", libc::SYS_clock_adjtime),
            ("clock_settime", libc::SYS_clock_settime),
            ("delete_module", libc::SYS_delete_module),
            ("fanotify_init", libc::SYS_fanotify_init),
            ("fanotify_mark", libc::SYS_fanotify_mark),
            ("finit_module", libc::SYS_finit_module),
            ("init_module", libc::SYS_init_module),
            ("kexec_file_load", libc::SYS_kexec_file_load),
            ("kexec_load", libc::SYS_kexec_load),
            ("keyctl", libc::SYS_keyctl),
            ("lookup_dcookie", libc::SYS_lookup_dcookie),
            ("nfsservctl", libc::SYS_nfsservctl),
            ("open_by_handle_at", libc::SYS_open_by_handle_at),
            ("perf_event_open", libc::SYS_perf_event_open),
            ("pidfd_getfd", libc::SYS_pidfd_getfd),
            ("quotactl", libc::SYS_quotactl),
            ("quotactl_fd", libc::SYS_quotactl_fd),
            ("request_key", libc::SYS_request_key),
            ("settimeofday", libc::SYS_settimeofday),
            ("swapoff", libc::SYS_swapoff),
            ("swapon", libc::SYS_swapon),
            ("syslog", libc::SYS_syslog),
            $($more),*
        ]
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use native;

#[cfg(target_arch = "x86_64")]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::{Command, ExitStatus, Output};

    use super::*;

    /// Prints the number of the error (0 when there is none) of each call that it is given as `NUMBER,ARGUMENT,...`.
    const CALLS: &str = "for (@ARGV) { my @w = map { /^-?\\d+$/ ? $_ + 0 : $_ } split /,/; $! = 0; \
                         my $r = syscall(shift @w, @w); print $r < 0 ? $! + 0 : 0, qq{\\n} }";

    fn errors(calls: &[String]) -> Vec<i32> {
        let output = Command::new("/usr/bin/perl").args(["-e", CALLS]).args(calls).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect()
    }

    /// A filter cannot be taken back, so that another process of this test gets it.
    fn in_a_process_of_its_own(this: &str) -> Option<Output> {
        const INSIDE: &str = "SAFE_UPGRADE_TEST_HOST_CALLS";
        if std::env::var_os(INSIDE).is_some() {
            return None;
        }
        let this = format!("system::host_calls::tests::{this}");
        let mut again = Command::new(std::env::current_exe().unwrap());
        Some(again.args(["--exact", &this, "--nocapture"]).env(INSIDE, "1").output().unwrap())
    }

    #[test]
    fn what_reaches_the_host_is_refused_and_nothing_else() {
        if let Some(ended) = in_a_process_of_its_own("what_reaches_the_host_is_refused_and_nothing_else") {
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert!(ended.status.success(), "{}{said}", String::from_utf8_lossy(&ended.stdout));
            said.lines().filter(|line| line.starts_with("skipped:")).for_each(|line| eprintln!("{line}"));
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let swap = scratch.path().join("swap");
        std::fs::write(&swap, [0; 8192]).unwrap();
        let reach = [
            format!("{},-1,0,0", libc::SYS_open_by_handle_at),
            format!("{},{},0", libc::SYS_swapon, swap.display()),
            format!("{},-1,0,0", libc::SYS_bpf),
            format!("{},{},3,{NETLINK_AUDIT}", libc::SYS_socket, libc::AF_NETLINK),
        ];
        if rustix::process::geteuid().is_root() {
            let before = errors(&reach);
            assert!(before[..3].iter().all(|error| *error != libc::EPERM), "{before:?}");
            assert_ne!(before[3], libc::EAFNOSUPPORT);
            let short = ended_with_32_bits(scratch.path());
            assert!(short.is_none_or(|ended| ended.code() == Some(libc::EFAULT)), "{short:?}");
        } else {
            eprintln!("skipped: that it was not refused before needs root");
        }
        refuse().unwrap();
        assert_eq!(errors(&reach), [libc::EPERM, libc::EPERM, libc::EPERM, libc::EAFNOSUPPORT]);
        let all: Vec<String> = numbers::OWN.unwrap().kinds[0]
            .refused
            .iter()
            .flat_map(|(_, number)| [*number, *number | 0x4000_0000])
            .map(|number| format!("{number},-1,0,0,0"))
            .collect();
        assert_eq!(errors(&all), vec![libc::EPERM; all.len()]);
        // A thread that was there before, programs, files and other sockets are as they were; and it can be said again.
        let ordinary = format!("{},{},3,0", libc::SYS_socket, libc::AF_NETLINK);
        assert_eq!(std::thread::spawn(move || errors(&[ordinary])).join().unwrap(), [0]);
        std::fs::write(scratch.path().join("file"), "x").unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(status.contains("\nSeccomp:\t2\n") && status.contains("\nNoNewPrivs:\t1\n"), "{status}");
        refuse().unwrap();
        if let Some(ended) = ended_with_32_bits(scratch.path()) {
            assert_eq!(ended.code(), Some(libc::EPERM), "{ended:?}");
        }
    }

    /// How a program of 32 bits ends that tries the same; `None` where none runs.
    fn ended_with_32_bits(scratch: &Path) -> Option<ExitStatus> {
        let program = scratch.join("short");
        std::fs::write(&program, swapon_nothing()).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Command::new(&program)
            .status()
            .map_err(|error| eprintln!("skipped: programs of 32 bits do not run here: {error}"))
            .ok()
    }

    /// A program for i386 that calls `swapon(NULL, 0)` and ends with the number of the error.
    fn swapon_nothing() -> Vec<u8> {
        let code = [
            [0xb8, 87, 0, 0, 0].as_slice(),  // eax = swapon
            &[0x31, 0xdb, 0x31, 0xc9],       // ebx = ecx = 0
            &[0xcd, 0x80],                   // call
            &[0xf7, 0xd8, 0x89, 0xc3],       // ebx = -eax
            &[0xb8, 1, 0, 0, 0, 0xcd, 0x80], // exit
        ]
        .concat();
        let (base, headers) = (0x0804_8000_u32, 84_u32);
        let size = headers + u32::try_from(code.len()).unwrap();
        let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
        let words = |file: &mut Vec<u8>, words: &[u32]| {
            words.iter().for_each(|word| file.extend_from_slice(&word.to_le_bytes()));
        };
        words(&mut file, &[1, base + headers, 52, 0, 0]);
        [52_u16, 32, 1, 40, 0, 0].iter().for_each(|word| file.extend_from_slice(&word.to_le_bytes()));
        words(&mut file, &[1, 0, base, base, size, size, 5, 0x1000]);
        assert_eq!(file.len(), headers as usize);
        [file, code].concat()
    }

    #[test]
    fn the_numbers_of_32_bits_are_the_kernels() {
        let header = "/usr/include/x86_64-linux-gnu/asm/unistd_32.h";
        let Ok(text) = std::fs::read_to_string(header) else {
            eprintln!("skipped: needs {header}");
            return;
        };
        let listed = |name: &str, number: i64| {
            text.lines().any(|line| line == format!("#define __NR_{name} {number}"))
        };
        let wrong: Vec<_> =
            numbers::SHORT.refused.iter().filter(|(name, number)| !listed(name, *number)).collect();
        assert!(wrong.is_empty() && listed("socket", numbers::SHORT.socket), "{wrong:?}");
    }
}
