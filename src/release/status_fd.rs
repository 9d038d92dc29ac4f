//! What apt writes to `APT::Status-Fd`: one line per event (README.progress-reporting of apt; the same in 2.6 and 3.0).

/// One event of apt's progress protocol.
#[derive(Debug, Clone, PartialEq)]
pub enum StatusEvent {
    /// A file is being downloaded.
    Download {
        /// 0 to 100 over all files.
        percent: f32,
        /// Such as `Retrieving file 3 of 180`.
        text: String,
    },
    /// dpkg works on a package.
    Package {
        /// A package, or `dpkg-exec` when dpkg starts.
        package: String,
        /// 0 to 100 over the whole transaction.
        percent: f32,
        /// Such as `Unpacking openssl (amd64)`.
        text: String,
    },
    /// dpkg gave up on a package.
    PackageError {
        /// A package, or the path of a `.deb`.
        package: String,
        /// dpkg's words.
        text: String,
    },
    /// dpkg asks which configuration file to use.
    ConffilePrompt {
        /// The configuration file.
        path: String,
    },
    /// apt asks for another medium.
    MediaChange {
        /// apt's words.
        text: String,
    },
    /// A line that is not understood.
    Unknown(String),
}

/// Understands one line, without its newline. Only the first three colons separate: messages contain colons. What dpkg writes by
/// itself (`--status-fd`) is understood where it asks or gives up.
#[must_use]
pub fn parse_line(line: &str) -> StatusEvent {
    if let Some(own) = line.strip_prefix("status: ") {
        return of_dpkg(own).unwrap_or_else(|| StatusEvent::Unknown(line.to_owned()));
    }
    let mut fields = line.splitn(4, ':');
    let (Some(kind), Some(subject), Some(number), Some(text)) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return StatusEvent::Unknown(line.to_owned());
    };
    let (subject, text) = (subject.to_owned(), text.trim().to_owned());
    let percent = number.parse::<f32>().ok().filter(|value| (0.0..=100.5).contains(value));
    match (kind, percent) {
        ("dlstatus", Some(percent)) => StatusEvent::Download { percent: percent.min(100.0), text },
        ("pmstatus", Some(percent)) => {
            StatusEvent::Package { package: subject, percent: percent.min(100.0), text }
        }
        // The percent of these two is not needed, so a strange one does not lose the event.
        ("pmerror", _) => StatusEvent::PackageError { package: subject, text },
        ("pmconffile", _) => StatusEvent::ConffilePrompt { path: subject },
        ("media-change", _) => StatusEvent::MediaChange { text },
        _ => StatusEvent::Unknown(line.to_owned()),
    }
}

/// `PATH : conffile-prompt : ...` and `PACKAGE : error : TEXT`.
fn of_dpkg(line: &str) -> Option<StatusEvent> {
    if let Some((path, _)) = line.split_once(" : conffile-prompt : ") {
        return Some(StatusEvent::ConffilePrompt { path: path.to_owned() });
    }
    let (package, text) = line.split_once(" : error : ")?;
    Some(StatusEvent::PackageError { package: package.to_owned(), text: text.trim().to_owned() })
}

/// Cuts a stream of bytes into lines; what follows the last newline waits for more.
#[derive(Debug, Default)]
pub struct StatusLines {
    rest: Vec<u8>,
}

/// A line longer than this is not apt's: what came so far is dropped, so that a broken writer cannot fill the memory.
const LONGEST_LINE: usize = 64 * 1024;

impl StatusLines {
    /// Takes the next bytes and returns the events that are complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<StatusEvent> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            events.push(parse_line(String::from_utf8_lossy(&line).trim_end()));
        }
        if self.rest.len() > LONGEST_LINE {
            self.rest.clear();
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line() {
        let text = include_str!("../../tests/fixtures/release/status-fd.txt");
        let events: Vec<StatusEvent> = text.lines().map(parse_line).collect();
        assert!(matches!(&events[0], StatusEvent::Download { percent, text }
            if *percent > 50.0 && text == "Retrieving file 180 of 180"));
        assert!(matches!(&events[1], StatusEvent::Package { package, percent, .. }
            if package == "dpkg-exec" && *percent == 0.0));
        assert_eq!(events[3], StatusEvent::ConffilePrompt { path: "/etc/nginx/nginx.conf".into() });
        assert_eq!(
            events[4],
            StatusEvent::PackageError {
                package: "nginx-common".into(),
                text: "end of file on stdin at conffile prompt".into()
            }
        );
    }

    #[test]
    fn colons_in_the_message_stay() {
        let event = parse_line("pmerror:/a/b_1%3a2_amd64.deb:1.0:trying to overwrite '/x': also in y:z");
        let StatusEvent::PackageError { package, text } = event else { panic!("{event:?}") };
        assert_eq!(package, "/a/b_1%3a2_amd64.deb");
        assert_eq!(text, "trying to overwrite '/x': also in y:z");
    }

    #[test]
    fn what_dpkg_says_itself() {
        let asked = "status: /etc/one/a b.conf : conffile-prompt : '/etc/one/a b.conf' '/etc/one/a b.conf.dpkg-new' 1 1 ";
        assert_eq!(parse_line(asked), StatusEvent::ConffilePrompt { path: "/etc/one/a b.conf".into() });
        let (package, text) = ("one".into(), "end of file on stdin at conffile prompt".into());
        assert_eq!(
            parse_line("status: one : error : end of file on stdin at conffile prompt "),
            StatusEvent::PackageError { package, text }
        );
        assert!(matches!(parse_line("status: one: half-configured"), StatusEvent::Unknown(_)));
    }

    #[test]
    fn nonsense_is_unknown() {
        for line in ["", "pmstatus", "pmstatus:a:b", "pmstatus:a:NaN:x", "dlstatus:1:900:x", "other:a:1:b"] {
            assert_eq!(parse_line(line), StatusEvent::Unknown(line.to_owned()));
        }
    }

    #[test]
    fn lines_may_come_in_pieces() {
        let mut lines = StatusLines::default();
        let bytes = b"pmstatus:a:1.0:Unpacking a\npmstatus:b:2.0:Unpacking b\n";
        for cut in 0..bytes.len() {
            let mut events = lines.push(&bytes[..cut]);
            events.extend(lines.push(&bytes[cut..]));
            assert_eq!(events.len(), 2, "cut at {cut}");
        }
        assert!(lines.push(&[b'x'; LONGEST_LINE + 1]).is_empty());
        assert_eq!(lines.push(b"pmerror:a:1:b\n").len(), 1);
    }
}
