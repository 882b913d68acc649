//! Reading media through an open descriptor: FFmpeg's AVIO with `pread` and a position of its own.
//!
//! Descriptors handed between processes share their offset, so the offset is never used. Nothing
//! here opens a file. For indexes that lie apart from the samples, reads can be *phantom*: the
//! position moves and the bytes are never fetched, so that a container's packets can be listed
//! without reading the file.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};

use ffmpeg_next::ffi;
use frameloom_core::{Error, Result};

use crate::ff;

/// Bytes that AVIO asks for at a time.
const BUFFER: c_int = 32 * 1024;

/// Bytes at the head of a phantom read that are set to zero; the rest is left as it was.
const PHANTOM_HEAD: usize = 64;

struct State {
    file: File,
    position: u64,
    size: u64,
    bytes_read: u64,
    phantom: bool,
    failed: Option<std::io::Error>,
}

/// A source that FFmpeg reads from.
pub(crate) struct Input {
    context: NonNull<ffi::AVIOContext>,
    // Owned; FFmpeg's callbacks hold the same pointer.
    state: NonNull<State>,
}

// SAFETY: the context and its state are used by one thread at a time, whoever holds the Input.
unsafe impl Send for Input {}

impl Input {
    /// Reads `file` from its beginning, through a descriptor of its own.
    ///
    /// # Errors
    /// Invalid where it is no regular file; Exhausted without memory or descriptors.
    pub(crate) fn new(file: &File) -> Result<Self> {
        let meta = file.metadata().map_err(|e| Error::io("cannot read the source", &e))?;
        if !meta.is_file() {
            return Err(Error::invalid("the source is not a regular file"));
        }
        let file = file.try_clone().map_err(|e| Error::io("cannot read the source", &e))?;
        let size = meta.len();
        let state = Box::new(State {
            file,
            position: 0,
            size,
            bytes_read: 0,
            phantom: false,
            failed: None,
        });
        let state = NonNull::from(Box::leak(state));
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
                    0,
                    state.as_ptr().cast(),
                    Some(read_packet),
                    None,
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

    /// FFmpeg's context.
    pub(crate) fn context(&self) -> *mut ffi::AVIOContext {
        self.context.as_ptr()
    }

    fn state(&self) -> &State {
        // SAFETY: owned, and no callback runs while we look.
        unsafe { self.state.as_ref() }
    }

    /// Size of the source in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.state().size
    }

    /// Lets the source end at `size`, where no more than a hole comes behind it.
    pub(crate) fn end_at(&mut self, size: u64) {
        // SAFETY: as for `state`.
        unsafe { self.state.as_mut() }.size = size;
    }

    /// Bytes fetched so far; phantom reads don't count.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.state().bytes_read
    }

    /// Whether reads only move the position from now on.
    pub(crate) fn set_phantom(&mut self, phantom: bool) {
        // SAFETY: as for `state`.
        unsafe { self.state.as_mut() }.phantom = phantom;
    }

    /// The error of the operating system that ended reading, if one did.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        // SAFETY: as for `state`.
        let failed = unsafe { self.state.as_mut() }.failed.take()?;
        Some(Error::io("cannot read the source", &failed))
    }

    /// Up to `length` bytes from `offset`, fewer at the end of the file.
    pub(crate) fn peek(&mut self, offset: u64, length: usize) -> Result<Vec<u8>> {
        // SAFETY: as for `state`.
        let state = unsafe { self.state.as_mut() };
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match state.file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("cannot read the source", &e)),
            }
        }
        state.bytes_read += filled as u64;
        bytes.truncate(filled);
        Ok(bytes)
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        // SAFETY: both are owned and freed once, the context before the state that it points to;
        // AVIO may have replaced its buffer, so the context's own pointer is freed.
        unsafe {
            let mut context = self.context.as_ptr();
            ffi::av_freep((&raw mut (*context).buffer).cast());
            ffi::avio_context_free(&mut context);
            drop(Box::from_raw(self.state.as_ptr()));
        }
    }
}

/// AVIO's read callback.
unsafe extern "C" fn read_packet(opaque: *mut c_void, buffer: *mut u8, length: c_int) -> c_int {
    let Ok(wanted) = usize::try_from(length) else { return ffi::AVERROR(ffi::EINVAL) };
    // SAFETY: `opaque` is the State that `Input::new` leaked, and FFmpeg's buffer holds `length`.
    let state = unsafe { &mut *opaque.cast::<State>() };
    let left = usize::try_from(state.size.saturating_sub(state.position)).unwrap_or(usize::MAX);
    if state.phantom {
        let moved = wanted.min(left);
        if moved == 0 {
            return ffi::AVERROR_EOF;
        }
        // SAFETY: at most `length` bytes are written.
        unsafe { ptr::write_bytes(buffer, 0, moved.min(PHANTOM_HEAD)) };
        state.position += moved as u64;
        return c_int::try_from(moved).unwrap_or(length);
    }
    // SAFETY: FFmpeg's buffer holds `length` bytes, which may not be initialised. At the end of the
    // file it stays untouched: FFmpeg may still go back within it.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<MaybeUninit<u8>>(), wanted) };
    let bytes = &mut bytes[..wanted.min(left)];
    loop {
        match rustix::io::pread(&state.file, &mut *bytes, state.position) {
            Ok(([], _)) => return ffi::AVERROR_EOF,
            Ok((read, _)) => {
                let count = read.len();
                state.position += count as u64;
                state.bytes_read += count as u64;
                return c_int::try_from(count).unwrap_or(length);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                state.failed = Some(e.into());
                return ff::error_code(e);
            }
        }
    }
}

/// AVIO's seek callback.
unsafe extern "C" fn seek(opaque: *mut c_void, offset: i64, whence: c_int) -> i64 {
    // SAFETY: `opaque` is the State that `Input::new` leaked.
    let state = unsafe { &mut *opaque.cast::<State>() };
    let invalid = i64::from(ffi::AVERROR(ffi::EINVAL));
    let base = match whence & !(ffi::AVSEEK_FORCE as c_int) {
        w if w & ffi::AVSEEK_SIZE as c_int != 0 => {
            return i64::try_from(state.size).unwrap_or(invalid);
        }
        0 => 0,
        1 => state.position,
        2 => state.size,
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
