//! Writing media through an open descriptor, with a position of its own, and reading it back for
//! the muxers that move their header to the front.

use std::ffi::{c_char, c_int, c_void};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};

use ffmpeg_next::ffi;
use frameloom_core::{Error, Result};

use crate::ff;
use crate::io::Input;

const BUFFER: c_int = 256 * 1024;

struct State {
    file: File,
    position: u64,
    end: u64,
    failed: Option<std::io::Error>,
    readers: Vec<Input>,
}

/// An output that FFmpeg writes to.
pub(crate) struct Output {
    context: NonNull<ffi::AVIOContext>,
    // Owned; FFmpeg's callbacks hold the same pointer.
    state: NonNull<State>,
}

impl Output {
    /// Writes `file` from its beginning.
    ///
    /// # Errors
    /// Exhausted without memory.
    pub(crate) fn new(file: File) -> Result<Self> {
        let state = State { file, position: 0, end: 0, failed: None, readers: Vec::new() };
        let state = NonNull::from(Box::leak(Box::new(state)));
        // SAFETY: the buffer comes from av_malloc as AVIO demands; `state` outlives the context,
        // since Drop frees the context first.
        let context = unsafe {
            let buffer = ffi::av_malloc(BUFFER as usize).cast::<u8>();
            let context = if buffer.is_null() {
                ptr::null_mut()
            } else {
                ffi::avio_alloc_context(
                    buffer,
                    BUFFER,
                    1,
                    state.as_ptr().cast(),
                    None,
                    Some(write_packet),
                    Some(seek),
                )
            };
            if context.is_null() {
                ffi::av_free(buffer.cast());
                drop(Box::from_raw(state.as_ptr()));
            }
            NonNull::new(context)
        };
        Ok(Self { context: context.ok_or_else(ff::out_of_memory)?, state })
    }

    /// Makes `muxer` write here, and read back from here where it asks for a second look.
    pub(crate) fn attach(&mut self, muxer: &mut ffi::AVFormatContext) {
        muxer.pb = self.context.as_ptr();
        muxer.opaque = self.state.as_ptr().cast();
        muxer.io_open = Some(open_back);
        muxer.io_close2 = Some(close_back);
        muxer.flags |= ffi::AVFMT_FLAG_CUSTOM_IO as c_int;
    }

    /// Writes what is buffered; answers the size of the output in bytes.
    ///
    /// # Errors
    /// Exhausted where the disk is full; Unavailable where it fails.
    pub(crate) fn finish(&mut self) -> Result<u64> {
        // SAFETY: the context is valid.
        let code = unsafe {
            ffi::avio_flush(self.context.as_ptr());
            (*self.context.as_ptr()).error
        };
        self.fail()?;
        ff::check(code, "cannot write the output")?;
        // SAFETY: owned, and no callback runs while we look.
        Ok(unsafe { self.state.as_ref() }.end)
    }

    /// The error of the operating system that ended writing, if one did.
    pub(crate) fn fail(&mut self) -> Result<()> {
        // SAFETY: as in `finish`.
        match unsafe { self.state.as_mut() }.failed.take() {
            Some(e) => Err(Error::io("cannot write the output", &e)),
            None => Ok(()),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // SAFETY: both are owned and freed once, the context before the state that it points to.
        unsafe {
            let mut context = self.context.as_ptr();
            ffi::av_freep((&raw mut (*context).buffer).cast());
            ffi::avio_context_free(&mut context);
            drop(Box::from_raw(self.state.as_ptr()));
        }
    }
}

/// AVIO's write callback.
unsafe extern "C" fn write_packet(opaque: *mut c_void, buffer: *mut u8, length: c_int) -> c_int {
    let Ok(count) = usize::try_from(length) else { return ffi::AVERROR(ffi::EINVAL) };
    // SAFETY: `opaque` is the State that `Output::new` leaked; the buffer holds `length` bytes.
    let (state, bytes) =
        unsafe { (&mut *opaque.cast::<State>(), std::slice::from_raw_parts(buffer, count)) };
    match state.file.write_all_at(bytes, state.position) {
        Ok(()) => {
            state.position += count as u64;
            state.end = state.end.max(state.position);
            length
        }
        Err(e) => {
            let code = e.raw_os_error().unwrap_or(ffi::EIO);
            state.failed = Some(e);
            ffi::AVERROR(code)
        }
    }
}

/// AVIO's seek callback.
unsafe extern "C" fn seek(opaque: *mut c_void, offset: i64, whence: c_int) -> i64 {
    // SAFETY: `opaque` is the State that `Output::new` leaked.
    let state = unsafe { &mut *opaque.cast::<State>() };
    let invalid = i64::from(ffi::AVERROR(ffi::EINVAL));
    let base = match whence & !(ffi::AVSEEK_FORCE as c_int) {
        w if w & ffi::AVSEEK_SIZE as c_int != 0 => {
            return i64::try_from(state.end).unwrap_or(invalid);
        }
        0 => 0,
        1 => state.position,
        2 => state.end,
        _ => return invalid,
    };
    match base.checked_add_signed(offset) {
        Some(position) => {
            state.position = position;
            i64::try_from(position).unwrap_or(invalid)
        }
        None => invalid,
    }
}

/// FFmpeg asks to open a file: it gets the output itself, to read, and nothing else.
unsafe extern "C" fn open_back(
    muxer: *mut ffi::AVFormatContext,
    context: *mut *mut ffi::AVIOContext,
    _: *const c_char,
    flags: c_int,
    _: *mut *mut ffi::AVDictionary,
) -> c_int {
    // SAFETY: `opaque` is the State that `attach` put there.
    let state = unsafe { &mut *(*muxer).opaque.cast::<State>() };
    if flags & ffi::AVIO_FLAG_WRITE as c_int != 0 {
        return ffi::AVERROR(ffi::EACCES);
    }
    match Input::new(&state.file) {
        Ok(input) => {
            // SAFETY: FFmpeg's pointer to fill.
            unsafe { *context = input.context() };
            state.readers.push(input);
            0
        }
        Err(_) => ffi::AVERROR(ffi::EIO),
    }
}

/// FFmpeg closes what [`open_back`] gave.
unsafe extern "C" fn close_back(
    muxer: *mut ffi::AVFormatContext,
    context: *mut ffi::AVIOContext,
) -> c_int {
    // SAFETY: `opaque` is the State that `attach` put there.
    let state = unsafe { &mut *(*muxer).opaque.cast::<State>() };
    state.readers.retain(|reader| reader.context() != context);
    0
}
