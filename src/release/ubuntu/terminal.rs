//! How far the changing of packages is, from what dpkg prints (`apt-term.log`) and from the upgrader's `dpkg-progress.N.log`. Pure.

/// Counts packages as dpkg works on them, in pieces of any size.
#[derive(Debug, Clone, Default)]
pub struct Terminal {
    partial: Vec<u8>,
    unpacked: usize,
    configured: usize,
    removed: usize,
    last: Option<String>,
}

impl Terminal {
    /// Takes the next bytes of `apt-term.log`. Lines end with `\r\n`: they come from a terminal.
    pub fn push(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.line(&String::from_utf8_lossy(&line));
        }
    }

    /// Forgets what was counted: what comes next is another transaction.
    pub fn renew(&mut self) {
        *self = Self::default();
    }

    fn line(&mut self, line: &str) {
        let line = line.trim();
        let named = |start: &str| line.strip_prefix(start)?.split(' ').next().map(str::to_owned);
        if let Some(package) = named("Unpacking ") {
            self.unpacked += 1;
            self.last = Some(package);
        } else if let Some(package) = named("Setting up ") {
            self.configured += 1;
            self.last = Some(package);
        } else if let Some(package) = named("Removing ") {
            self.removed += 1;
            self.last = Some(package);
        }
    }

    /// Percent done, when `installed` packages are to be unpacked and set up and `removed` are to go; `None` when nothing is to be done.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a percentage of some thousand packages")]
    pub fn percent(&self, installed: usize, removed: usize) -> Option<f32> {
        let total = 2 * installed + removed;
        let done = self.unpacked.min(installed) + self.configured.min(installed) + self.removed.min(removed);
        (total > 0).then(|| 100.0 * done as f32 / total as f32)
    }

    /// The package that it was seen working on last.
    #[must_use]
    pub fn package(&self) -> Option<&str> {
        self.last.as_deref()
    }
}

/// Understands one line of `dpkg-progress.N.log`: `EPOCH:PERCENT:PACKAGE:STATUS`. The status may contain colons; so may a package
/// with its architecture, which is told apart by what follows.
#[must_use]
pub fn progress_line(line: &str) -> Option<(f32, &str)> {
    let (time, rest) = line.trim_end().split_once(':')?;
    time.parse::<f64>().ok()?;
    let (percent, rest) = rest.split_once(':')?;
    let percent: f32 = percent.parse().ok()?;
    let package = rest.split(':').next().filter(|name| !name.is_empty())?;
    percent.is_finite().then_some((percent.clamp(0.0, 100.0), package))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_counted_across_pieces() {
        let mut terminal = Terminal::default();
        for piece in [
            "Log started: 2026-04-23  10:20:00\r\nPreparing to unpack .../libc6_2.43_amd64.deb ...\r\nUnpack",
            "ing libc6:amd64 (2.43-1) over (2.39-0ubuntu8) ...\r\nSetting up libc6:amd64 (2.43-1) ...\r\n",
            "Removing php8.3-fpm (8.3.6) ...\r\nUnpacking nginx (1.28) ...",
        ] {
            terminal.push(piece.as_bytes());
        }
        assert_eq!(terminal.package(), Some("php8.3-fpm"));
        assert_eq!(terminal.percent(2, 1), Some(60.0));
        terminal.push(b"\r\n");
        assert_eq!((terminal.package(), terminal.percent(2, 1)), (Some("nginx"), Some(80.0)));
        assert_eq!(terminal.percent(0, 0), None);
        terminal.renew();
        assert_eq!(terminal.percent(2, 1), Some(0.0));
    }

    #[test]
    fn more_than_planned_is_not_more_than_all() {
        let mut terminal = Terminal::default();
        terminal.push(b"Setting up a (1) ...\nSetting up a (1) ...\nUnpacking a (1) ...\n");
        assert_eq!(terminal.percent(1, 0), Some(100.0));
    }

    #[test]
    fn lines_of_the_progress_log() {
        assert_eq!(
            progress_line("1776939600.52:41.6667:libc6:amd64:Unpacking libc6:amd64 (amd64)\n"),
            Some((41.6667, "libc6"))
        );
        for no in ["1776939600.5: Start", "x:1:y:z", "1776939600.5:nan:p:s", ""] {
            assert_eq!(progress_line(no), None, "{no}");
        }
    }
}
