//! Reading a detections file that a person or another tool may have edited: boxes without a score, lines in any order,
//! fields that nobody knows.

use std::io::{BufRead, Read};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::detection::{BoxSource, DETECTIONS_VERSION, DetectionsHeader, Rect};
use crate::fingerprint::hex;
use crate::track::MAX_TOLD;
use crate::{Error, Result};

/// Longest line of the file, in bytes.
const LONGEST: u64 = 16 << 20;

/// What some editors put before the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A frame.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct EditedLine {
    /// Presentation time in ticks of the header's time base.
    pub pts: i64,
    /// What is there.
    pub boxes: Vec<EditedBox>,
}

/// A box. All but its place may be left out.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct EditedBox {
    /// Where, in pixels of the source as displayed.
    #[serde(flatten)]
    pub rect: Rect,
    /// The detector's score, 0..=1; 1 where a person drew it.
    #[serde(default = "sure")]
    pub score: f32,
    /// Its class.
    #[serde(default)]
    pub class: String,
    /// Its track, from 1, where it has one.
    #[serde(default)]
    pub track: Option<u32>,
    /// How it came to be.
    #[serde(default)]
    pub source: Option<BoxSource>,
    /// What was done there, where that is told.
    #[serde(default)]
    pub action: Option<String>,
}

fn sure() -> f32 {
    1.0
}

/// Reads a file line by line, and hashes it on the way.
pub struct DetectionsReader<R> {
    inner: R,
    name: String,
    hash: Sha256,
    number: u64,
    header: Option<DetectionsHeader>,
    /// A first line that is no header.
    first: Option<EditedLine>,
}

impl<R: BufRead> DetectionsReader<R> {
    /// Reads the header. Without one the file is taken only where `headless` says so.
    ///
    /// # Errors
    /// Invalid, with the file's name and the line's number, where it is no detections file or one of another version;
    /// of reading.
    pub fn new(inner: R, name: &str, headless: bool) -> Result<Self> {
        let name = name.to_owned();
        let mut reader =
            Self { inner, name, hash: Sha256::new(), number: 0, header: None, first: None };
        let Some(text) = reader.text()? else {
            return Err(Error::invalid(format!("detections file '{}' is empty", reader.name)));
        };
        match serde_json::from_slice::<DetectionsHeader>(&text) {
            Ok(header) if header.frameloom_detections != DETECTIONS_VERSION => {
                return Err(reader.wrong(format!(
                    "version {} of detections files; this is for version {DETECTIONS_VERSION}",
                    header.frameloom_detections
                )));
            }
            Ok(header) if header.size.contains(&0) => {
                return Err(reader.wrong(format!("size {:?} of a picture", header.size)));
            }
            Ok(header) => reader.header = Some(header),
            Err(_) if headless => reader.first = Some(reader.line(&text)?),
            Err(e) => {
                return Err(reader.wrong(format!(
                    "it is not the header of a detections file ({e}); with trust one without is taken, too"
                )));
            }
        }
        Ok(reader)
    }

    /// What stands in the first line, where that is a header.
    pub fn header(&self) -> Option<&DetectionsHeader> {
        self.header.as_ref()
    }

    /// The next frame that the file tells of; `None` at the end.
    ///
    /// # Errors
    /// Invalid, with the line's number, where it is malformed or a box has no size; of reading.
    pub fn next_line(&mut self) -> Result<Option<EditedLine>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let Some(text) = self.text()? else { return Ok(None) };
        self.line(&text).map(Some)
    }

    /// An error about the line read last.
    pub fn wrong(&self, why: impl std::fmt::Display) -> Error {
        let (name, number) = (&self.name, self.number);
        Error::invalid(format!("detections file '{name}', line {number}: {why}"))
    }

    /// The SHA-256 of what was read, hexadecimal.
    pub fn sha256(self) -> String {
        hex(&self.hash.finalize())
    }

    /// The next line that is not blank.
    fn text(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let mut text = Vec::new();
            (&mut self.inner)
                .take(LONGEST)
                .read_until(b'\n', &mut text)
                .map_err(|e| Error::io(format!("cannot read '{}'", self.name), &e))?;
            if text.is_empty() {
                return Ok(None);
            }
            self.hash.update(&text);
            self.number += 1;
            if self.number == 1 && text.starts_with(BYTE_ORDER_MARK) {
                text.drain(..BYTE_ORDER_MARK.len());
            }
            if !text.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(text));
            }
        }
    }

    fn line(&self, text: &[u8]) -> Result<EditedLine> {
        let mut line: EditedLine = serde_json::from_slice(text).map_err(|e| self.wrong(e))?;
        if line.boxes.len() > MAX_TOLD {
            let count = line.boxes.len();
            return Err(self.wrong(format!("{count} boxes in a frame; {MAX_TOLD} are allowed")));
        }
        for given in &mut line.boxes {
            if !given.rect.is_sound() {
                return Err(self.wrong("a box has no size, or a number that is none"));
            }
            if !given.score.is_finite() {
                return Err(self.wrong("a score is no number"));
            }
            given.rect = given.rect.bounded();
        }
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Fingerprint;
    use crate::time::TimeBase;

    fn header(size: [u32; 2]) -> String {
        let source = Fingerprint { size: 1, modified_ns: 2, sha256: "ab".into(), whole: false };
        let time_base = TimeBase::new(1, 25).unwrap();
        let header = DetectionsHeader { frameloom_detections: 1, source, time_base, size };
        serde_json::to_string(&header).unwrap() + "\n"
    }

    fn read(text: &str, headless: bool) -> Result<Vec<EditedLine>> {
        let mut reader = DetectionsReader::new(text.as_bytes(), "x.jsonl", headless)?;
        let mut lines = Vec::new();
        while let Some(line) = reader.next_line()? {
            lines.push(line);
        }
        Ok(lines)
    }

    #[test]
    fn a_place_is_all_that_a_box_needs() {
        let line =
            "{\"pts\":2,\"boxes\":[{\"x\":1,\"y\":2,\"w\":3,\"h\":4}],\"note\":\"by hand\"}\r\n";
        for text in [header([64, 48]) + line, format!("\u{feff}{}\n\n{line}", header([64, 48]))] {
            let lines = read(&text, false).unwrap();
            assert_eq!(lines.len(), 1);
            let given = &lines[0].boxes[0];
            assert_eq!(given.rect, Rect { x: 1.0, y: 2.0, w: 3.0, h: 4.0 });
            assert_eq!((given.score, given.class.as_str(), given.track), (1.0, "", None));
        }
        assert_eq!(read(line, true).unwrap().len(), 1);
        assert!(read(line, false).unwrap_err().message().contains("trust"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let many = format!(
            "{{\"pts\":0,\"boxes\":[{}]}}",
            vec!["{\"x\":0,\"y\":0,\"w\":1,\"h\":1}"; MAX_TOLD + 1].join(",")
        );
        for bad in [
            "{\"pts\":0}",
            "{\"pts\":0,\"boxes\":[{\"x\":0,\"y\":0,\"w\":0,\"h\":4}]}",
            "{\"pts\":0,\"boxes\":[{\"x\":0,\"y\":0,\"w\":1e99,\"h\":4}]}",
            "pts",
            &many,
        ] {
            let error = read(&(header([64, 48]) + bad), false).unwrap_err();
            assert!(error.message().contains("'x.jsonl', line 2"), "{error}");
        }
        assert!(read("", true).unwrap_err().message().contains("is empty"));
        assert!(read(&header([0, 48]), true).unwrap_err().message().contains("size [0, 48]"));
    }

    #[test]
    fn boxes_end_somewhere() {
        let line = "{\"pts\":0,\"boxes\":[{\"x\":-3e38,\"y\":5,\"w\":3.4e38,\"h\":9}]}";
        let lines = read(line, true).unwrap();
        let rect = lines[0].boxes[0].rect;
        assert!(rect.is_sound() && rect.x < -1e5 && rect.x + rect.w > 1e5, "{rect:?}");
        // Where sums of numbers still mean something.
        assert!(rect.x >= -2e6 && rect.w <= 4e6, "{rect:?}");
    }
}
