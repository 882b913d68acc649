//! The file of what was found in a segment: JSON, a header line, a line a frame in order of pts, and the counts.

use std::io::{BufRead, BufReader, Read, Write};

use frameloom_core::fingerprint::hex;
use frameloom_core::metrics::FrameCounts;
use frameloom_core::slot::WrittenFile;
use frameloom_core::time::TimeBase;
use frameloom_core::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Look;

/// Longest line in bytes: a reader trusts nothing.
const LONGEST: u64 = 16 << 20;

/// What all lines have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LookHeader {
    /// The segment's number.
    pub(crate) segment: u32,
    /// Seconds a tick of its times.
    pub(crate) time_base: TimeBase,
    /// Names of the steps that lines time.
    pub(crate) steps: Vec<String>,
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LookLine {
    /// Presentation time in source ticks.
    pub(crate) pts: i64,
    /// Milliseconds, one a step of the header.
    pub(crate) ms: Vec<f32>,
    /// What each detector of the plan says.
    pub(crate) looks: Vec<Look>,
}

/// Lines of JSON with their size and hash.
pub(crate) struct LookWriter<W: Write> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> LookWriter<W> {
    /// Begins a file with its header.
    ///
    /// # Errors
    /// Of writing.
    pub(crate) fn new(inner: W, header: &impl Serialize) -> Result<Self> {
        let mut writer = Self { inner, hash: Sha256::new(), size: 0 };
        writer.line(header)?;
        Ok(writer)
    }

    /// Appends a line.
    ///
    /// # Errors
    /// Of writing.
    pub(crate) fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(value)
            .map_err(|e| Error::internal("cannot write JSON").with_source(e))?;
        text.push(b'\n');
        self.hash.update(&text);
        self.size += text.len() as u64;
        self.inner.write_all(&text).map_err(|e| Error::io("cannot write what was found", &e))
    }

    /// Ends the file; answers its size and hash.
    ///
    /// # Errors
    /// Of writing.
    pub(crate) fn finish(mut self) -> Result<WrittenFile> {
        self.inner.flush().map_err(|e| Error::io("cannot write what was found", &e))?;
        Ok(WrittenFile { size: self.size, sha256: hex(&self.hash.finalize()) })
    }
}

/// Reads a file line by line, and hashes it on the way.
pub(crate) struct LineReader<R: Read> {
    inner: BufReader<R>,
    hash: Sha256,
    number: u64,
}

impl<R: Read> LineReader<R> {
    /// A reader at the file's start.
    pub(crate) fn new(inner: R) -> Self {
        let inner = BufReader::with_capacity(1 << 18, inner);
        Self { inner, hash: Sha256::new(), number: 0 }
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// Corrupt with the line's number where it is not what it should be.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut text = Vec::new();
        let read = (&mut self.inner).take(LONGEST).read_until(b'\n', &mut text);
        read.map_err(|e| Error::io("cannot read what was found", &e))?;
        if text.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        self.hash.update(&text);
        if text.last() != Some(&b'\n') {
            return Err(Error::corrupt(format!("line {} is cut off or too long", self.number)));
        }
        serde_json::from_slice(&text).map(Some).map_err(|e| {
            Error::corrupt(format!("line {} is not what it should be", self.number)).with_source(e)
        })
    }

    /// The hash of all that was read, in hexadecimal digits.
    pub(crate) fn sha256(self) -> String {
        hex(&self.hash.finalize())
    }
}

/// Either kind of line behind the header.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum LookRecord {
    /// A frame.
    Frame(LookLine),
    /// The counts: nothing follows.
    End {
        /// Frames counted.
        end: FrameCounts,
    },
}
