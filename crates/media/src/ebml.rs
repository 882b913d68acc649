//! Whether a Matroska file is whole: its segment says how long it is, which FFmpeg passes over.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use frameloom_core::{Error, Result};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// What the whole file begins with.
const HEADER: u32 = 0x1a45_dfa3;

/// What holds all but that.
const SEGMENT: u32 = 0x1853_8067;

/// Longest name and longest size of an element, in bytes.
const NAME: usize = 4;
const SIZE: usize = 8;

/// Bytes of a file system's block at most.
const LARGEST_BLOCK: usize = 64 * 1024;

/// Elements that are looked at before the segment at most: some put empty ones there.
const BEFORE: usize = 16;

/// Where a Matroska file's segment ends by its own word, and where the file does; none where it is no such file, or does not
/// tell how long it is, as those that were written on the fly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    told: u64,
    there: u64,
}

impl Ends {
    /// Of a file.
    ///
    /// # Errors
    /// Of reading it.
    pub(crate) fn of(file: &File) -> Result<Option<Self>> {
        let failed = |e| Error::io("cannot read the source", &e);
        let there = file.metadata().map_err(failed)?.len();
        let mut at = 0u64;
        for number in 0..BEFORE {
            let mut head = [0; NAME + SIZE];
            let read = file.read_at(&mut head, at).map_err(failed)?;
            let Some((name, size, length)) = element(&head[..read]) else { return Ok(None) };
            if number == 0 && name != HEADER {
                return Ok(None);
            }
            let Some(size) = size else { return Ok(None) };
            let told = at.saturating_add(length).saturating_add(size);
            if name == SEGMENT {
                let there = if told < there && is_hole(file, told) { told } else { there };
                return Ok(Some(Self { told, there }));
            }
            at = told;
        }
        Ok(None)
    }

    /// Where the file ends, without a hole behind what it holds.
    pub(crate) fn there(self) -> u64 {
        self.there
    }

    /// Whether places in the file are where its own lists say.
    pub(crate) fn agree(self) -> bool {
        self.told == self.there
    }

    /// Says how much is missing at the end, where something is.
    pub(crate) fn cut_off(self) -> Option<String> {
        let Self { told, there } = self;
        (told > there)
            .then(|| format!("the source is cut off: {there} of its {told} bytes are there"))
    }
}

/// Whether nothing was ever written to the file from here on but the rest of a block, where the file system can tell.
fn is_hole(file: &File, from: u64) -> bool {
    let find = |place| rustix::fs::seek(file, place);
    let Ok(hole) = find(SeekFrom::Hole(from)) else { return false };
    let Ok(length) = usize::try_from(hole.saturating_sub(from)) else { return false };
    let mut rest = vec![0; length.min(LARGEST_BLOCK)];
    length <= LARGEST_BLOCK
        && find(SeekFrom::Data(hole)) == Err(Errno::NXIO)
        && file.read_exact_at(&mut rest, from).is_ok()
        && rest.iter().all(|byte| *byte == 0)
}

/// The name of the element that bytes begin with, the size of its content where that is known, and the bytes before it.
fn element(bytes: &[u8]) -> Option<(u32, Option<u64>, u64)> {
    let name_length = bytes.first()?.leading_zeros() as usize + 1;
    if name_length > NAME {
        return None;
    }
    let (name, rest) = bytes.split_at_checked(name_length)?;
    let name = name.iter().fold(0, |name, byte| name << 8 | u32::from(*byte));
    let size_length = rest.first()?.leading_zeros() as usize + 1;
    if size_length > SIZE {
        return None;
    }
    let size = rest.get(..size_length)?;
    let size = size.iter().fold(0, |size, byte| size << 8 | u64::from(*byte));
    // The bit that tells the length is none of the number, and nothing but ones stands for a size that nobody knew.
    let most = (1u64 << (7 * size_length)) - 1;
    let size = size & most;
    Some((name, (size != most).then_some(size), (name_length + size_length) as u64))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn told(parts: &[&[u8]]) -> Option<String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&parts.concat()).unwrap();
        Ends::of(&file).unwrap().and_then(Ends::cut_off)
    }

    #[test]
    fn a_file_that_is_shorter_than_it_says_is_cut_off() {
        let header = [0x1a, 0x45, 0xdf, 0xa3, 0x83, 1, 2, 3];
        let void = [0xec, 0x40, 0x01, 9];
        let segment = [0x18, 0x53, 0x80, 0x67, 0x01, 0, 0, 0, 0, 0, 0, 5];
        assert_eq!(told(&[&header, &segment, b"12345"]), None);
        assert_eq!(told(&[&header, &void, &segment, b"12345 and more"]), None);
        let mut sparse = tempfile::tempfile().unwrap();
        sparse.write_all(&[&header[..], &segment, b"12345"].concat()).unwrap();
        sparse.set_len(1 << 30).unwrap();
        assert!(Ends::of(&sparse).unwrap().unwrap().agree());
        sparse.write_all_at(&[1], 1 << 29).unwrap();
        assert!(!Ends::of(&sparse).unwrap().unwrap().agree());
        let text = "the source is cut off: 24 of its 25 bytes are there";
        assert_eq!(told(&[&header, &segment, b"1234"]).as_deref(), Some(text));
        let text = "the source is cut off: 25 of its 29 bytes are there";
        assert_eq!(told(&[&header, &void, &segment, b"1"]).as_deref(), Some(text));
    }

    #[test]
    fn what_tells_no_size_or_is_none_is_not_said_to_be_cut_off() {
        let header = [0x1a, 0x45, 0xdf, 0xa3, 0x80];
        let live = [0x18, 0x53, 0x80, 0x67, 0x01, 255, 255, 255, 255, 255, 255, 255];
        assert_eq!(told(&[&header, &live, b"1"]), None);
        assert_eq!(told(&[&header, &[0x18, 0x53, 0x80, 0x67, 0xff], b"1"]), None);
        for nonsense in [&b""[..], b"RIFF and so on", &[0; 40], &header, &[0x1a, 0x45]] {
            assert_eq!(told(&[nonsense]), None);
        }
    }
}
