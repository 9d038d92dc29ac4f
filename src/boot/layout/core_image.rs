//! Where a GRUB core image looks for its modules and its menu: its embedded prefix, or its embedded script.
//!
//! A core image ends in a list of modules, which begins with a magic word; two kinds of them matter here, the prefix and the
//! script ("config") that `grub-install` embeds when the prefix alone does not lead to the filesystem. On i386-pc the image is
//! compressed with LZMA behind a small decompressor. Source: GRUB 2.06, include/grub/kernel.h and offsets.h, and images made by
//! grub-mkimage.

use std::ops::Range;

use liblzma::stream::{Action, Filters, LzmaOptions, Stream};

const MAGIC: &[u8] = b"mimg";
const CONFIG: u32 = 2;
const PREFIX: u32 = 3;

/// The first sector of a core image loads the rest; the decompressor after it has the two lengths at these places.
const LOADER: usize = 512;
const COMPRESSED: usize = LOADER + 0x08;
const UNCOMPRESSED: usize = LOADER + 0x0c;

/// The decompressor is at least 1 and at most 9 KiB long; which of it is nowhere written.
const DECOMPRESSOR: Range<usize> = 1024..9 * 1024;

/// A core image with every module has some 3 MiB.
const LONGEST: usize = 8 << 20;

/// What a core image for a BIOS says, from its first sector on; `None` when it cannot be read.
pub(super) fn prefix_of_bios_core(bytes: &[u8]) -> Option<String> {
    let compressed = le32(bytes, COMPRESSED)? as usize;
    let uncompressed = le32(bytes, UNCOMPRESSED)? as usize;
    if compressed > bytes.len() || !(1..=LONGEST).contains(&uncompressed) {
        return None;
    }
    // A stream begins with a zero; a wrong start soon is no LZMA, or holds no modules.
    DECOMPRESSOR.map(|length| LOADER + length).filter(|start| bytes.get(*start) == Some(&0)).find_map(
        |start| {
            let stream = bytes.get(start..start + compressed)?;
            prefix_of(&decompress(stream, uncompressed)?)
        },
    )
}

/// What an uncompressed core image (also: an EFI program) says.
pub(super) fn prefix_of(image: &[u8]) -> Option<String> {
    let places = image.windows(MAGIC.len()).enumerate().filter(|(_, word)| *word == MAGIC);
    places.filter_map(|(place, _)| modules(&image[place..])).find_map(|modules| {
        let of = |kind| modules.iter().find(|module| module.0 == kind).map(|module| c_text(module.1));
        // The script runs after the prefix was set, and wins.
        let script = of(CONFIG).and_then(|script| prefix_in_script(&script));
        script.or_else(|| of(PREFIX)).filter(|prefix| !prefix.is_empty())
    })
}

/// What a `grub.cfg` beside a signed image, or an embedded script, says: `(UUID)/@/boot/grub`. The last of each counts.
pub(super) fn prefix_in_script(script: &str) -> Option<String> {
    let mut uuid = None;
    let mut prefix = None;
    for line in script.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["search.fs_uuid", found, ..] => uuid = Some((*found).to_owned()),
            ["search", rest @ ..] => uuid = searched(rest).or(uuid),
            ["set", value, ..] => {
                if let Some(value) = value.strip_prefix("prefix=") {
                    prefix = Some(value.replace(['\'', '"'], ""));
                }
            }
            _ => {}
        }
    }
    let prefix = prefix?;
    Some(match uuid {
        Some(uuid) => prefix.replace("($root)", &format!("({uuid})")),
        None => prefix,
    })
}

/// The UUID in `search --fs-uuid --set=root UUID`: the one word that is no option nor an option's value.
fn searched(words: &[&str]) -> Option<String> {
    if !words.iter().any(|word| matches!(*word, "--fs-uuid" | "-u")) {
        return None;
    }
    let mut words = words.iter().peekable();
    let mut found = None;
    while let Some(word) = words.next() {
        if *word == "--set" && words.peek().is_some_and(|next| **next == "root") {
            words.next();
        } else if !word.starts_with('-') {
            found = Some((*word).to_owned());
        }
    }
    found
}

/// The modules behind a magic word: `None` when it is no list (the word also occurs in code that looks for it).
fn modules(list: &[u8]) -> Option<Vec<(u32, &[u8])>> {
    // 32 bits: magic, offset, size. 64 bits: magic, padding, and the two as eight bytes.
    let wide = le32(list, 8)? == 24 && le32(list, 12)? == 0;
    let (first, end) = match (wide, le32(list, 4)?) {
        (true, _) => (24, le32(list, 16)?),
        (false, 12) => (12, le32(list, 8)?),
        _ => return None,
    };
    let mut rest = list.get(first..end as usize)?;
    let mut all = Vec::new();
    while let (Some(kind), Some(size)) = (le32(rest, 0), le32(rest, 4)) {
        all.push((kind, rest.get(8..size as usize)?));
        rest = &rest[size as usize..];
    }
    Some(all)
}

/// Exactly `length` bytes, or `None`. The parameters are those of grub-mkimage.
fn decompress(stream: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut options = LzmaOptions::new_preset(6).ok()?;
    options.dict_size(1 << 16).literal_context_bits(3).literal_position_bits(0).position_bits(2);
    let mut filters = Filters::new();
    filters.lzma1(&options);
    let mut decoder = Stream::new_raw_decoder(&filters).ok()?;
    let mut out = Vec::with_capacity(length);
    while out.len() < length {
        let (read, written) = (decoder.total_in(), out.len());
        let rest = stream.get(usize::try_from(read).ok()?..)?;
        decoder.process_vec(rest, &mut out, Action::Run).ok()?;
        if decoder.total_in() == read && out.len() == written {
            return None;
        }
    }
    Some(out)
}

fn c_text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn le32(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}
