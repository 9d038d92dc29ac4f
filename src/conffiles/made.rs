//! Packages for tests, made byte by byte.

use std::io::Write;

/// A tar archive in the making.
#[derive(Debug, Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn member(mut self, kind: u8, name: &str, content: &[u8]) -> Self {
        self.header(kind, name, content.len() as u64);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// A header for more than follows.
    pub(crate) fn claiming(mut self, name: &str, size: u64) -> Self {
        self.header(b'0', name, size);
        self
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }

    fn header(&mut self, kind: u8, name: &str, size: u64) {
        let mut block = [0_u8; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000644");
        if size < 1 << 33 {
            block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        } else {
            block[124] = 0x80;
            block[128..136].copy_from_slice(&size.to_be_bytes());
        }
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar  \0");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
    }
}

pub(crate) fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let add = |tar: Tar, (name, content): &(&str, &str)| tar.member(b'0', name, content.as_bytes());
    files.iter().fold(Tar::default(), add).end()
}

/// A whole package; `compression` is `none`, `gzip`, `xz` or `zstd`.
pub(crate) fn deb(
    name: &str,
    version: &str,
    conffiles: &str,
    postinst: &str,
    files: &[(&str, &str)],
    compression: &str,
) -> Vec<u8> {
    let fields = format!("Package: {name}\nVersion: {version}\nArchitecture: all\nDescription: x\n");
    let control = tar(&[("./control", &fields), ("./conffiles", conffiles), ("./postinst", postinst)]);
    let names: Vec<(String, &str)> =
        files.iter().map(|(path, content)| (format!(".{path}"), *content)).collect();
    let named: Vec<(&str, &str)> = names.iter().map(|(path, content)| (path.as_str(), *content)).collect();
    let mut archive = b"!<arch>\n".to_vec();
    let ending = match compression {
        "none" => "",
        "gzip" => ".gz",
        "xz" => ".xz",
        _ => ".zst",
    };
    member(&mut archive, "debian-binary", b"2.0\n");
    member(&mut archive, &format!("control.tar{ending}"), &packed(&control, compression));
    member(&mut archive, &format!("data.tar{ending}"), &packed(&tar(&named), compression));
    archive
}

fn member(archive: &mut Vec<u8>, name: &str, content: &[u8]) {
    let header = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len());
    archive.extend(header.into_bytes());
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(2), b'\n');
}

fn packed(bytes: &[u8], compression: &str) -> Vec<u8> {
    match compression {
        "none" => bytes.to_vec(),
        "gzip" => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        "xz" => {
            let mut writer = liblzma::write::XzEncoder::new(Vec::new(), 1);
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        _ => zstd::stream::encode_all(bytes, 1).unwrap(),
    }
}
