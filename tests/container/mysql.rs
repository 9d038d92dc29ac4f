//! A real MySQL, which only unstable has: `check` in a root of unstable that says it is bookworm, with the server running in it.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use safe_upgrade::system::exec::Exec;
use serde_json::Value;

use super::lab::found::{assert_named, pairs};
use super::lab::mirror::Mirror;
use super::lab::place::{RunDirectory, lab_directory};
use super::lab::sources::Sources;
use super::lab::{self, product, told};

/// The bootstrap takes four minutes on a busy machine.
const LIMIT: Duration = Duration::from_secs(1800);

const OS_RELEASE: &str = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n";

const CONFIG: &str = "[backup]\nstore = \"/srv/backup\"\ntrees = [\"/etc\"]\n";

/// In namespaces of its own: whatever it starts and mounts ends with it.
///
/// No server of today makes such an account any more: it has the row that one has whose account an older server made.
const ASK: &str = r#"set -e
cd "$1"
mount --bind . .
cd "$1"
mount -t proc proc proc
mount -t tmpfs tmpfs run
mount --rbind /dev dev
mount --rbind /sys sys
mkdir run/mysqld
chroot . chown mysql: /run/mysqld
chroot . mysqld --user=mysql --skip-networking --mysqlx=OFF >mysqld.log 2>&1 &
ask() { chroot . mysql --no-defaults --batch "$@"; }
chroot . mysqladmin --no-defaults --wait=100 ping || { cat mysqld.log >&2; exit 1; }
check() { code=0; chroot . safe-upgrade check --to trixie --json >"$1" || code=$?; test $code = 3; }
ask -e "CREATE USER app@'%' IDENTIFIED BY 'x'"
check none.json
ask -e "UPDATE mysql.user SET plugin = 'mysql_native_password' WHERE user = 'app'; FLUSH PRIVILEGES"
check account.json
ask -e "ALTER USER root@localhost IDENTIFIED WITH caching_sha2_password BY 'secret'"
check closed.json
"#;

#[test]
#[ignore = "fetches a root of unstable: make test-long"]
fn long_check_asks_a_real_mysql() {
    if lab::skipped("long_check_asks_a_real_mysql") {
        return;
    }
    let run = RunDirectory::claim("mysql").unwrap();
    let root = run.path().join("root");
    if let Err(error) = bootstrap(&root) {
        let text = error.to_string();
        assert!(text.contains("Unable to locate package mysql-server"), "{text}");
        eprintln!("skipped: long_check_asks_a_real_mysql: unstable has no mysql-server");
        return;
    }
    for directory in ["etc/safe-upgrade", "srv/backup"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    std::fs::write(root.join("usr/lib/os-release"), OS_RELEASE).unwrap();
    std::fs::write(root.join("etc/safe-upgrade/config.toml"), CONFIG).unwrap();
    std::fs::copy(product::binary().unwrap(), root.join("usr/local/sbin/safe-upgrade")).unwrap();
    Exec::new("unshare")
        .unwrap()
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
            "bash",
            "-c",
            ASK,
            "bash",
        ])
        .arg(&root)
        .limit(LIMIT)
        .success()
        .unwrap();

    let none = report(&root.join("none.json"));
    assert!(pairs(&none).iter().all(|(_, id)| !id.starts_with("mysql-")), "{none:#}");
    let account = ("warning", "mysql-native-password", &["app@%"][..]);
    assert_named(&report(&root.join("account.json")), &[account]);
    let closed = ("note", "mysql-accounts-not-seen", &["Access denied for user 'root'@'localhost'"][..]);
    assert_named(&report(&root.join("closed.json")), &[closed]);
}

fn report(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn bootstrap(root: &Path) -> lab::Result<()> {
    let sources = Sources::of_this_machine()?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let proxy = format!("http://{}", listener.local_addr()?);
    let mirror = Mirror::new(&lab_directory().join("cache"), &lab_directory(), sources.https_hosts());
    mirror.serve(listener);
    // The first line is the archive's own: unstable has no updates and no security archive.
    let archive = sources.one_line("sid").swap_remove(0);
    Exec::new("mmdebstrap")
        .map_err(told)?
        .args([
            "--mode=root",
            "--variant=apt",
            "--dpkgopt=force-unsafe-io",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
        ])
        .args(["--aptopt=Acquire::Languages \"none\"", "--aptopt=APT::Install-Recommends \"false\""])
        // A mirror of yesterday will do.
        .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
        .arg(format!("--keyring={}", sources.keyring))
        .arg("--include=mysql-server")
        .args(["sid", &root.to_string_lossy(), &archive])
        .env("http_proxy", proxy)
        .limit(LIMIT)
        .success()
        .map(drop)
        .map_err(told)
}
