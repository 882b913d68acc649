//! The demuxer: one source, one descriptor, and no way to a second file.

use std::ffi::{c_char, c_int, c_void};
use std::fs::File;
use std::ptr::{self, NonNull};

use ffmpeg_next::ffi;
use frameloom_core::time::TimeBase;
use frameloom_core::{Error, ErrorKind, Result};

use crate::discontinuity::{self, Corrector};
use crate::ebml::Ends;
use crate::ff::{self, Packet};
use crate::io::Input;

/// Formats that name other files, or make media out of something that is no media file.
const REFUSED: [&str; 26] = [
    "hls",
    "applehttp",
    "concat",
    "dash",
    "imf",
    "sdp",
    "rtsp",
    "rtp",
    "sap",
    "image2",
    "avisynth",
    "vapoursynth",
    "webm_dash_manifest",
    "lavfi",
    "ffmetadata",
    "tty",
    "bin",
    "adf",
    "idf",
    "xbin",
    "subviewer",
    "srt",
    "ass",
    "webvtt",
    "vobsub",
    "mpsub",
];

/// How often a demuxer that asks to be called again is called: the one for TS does so where a piece
/// of the file held no whole packet.
const MOST_TRIES: usize = 100_000;

/// An open source.
pub(crate) struct Demuxer {
    context: NonNull<ffi::AVFormatContext>,
    // After `context`, which is closed first, by Drop.
    input: Input,
    name: String,
    corrector: Option<Corrector>,
    /// Of AVI, which counts its packets: how far a stream's count is behind its index, by stream.
    behind: Option<Vec<i64>>,
}

// SAFETY: the context is used by one thread at a time, whoever holds the Demuxer.
unsafe impl Send for Demuxer {}

/// FFmpeg asks to open another file: refused.
unsafe extern "C" fn refuse_open(
    _: *mut ffi::AVFormatContext,
    _: *mut *mut ffi::AVIOContext,
    _: *const c_char,
    _: c_int,
    _: *mut *mut ffi::AVDictionary,
) -> c_int {
    ffi::AVERROR(ffi::EACCES)
}

impl Demuxer {
    /// Opens `source` and finds its streams; `name` is the file's name, a hint for probing.
    ///
    /// # Errors
    /// Corrupt where it is no media file or is damaged at its start; Unsupported where it is a
    /// playlist or the like, which names other files.
    pub(crate) fn open(source: &File, name: &str) -> Result<Self> {
        let mut demuxer = Self::open_header(source, name)?;
        // SAFETY: the context is open.
        let code = unsafe { ffi::avformat_find_stream_info(demuxer.context(), ptr::null_mut()) };
        if let Some(failure) = demuxer.input.take_failure() {
            return Err(failure.at(format!("'{name}'")));
        }
        ff::check(code, &format!("cannot find the streams of '{name}'"))?;
        Ok(demuxer)
    }

    /// Opens `source` and reads its header only: streams may still lack what only packets tell.
    pub(crate) fn open_header(source: &File, name: &str) -> Result<Self> {
        let mut input = Input::new(source)?;
        if input.size() == 0 {
            return Err(Error::corrupt(format!("'{name}' is empty")));
        }
        let c_name = ff::c_string(name)?;
        if let Some(ends) = Ends::of(source)? {
            input.end_at(ends.there());
        }
        let format = probe(&mut input, name, &c_name)?;
        let mut options = ff::Dict::default();
        options.set("protocol_whitelist", "none")?;
        // SAFETY: a fresh context whose AVIO is ours; avformat_open_input frees it where it fails.
        let context = unsafe {
            let mut context = ffi::avformat_alloc_context();
            let Some(fresh) = context.as_mut() else { return Err(ff::out_of_memory()) };
            fresh.pb = input.context();
            fresh.io_open = Some(refuse_open);
            fresh.flags |= ffi::AVFMT_FLAG_CUSTOM_IO as c_int;
            let code = ffi::avformat_open_input(
                &mut context,
                c_name.as_ptr(),
                format,
                options.as_mut_ptr(),
            );
            if code < 0 {
                return Err(input.take_failure().unwrap_or_else(|| not_media(name, code)));
            }
            NonNull::new(context).ok_or_else(ff::out_of_memory)?
        };
        let mut demuxer =
            Self { context, input, name: name.to_owned(), corrector: None, behind: None };
        demuxer.behind = (demuxer.format_name() == "avi").then(Vec::new);
        Ok(demuxer)
    }

    /// FFmpeg's context.
    pub(crate) fn context(&self) -> *mut ffi::AVFormatContext {
        self.context.as_ptr()
    }

    fn raw(&self) -> &ffi::AVFormatContext {
        // SAFETY: the context lives as long as self.
        unsafe { self.context.as_ref() }
    }

    /// FFmpeg's name of the demuxer, e.g. `mov,mp4,m4a,3gp,3g2,mj2`.
    pub(crate) fn format_name(&self) -> String {
        // SAFETY: an open context has a demuxer with a static name.
        unsafe { ff::text((*self.raw().iformat).name) }
    }

    /// FFmpeg's flags of the demuxer.
    pub(crate) fn format_flags(&self) -> c_int {
        // SAFETY: an open context has a demuxer.
        unsafe { (*self.raw().iformat).flags }
    }

    /// Start in microseconds, if known.
    pub(crate) fn start_us(&self) -> Option<i64> {
        ff::known(self.raw().start_time)
    }

    /// Duration in microseconds, if known.
    pub(crate) fn duration_us(&self) -> Option<i64> {
        ff::known(self.raw().duration).filter(|duration| *duration > 0)
    }

    /// All streams, by number.
    pub(crate) fn streams(&self) -> impl Iterator<Item = &ffi::AVStream> {
        let raw = self.raw();
        // SAFETY: FFmpeg keeps `nb_streams` valid pointers while the context is open.
        (0..raw.nb_streams as usize).map(move |i| unsafe { &**raw.streams.add(i) })
    }

    /// The stream of this number.
    ///
    /// # Errors
    /// Internal where there is none.
    pub(crate) fn stream(&self, index: u32) -> Result<&ffi::AVStream> {
        self.streams()
            .nth(index as usize)
            .ok_or_else(|| Error::internal(format!("'{}' has no stream {index}", self.name)))
    }

    /// Codec parameters of a stream.
    pub(crate) fn parameters(&self, index: u32) -> Result<&ffi::AVCodecParameters> {
        // SAFETY: every stream has codec parameters while the context is open.
        Ok(unsafe { &*self.stream(index)?.codecpar })
    }

    /// Seconds a tick of a stream.
    pub(crate) fn time_base(&self, index: u32) -> Result<TimeBase> {
        let base = self.stream(index)?.time_base;
        TimeBase::new(base.num, base.den)
    }

    /// Lets only packets of the streams that `keep` names through, where times need no correction.
    pub(crate) fn keep_only(&mut self, keep: impl Fn(u32) -> bool) {
        if self.corrector.is_some() {
            return;
        }
        let raw = self.raw();
        for i in 0..raw.nb_streams {
            let discard = if keep(i) {
                ffi::AVDiscard::AVDISCARD_DEFAULT
            } else {
                ffi::AVDiscard::AVDISCARD_ALL
            };
            // SAFETY: stream `i` exists.
            unsafe { (**raw.streams.add(i as usize)).discard = discard };
        }
    }

    /// From now on moves the times of packets where they begin anew, so that they go on. The source
    /// must be at its beginning, and packets of all streams come.
    pub(crate) fn correct_times(&mut self) {
        self.keep_only(|_| true);
        self.corrector = Some(Corrector::default());
    }

    /// Whether it does that.
    pub(crate) fn corrects_times(&self) -> bool {
        self.corrector.is_some()
    }

    /// Sets FFmpeg's flags of the context.
    pub(crate) fn add_flags(&mut self, flags: c_int) {
        // SAFETY: the context is open and ours.
        unsafe { self.context.as_mut() }.flags |= flags;
    }

    /// The source below the demuxer.
    pub(crate) fn input(&mut self) -> &mut Input {
        &mut self.input
    }

    /// Reads the next packet; `false` at the end of the file.
    ///
    /// Damage that the demuxer can skip is skipped; a file cut off ends where it is cut.
    ///
    /// # Errors
    /// Unavailable where the operating system cannot read the file.
    pub(crate) fn read(&mut self, packet: &mut Packet) -> Result<bool> {
        packet.clear();
        let mut code = 0;
        for _ in 0..MOST_TRIES {
            // SAFETY: both are valid; the packet is empty.
            code = unsafe { ffi::av_read_frame(self.context(), packet.as_mut_ptr()) };
            if code >= 0 {
                self.place(packet)?;
                self.correct(packet)?;
                return Ok(true);
            }
            if code != ff::error_code(rustix::io::Errno::AGAIN) {
                break;
            }
        }
        match self.input.take_failure() {
            Some(error) => Err(error.at(format!("'{}'", self.name))),
            None if code == ff::error_code(rustix::io::Errno::NOMEM) => Err(ff::out_of_memory()),
            // Anything else is the end of what can be read.
            None => Ok(false),
        }
    }

    /// Gives a packet of AVI the time that the index has for its place: the demuxer counts packets, so that behind
    /// damage that it has skipped all would come too early, by as many as were lost.
    fn place(&mut self, packet: &mut Packet) -> Result<()> {
        let raw = packet.raw();
        let number = raw.stream_index.unsigned_abs();
        let (Some(behind), Some(dts)) = (&self.behind, packet.dts()) else { return Ok(()) };
        let known = behind.get(number as usize).copied().unwrap_or(0);
        // The chunk's name and size come before its data.
        let entry = self.entry_at(number, raw.pos.saturating_sub(8))?;
        let (by, is_key) =
            entry.map_or((known, None), |e| (e.timestamp.saturating_sub(dts), Some(e.is_key)));
        if let Some(behind) = &mut self.behind {
            if behind.len() <= number as usize {
                behind.resize(number as usize + 1, 0);
            }
            behind[number as usize] = by;
        }
        if by == 0 {
            return Ok(());
        }
        let pts = packet.pts();
        let raw = packet.raw_mut();
        raw.dts = dts.saturating_add(by);
        raw.pts = pts.map_or(raw.pts, |pts| pts.saturating_add(by));
        match is_key {
            Some(true) => raw.flags |= ffi::AV_PKT_FLAG_KEY,
            Some(false) => raw.flags &= !ffi::AV_PKT_FLAG_KEY,
            None => {}
        }
        Ok(())
    }

    /// The entry of the container's index for a stream at this position, where positions ascend.
    fn entry_at(&self, stream: u32, position: i64) -> Result<Option<IndexEntry>> {
        let stream: *const ffi::AVStream = self.stream(stream)?;
        // SAFETY: the stream is valid; an entry is read before anything else touches the index.
        let entry = |i| unsafe {
            ffi::avformat_index_get_entry(stream.cast_mut(), i).as_ref().map(IndexEntry::of)
        };
        // SAFETY: the stream is valid.
        let count = unsafe { ffi::avformat_index_get_entries_count(stream) };
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            match entry(middle) {
                Some(found) if found.position == position => return Ok(Some(found)),
                Some(found) if found.position < position => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(None)
    }

    fn correct(&mut self, packet: &mut Packet) -> Result<()> {
        if self.corrector.is_none() {
            return Ok(());
        }
        let stream = self.stream(packet.raw().stream_index.unsigned_abs())?;
        let (base, counts) = (stream.time_base, discontinuity::counts(stream));
        if let Some(corrector) = self.corrector.as_mut().filter(|_| counts) {
            corrector.correct(packet, base);
        }
        Ok(())
    }

    /// Moves to `timestamp` of `stream` or, with `flags`, elsewhere, as `av_seek_frame` does.
    pub(crate) fn seek(&mut self, stream: u32, timestamp: i64, flags: c_int) -> Result<()> {
        let stream = c_int::try_from(stream).map_err(|_| Error::internal("stream number"))?;
        // SAFETY: the context is open.
        let code = unsafe { ffi::av_seek_frame(self.context(), stream, timestamp, flags) };
        ff::check(code, &format!("cannot seek in '{}'", self.name)).map(drop)
    }

    /// Whether the container has an index for a stream.
    pub(crate) fn has_index(&self, stream: u32) -> Result<bool> {
        let stream: *const ffi::AVStream = self.stream(stream)?;
        // SAFETY: the stream is valid.
        Ok(unsafe { ffi::avformat_index_get_entries_count(stream) } > 0)
    }

    /// The entries of the container's index for a stream: in their order.
    pub(crate) fn index(&self, stream: u32) -> Result<Vec<IndexEntry>> {
        let stream: *const ffi::AVStream = self.stream(stream)?;
        // SAFETY: the stream is valid; entries are read before anything else touches the index.
        unsafe {
            let count = ffi::avformat_index_get_entries_count(stream);
            Ok((0..count)
                .filter_map(|i| ffi::avformat_index_get_entry(stream.cast_mut(), i).as_ref())
                .map(IndexEntry::of)
                .collect())
        }
    }
}

/// An entry of a container's index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IndexEntry {
    /// In ticks; for most containers a decoding time, for Matroska a presentation time.
    pub(crate) timestamp: i64,
    /// Byte position of the packet, its block or its cluster.
    pub(crate) position: i64,
    /// Size of the packet in bytes, where the index tells.
    pub(crate) size: usize,
    /// Whether it is flagged as a keyframe.
    pub(crate) is_key: bool,
}

impl IndexEntry {
    fn of(entry: &ffi::AVIndexEntry) -> Self {
        Self {
            timestamp: entry.timestamp,
            position: entry.pos,
            size: usize::try_from(entry.size()).unwrap_or(0),
            is_key: entry.flags() & ffi::AVINDEX_KEYFRAME as c_int != 0,
        }
    }
}

/// Finds the demuxer, and refuses those that lead to other files.
fn probe(
    input: &mut Input,
    name: &str,
    c_name: &std::ffi::CStr,
) -> Result<*const ffi::AVInputFormat> {
    let mut format: *const ffi::AVInputFormat = ptr::null();
    // SAFETY: the AVIO context is valid; FFmpeg rewinds it after probing.
    let code = unsafe {
        ffi::av_probe_input_buffer2(
            input.context(),
            &mut format,
            c_name.as_ptr(),
            ptr::null_mut::<c_void>(),
            0,
            0,
        )
    };
    // SAFETY: null or a static demuxer.
    let Some(found) = (unsafe { format.as_ref() }) else {
        return Err(input.take_failure().unwrap_or_else(|| not_media(name, code)));
    };
    // SAFETY: a demuxer's name is a static C string.
    let format_name = unsafe { ff::text(found.name) };
    let refused = format_name.split(',').any(|part| REFUSED.contains(&part))
        || found.flags & ffi::AVFMT_NOFILE as c_int != 0;
    if refused {
        let message = match format_name.as_str() {
            "tty" | "bin" | "adf" | "idf" | "xbin" => format!("'{name}' is text, not a video"),
            "srt" | "ass" | "webvtt" | "vobsub" | "mpsub" | "subviewer" => {
                format!("'{name}' holds subtitles only, no video")
            }
            "image2" => format!("'{name}' is a picture, not a video"),
            _ => format!(
                "'{name}' is a list ({format_name}) that leads to other files; \
                 frameloom takes single media files, give it one of those"
            ),
        };
        return Err(Error::unsupported(message));
    }
    Ok(format)
}

fn not_media(name: &str, code: c_int) -> Error {
    let words = ff::describe(code);
    Error::new(
        ErrorKind::Corrupt,
        format!("'{name}' is not a media file that FFmpeg can read, or is cut off at its start ({words})"),
    )
    .with_source(code)
}

impl Drop for Demuxer {
    fn drop(&mut self) {
        let mut context = self.context.as_ptr();
        // SAFETY: owned, closed once; with CUSTOM_IO the AVIO stays for `input` to free.
        unsafe { ffi::avformat_close_input(&mut context) };
    }
}
