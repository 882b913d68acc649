//! The file of tracks: JSON, a header line, then a line a frame of the whole video, in order of pts.
//!
//! A segment finds its part by halving: nothing else of the file is read.

use std::fs::File;
use std::os::unix::fs::FileExt;

use frameloom_core::detection::TrackedBox;
use frameloom_core::fingerprint::hex;
use frameloom_core::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::look_file::LineReader;

/// Bytes read at a time.
const PIECE: usize = 1 << 16;

/// Longest line in bytes.
const LONGEST: usize = 16 << 20;

/// What stands in the first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TracksHeader {
    /// Detectors of the plan.
    pub(crate) detectors: u32,
}

/// A frame: what is in it by each detector of the plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TracksLine {
    /// Presentation time in source ticks.
    pub(crate) pts: i64,
    /// Boxes by detector.
    pub(crate) boxes: Vec<Vec<TrackedBox>>,
    /// The detectors that failed on it, where any did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) failed: Vec<u32>,
}

/// Sees that a file of tracks is the one that was accepted.
///
/// # Errors
/// Corrupt where it was changed since; of reading.
pub(crate) fn check_tracks(file: &File, sha256: &str) -> Result<()> {
    let failed = |e| Error::io("cannot read tracks", &e);
    let (mut hash, mut piece, mut at) = (Sha256::new(), vec![0; PIECE], 0);
    loop {
        let read = file.read_at(&mut piece, at).map_err(failed)?;
        if read == 0 {
            break;
        }
        hash.update(&piece[..read]);
        at += read as u64;
    }
    if hex(&hash.finalize()) == sha256 {
        return Ok(());
    }
    Err(Error::corrupt("the tracks were changed after they were accepted: run again with --fresh"))
}

/// Reads all lines, one after the other.
pub(crate) struct TracksReader(LineReader<File>);

impl TracksReader {
    /// Reads the header.
    ///
    /// # Errors
    /// Corrupt where it is no file of tracks.
    pub(crate) fn new(file: File) -> Result<Self> {
        let mut lines = LineReader::new(file);
        let header: Option<TracksHeader> = lines.next()?;
        header.ok_or_else(|| Error::corrupt("the file of tracks is empty"))?;
        Ok(Self(lines))
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// Corrupt.
    pub(crate) fn next(&mut self) -> Result<Option<TracksLine>> {
        self.0.next()
    }
}

/// Finds the boxes of frames by their pts.
pub(crate) struct Tracks {
    file: File,
    size: u64,
    /// Read ahead, from `at` of the file on.
    buffer: Vec<u8>,
    at: u64,
    /// The line read last.
    line: Option<TracksLine>,
}

impl Tracks {
    /// The tracks of a file.
    ///
    /// # Errors
    /// Of reading.
    pub(crate) fn new(file: File) -> Result<Self> {
        let size = file.metadata().map_err(|e| Error::io("cannot read tracks", &e))?.len();
        Ok(Self { file, size, buffer: Vec::new(), at: 0, line: None })
    }

    /// What is in the frame of this pts.
    ///
    /// # Errors
    /// Internal where the file does not tell of it: nothing may be hidden then that should be.
    pub(crate) fn at(&mut self, pts: i64) -> Result<&TracksLine> {
        if self.line.as_ref().is_none_or(|line| line.pts != pts) {
            // Frames come in order: mostly it is the next one.
            let next = self.line.is_some().then(|| self.next()).transpose()?.flatten();
            self.line = match next {
                Some(line) if line.pts == pts => Some(line),
                _ => self.find(pts)?,
            };
        }
        match &self.line {
            Some(line) => Ok(line),
            None => Err(Error::internal(format!("the tracks do not tell of the frame at {pts}"))),
        }
    }

    /// The line that begins at the buffer's start, where there is one.
    fn next(&mut self) -> Result<Option<TracksLine>> {
        let end = loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                break end;
            }
            let from = self.at + self.buffer.len() as u64;
            if from >= self.size || self.buffer.len() > LONGEST {
                return Ok(None);
            }
            let known = self.buffer.len();
            self.buffer.resize(known + PIECE, 0);
            let read = self.file.read_at(&mut self.buffer[known..], from);
            let read = read.map_err(|e| Error::io("cannot read tracks", &e))?;
            self.buffer.truncate(known + read);
            if read == 0 {
                return Ok(None);
            }
        };
        let line = serde_json::from_slice(&self.buffer[..end])
            .map_err(|e| Error::corrupt("the tracks hold a malformed line").with_source(e))?;
        self.buffer.drain(..=end);
        self.at += end as u64 + 1;
        Ok(Some(line))
    }

    /// Goes to the first line that begins at `at` or behind it.
    fn go_to(&mut self, at: u64) -> Result<()> {
        self.buffer.clear();
        // The byte before it tells whether a line begins here.
        self.at = at.saturating_sub(1);
        if at == 0 {
            return Ok(());
        }
        loop {
            let mut piece = vec![0; 4096];
            let read = self.file.read_at(&mut piece, self.at);
            let read = read.map_err(|e| Error::io("cannot read tracks", &e))?;
            match piece[..read].iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.at += end as u64 + 1;
                    return Ok(());
                }
                None if read == 0 => return Ok(()),
                None => self.at += read as u64,
            }
        }
    }

    /// The line of this pts.
    fn find(&mut self, pts: i64) -> Result<Option<TracksLine>> {
        let mut header = [0; 1 << 10];
        let read = self.file.read_at(&mut header, 0);
        let read = read.map_err(|e| Error::io("cannot read tracks", &e))?;
        let first = header[..read].iter().position(|byte| *byte == b'\n');
        let first = first.ok_or_else(|| Error::corrupt("the file of tracks has no header"))?;
        // The line wanted begins at `low` or behind it, and before `high`.
        let (mut low, mut high) = (first as u64 + 1, self.size);
        while low < high {
            let middle = low + (high - low) / 2;
            self.go_to(middle)?;
            let begins = self.at;
            match self.next()? {
                Some(line) if begins < high && line.pts == pts => return Ok(Some(line)),
                Some(line) if begins < high && line.pts < pts => low = self.at,
                _ => high = middle,
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::LookWriter;

    fn file(pts: &[i64]) -> File {
        written(pts).0
    }

    fn written(pts: &[i64]) -> (File, String) {
        let file = tempfile::tempfile().unwrap();
        let copy = file.try_clone().unwrap();
        let mut writer = LookWriter::new(copy, &TracksHeader { detectors: 1 }).unwrap();
        for pts in pts {
            let boxes = vec![Vec::new(); usize::try_from(pts.rem_euclid(50)).unwrap()];
            writer.line(&TracksLine { pts: *pts, boxes, failed: Vec::new() }).unwrap();
        }
        let sha256 = writer.finish().unwrap().sha256;
        (file, sha256)
    }

    #[test]
    fn tracks_that_were_changed_are_refused() {
        let pts: Vec<i64> = (0..5000).collect();
        let (file, sha256) = written(&pts);
        check_tracks(&file, &sha256).unwrap();
        let at = file.metadata().unwrap().len() - 9;
        file.write_all_at(b"7", at).unwrap();
        let error = check_tracks(&file, &sha256).unwrap_err();
        assert!(error.message().contains("changed after"), "{error}");
    }

    #[test]
    fn every_line_is_found_in_any_order() {
        let pts: Vec<i64> = (-20..3000).map(|i| i * 40 + i % 3).collect();
        let file = file(&pts);
        let mut tracks = Tracks::new(file.try_clone().unwrap()).unwrap();
        for wanted in pts.iter().chain(pts.iter().rev()).chain([pts[700], pts[700], pts[3]].iter())
        {
            let line = tracks.at(*wanted).unwrap();
            assert_eq!(line.pts, *wanted);
            assert_eq!(line.boxes.len(), usize::try_from(wanted.rem_euclid(50)).unwrap());
        }
        for missing in [i64::MIN, -801, 1, 39, i64::MAX] {
            assert!(tracks.at(missing).is_err(), "{missing}");
        }
        assert_eq!(tracks.at(pts[5]).unwrap().pts, pts[5]);
    }

    #[test]
    fn a_file_of_no_or_of_one_frame_is_read() {
        assert!(Tracks::new(file(&[])).unwrap().at(0).is_err());
        assert_eq!(Tracks::new(file(&[7])).unwrap().at(7).unwrap().pts, 7);
    }
}
