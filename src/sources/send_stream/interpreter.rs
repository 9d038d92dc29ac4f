//! Following the commands of a stream, as a receiver would, on paper.

use std::collections::BTreeSet;
use std::io;

use super::command::{self, Command, Encoded, Unclear};
use super::draft::{Bytes, Draft, Why};
use super::encoded::{Expander, Unexpanded};
use super::frame::Frame;
use super::spool::Spool;
use super::tree::{Id, Tree, Trouble};
use super::{Reading, SendStreamError};
use crate::manifest::scan::Progress;
use crate::manifest::verdict::{Class, Difference};
use crate::system::show;

/// How many findings are kept in full.
const KEPT_FINDINGS: usize = 1000;

/// How many pairs of files that share bytes are remembered; with more, those of the rest are not known.
const MOST_SHARES: usize = 1 << 20;

/// Shared bytes are copied in pieces of this size.
const PIECE: usize = 64 << 10;

/// Commands between two reports of progress.
const COMMANDS_PER_REPORT: u64 = 1024;

/// Whether there is more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Command,
    End,
}

/// What the stream has said so far.
pub(super) struct Interpreter<'r> {
    pub(super) reading: &'r Reading<'r>,
    version: u32,
    /// The subvolume's own, once it was named.
    uuid: Option<Vec<u8>>,
    pub(super) tree: Tree,
    /// The file that is being written.
    draft: Option<(Id, Draft)>,
    /// Made when first needed.
    expander: Option<Expander>,
    /// Bytes of content, holes included.
    pub(super) expanded: u64,
    commands: u64,
    pub(super) findings: Vec<Difference>,
    /// Those that were not kept.
    pub(super) more_findings: u64,
    /// A compression that could not be read.
    pub(super) unreadable: Option<&'static str>,
    /// Which file took bytes from which.
    shares: BTreeSet<(Id, Id)>,
    /// Contents that others share, in a second reading.
    pub(super) spool: Option<Spool>,
    /// Why the spool failed, until it is told.
    failure: Option<io::Error>,
}

impl<'r> Interpreter<'r> {
    pub(super) fn new(version: u32, reading: &'r Reading<'r>, spool: Option<Spool>) -> Self {
        Self {
            reading,
            version,
            uuid: None,
            tree: Tree::new(reading.limits.entries),
            draft: None,
            expander: None,
            expanded: 0,
            commands: 0,
            findings: Vec::new(),
            more_findings: 0,
            unreadable: None,
            shares: BTreeSet::new(),
            spool,
            failure: None,
        }
    }

    /// The files whose contents it takes to know those that share only a part with others; empty when there are none of those.
    pub(super) fn wanted_for_shared(&self) -> BTreeSet<Id> {
        let mut wanted = BTreeSet::new();
        let mut next: Vec<Id> = self.tree.files_unknown_by(Why::Shared).collect();
        while let Some(id) = next.pop() {
            for &(_, source) in self.shares.range((id, 0)..=(id, Id::MAX)) {
                if wanted.insert(source) {
                    next.push(source);
                }
            }
        }
        wanted
    }

    /// Follows one command. One that leads out of the tree is noted as hostile and not followed.
    pub(super) fn follow(&mut self, frame: Frame<'_>) -> Result<Next, SendStreamError> {
        let Frame { at, number, body } = frame;
        let name = command::name(number);
        let command = Command::parse(self.version, number, body).map_err(|unclear| match unclear {
            Unclear::Unknown => SendStreamError::UnknownCommand { at, number },
            Unclear::Malformed(what) => SendStreamError::Malformed { at, command: name, what },
        })?;
        match (&command, self.uuid.is_some()) {
            (Command::Snapshot, false) => return Err(SendStreamError::Incremental),
            (Command::Subvolume { uuid }, false) => {
                self.uuid = Some(uuid.to_vec());
                return Ok(Next::Command);
            }
            (Command::Subvolume { .. } | Command::Snapshot, true) | (_, false) => {
                return Err(SendStreamError::Order { at, command: name });
            }
            (Command::End, true) => {
                self.seal();
                return Ok(Next::End);
            }
            _ => {}
        }
        self.commands += 1;
        if self.commands.is_multiple_of(COMMANDS_PER_REPORT) {
            (self.reading.progress)(Progress { entries: self.tree.names(), bytes: self.expanded });
        }
        let path = path_of(&command);
        match self.obey(command) {
            Ok(()) => {}
            Err(Trouble::Hostile(what)) => self.note(name, path, what),
            Err(Trouble::Impossible(what)) => {
                return Err(SendStreamError::Impossible { at, command: name, path: show::bytes(path), what });
            }
            Err(Trouble::Limit(what)) => return Err(SendStreamError::Limit { at, what }),
            Err(Trouble::Spool) => {
                let source = self.failure.take().unwrap_or_else(|| io::ErrorKind::Other.into());
                return Err(SendStreamError::Spool { source });
            }
        }
        Ok(Next::Command)
    }

    fn obey(&mut self, command: Command<'_>) -> Result<(), Trouble> {
        match command {
            Command::Make { path, made } => self.tree.make(path, made),
            Command::Rename { from, to } => self.tree.rename(from, to),
            Command::Link { path, target } => self.tree.link(path, target),
            Command::Unlink { path } => self.tree.unlink(path),
            Command::RemoveDirectory { path } => self.tree.remove_directory(path),
            Command::SetXattr { path, name, value } => {
                let most = self.reading.limits.xattrs;
                self.named(path)?.set_xattr(name, value, most)
            }
            Command::RemoveXattr { path, name } => match self.named(path)?.remove_xattr(name) {
                true => Ok(()),
                false => Err(Trouble::Impossible("it has no such extended attribute")),
            },
            Command::Mode { path, mode } => {
                // Twelve bits fit; the type above them is fixed when an inode is made.
                self.named(path)?.mode = (mode & 0o7777) as u16;
                Ok(())
            }
            Command::Owner { path, uid, gid } => {
                let id =
                    |id| u32::try_from(id).map_err(|_| Trouble::Impossible("the owner has no such number"));
                let (uid, gid) = (id(uid)?, id(gid)?);
                self.named(path)?.give_to(uid, gid);
                Ok(())
            }
            Command::Times { path, mtime } => {
                self.named(path)?.mtime = mtime;
                Ok(())
            }
            Command::Flags { path } => self.tree.find(path).map(drop),
            // Both were dealt with before.
            Command::Subvolume { .. } | Command::Snapshot | Command::End => Ok(()),
            content => self.fill(content),
        }
    }

    /// The commands that say what a file holds.
    fn fill(&mut self, command: Command<'_>) -> Result<(), Trouble> {
        let id = self.tree.find_file(path_of(&command))?;
        match command {
            Command::Write { offset, data, .. } => self.write(id, offset, data),
            Command::EncodedWrite { offset, encoded, .. } => self.write_encoded(id, offset, &encoded),
            Command::Clone { offset, length, from, .. } => {
                let end = offset.checked_add(length).ok_or(BEYOND)?;
                if self.uuid.as_deref() == Some(from.uuid) {
                    let source = self.tree.find_file(from.path)?;
                    self.copy(id, source, offset, length, from.offset)
                } else {
                    self.lose(id, Why::Shared, end)
                }
            }
            Command::Truncate { size, .. } => self.truncate(id, size),
            Command::WithoutData { offset, length, .. } => {
                let end = offset.checked_add(length).ok_or(BEYOND)?;
                self.lose(id, Why::NoData, end)
            }
            Command::Allocate { mode, offset, length, .. } => {
                const KEEP_SIZE: u64 = 1;
                let end = offset.checked_add(length).ok_or(BEYOND)?;
                match mode {
                    KEEP_SIZE => Ok(()),
                    0 if end > self.size(id) => self.truncate(id, end),
                    0 => Ok(()),
                    // Holes punched, ranges moved: no kernel sends these so far.
                    _ => self.lose(id, Why::Order, 0),
                }
            }
            _ => Ok(()),
        }
    }

    fn write(&mut self, id: Id, offset: u64, data: &[u8]) -> Result<(), Trouble> {
        let end = offset.checked_add(data.len() as u64).ok_or(BEYOND)?;
        self.expect(id, end)?;
        if let Some(draft) = self.draft_of(id) {
            draft.write(offset, data);
        }
        match &mut self.spool {
            Some(spool) if spool.wants(id) => spool.write(id, offset, data).map_err(|error| self.fail(error)),
            _ => Ok(()),
        }
    }

    fn write_encoded(&mut self, id: Id, offset: u64, encoded: &Encoded<'_>) -> Result<(), Trouble> {
        let end = offset.checked_add(encoded.length).ok_or(BEYOND)?;
        // Taken out, because what it expands is written while it is borrowed.
        let mut expander = self.expander.take().unwrap_or_else(Expander::new);
        let written = match expander.expand(encoded) {
            Ok(data) => self.write(id, offset, data),
            Err(Unexpanded::Damaged(what)) => Err(Trouble::Impossible(what)),
            Err(Unexpanded::Unreadable(scheme)) => {
                self.unreadable = Some(scheme);
                self.lose(id, Why::Compression, end)
            }
        };
        self.expander = Some(expander);
        written
    }

    fn copy(&mut self, id: Id, source: Id, offset: u64, length: u64, from: u64) -> Result<(), Trouble> {
        let end = offset.checked_add(length).ok_or(BEYOND)?;
        if from.checked_add(length).is_none_or(|end| end > self.size(source)) {
            return Err(Trouble::Impossible("the other file is shorter than what is taken from it"));
        }
        if self.shares.len() < MOST_SHARES {
            self.shares.insert((id, source));
        }
        // Makes this file the one that is written, and so seals the other if that was it.
        if self.draft_of(id).is_none() {
            return Ok(());
        }
        if self.spool.as_ref().is_some_and(|spool| spool.wants(source)) {
            return self.copy_spooled(id, source, offset, length, from);
        }
        if source == id {
            return self.lose(id, Why::Shared, end);
        }
        let known = match self.tree.bytes(source) {
            Some(Bytes::Known(known)) => Some((source, known.as_ref())),
            _ => None,
        };
        // Looked up again: the draft and the source's content lie in different places.
        if let Some((_, draft)) = &mut self.draft {
            draft.copy(offset, length, known, from);
        }
        Ok(())
    }

    /// Copies bytes that were kept, as if they had been written.
    fn copy_spooled(
        &mut self,
        id: Id,
        source: Id,
        offset: u64,
        length: u64,
        from: u64,
    ) -> Result<(), Trouble> {
        if let Some(Bytes::Unknown { .. }) = self.tree.bytes(source) {
            return self.lose(id, Why::Shared, offset.saturating_add(length));
        }
        let mut buffer = [0; PIECE];
        let mut done = 0;
        while done < length {
            let piece = usize::try_from(length - done).map_or(PIECE, |left| left.min(PIECE));
            if let Some(spool) = &mut self.spool {
                spool.read(source, from + done, &mut buffer[..piece]).map_err(|error| self.fail(error))?;
            }
            self.write(id, offset + done, &buffer[..piece])?;
            done += piece as u64;
        }
        Ok(())
    }

    fn fail(&mut self, error: io::Error) -> Trouble {
        self.failure = Some(error);
        Trouble::Spool
    }

    fn truncate(&mut self, id: Id, size: u64) -> Result<(), Trouble> {
        if size == self.size(id) && !matches!(self.tree.bytes(id), Some(Bytes::Drafted)) {
            return Ok(());
        }
        self.expect(id, size)?;
        if let Some(draft) = self.draft_of(id) {
            draft.truncate(size);
        }
        Ok(())
    }

    /// From here on the content of this file is not known, only that it reaches to `end`.
    fn lose(&mut self, id: Id, why: Why, end: u64) -> Result<(), Trouble> {
        let size = self.size(id).max(end);
        if let Some(draft) = self.draft_of(id) {
            draft.lose(why);
            draft.truncate(size);
        }
        Ok(())
    }

    /// Counts the bytes up to `end` before they are made: a hole costs no byte in the stream.
    fn expect(&mut self, id: Id, end: u64) -> Result<(), Trouble> {
        self.expanded = self.expanded.saturating_add(end.saturating_sub(self.size(id)));
        if self.expanded > self.reading.limits.bytes {
            return Err(Trouble::Limit("the files hold more bytes than are allowed"));
        }
        Ok(())
    }

    /// How many bytes the file has so far.
    fn size(&self, id: Id) -> u64 {
        match (&self.draft, self.tree.bytes(id)) {
            (Some((drafted, draft)), _) if *drafted == id => draft.size(),
            (_, Some(Bytes::Known(known))) => known.size,
            (_, Some(Bytes::Unknown { size, .. })) => *size,
            _ => 0,
        }
    }

    /// The draft of this file. `None` when it was finished before and only its size is known now.
    fn draft_of(&mut self, id: Id) -> Option<&mut Draft> {
        if self.draft.as_ref().is_none_or(|(drafted, _)| *drafted != id) {
            self.seal();
            let before = self.size(id);
            let bytes = self.tree.bytes_mut(id)?;
            let mut draft = Draft::new(&self.reading.hashing);
            match bytes {
                Bytes::Empty => {}
                // The kernel finishes one file before it begins the next.
                Bytes::Known(_) | Bytes::Drafted => {
                    draft.lose(Why::Order);
                    draft.truncate(before);
                }
                Bytes::Unknown { why, .. } => {
                    draft.lose(*why);
                    draft.truncate(before);
                }
            }
            *bytes = Bytes::Drafted;
            self.draft = Some((id, draft));
        }
        self.draft.as_mut().map(|(_, draft)| draft)
    }

    /// Ends the file that is being written.
    fn seal(&mut self) {
        if let Some((id, draft)) = self.draft.take()
            && let Some(bytes) = self.tree.bytes_mut(id)
        {
            *bytes = draft.seal();
        }
    }

    fn named(&mut self, path: &[u8]) -> Result<&mut super::tree::Inode, Trouble> {
        let id = self.tree.find(path)?;
        Ok(self.tree.inode_mut(id))
    }

    fn note(&mut self, command: &str, path: &[u8], what: &'static str) {
        // Several commands in a row are about the same path.
        if self.findings.last().is_some_and(|last| last.path == path) {
            return;
        }
        if self.findings.len() == KEPT_FINDINGS {
            self.more_findings += 1;
            return;
        }
        self.findings.push(Difference {
            class: Class::Hostile,
            path: path.to_vec(),
            expected: "a path inside the tree".to_owned(),
            found: format!("{command}: {what}"),
        });
    }
}

const BEYOND: Trouble = Trouble::Impossible("it reaches beyond what a file can hold");

fn path_of<'b>(command: &Command<'b>) -> &'b [u8] {
    match command {
        Command::Subvolume { .. } | Command::Snapshot | Command::End => b"",
        Command::Rename { to: path, .. }
        | Command::Make { path, .. }
        | Command::Link { path, .. }
        | Command::Unlink { path }
        | Command::RemoveDirectory { path }
        | Command::SetXattr { path, .. }
        | Command::RemoveXattr { path, .. }
        | Command::Write { path, .. }
        | Command::EncodedWrite { path, .. }
        | Command::Clone { path, .. }
        | Command::Truncate { path, .. }
        | Command::Mode { path, .. }
        | Command::Owner { path, .. }
        | Command::Times { path, .. }
        | Command::WithoutData { path, .. }
        | Command::Allocate { path, .. }
        | Command::Flags { path } => path,
    }
}
