//! Where a source may be cut: its keyframes, from the container's index where it has one, and from
//! its packets where it has none. Nothing is decoded.
//!
//! | container | what is read |
//! |---|---|
//! | MP4, MOV with a complete `moov` | the header; packets are listed by phantom reads |
//! | Matroska, WebM with cues | the header and the cues |
//! | AVI with an index | the header and the index |
//! | all others (TS, PS, FLV, fragmented MP4, no cues, …) | all packets |

use std::collections::VecDeque;
use std::fs::File;

use ffmpeg_next::ffi;
use frameloom_core::plan::Seek;
use frameloom_core::{Error, Result};

use crate::demux::Demuxer;
use crate::discontinuity;
use crate::ebml::Ends;
use crate::entry::{self, Entry, KeyFlags};
use crate::ff::{self, Packet};

/// Bytes at the head of a packet that are read to tell an entry point: parameter sets and
/// messages come before the first slice.
const HEAD: usize = 16 * 1024;

/// Containers that tell of each frame when it is shown, so that a file in which no frame is shown
/// out of its order has none that is: AVI, which does not, is read by decoding times on purpose.
const TELLS_BOTH_TIMES: [&str; 8] =
    ["mov", "matroska", "mpegts", "mpeg", "flv", "nut", "asf", "avi"];

/// Bytes at the head of a NAL unit that are read.
const UNIT_HEAD: usize = 1024;

/// NAL units of a packet that are looked at.
const MOST_UNITS: usize = 64;

/// A place where decoding may begin, if [`Index::accept`] agrees.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    /// Presentation time, or decoding time where the container has no other.
    pub(crate) pts: i64,
    /// How to get there.
    pub(crate) seek: Seek,
    how: Check,
}

/// How a key is checked.
#[derive(Debug, Clone, Copy)]
enum Check {
    /// It was, or need not be.
    Done,
    /// From so many bytes at this position.
    Peek(u64, usize),
    /// By reading the packet at this time.
    Read(i64),
}

/// What an open source tells of a stream, so that it need not stay open beside the index: the
/// demuxer of a long MP4 holds dozens of bytes a packet.
pub(crate) struct Known {
    codec: ffi::AVCodecID,
    nal_length: usize,
    video_delay: i32,
    format: String,
    first: Option<i64>,
}

impl Known {
    /// Of `stream` in a source whose streams are found.
    ///
    /// # Errors
    /// Internal where there is no such stream.
    pub(crate) fn of(opened: &Demuxer, stream: u32) -> Result<Self> {
        let parameters = opened.parameters(stream)?;
        Ok(Self {
            codec: parameters.codec_id,
            nal_length: entry::nal_length(parameters.codec_id, extradata(parameters)),
            video_delay: parameters.video_delay,
            format: opened.format_name(),
            first: ff::known(opened.stream(stream)?.start_time),
        })
    }
}

/// The timeline of one video stream.
pub(crate) struct Index {
    /// Keys, ascending by pts.
    pub(crate) keys: Vec<Key>,
    /// Least pts.
    pub(crate) first: Option<i64>,
    /// The tick behind the last frame, as far as known.
    pub(crate) end: Option<i64>,
    /// Frames, where all packets were listed.
    pub(crate) frames: Option<u64>,
    /// Why the timeline cannot be cut, if it can't.
    pub(crate) uncut: Option<String>,
    /// Whether frames have decoding times only, so that a segment begins one entry point earlier.
    pub(crate) decoding_time: bool,
    /// What is missing at the source's end, if anything is.
    pub(crate) damage: Option<String>,
    /// See [`frameloom_core::plan::VideoInfo::reorder`].
    pub(crate) reorder: u32,
    /// See [`frameloom_core::plan::VideoInfo::discontinuous`].
    pub(crate) discontinuous: bool,
    /// Bytes read so far.
    pub(crate) bytes_read: u64,
    /// The times of all frames, in order, where they are known.
    times: Vec<i64>,
    stream: u32,
    codec: ffi::AVCodecID,
    nal_length: usize,
    demuxer: Demuxer,
    packet: Packet,
}

impl Index {
    /// Finds the keys of `stream` in `source`, of which `known` was found before.
    ///
    /// # Errors
    /// As [`Demuxer::open`].
    pub(crate) fn read(
        source: &File,
        name: &str,
        known: &Known,
        stream: u32,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let codec = known.codec;
        let flags = entry::key_flags(codec, is_intra_only(codec));
        let mut index = Self {
            keys: Vec::new(),
            first: known.first,
            end: None,
            frames: None,
            uncut: None,
            decoding_time: false,
            damage: None,
            reorder: 0,
            discontinuous: false,
            bytes_read: 0,
            times: Vec::new(),
            stream,
            codec,
            nal_length: known.nal_length,
            demuxer: Demuxer::open_header(source, name)?,
            packet: Packet::new()?,
        };
        index.demuxer.keep_only(|i| i == stream);
        let found = match known.format.as_str() {
            f if f.contains("mov") => index.read_mov(flags, progress)?,
            f if f.contains("matroska") => index.read_matroska(flags)?,
            "avi" => index.read_avi(flags)?,
            _ => false,
        };
        if !found {
            let used = index.demuxer.input().bytes_read();
            index.demuxer = Demuxer::open(source, name)?;
            index.demuxer.keep_only(|i| i == stream);
            let jumps = index.read_packets(&known.format, flags, progress)?;
            if jumps && index.demuxer.format_flags() & ffi::AVFMT_TS_DISCONT != 0 {
                index.bytes_read = index.demuxer.input().bytes_read();
                index.demuxer = Demuxer::open(source, name)?;
                index.demuxer.correct_times();
                index.keys.clear();
                index.read_packets(&known.format, flags, progress)?;
                index.discontinuous = true;
                index.uncut =
                    Some("its timestamps begin anew on the way, as in joined files".into());
            }
            index.bytes_read += used;
        }
        if known.format.contains("matroska")
            && let Some(ends) = Ends::of(source)?
        {
            index.damage = index.damage.take().or_else(|| ends.cut_off());
            if found && !ends.agree() {
                index.uncut =
                    Some("it is not as long as it says, so its cues may lead astray".into());
            }
        }
        if flags == KeyFlags::Unknown {
            index.uncut.get_or_insert_with(|| {
                "nothing is known of where decoding of this codec may begin".to_owned()
            });
        }
        if index.frames.is_some() && index.reorder == 0 && known.video_delay > 0 {
            // The codec reorders and the container does not know: its pts are decoding times.
            index.decoding_time = true;
            if !TELLS_BOTH_TIMES.iter().any(|format| known.format.contains(format)) {
                index.uncut.get_or_insert_with(|| {
                    "its frames have decoding times only, out of the order they are shown in".into()
                });
            }
        }
        index.keys.sort_by_key(|key| key.pts);
        index.keys.dedup_by_key(|key| key.pts);
        Ok(index)
    }

    /// All bytes read from the source for the index.
    pub(crate) fn total_bytes_read(&mut self) -> u64 {
        self.bytes_read + self.demuxer.input().bytes_read()
    }

    /// The times of the frames that can be shown, in order; all packets are read where they were not listed yet. None
    /// where it is not known when frames are shown.
    ///
    /// # Errors
    /// Of reading the source.
    pub(crate) fn times(&mut self, source: &File, name: &str) -> Result<Option<&[i64]>> {
        if self.decoding_time || self.discontinuous && self.times.is_empty() {
            return Ok(None);
        }
        if self.times.is_empty() {
            let mut demuxer = Demuxer::open(source, name)?;
            demuxer.keep_only(|i| i == self.stream);
            let mut times = Times::default();
            while demuxer.read(&mut self.packet)? {
                if u32::try_from(self.packet.raw().stream_index) == Ok(self.stream) {
                    let hidden = self.packet.raw().flags & ffi::AV_PKT_FLAG_DISCARD != 0;
                    times.add(self.packet.pts(), self.packet.dts(), 0, hidden);
                }
            }
            self.bytes_read += demuxer.input().bytes_read();
            if times.distrust().is_none() {
                self.times = times.pts;
            }
        }
        // What comes before the first place where decoding may begin refers to what is not there.
        let first = self.keys.first().map_or(i64::MIN, |key| key.pts);
        let from = self.times.partition_point(|pts| *pts < first);
        Ok(Some(&self.times[from..]).filter(|times| !times.is_empty()))
    }

    /// Whether decoding may really begin at a key.
    ///
    /// # Errors
    /// Unavailable where the source cannot be read.
    pub(crate) fn accept(&mut self, key: usize) -> Result<bool> {
        let Some(key) = self.keys.get(key) else { return Ok(false) };
        let (pts, how) = (key.pts, key.how);
        match how {
            Check::Done => Ok(true),
            Check::Peek(position, size) => {
                if self.nal_length > 0 {
                    let units = self.unit_heads(position, size)?;
                    let units: Vec<&[u8]> = units.iter().map(Vec::as_slice).collect();
                    return Ok(entry::check_units(self.codec, &units) == Entry::Yes);
                }
                let head = self.demuxer.input().peek(position, size.min(HEAD))?;
                Ok(entry::check(self.codec, self.nal_length, &head) == Entry::Yes)
            }
            Check::Read(time) => {
                if self.demuxer.seek(self.stream, time, ffi::AVSEEK_FLAG_BACKWARD).is_err() {
                    return Ok(false);
                }
                while self.demuxer.read(&mut self.packet)? {
                    let Some(time) = self.packet.pts() else { continue };
                    if time == pts {
                        let entry = entry::check(self.codec, self.nal_length, self.packet.data());
                        return Ok(self.packet.is_key() && entry == Entry::Yes);
                    }
                    if self.packet.is_key() && time > pts {
                        return Ok(false);
                    }
                }
                Ok(false)
            }
        }
    }

    /// The beginnings of the NAL units of a packet: each says how long it is, so that what lies
    /// between them need not be read.
    fn unit_heads(&mut self, position: u64, size: usize) -> Result<Vec<Vec<u8>>> {
        let (mut at, mut units) = (0, Vec::new());
        while at + self.nal_length < size && units.len() < MOST_UNITS {
            let wanted = (size - at).min(self.nal_length + UNIT_HEAD);
            let bytes = self.demuxer.input().peek(position.saturating_add(at as u64), wanted)?;
            let Some((length, head)) = bytes.split_at_checked(self.nal_length) else { break };
            let length = length.iter().fold(0usize, |sum, b| sum << 8 | usize::from(*b));
            units.push(head[..head.len().min(length)].to_vec());
            at = at.saturating_add(self.nal_length).saturating_add(length);
        }
        Ok(units)
    }

    /// MP4 and MOV whose `moov` lists all samples: their packets by phantom reads.
    fn read_mov(&mut self, flags: KeyFlags, progress: &mut dyn FnMut(u64)) -> Result<bool> {
        let listed = self.demuxer.stream(self.stream)?.nb_frames;
        if listed <= 0 || !self.demuxer.has_index(self.stream)? {
            return Ok(false);
        }
        self.demuxer.add_flags(ffi::AVFMT_FLAG_NOPARSE | ffi::AVFMT_FLAG_NOFILLIN);
        self.demuxer.input().set_phantom(true);
        let mut times = Times::default();
        let result = loop {
            match self.demuxer.read(&mut self.packet) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
            let raw = self.packet.raw();
            let hidden = raw.flags & ffi::AV_PKT_FLAG_DISCARD != 0;
            let (pts, dts) = (self.packet.pts(), self.packet.dts());
            times.add(pts, dts, raw.duration, hidden);
            if times.count % 10_000 == 0 {
                progress(times.count);
            }
            if let (Some(pts), Some(dts), true, false) = (pts, dts, self.packet.is_key(), hidden) {
                let size = usize::try_from(raw.size).unwrap_or(0);
                let how = match (flags, u64::try_from(raw.pos)) {
                    (KeyFlags::Checked, Ok(position)) => Check::Peek(position, size),
                    _ => Check::Done,
                };
                self.keys.push(Key { pts, seek: Seek::Timestamp(dts), how });
            }
        };
        self.demuxer.input().set_phantom(false);
        result?;
        let listed = listed.unsigned_abs();
        if times.count < listed {
            self.damage = Some(format!(
                "the source is cut off: {} of {listed} frames are there",
                times.count
            ));
        }
        self.take(times);
        Ok(true)
    }

    /// Matroska and WebM with cues, which name keyframes by pts.
    fn read_matroska(&mut self, flags: KeyFlags) -> Result<bool> {
        if self.begins_without_times()? {
            self.uncut = Some("its first pictures have no times".into());
        }
        // The first seek is what makes the demuxer read the cues.
        let end = self.demuxer.duration_us();
        let base = self.demuxer.time_base(self.stream)?;
        let Some(end) = end.and_then(|us| base.ticks_of_micros(us)) else { return Ok(false) };
        if self.demuxer.seek(self.stream, end / 2, ffi::AVSEEK_FLAG_BACKWARD).is_err() {
            return Ok(false);
        }
        let cues = self.demuxer.index(self.stream)?;
        if cues.len() < 2 {
            return Ok(false);
        }
        let how = |time| match flags {
            KeyFlags::Checked => Check::Read(time),
            _ => Check::Done,
        };
        self.keys = cues
            .iter()
            .filter(|cue| cue.is_key)
            .map(|cue| Key {
                pts: cue.timestamp,
                seek: Seek::Timestamp(cue.timestamp),
                how: how(cue.timestamp),
            })
            .collect();
        let first = self.first.unwrap_or(0);
        self.end = Some(first.saturating_add(end));
        Ok(true)
    }

    /// Whether more than a group of pictures without times comes before the first that has one, as of a
    /// Matroska file whose times began below zero.
    fn begins_without_times(&mut self) -> Result<bool> {
        let mut first = true;
        while self.demuxer.read(&mut self.packet)? && self.packet.pts().is_none() {
            if self.packet.is_key() && !first {
                return Ok(true);
            }
            first = false;
        }
        Ok(false)
    }

    /// AVI with an index: decoding times, and positions of chunks.
    fn read_avi(&mut self, flags: KeyFlags) -> Result<bool> {
        let entries = self.demuxer.index(self.stream)?;
        if entries.len() < 2 || !entries.windows(2).all(|w| w[0].timestamp < w[1].timestamp) {
            return Ok(false);
        }
        // Codecs that never reorder have pts, which are their decoding times.
        self.decoding_time = has_property(self.codec, ffi::AV_CODEC_PROP_REORDER);
        self.first = self.first.or(entries.first().map(|e| e.timestamp));
        self.end = entries.last().map(|e| e.timestamp.saturating_add(1));
        self.frames = Some(entries.len() as u64);
        self.keys = entries
            .iter()
            .filter(|e| e.is_key)
            .map(|e| Key {
                pts: e.timestamp,
                seek: Seek::Timestamp(e.timestamp),
                how: match (flags, u64::try_from(e.position)) {
                    // The chunk's name and size come before its data.
                    (KeyFlags::Checked, Ok(position)) => {
                        Check::Peek(position.saturating_add(8), e.size)
                    }
                    _ => Check::Done,
                },
            })
            .collect();
        Ok(true)
    }

    /// Any container: all packets, each key checked at once. Answers whether times begin anew.
    fn read_packets(
        &mut self,
        format: &str,
        flags: KeyFlags,
        progress: &mut dyn FnMut(u64),
    ) -> Result<bool> {
        let base = self.demuxer.stream(self.stream)?.time_base;
        let (mut jumps, mut last, mut ahead) = (false, None, None);
        let no_bytes = self.demuxer.format_flags() & ffi::AVFMT_NO_BYTE_SEEK != 0;
        let by_bytes = !no_bytes && matches!(format, "mpegts" | "mpeg" | "h264" | "hevc");
        let mut times = Times::default();
        while self.demuxer.read(&mut self.packet)? {
            if u32::try_from(self.packet.raw().stream_index) != Ok(self.stream) {
                continue;
            }
            let raw = self.packet.raw();
            let hidden = raw.flags & ffi::AV_PKT_FLAG_DISCARD != 0;
            let (pts, dts) = (self.packet.pts(), self.packet.dts());
            times.add(pts, dts, raw.duration, hidden);
            if let Some(dts) = dts {
                jumps |= last.is_some_and(|last| discontinuity::is_jump(last, dts, ahead, base));
                last = Some(dts);
            }
            ahead = ahead.max(pts);
            if times.count % 1_000 == 0 {
                progress(times.count);
            }
            let (Some(pts), true, false) = (pts, self.packet.is_key(), hidden) else { continue };
            let is_entry = flags != KeyFlags::Checked
                || entry::check(self.codec, self.nal_length, self.packet.data()) == Entry::Yes;
            if is_entry {
                let seek = if by_bytes && raw.pos >= 0 {
                    Seek::Byte(raw.pos)
                } else {
                    Seek::Timestamp(dts.unwrap_or(pts))
                };
                self.keys.push(Key { pts, seek, how: Check::Done });
            }
        }
        self.take(times);
        Ok(jumps)
    }

    fn take(&mut self, mut times: Times) {
        self.uncut = times.distrust();
        self.first = times.pts.first().copied().or(self.first);
        self.end = times.pts.last().map(|last| last.saturating_add(times.last_duration.max(1)));
        self.frames = Some(times.pts.len() as u64);
        self.reorder = times.reorder;
        if self.uncut.is_none() {
            self.times = times.pts;
        }
    }
}

/// The times of all packets, to see whether they can be trusted.
#[derive(Default)]
struct Times {
    pts: Vec<i64>,
    count: u64,
    without: u64,
    last_dts: Option<i64>,
    backwards: Option<i64>,
    last_duration: i64,
    /// The last few pts, in coding order.
    recent: VecDeque<i64>,
    reorder: u32,
}

/// Frames that a decoder can hold back at most (H.264 and H.265: 16).
const MOST_REORDERED: usize = 16;

impl Times {
    fn add(&mut self, pts: Option<i64>, dts: Option<i64>, duration: i64, hidden: bool) {
        self.count += 1;
        if let (Some(last), Some(dts)) = (self.last_dts, dts)
            && dts < last
        {
            self.backwards.get_or_insert(dts);
        }
        self.last_dts = dts.or(self.last_dts);
        if let Some(pts) = pts {
            let later = self.recent.iter().filter(|recent| **recent > pts).count();
            self.reorder = self.reorder.max(u32::try_from(later).unwrap_or(0));
            if self.recent.len() == MOST_REORDERED {
                self.recent.pop_front();
            }
            self.recent.push_back(pts);
        }
        if hidden {
            return;
        }
        match pts {
            Some(pts) => self.pts.push(pts),
            None => self.without += 1,
        }
        if duration > 0 {
            self.last_duration = duration;
        }
    }

    /// Sorts the times; says why they can't be trusted after a seek, if they can't.
    fn distrust(&mut self) -> Option<String> {
        let sorted = self.pts.is_sorted();
        if !sorted {
            self.pts.sort_unstable();
        }
        if self.without > 0 {
            return Some(format!("{} of its frames have no presentation time", self.without));
        }
        if let Some(dts) = self.backwards {
            return Some(format!("its decoding times go backwards at tick {dts}"));
        }
        let twice = self.pts.windows(2).find(|w| w[0] == w[1]);
        twice.map(|w| format!("two of its frames have the same presentation time, tick {}", w[0]))
    }
}

/// A stream's extradata.
pub(crate) fn extradata(parameters: &ffi::AVCodecParameters) -> &[u8] {
    match usize::try_from(parameters.extradata_size) {
        // SAFETY: FFmpeg's extradata holds `extradata_size` bytes as long as its parameters live.
        Ok(size) if size > 0 && !parameters.extradata.is_null() => unsafe {
            std::slice::from_raw_parts(parameters.extradata, size)
        },
        _ => &[],
    }
}

/// Whether FFmpeg's table says that each packet of the codec is a picture of its own.
pub(crate) fn is_intra_only(codec: ffi::AVCodecID) -> bool {
    has_property(codec, ffi::AV_CODEC_PROP_INTRA_ONLY)
}

/// Whether FFmpeg's table says so of the codec.
fn has_property(codec: ffi::AVCodecID, property: i32) -> bool {
    // SAFETY: null or a static description.
    let descriptor = unsafe { ffi::avcodec_descriptor_get(codec).as_ref() };
    descriptor.is_some_and(|d| d.props & property != 0)
}

/// The pts that stands for the beginning of the file.
pub(crate) const FILE_START: i64 = i64::MIN;

/// The error of a source that has no video.
pub(crate) fn no_video(name: &str) -> Error {
    Error::unsupported(format!("'{name}' has no video stream"))
}
