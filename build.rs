//! Links libbtrfsutil statically.
//!
//! The upgrade replaces shared libraries under the running program, so the released binary must not need any.
//! btrfsutil-sys asks the linker for a plain `-lbtrfsutil`, which takes whichever of `.so` and `.a` comes first on the
//! search path; a directory of our own that holds only the archive settles that.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SAFE_UPGRADE_STATIC_LIBDIR");
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("static");
    let own = env::var_os("SAFE_UPGRADE_STATIC_LIBDIR").map(PathBuf::from);
    let system = [format!("/usr/lib/{arch}-linux-gnu"), "/usr/lib64".into(), "/usr/lib".into()];
    let found = own
        .into_iter()
        .chain(system.into_iter().map(PathBuf::from))
        .map(|dir| dir.join("libbtrfsutil.a"))
        .find(|archive| archive.exists())
        .ok_or(
            "libbtrfsutil.a is needed: apt-get install libbtrfsutil-dev (or set SAFE_UPGRADE_STATIC_LIBDIR)",
        )?;
    fs::create_dir_all(&out)?;
    fs::copy(&found, out.join("libbtrfsutil.a"))?;
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static=btrfsutil");
    Ok(())
}
