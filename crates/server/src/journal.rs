//! A job's journal: one decision a line, each with a checksum, on the disk before it counts.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;

use frameloom_core::wire::Decision;
use frameloom_core::{Error, Result};
use sha2::{Digest, Sha256};

/// Hexadecimal digits of a line's checksum.
const CHECK: usize = 8;

/// Longest line that is read, in bytes: a report has at most a MiB.
const LONGEST: u64 = 8 << 20;

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    file: File,
    /// Length of what is decided.
    whole: u64,
}

fn checksum(text: &[u8]) -> String {
    Sha256::digest(text).iter().take(CHECK / 2).map(|byte| format!("{byte:02x}")).collect()
}

/// The decision of a line, if the line is whole.
fn parse(line: &[u8]) -> Option<Decision> {
    let text = line.strip_suffix(b"\n")?;
    let (check, json) = text.split_at_checked(CHECK)?;
    let json = json.strip_prefix(b" ")?;
    (checksum(json).as_bytes() == check).then(|| serde_json::from_slice(json).ok()).flatten()
}

/// All decisions of a journal's text, and the length of the part that is whole. What follows a line
/// that was torn by a crash was never decided.
///
/// # Errors
/// Of reading.
pub fn read_from(text: impl Read) -> std::io::Result<(Vec<Decision>, u64)> {
    let mut text = BufReader::with_capacity(1 << 16, text);
    let (mut decisions, mut whole, mut line) = (Vec::new(), 0, Vec::new());
    loop {
        line.clear();
        let length = (&mut text).take(LONGEST).read_until(b'\n', &mut line)?;
        let Some(decision) = parse(&line) else { break };
        decisions.push(decision);
        whole += length as u64;
    }
    Ok((decisions, whole))
}

impl Journal {
    /// The journal in a file that is open for reading and writing, and what was decided.
    ///
    /// # Errors
    /// Of the file system.
    pub fn of(file: File) -> Result<(Self, Vec<Decision>)> {
        let failed = |e: std::io::Error| Error::io("cannot read a journal", &e);
        let (decisions, whole) = read_from(&file).map_err(failed)?;
        file.set_len(whole).map_err(failed)?;
        Ok((Self { file, whole }, decisions))
    }

    /// Appends decisions; they are on the disk when this returns. Where it fails none of them is
    /// decided, and it may be tried again.
    ///
    /// # Errors
    /// Exhausted where the disk is full; of the file system.
    pub fn append(&mut self, decisions: &[Decision]) -> Result<()> {
        let mut text = Vec::new();
        for decision in decisions {
            let json = serde_json::to_vec(decision)
                .map_err(|e| Error::internal("cannot write JSON").with_source(e))?;
            text.extend(checksum(&json).bytes());
            text.push(b' ');
            text.extend(json);
            text.push(b'\n');
        }
        let written =
            self.file.write_all_at(&text, self.whole).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.whole += text.len() as u64;
                Ok(())
            }
            Err(e) => {
                // Half a line would hide what is decided after it. Making a file shorter needs no room.
                let error = Error::io("cannot write the journal", &e);
                Err(match self.file.set_len(self.whole) {
                    Ok(()) => error,
                    Err(cut) => error.with_source(cut),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frameloom_core::id::AttemptId;
    use frameloom_core::wire::Task;

    fn sent(k: u32) -> Decision {
        Decision::Sent { task: Task::Segment(k), attempt: AttemptId::from_bits(u128::from(k)) }
    }

    fn open(path: &std::path::Path) -> (Journal, Vec<Decision>) {
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        Journal::of(file.unwrap()).unwrap()
    }

    fn read(text: &[u8]) -> Vec<Decision> {
        read_from(text).unwrap().0
    }

    #[test]
    fn a_line_that_never_ends_is_not_read_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        open(&path).0.append(&[sent(1)]).unwrap();
        let whole = std::fs::metadata(&path).unwrap().len();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        assert_eq!(open(&path).1, [sent(1)]);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), whole);
    }

    #[test]
    fn what_was_decided_survives_and_a_torn_line_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, before) = open(&path);
        assert!(before.is_empty());
        journal.append(&[sent(1), sent(2)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            let lines = whole[..cut].iter().filter(|b| **b == b'\n').count();
            assert_eq!(read(&whole[..cut]).len(), lines);
        }
        std::fs::write(&path, [&whole[..], b"0123 {torn"].concat()).unwrap();
        let (mut journal, decisions) = open(&path);
        assert_eq!(decisions, [sent(1), sent(2)]);
        journal.append(&[sent(3)]).unwrap();
        assert_eq!(open(&path).1, [sent(1), sent(2), sent(3)]);
    }

    #[test]
    fn a_changed_byte_ends_what_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        open(&path).0.append(&[sent(1), sent(2)]).unwrap();
        let mut text = std::fs::read(&path).unwrap();
        let second = text.iter().position(|b| *b == b'\n').unwrap() + 20;
        text[second] ^= 1;
        assert_eq!(read(&text), [sent(1)]);
    }
}
