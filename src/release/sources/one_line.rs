//! `deb [options] URI suite components`: the one-line form of sources.list(5).

use std::ops::Range;

use super::entries::Parts;
use super::{Note, Rewritten, SuiteChange, firmware_missing, judge_suite, note_of};
use crate::release::hop::Hop;

/// Rewrites the text of a `.list` file; comments, options and spacing stay.
#[must_use]
pub fn rewrite(text: &str, hop: &Hop) -> Rewritten {
    let mut out = Rewritten { text: String::with_capacity(text.len()), notes: Vec::new() };
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let bare = line.trim_end_matches(['\n', '\r']);
        let ending = &line[bare.len()..];
        match parse(bare) {
            Some(entry) => rewrite_entry(bare, &entry, hop, index + 1, &mut out),
            None => out.text.push_str(bare),
        }
        out.text.push_str(ending);
    }
    out
}

/// The lines that are in use.
pub(super) fn entries(text: &str) -> Vec<Parts> {
    let owned = |line: &str, range: &Range<usize>| line[range.clone()].to_owned();
    text.lines()
        .enumerate()
        .filter_map(|(index, line)| {
            let entry = parse(line)?;
            Some(Parts {
                line: index + 1,
                text: format!("{line}\n"),
                uris: vec![owned(line, &entry.uri)],
                suites: vec![owned(line, &entry.suite)],
                components: entry.components.iter().map(|range| owned(line, range)).collect(),
            })
        })
        .collect()
}

/// Changes the suite of a line.
pub(super) fn map_suite(line: &str, change: impl Fn(&str) -> String) -> String {
    let Some(entry) = parse(line) else { return line.to_owned() };
    let suite = entry.suite;
    format!("{}{}{}", &line[..suite.start], change(&line[suite.clone()]), &line[suite.end..])
}

fn rewrite_entry(line: &str, entry: &Entry, hop: &Hop, number: usize, out: &mut Rewritten) {
    let uri = line[entry.uri.clone()].to_owned();
    let suite = &line[entry.suite.clone()];
    let change = judge_suite(suite, hop);
    out.notes.push((number, uri.clone(), note_of(suite, &change)));
    match change {
        SuiteChange::Rewrite(to) => {
            out.text.push_str(&line[..entry.suite.start]);
            out.text.push_str(&to);
            let end = entry.components.last().map_or(entry.suite.end, |last| last.end);
            out.text.push_str(&line[entry.suite.end..end]);
            if firmware_missing(entry.components.iter().map(|range| &line[range.clone()])) {
                out.text.push_str(" non-free-firmware");
                out.notes.push((number, uri, Note::FirmwareAdded));
            }
            out.text.push_str(&line[end..]);
        }
        SuiteChange::Disable => {
            out.text.push_str(&format!("# disabled for the upgrade to {}: {line}", hop.to().codename));
        }
        SuiteChange::AlreadyTarget | SuiteChange::Alias | SuiteChange::Other => out.text.push_str(line),
    }
}

struct Entry {
    uri: Range<usize>,
    suite: Range<usize>,
    components: Vec<Range<usize>>,
}

/// `None` for comments, blank lines and what apt would not read either.
fn parse(line: &str) -> Option<Entry> {
    let end = line.find('#').unwrap_or(line.len());
    let line = &line[..end];
    let mut words = words(line, 0).into_iter();
    let kind = words.next()?;
    if !matches!(&line[kind.clone()], "deb" | "deb-src") {
        return None;
    }
    let mut rest = kind.end;
    let after = line[rest..].trim_start();
    if after.starts_with('[') {
        rest = line.len() - after.len() + after.find(']')? + 1;
    }
    let mut words = self::words(line, rest).into_iter();
    Some(Entry { uri: words.next()?, suite: words.next()?, components: words.collect() })
}

/// Where the words of a line are, from an offset on.
fn words(line: &str, from: usize) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = None;
    for (at, character) in line.char_indices().filter(|(at, _)| *at >= from) {
        match (character.is_ascii_whitespace(), start) {
            (false, None) => start = Some(at),
            (true, Some(begin)) => {
                found.push(begin..at);
                start = None;
            }
            _ => {}
        }
    }
    found.extend(start.map(|begin| begin..line.len()));
    found
}
