//! Watches a run that a unit drives: reads its progress as it is written and shows it.

use std::fs::File;
use std::io::{IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;

use super::written;
use crate::error::Failure;
use crate::progress::{Event, FILE_NAME};
use crate::system::show;

/// How a followed run stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// The run said how it ended.
    Ended {
        /// The exit code that it ends with.
        exit: u8,
        /// What became of it.
        text: String,
    },
    /// The machine goes down; the run goes on by itself after the reboot.
    Reboots,
    /// Whoever drives it is gone without a word.
    Gone,
}

/// Shows progress, from an offset in the file on, until the run says how it ended or until its driver is gone, which `driver`
/// (a pidfd, or the read end of a pipe that the driver holds open) tells.
///
/// # Errors
/// When the progress cannot be read or shown.
pub(super) fn follow(
    directory: &Path,
    from: u64,
    driver: BorrowedFd<'_>,
    screen: &mut Screen<'_>,
) -> Result<Followed, Failure> {
    let path = directory.join(FILE_NAME);
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).map_err(|errno| cannot(&path, errno.into()))?;
    inotify::add_watch(&watch, directory, inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE)
        .map_err(|errno| cannot(&path, errno.into()))?;
    let mut tail = Tail { path, offset: from, partial: Vec::new() };
    let (mut gone, mut reboots) = (false, false);
    loop {
        for event in tail.read()? {
            screen.show(&event)?;
            reboots |= matches!(event, Event::Reboot { .. });
            if let Event::Ended { exit, text, .. } = event {
                return Ok(Followed::Ended { exit, text });
            }
        }
        // The driver was gone before this last look: what it wrote has been seen.
        if gone {
            return Ok(if reboots { Followed::Reboots } else { Followed::Gone });
        }
        let mut fds = [PollFd::new(&watch, PollFlags::IN), PollFd::from_borrowed_fd(driver, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(cannot(&tail.path, errno.into())),
        }
        gone = !fds[1].revents().is_empty();
        if fds[0].revents().contains(PollFlags::IN) {
            let mut buffer = [0_u8; 4096];
            // The events themselves say no more than "look again".
            let _ = rustix::io::read(&watch, &mut buffer);
        }
    }
}

fn cannot(path: &Path, error: std::io::Error) -> Failure {
    Failure::failed(format!("failed to follow {}", path.display()), error)
        .hint("the run goes on without this command: `safe-upgrade status` shows it")
}

/// The file, read as it grows.
struct Tail {
    path: PathBuf,
    offset: u64,
    partial: Vec<u8>,
}

impl Tail {
    fn read(&mut self) -> Result<Vec<Event>, Failure> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            Err(error) => return Err(cannot(&self.path, error)),
        };
        let read = file.seek(SeekFrom::Start(self.offset)).and_then(|_| file.read_to_end(&mut self.partial));
        self.offset += read.map_err(|error| cannot(&self.path, error))? as u64;
        let mut events = Vec::new();
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            // A line that is not understood is somebody else's: progress decides nothing.
            events.extend(serde_json::from_slice::<Event>(&line).ok());
        }
        Ok(events)
    }
}

/// Where progress is shown: a bar on a terminal, plain lines elsewhere, JSON lines on request.
pub(super) struct Screen<'o> {
    out: &'o mut dyn Write,
    json: bool,
    bar: Option<ProgressBar>,
    phase: Option<(String, Instant)>,
    last_tenth: u64,
}

impl std::fmt::Debug for Screen<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("json", &self.json).finish_non_exhaustive()
    }
}

impl<'o> Screen<'o> {
    /// Chooses how to show.
    pub(super) fn new(out: &'o mut dyn Write, json: bool) -> Self {
        let bar = (!json && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
            // The template is a constant that indicatif understands; without it the default one shows.
            if let Ok(style) =
                ProgressStyle::with_template("{prefix:12} [{bar:30}] {percent:>3} %  {eta} left  {wide_msg}")
            {
                bar.set_style(style);
            }
            bar
        });
        Self { out, json, bar, phase: None, last_tenth: 0 }
    }

    fn show(&mut self, event: &Event) -> Result<(), Failure> {
        if self.json {
            let mut line =
                serde_json::to_vec(event).map_err(|error| Failure::failed("failed to write JSON", error))?;
            line.push(b'\n');
            return written(self.out.write_all(&line).and_then(|()| self.out.flush()));
        }
        match event {
            Event::Phase { name, .. } => self.begin(name),
            Event::Percent { percent, text } => self.percent(*percent, text),
            Event::Line { text, .. } => self.line(&show::line(text)),
            Event::Reboot { .. } => self.line(
                "the machine reboots; the run goes on by itself. `safe-upgrade status` shows it afterwards",
            ),
            Event::Ended { .. } => self.finish_phase(),
        }
    }

    fn begin(&mut self, name: &str) -> Result<(), Failure> {
        self.finish_phase()?;
        let name = show::line(name);
        match &self.bar {
            Some(bar) => {
                bar.reset();
                bar.set_prefix(name.clone());
                bar.set_message("");
            }
            None => self.line(&format!("{name} ..."))?,
        }
        self.phase = Some((name, Instant::now()));
        self.last_tenth = 0;
        Ok(())
    }

    fn finish_phase(&mut self) -> Result<(), Failure> {
        match self.phase.take() {
            None => Ok(()),
            Some((name, since)) => self.line(&format!("{name}: {} s", since.elapsed().as_secs())),
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "percentages are clamped to 0..=100"
    )]
    fn percent(&mut self, percent: f64, text: &str) -> Result<(), Failure> {
        let thousandths = (percent.clamp(0.0, 100.0) * 10.0) as u64;
        let text = show::line(text);
        if let Some(bar) = &self.bar {
            bar.set_position(thousandths);
            bar.set_message(text);
            return Ok(());
        }
        if thousandths / 100 <= self.last_tenth {
            return Ok(());
        }
        self.last_tenth = thousandths / 100;
        let left = self.phase.as_ref().map(|(_, since)| {
            let elapsed = since.elapsed().as_secs_f64();
            (elapsed / percent.max(1.0) * (100.0 - percent)) as u64
        });
        let left = left.map(|seconds| format!(", about {seconds} s left")).unwrap_or_default();
        self.line(&format!("  {percent:.0} %{left}: {text}"))
    }

    fn line(&mut self, text: &str) -> Result<(), Failure> {
        match &self.bar {
            Some(bar) => {
                bar.println(text);
                Ok(())
            }
            None => written(writeln!(self.out, "{text}").and_then(|()| self.out.flush())),
        }
    }
}
