//! Any bytes as a journal: damage or lines, never a panic; and what is understood replays or is refused.
//!
//! Run with `cargo fuzz run -s none journal_decode` (stable toolchain).

#![no_main]

use std::hint::black_box;

use libfuzzer_sys::fuzz_target;
use safe_upgrade::journal;
use safe_upgrade::machine::State;

fuzz_target!(|bytes: &[u8]| {
    // As found on a disk. Nearly all of these fail at the first digest.
    decode(bytes);
    // As made by somebody who knows how to compute digests: each line is a text.
    decode(&journal::seal_lines(bytes.split(|byte| *byte == b'\n')));
});

fn decode(bytes: &[u8]) {
    let Ok(reading) = journal::read(bytes) else { return };
    assert!(reading.valid_bytes + reading.torn_bytes <= bytes.len());
    for (index, frame) in reading.frames.iter().enumerate() {
        assert_eq!(frame.seq, index as u64);
    }
    black_box(reading.frames.iter().try_fold(State::New, |state, frame| state.apply(&frame.entry)).is_ok());
}
