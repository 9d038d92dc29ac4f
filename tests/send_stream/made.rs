//! Streams made by hand, sealed with right checksums.

use safe_upgrade::sources::send_stream::seal_commands;

/// An attribute: its number and its bytes.
pub(crate) type Attribute = (u16, Vec<u8>);

/// The attribute that nearly every command has.
pub(crate) fn path(path: &str) -> Attribute {
    (15, path.as_bytes().to_vec())
}

/// A stream of version 1.
pub(crate) struct Stream(Vec<(u16, Vec<u8>)>);

impl Stream {
    /// One that begins as a full one does.
    pub(crate) fn full() -> Self {
        Self(Vec::new()).begin()
    }

    pub(crate) fn begin(self) -> Self {
        self.command(1, &[path("snapshot"), (1, vec![7; 16]), (2, vec![0; 8])])
    }

    /// Adds a command by its number.
    pub(crate) fn command(mut self, number: u16, attributes: &[Attribute]) -> Self {
        let mut body = Vec::new();
        for (number, value) in attributes {
            body.extend_from_slice(&number.to_le_bytes());
            body.extend_from_slice(&u16::try_from(value.len()).unwrap().to_le_bytes());
            body.extend_from_slice(value);
        }
        self.0.push((number, body));
        self
    }

    /// A new inode; 3 is a file, 4 a directory.
    pub(crate) fn make(self, number: u16, name: &str) -> Self {
        self.command(number, &[path(name), (3, vec![0; 8])])
    }

    pub(crate) fn mode(self, name: &str, mode: u64) -> Self {
        self.command(18, &[path(name), (5, mode.to_le_bytes().to_vec())])
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.push((21, Vec::new()));
        seal_commands(1, self.0.iter().map(|(number, body)| (*number, &body[..])))
    }
}
