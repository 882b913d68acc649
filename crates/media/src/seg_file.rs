//! The segment file: encoded packets with exact times, and what is known of each frame.
//!
//! ```text
//! "FLSEGMT1"  then records: tag (1 byte), length (u32, little endian), content
//!   'H'  header, JSON                    first
//!   'P'  pts i64, duration i64, flags u32, then the packet's bytes; in coding order
//!   'N'  what filters found in the frame that follows, JSON; where they found anything
//!   'F'  pts i64, then an f32 a step: milliseconds   one a frame, in order of pts
//!   'C'  counts, JSON                    last
//! ```
//! Times are source ticks. There is no decoding time: the joiner makes it for the whole track.
//! A reader trusts nothing: sizes are capped, order is checked, and the joiner compares the hash.

use std::io::{Read, Write};

use frameloom_core::fingerprint::hex;
use frameloom_core::metrics::FrameCounts;
use frameloom_core::slot::WrittenFile;
use frameloom_core::time::TimeBase;
use frameloom_core::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::encode::StreamParameters;
use crate::ff::Packet;
use crate::follow::Noted;

const MAGIC: &[u8; 8] = b"FLSEGMT1";
/// Largest header and counts, in bytes.
const MOST_JSON: u32 = 1 << 20;
/// Largest packet, in bytes.
const MOST_PACKET: u32 = 1 << 30;
/// Most steps of a pipeline.
const MOST_STEPS: u32 = 1 << 10;

/// What all packets of a segment have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The segment's number.
    pub(crate) segment: u32,
    /// Seconds a tick of its times.
    pub(crate) time_base: TimeBase,
    /// The encoder's description of its stream.
    pub(crate) parameters: StreamParameters,
    /// Names of the steps that frame records time.
    pub(crate) steps: Vec<String>,
}

/// What is known of one frame.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FrameRecord {
    /// Presentation time in source ticks.
    pub(crate) pts: i64,
    /// Milliseconds, one a step of the header.
    pub(crate) ms: Vec<f32>,
    /// What filters found in it.
    pub(crate) noted: Vec<Noted>,
}

/// A packet as the file holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredPacket {
    /// Presentation time in source ticks.
    pub(crate) pts: i64,
    /// Duration in source ticks, 0 where the encoder gave none.
    pub(crate) duration: i64,
    /// FFmpeg's packet flags.
    pub(crate) flags: u32,
    /// Its bytes.
    pub(crate) data: Vec<u8>,
}

fn failed(e: &std::io::Error) -> Error {
    Error::io("cannot write the segment", e)
}

/// Writes a segment file and hashes it on the way.
pub(crate) struct Writer<W: Write> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a file with its header.
    ///
    /// # Errors
    /// Of writing.
    pub(crate) fn new(inner: W, header: &Header) -> Result<Self> {
        let mut writer = Self { inner, hash: Sha256::new(), size: 0 };
        writer.put(MAGIC)?;
        writer.json(b'H', header)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        self.inner.write_all(bytes).map_err(|e| failed(&e))
    }

    fn record(&mut self, tag: u8, parts: &[&[u8]]) -> Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let length = u32::try_from(length)
            .map_err(|_| Error::internal("a record of the segment file exceeds 4 GiB"))?;
        self.put(&[tag])?;
        self.put(&length.to_le_bytes())?;
        parts.iter().try_for_each(|part| self.put(part))
    }

    fn json<T: Serialize>(&mut self, tag: u8, value: &T) -> Result<()> {
        let text = serde_json::to_vec(value)
            .map_err(|e| Error::internal("cannot write JSON").with_source(e))?;
        self.record(tag, &[&text])
    }

    /// Appends a packet; packets come in coding order.
    ///
    /// # Errors
    /// Internal where it has no pts; of writing.
    pub(crate) fn packet(&mut self, packet: &Packet) -> Result<()> {
        let pts = packet.pts().ok_or_else(|| Error::internal("the encoder gave no pts"))?;
        let raw = packet.raw();
        let flags = raw.flags.unsigned_abs();
        let head = [&pts.to_le_bytes()[..], &raw.duration.to_le_bytes(), &flags.to_le_bytes()];
        self.record(b'P', &[&head.concat(), packet.data()])
    }

    /// Ends the file; answers its size and hash.
    ///
    /// # Errors
    /// Of writing.
    pub(crate) fn finish(
        mut self,
        frames: &[FrameRecord],
        counts: FrameCounts,
    ) -> Result<WrittenFile> {
        let mut bytes = Vec::new();
        for frame in frames {
            if !frame.noted.is_empty() {
                self.json(b'N', &frame.noted)?;
            }
            bytes.clear();
            bytes.extend(frame.pts.to_le_bytes());
            bytes.extend(frame.ms.iter().flat_map(|ms| ms.to_le_bytes()));
            self.record(b'F', &[&bytes])?;
        }
        self.json(b'C', &counts)?;
        self.inner.flush().map_err(|e| failed(&e))?;
        Ok(WrittenFile { size: self.size, sha256: hex(&self.hash.finalize()) })
    }
}

/// What a segment file holds, record by record.
#[derive(Debug, PartialEq)]
pub(crate) enum Record {
    /// The next packet in coding order.
    Packet(StoredPacket),
    /// The next frame in order of pts.
    Frame(FrameRecord),
    /// The counts: nothing follows.
    End(FrameCounts),
}

/// Reads a segment file, and hashes it on the way.
pub(crate) struct Reader<R: Read> {
    inner: R,
    hash: Sha256,
    position: u64,
    header: Header,
    /// What was noted of the next frame.
    noted: Vec<Noted>,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// Corrupt with the byte position where it is no segment file.
    pub(crate) fn new(inner: R) -> Result<Self> {
        let time_base = TimeBase::MICROS;
        let parameters = StreamParameters::default();
        let header = Header { segment: 0, time_base, parameters, steps: Vec::new() };
        let mut reader =
            Self { inner, hash: Sha256::new(), position: 0, header, noted: Vec::new() };
        if reader.take::<8>()? != *MAGIC {
            return Err(reader.corrupt("is no segment file"));
        }
        let (tag, length) = reader.head()?;
        if tag != b'H' {
            return Err(reader.corrupt("has no header"));
        }
        reader.header = reader.json(length)?;
        Ok(reader)
    }

    /// The header.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// The next record; after [`Record::End`] the file must end.
    ///
    /// # Errors
    /// Corrupt with the byte position.
    pub(crate) fn next(&mut self) -> Result<Record> {
        let (mut tag, mut length) = self.head()?;
        if tag == b'N' {
            self.noted = self.json(length)?;
            (tag, length) = self.head()?;
            if tag != b'F' {
                return Err(self.corrupt("has a note with no frame"));
            }
        }
        match tag {
            b'P' if (20..=MOST_PACKET).contains(&length) => {
                let pts = i64::from_le_bytes(self.take()?);
                let duration = i64::from_le_bytes(self.take()?);
                let flags = u32::from_le_bytes(self.take()?);
                let data = self.bytes(length - 20)?;
                Ok(Record::Packet(StoredPacket { pts, duration, flags, data }))
            }
            b'F' if length >= 8 && length % 4 == 0 && (length - 8) / 4 <= MOST_STEPS => {
                let pts = i64::from_le_bytes(self.take()?);
                let bytes = self.bytes(length - 8)?;
                let ms = bytes
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect::<Vec<f32>>();
                if ms.len() != self.header.steps.len() {
                    return Err(self.corrupt("has a frame with another number of steps"));
                }
                let noted = std::mem::take(&mut self.noted);
                Ok(Record::Frame(FrameRecord { pts, ms, noted }))
            }
            b'C' => {
                let counts = self.json(length)?;
                let mut rest = [0];
                match self.inner.read(&mut rest) {
                    Ok(0) => Ok(Record::End(counts)),
                    Ok(_) => Err(self.corrupt("goes on behind its end")),
                    Err(e) => Err(Error::io("cannot read a segment", &e)),
                }
            }
            _ => Err(self.corrupt("has a record of no known kind or size")),
        }
    }

    /// The hash of all that was read, in hexadecimal digits.
    pub(crate) fn sha256(self) -> String {
        hex(&self.hash.finalize())
    }

    fn corrupt(&self, what: &str) -> Error {
        Error::corrupt(format!("the segment file {what} (at byte {})", self.position))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.inner.read_exact(bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => self.corrupt("is cut off"),
            _ => Error::io("cannot read a segment", &e),
        })?;
        self.hash.update(&*bytes);
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn head(&mut self) -> Result<(u8, u32)> {
        let [tag] = self.take()?;
        Ok((tag, u32::from_le_bytes(self.take()?)))
    }

    /// `length` bytes, taken a piece at a time: a false length costs no memory.
    fn bytes(&mut self, length: u32) -> Result<Vec<u8>> {
        let mut left = length as usize;
        let mut bytes = Vec::with_capacity(left.min(1 << 20));
        while left > 0 {
            let at = bytes.len();
            let piece = left.min(1 << 20);
            bytes.resize(at + piece, 0);
            self.fill(&mut bytes[at..])?;
            left -= piece;
        }
        Ok(bytes)
    }

    fn json<T: for<'a> Deserialize<'a>>(&mut self, length: u32) -> Result<T> {
        if length > MOST_JSON {
            return Err(self.corrupt("has too large a header"));
        }
        let bytes = self.bytes(length)?;
        serde_json::from_slice(&bytes)
            .map_err(|e| self.corrupt("has a malformed header").with_source(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frameloom_core::detection::{BoxSource, Rect, TrackedBox};
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            segment: 3,
            time_base: TimeBase::new(1, 30000).unwrap(),
            parameters: StreamParameters::default(),
            steps: vec!["decode".into(), "encode".into()],
        }
    }

    fn written(packets: &[(i64, Vec<u8>)], frames: &[FrameRecord]) -> (Vec<u8>, WrittenFile) {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, &header()).unwrap();
        for (pts, data) in packets {
            let mut packet = Packet::with_data(data).unwrap();
            packet.raw_mut().pts = *pts;
            writer.packet(&packet).unwrap();
        }
        let file = writer.finish(frames, FrameCounts::default()).unwrap();
        (bytes, file)
    }

    /// Something found in every second frame.
    fn noted(pts: i64) -> Vec<Noted> {
        let rect = Rect { x: 1.5, y: 2.0, w: 3.0, h: 4.0 };
        let source = BoxSource::Interpolated;
        let found = TrackedBox { rect, score: 0.5, class: 0, track: 7, source };
        let noted = (pts % 2 != 0).then(|| Noted { detector: 1, found: vec![found] });
        noted.into_iter().collect()
    }

    fn read(bytes: &[u8]) -> Result<(Vec<Record>, String)> {
        let mut reader = Reader::new(bytes)?;
        let mut records = Vec::new();
        loop {
            let record = reader.next()?;
            let ended = matches!(record, Record::End(_));
            records.push(record);
            if ended {
                return Ok((records, reader.sha256()));
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            packets in proptest::collection::vec((any::<i32>(), proptest::collection::vec(any::<u8>(), 0..50)), 0..8),
            pts in proptest::collection::vec(any::<i64>(), 0..8),
        ) {
            let packets: Vec<(i64, Vec<u8>)> =
                packets.into_iter().map(|(pts, data)| (i64::from(pts), data)).collect();
            let frames: Vec<FrameRecord> =
                pts.into_iter().map(|pts| FrameRecord { pts, ms: vec![1.0, 2.0], noted: noted(pts) }).collect();
            let (bytes, file) = written(&packets, &frames);
            prop_assert_eq!(file.size, bytes.len() as u64);
            let (records, sha256) = read(&bytes).unwrap();
            prop_assert_eq!(sha256, file.sha256);
            prop_assert_eq!(records.len(), packets.len() + frames.len() + 1);
            let read: Vec<&FrameRecord> = records.iter().filter_map(|record| match record {
                Record::Frame(frame) => Some(frame),
                _ => None,
            }).collect();
            prop_assert_eq!(read, frames.iter().collect::<Vec<_>>());
            for (record, (pts, data)) in records.iter().zip(&packets) {
                match record {
                    Record::Packet(p) => prop_assert_eq!((p.pts, &p.data), (*pts, data)),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }

        #[test]
        fn damaged_files_are_refused_and_never_panic(at in 0usize..200, byte in any::<u8>(), cut in 0usize..200) {
            let frames = [FrameRecord { pts: 0, ms: vec![1.0, 2.0], noted: noted(1) }];
            let (mut bytes, file) = written(&[(0, vec![7; 30])], &frames);
            let at = at % bytes.len();
            let changed = bytes[at] != byte;
            bytes[at] = byte;
            if let Ok((_, sha256)) = read(&bytes) {
                prop_assert_eq!(sha256 != file.sha256, changed);
            }
            let cut = cut % bytes.len();
            prop_assert!(read(&bytes[..cut]).is_err());
        }
    }
}
