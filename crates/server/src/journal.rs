//! A job's journal: one decision a line, each with a checksum, on the disk before it counts.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use frameloom_core::wire::Decision;
use frameloom_core::{Error, Result};
use sha2::{Digest, Sha256};

/// Hexadecimal digits of a line's checksum.
const CHECK: usize = 8;

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
pub fn read(text: &[u8]) -> (Vec<Decision>, usize) {
    let (mut decisions, mut whole) = (Vec::new(), 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let Some(decision) = parse(line) else { break };
        decisions.push(decision);
        whole += line.len();
    }
    (decisions, whole)
}

impl Journal {
    /// Opens the journal at `path`, or begins one, and reads what was decided.
    ///
    /// # Errors
    /// Of the file system.
    pub fn open(path: &Path) -> Result<(Self, Vec<Decision>)> {
        let failed = |e: std::io::Error| Error::io(format!("journal '{}'", path.display()), &e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed)?;
        let (decisions, whole) = read(&text);
        let whole = whole as u64;
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

    #[test]
    fn what_was_decided_survives_and_a_torn_line_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, before) = Journal::open(&path).unwrap();
        assert!(before.is_empty());
        journal.append(&[sent(1), sent(2)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            let lines = whole[..cut].iter().filter(|b| **b == b'\n').count();
            assert_eq!(read(&whole[..cut]).0.len(), lines);
        }
        std::fs::write(&path, [&whole[..], b"0123 {torn"].concat()).unwrap();
        let (mut journal, decisions) = Journal::open(&path).unwrap();
        assert_eq!(decisions, [sent(1), sent(2)]);
        journal.append(&[sent(3)]).unwrap();
        assert_eq!(Journal::open(&path).unwrap().1, [sent(1), sent(2), sent(3)]);
    }

    #[test]
    fn a_changed_byte_ends_what_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        Journal::open(&path).unwrap().0.append(&[sent(1), sent(2)]).unwrap();
        let mut text = std::fs::read(&path).unwrap();
        let second = text.iter().position(|b| *b == b'\n').unwrap() + 20;
        text[second] ^= 1;
        assert_eq!(read(&text).0, [sent(1)]);
    }
}
