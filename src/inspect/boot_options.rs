//! What the firmware starts: its boot options, as efivarfs shows them. Source: UEFI specification 2.10, 3.1.3 (load options) and 10.3
//! (device paths).

use std::path::Path;

use super::reading::{self, InspectError};

/// efivarfs, and the vendor of the firmware's own variables.
const VARIABLES: &str = "sys/firmware/efi/efivars";
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// efivarfs puts the attributes before the value.
const ATTRIBUTES: usize = 4;

/// An option that is not active is skipped by the firmware.
const ACTIVE: u32 = 1;

/// Device path nodes: media of the kinds hard drive and file, and the end.
const HARD_DRIVE: (u8, u8) = (4, 1);
const FILE: (u8, u8) = (4, 4);
const END: u8 = 0x7f;
/// Where a hard drive node has the partition's GUID, and what says that it is one: behind the node's own header (4 bytes), the
/// partition's number (4), start (8) and size (8); the table's kind (1) comes between.
const SIGNATURE: std::ops::Range<usize> = 24..40;
const SIGNATURE_TYPE: usize = 41;
const IS_GUID: u8 = 2;

/// The firmware's options that name a partition of a GPT.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct BootOptions {
    /// The one that started this boot.
    pub(super) current: Option<BootOption>,
    /// Those that it tries by itself, in their order.
    pub(super) order: Vec<BootOption>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BootOption {
    /// `Boot0001`.
    pub(super) name: String,
    /// For people.
    pub(super) description: String,
    /// The partition's GUID, in lower case.
    pub(super) partition: String,
    /// The program: `\EFI\debian\shimx64.efi`; empty for the one of removable disks.
    pub(super) program: String,
}

/// Reads them; none where the firmware shows no variables.
pub(super) fn read(root: &Path) -> Result<BootOptions, InspectError> {
    let value = |name: &str| -> Result<Option<Vec<u8>>, InspectError> {
        let bytes = reading::bytes(root, &format!("{VARIABLES}/{name}-{GLOBAL}"))?;
        Ok(bytes.and_then(|bytes| bytes.get(ATTRIBUTES..).map(<[u8]>::to_vec)))
    };
    let numbers = |name: &str| -> Result<Vec<u16>, InspectError> {
        let bytes = value(name)?.unwrap_or_default();
        Ok(bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect())
    };
    let option = |number: &u16| -> Result<Option<BootOption>, InspectError> {
        let name = format!("Boot{number:04X}");
        Ok(value(&name)?.and_then(|bytes| parse(name, &bytes)))
    };
    let mut order = Vec::new();
    for number in numbers("BootOrder")? {
        order.extend(option(&number)?);
    }
    let current = numbers("BootCurrent")?.first().map(option).transpose()?.flatten();
    Ok(BootOptions { current, order })
}

/// One option; `None` when it is not active, or starts nothing from a partition with a GUID.
fn parse(name: String, bytes: &[u8]) -> Option<BootOption> {
    let attributes = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    let length = u16::from_le_bytes(bytes.get(4..6)?.try_into().ok()?) as usize;
    let text = bytes.get(6..)?;
    let end = text.chunks_exact(2).position(|unit| unit == [0, 0])? * 2;
    let mut nodes = text.get(end + 2..end + 2 + length)?;
    let (mut partition, mut program) = (None, String::new());
    while let [kind, sub, low, high, ..] = *nodes {
        let length = u16::from_le_bytes([low, high]) as usize;
        let node = nodes.get(..length).filter(|node| node.len() >= 4)?;
        match (kind, sub) {
            (END, _) => break,
            HARD_DRIVE if node.get(SIGNATURE_TYPE) == Some(&IS_GUID) => {
                partition = node.get(SIGNATURE).and_then(|guid| guid.try_into().ok()).map(guid);
            }
            FILE => program = utf16(&node[4..]),
            _ => {}
        }
        nodes = &nodes[length..];
    }
    let partition = partition.filter(|_| attributes & ACTIVE != 0)?;
    Some(BootOption { name, description: utf16(&text[..end]), partition, program })
}

fn utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16_lossy(&units).trim_end_matches('\0').to_owned()
}

/// The first three fields are little-endian numbers.
fn guid(bytes: [u8; 16]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::new();
    for (index, byte) in order.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", bytes[byte]));
    }
    text
}

#[cfg(test)]
pub(super) mod made_up {
    use super::*;

    fn units(text: &str) -> Vec<u8> {
        text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
    }

    /// An option as firmware keeps it; `first` is the first byte of the partition's GUID as it is written.
    pub(in crate::inspect) fn option(active: bool, description: &str, first: u8, program: &str) -> Vec<u8> {
        let node = |(kind, sub): (u8, u8), body: &[u8]| {
            let length = u16::try_from(body.len() + 4).unwrap().to_le_bytes();
            [&[kind, sub][..], &length, body].concat()
        };
        let mut drive = vec![0_u8; 38];
        drive[20..36].copy_from_slice(&[3, 2, 1, first, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]);
        (drive[36], drive[37]) = (2, IS_GUID);
        let paths = [node(HARD_DRIVE, &drive), node(FILE, &units(program)), node((END, 0xff), &[])].concat();
        let length = u16::try_from(paths.len()).unwrap().to_le_bytes();
        [&[7, 0, 0, 0, u8::from(active), 0, 0, 0][..], &length, &units(description), &paths].concat()
    }

    pub(in crate::inspect) fn put(root: &Path, name: &str, bytes: &[u8]) {
        let path = root.join(VARIABLES).join(format!("{name}-{GLOBAL}"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::made_up::{option, put};
    use super::*;

    #[test]
    fn options_as_firmware_keeps_them() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), BootOptions::default());
        put(dir.path(), "BootCurrent", &[6, 0, 0, 0, 1, 0]);
        put(dir.path(), "BootOrder", &[7, 0, 0, 0, 0x0a, 0, 1, 0, 2, 0, 3, 0]);
        put(dir.path(), "Boot0001", &option(true, "debian", 0xab, "\\EFI\\debian\\shimx64.efi"));
        put(dir.path(), "Boot000A", &option(true, "disk", 0xcd, ""));
        put(dir.path(), "Boot0002", &option(false, "off", 0xcd, ""));
        put(dir.path(), "Boot0003", b"\x07\0\0\0\x01\0\0\0\x04\0n\0e\0t\0\0\0\x7f\xff\x04\0");
        let found = read(dir.path()).unwrap();
        let debian = BootOption {
            name: "Boot0001".into(),
            description: "debian".into(),
            partition: "ab010203-0405-0607-0809-0a0b0c0d0e0f".into(),
            program: "\\EFI\\debian\\shimx64.efi".into(),
        };
        assert_eq!(found.current, Some(debian.clone()));
        let names: Vec<&str> = found.order.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["Boot000A", "Boot0001"]);
        assert_eq!(found.order[1], debian);
    }

    /// As OVMF and efibootmgr 17 made them: a whole disk by its place on the bus, and a program on a partition.
    #[test]
    fn options_of_real_firmware() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "BootCurrent", &[6, 0, 0, 0, 1, 0]);
        put(dir.path(), "BootOrder", &[7, 0, 0, 0, 5, 0, 1, 0]);
        put(dir.path(), "Boot0001", include_bytes!("../../tests/fixtures/boot/efi-Boot0001.bin"));
        put(dir.path(), "Boot0005", include_bytes!("../../tests/fixtures/boot/efi-Boot0005.bin"));
        let second = BootOption {
            name: "Boot0005".into(),
            description: "second".into(),
            partition: "75415f2b-1c86-4abe-9988-d8e93e9b3864".into(),
            program: "\\EFI\\debian\\shimx64.efi".into(),
        };
        assert_eq!(read(dir.path()).unwrap(), BootOptions { current: None, order: vec![second] });
    }

    #[test]
    fn what_is_cut_off_is_no_option() {
        let whole = option(true, "debian", 1, "\\x.efi");
        let whole = &whole[ATTRIBUTES..];
        assert!(parse("Boot0000".into(), whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(parse("Boot0000".into(), &whole[..length]), None, "{length}");
        }
        let mut endless = whole.to_vec();
        let node = 6 + 2 * "debian\0".len();
        endless[node + 2..node + 4].copy_from_slice(&[0, 0]);
        assert_eq!(parse("Boot0000".into(), &endless), None, "a node of no length");
    }
}
