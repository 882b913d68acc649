//! Small owners of FFmpeg's objects, and the one place where its error codes become ours.
//!
//! FFmpeg's C structures are reached by raw pointers here and nowhere leak out of the crate.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{self, NonNull};

use ffmpeg_next::ffi;
use frameloom_core::{Error, ErrorKind, Result};

/// FFmpeg's words for an error code.
pub(crate) fn describe(code: c_int) -> String {
    let mut buffer = [0 as c_char; 128];
    // SAFETY: the buffer is writable for the length given, and FFmpeg ends it with a NUL.
    unsafe {
        ffi::av_strerror(code, buffer.as_mut_ptr(), buffer.len());
        CStr::from_ptr(buffer.as_ptr()).to_string_lossy().to_lowercase()
    }
}

/// The kind of error that FFmpeg's code means when it comes from reading or decoding media.
fn kind_of(code: c_int) -> ErrorKind {
    let errno = -code;
    if errno == libc_code(rustix::io::Errno::NOMEM) || errno == libc_code(rustix::io::Errno::NOSPC)
    {
        ErrorKind::Exhausted
    } else if code == ffi::AVERROR_DECODER_NOT_FOUND
        || code == ffi::AVERROR_DEMUXER_NOT_FOUND
        || code == ffi::AVERROR_ENCODER_NOT_FOUND
        || code == ffi::AVERROR_FILTER_NOT_FOUND
        || code == ffi::AVERROR_PATCHWELCOME
        || errno == libc_code(rustix::io::Errno::NOSYS)
    {
        ErrorKind::Unsupported
    } else if code == ffi::AVERROR_INVALIDDATA || code == ffi::AVERROR_EOF {
        ErrorKind::Corrupt
    } else if errno == libc_code(rustix::io::Errno::IO) {
        ErrorKind::Unavailable
    } else {
        ErrorKind::Internal
    }
}

fn libc_code(errno: rustix::io::Errno) -> c_int {
    errno.raw_os_error()
}

/// FFmpeg's code of an error of the operating system.
pub(crate) fn error_code(errno: rustix::io::Errno) -> c_int {
    -errno.raw_os_error()
}

/// `what: FFmpeg's words`, of the kind that the code means.
pub(crate) fn error(code: c_int, what: &str) -> Error {
    Error::new(kind_of(code), format!("{what}: {}", describe(code))).with_source(code)
}

/// A non-negative answer of FFmpeg, or its error with `what` failed in front.
pub(crate) fn check(code: c_int, what: &str) -> Result<c_int> {
    if code < 0 { Err(error(code, what)) } else { Ok(code) }
}

/// The error of an allocation that FFmpeg could not make.
pub(crate) fn out_of_memory() -> Error {
    Error::exhausted("out of memory; use fewer slots or a smaller video")
}

/// A C string of `text`.
///
/// # Errors
/// Invalid where `text` holds a NUL.
pub(crate) fn c_string(text: &str) -> Result<CString> {
    CString::new(text)
        .map_err(|_| Error::invalid(format!("'{}' holds a NUL character", text.escape_debug())))
}

/// A C string of FFmpeg's as text; empty for a null pointer.
///
/// # Safety
/// `text` is null or ends with a NUL and lives for the call.
#[expect(unsafe_code, reason = "reads FFmpeg's C strings")]
pub(crate) unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A compressed packet.
pub(crate) struct Packet(NonNull<ffi::AVPacket>);

// SAFETY: a packet is plain data with reference-counted, atomically counted buffers.
unsafe impl Send for Packet {}

impl Packet {
    /// An empty packet.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: allocates or answers null.
        NonNull::new(unsafe { ffi::av_packet_alloc() }).map(Self).ok_or_else(out_of_memory)
    }

    /// A packet that holds a copy of `data`.
    pub(crate) fn with_data(data: &[u8]) -> Result<Self> {
        let mut packet = Self::new()?;
        let size = c_int::try_from(data.len())
            .map_err(|_| Error::new(ErrorKind::TooLarge, "a packet exceeds 2 GiB"))?;
        // SAFETY: av_new_packet makes room for `size` bytes, into which as many are copied.
        unsafe {
            check(ffi::av_new_packet(packet.as_mut_ptr(), size), "cannot allocate a packet")?;
            ptr::copy_nonoverlapping(data.as_ptr(), (*packet.as_ptr()).data, data.len());
        }
        Ok(packet)
    }

    pub(crate) fn as_ptr(&self) -> *const ffi::AVPacket {
        self.0.as_ptr()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut ffi::AVPacket {
        self.0.as_ptr()
    }

    /// FFmpeg's fields.
    pub(crate) fn raw(&self) -> &ffi::AVPacket {
        // SAFETY: the packet lives as long as self.
        unsafe { self.0.as_ref() }
    }

    /// FFmpeg's fields, to set times and flags.
    pub(crate) fn raw_mut(&mut self) -> &mut ffi::AVPacket {
        // SAFETY: the packet lives as long as self and is owned alone.
        unsafe { self.0.as_mut() }
    }

    /// Its bytes.
    pub(crate) fn data(&self) -> &[u8] {
        let raw = self.raw();
        match usize::try_from(raw.size) {
            // SAFETY: FFmpeg's packet holds `size` bytes at `data`.
            Ok(size) if size > 0 && !raw.data.is_null() => unsafe {
                std::slice::from_raw_parts(raw.data, size)
            },
            _ => &[],
        }
    }

    /// Presentation time, if it has one.
    pub(crate) fn pts(&self) -> Option<i64> {
        known(self.raw().pts)
    }

    /// Decoding time, if it has one.
    pub(crate) fn dts(&self) -> Option<i64> {
        known(self.raw().dts)
    }

    /// Whether it is flagged as a keyframe.
    pub(crate) fn is_key(&self) -> bool {
        self.raw().flags & ffi::AV_PKT_FLAG_KEY != 0
    }

    /// Forgets its content, to be filled anew.
    pub(crate) fn clear(&mut self) {
        // SAFETY: the packet is valid; unref leaves it empty.
        unsafe { ffi::av_packet_unref(self.as_mut_ptr()) };
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        let mut pointer = self.0.as_ptr();
        // SAFETY: owned and freed once.
        unsafe { ffi::av_packet_free(&mut pointer) };
    }
}

/// A timestamp, or `None` for FFmpeg's "no value".
pub(crate) fn known(ticks: i64) -> Option<i64> {
    (ticks != ffi::AV_NOPTS_VALUE).then_some(ticks)
}

/// A dictionary of options, handed to FFmpeg, which leaves in it what it did not know.
#[derive(Default)]
pub(crate) struct Dict(*mut ffi::AVDictionary);

impl Dict {
    /// Sets `key` to `value`.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let (key, value) = (c_string(key)?, c_string(value)?);
        // SAFETY: both strings live for the call; FFmpeg copies them.
        let code = unsafe { ffi::av_dict_set(&mut self.0, key.as_ptr(), value.as_ptr(), 0) };
        check(code, "cannot set an option").map(drop)
    }

    /// For FFmpeg's functions that take options and leave the unknown ones.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut *mut ffi::AVDictionary {
        &mut self.0
    }

    /// All entries, in order.
    pub(crate) fn entries(&self) -> Vec<(String, String)> {
        // SAFETY: the dictionary is valid or null, and lives for the call.
        unsafe { dict_entries(self.0) }
    }
}

/// All entries of a dictionary of FFmpeg's, in order.
///
/// # Safety
/// `dict` is null or a valid dictionary.
#[expect(unsafe_code, reason = "reads FFmpeg's dictionaries")]
pub(crate) unsafe fn dict_entries(dict: *const ffi::AVDictionary) -> Vec<(String, String)> {
    let mut entries = Vec::new();
    let mut entry: *const ffi::AVDictionaryEntry = ptr::null();
    loop {
        // SAFETY: iterates a valid dictionary; the empty key matches every entry.
        unsafe {
            entry =
                ffi::av_dict_get(dict, c"".as_ptr(), entry, ffi::AV_DICT_IGNORE_SUFFIX as c_int);
            let Some(found) = entry.as_ref() else { return entries };
            entries.push((text(found.key), text(found.value)));
        }
    }
}

impl Drop for Dict {
    fn drop(&mut self) {
        // SAFETY: owned; freeing null is fine.
        unsafe { ffi::av_dict_free(&mut self.0) };
    }
}
