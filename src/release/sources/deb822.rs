//! Stanzas of `Name: value` fields: the deb822 form of sources.list(5).

use super::entries::Parts;
use super::{Note, Rewritten, SuiteChange, firmware_missing, judge_suite, note_of};
use crate::release::hop::Hop;

/// Rewrites the text of a `.sources` file; comments, other fields and their order stay.
#[must_use]
pub fn rewrite(text: &str, hop: &Hop) -> Rewritten {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut out = Rewritten { text: String::with_capacity(text.len()), notes: Vec::new() };
    let mut start = 0;
    while start < lines.len() {
        let blank = |line: &&str| line.trim().is_empty();
        if blank(&lines[start]) {
            out.text.push_str(lines[start]);
            start += 1;
            continue;
        }
        let length = lines[start..].iter().position(blank).unwrap_or(lines.len() - start);
        rewrite_stanza(&lines[start..start + length], start, hop, &mut out);
        start += length;
    }
    out
}

/// The stanzas that are in use.
pub(super) fn entries(text: &str) -> Vec<Parts> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut found = Vec::new();
    let mut start = 0;
    while start < lines.len() {
        let blank = |line: &&str| line.trim().is_empty();
        let length = lines[start..].iter().position(blank).unwrap_or(lines.len() - start);
        let stanza = &lines[start..start + length];
        let fields = fields(stanza);
        let words = |name: &str| -> Vec<String> {
            let field = fields.iter().find(|field| field.name == name);
            field.map(|field| field.words.iter().map(|word| (*word).to_owned()).collect()).unwrap_or_default()
        };
        if !is_off(&fields) && !words("suites").is_empty() {
            let mut text = stanza.concat();
            end_line(&mut text);
            found.push(Parts {
                line: start + fields.first().map_or(0, |field| field.lines.start) + 1,
                text,
                uris: words("uris"),
                suites: words("suites"),
                components: words("components"),
            });
        }
        start += length + 1;
    }
    found
}

/// Changes the lines of a stanza that name its suites.
pub(super) fn map_suite_lines(stanza: &str, change: impl Fn(&str) -> String) -> String {
    let lines: Vec<&str> = stanza.split_inclusive('\n').collect();
    let fields = fields(&lines);
    let suites = fields.iter().find(|field| field.name == "suites").map(|field| field.lines.clone());
    let suites = suites.unwrap_or(0..0);
    let changed = lines.iter().enumerate().map(|(at, line)| {
        if suites.contains(&at) && !line.starts_with('#') { change(line) } else { (*line).to_owned() }
    });
    changed.collect()
}

fn is_off(fields: &[Field<'_>]) -> bool {
    const OFF: [&str; 6] = ["no", "false", "off", "0", "without", "disable"];
    let field = fields.iter().find(|field| field.name == "enabled");
    let word = field.and_then(|field| field.words.first());
    word.is_some_and(|word| OFF.contains(&word.to_ascii_lowercase().as_str()))
}

/// One field: its name in lower case, the lines that it covers (with comments between), its words.
struct Field<'t> {
    name: String,
    lines: std::ops::Range<usize>,
    words: Vec<&'t str>,
}

fn rewrite_stanza(lines: &[&str], offset: usize, hop: &Hop, out: &mut Rewritten) {
    let fields = fields(lines);
    let field = |name: &str| fields.iter().find(|field| field.name == name);
    let switched_off = is_off(&fields);
    let Some(suites) = field("suites").filter(|_| !switched_off) else {
        out.text.extend(lines.iter().copied());
        return;
    };
    let number = offset + fields.first().map_or(0, |field| field.lines.start) + 1;
    let uri = field("uris").map(|field| field.words.join(" ")).unwrap_or_default();
    let changes: Vec<(&str, SuiteChange)> =
        suites.words.iter().map(|suite| (*suite, judge_suite(suite, hop))).collect();
    out.notes.extend(changes.iter().map(|(suite, change)| (number, uri.clone(), note_of(suite, change))));
    let is = |wanted: fn(&SuiteChange) -> bool| changes.iter().any(|(_, change)| wanted(change));
    let dropped = is(|change| *change == SuiteChange::Disable);
    let disable_all = dropped && !is(|change| *change != SuiteChange::Disable);
    let rewritten = is(|change| matches!(change, SuiteChange::Rewrite(_)));
    let firmware =
        field("components").filter(|field| rewritten && firmware_missing(field.words.iter().copied()));
    if firmware.is_some() {
        out.notes.push((number, uri, Note::FirmwareAdded));
    }

    let mut at = 0;
    while at < lines.len() {
        let current = fields.iter().find(|field| field.lines.start == at);
        match current {
            Some(field) if field.name == "suites" && !disable_all => {
                let covered = &lines[field.lines.clone()];
                out.text.push_str(&if dropped {
                    dense(covered, &changes)
                } else {
                    mapped(covered, &changes)
                });
                at = field.lines.end;
            }
            Some(field) if field.name == "enabled" && disable_all => at = field.lines.end,
            Some(field) if firmware.is_some() && field.name == "components" => {
                out.text.push_str(&with_firmware(&lines[field.lines.clone()]));
                at = field.lines.end;
            }
            _ => {
                out.text.push_str(lines[at]);
                at += 1;
            }
        }
    }
    if disable_all {
        end_line(&mut out.text);
        out.text.push_str("Enabled: no\n");
    }
}

fn fields<'t>(lines: &[&'t str]) -> Vec<Field<'t>> {
    let mut found: Vec<Field<'t>> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if line.starts_with('#') {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            if let Some(field) = found.last_mut() {
                field.words.extend(line.split_ascii_whitespace());
                field.lines.end = at + 1;
            }
        } else if let Some((name, value)) = line.split_once(':') {
            found.push(Field {
                name: name.trim().to_ascii_lowercase(),
                lines: at..at + 1,
                words: value.split_ascii_whitespace().collect(),
            });
        }
    }
    found
}

/// The field with its suites replaced where they stand.
fn mapped(lines: &[&str], changes: &[(&str, SuiteChange)]) -> String {
    let mut text = String::new();
    let mut next = changes.iter();
    for (index, line) in lines.iter().enumerate() {
        if line.starts_with('#') {
            text.push_str(line);
            continue;
        }
        let value_from = if index == 0 { line.find(':').map_or(0, |at| at + 1) } else { 0 };
        text.push_str(&line[..value_from]);
        for piece in line[value_from..].split_inclusive(|character: char| character.is_ascii_whitespace()) {
            let word = piece.trim_end();
            let changed = if word.is_empty() { None } else { next.next() };
            match changed {
                Some((_, SuiteChange::Rewrite(to))) => {
                    text.push_str(to);
                    text.push_str(&piece[word.len()..]);
                }
                _ => text.push_str(piece),
            }
        }
    }
    text
}

/// The field on one line without the suites that are switched off. A continuation line that lost all its words would end the
/// stanza, so the lines are joined; comments between them come first.
fn dense(lines: &[&str], changes: &[(&str, SuiteChange)]) -> String {
    let mut text: String = lines.iter().filter(|line| line.starts_with('#')).copied().collect();
    text.push_str("Suites:");
    for (suite, change) in changes {
        match change {
            SuiteChange::Disable => {}
            SuiteChange::Rewrite(to) => text.extend([" ", to]),
            _ => text.extend([" ", *suite]),
        }
    }
    text.push('\n');
    text
}

fn with_firmware(lines: &[&str]) -> String {
    // The last line of a field is never a comment: `fields` ends it at a line with words.
    let text: String = lines.concat();
    let bare = text.trim_end();
    format!("{bare} non-free-firmware{}", if text.len() > bare.len() { &text[bare.len()..] } else { "\n" })
}

fn end_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}
