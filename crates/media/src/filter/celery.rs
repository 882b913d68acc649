//! `celery`: frames that are processed elsewhere, as RGB, and come back.

use std::collections::VecDeque;
use std::ffi::c_int;
use std::fs::File;
use std::io::{Read, Write};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ffmpeg_next::ffi::{self, AVPixelFormat as F};
use frameloom_core::catalogue::Params;
use frameloom_core::frame_task::FrameTaskSpec;
use frameloom_core::slot::FrameNumber;
use frameloom_core::{Error, ErrorKind, Result};

use super::kept::Kept;
use super::{Filter, Lost};
use crate::convert::{Scaler, Shape};
use crate::frame::{Frame, FrameFormat, PixelFormat};

/// Length of the head of an array file as we write it.
const HEAD: usize = 128;

/// Bytes behind the last row.
const PADDING: usize = 64;

/// Longest head of an array file that is read.
const LONGEST_HEAD: usize = 4096;

/// Carries frames away and back. A slot opens no file itself.
pub trait Elsewhere: Send {
    /// A file for a frame that is about to go.
    ///
    /// # Errors
    /// Of whoever carries it.
    fn away(&mut self, frame: FrameNumber) -> Result<File>;

    /// The frame's file is written.
    ///
    /// # Errors
    /// As [`Elsewhere::away`].
    fn gone(&mut self, frame: FrameNumber) -> Result<()>;

    /// Waits for a frame to come back.
    ///
    /// # Errors
    /// Of whoever carries it: then nothing is known of the frame.
    fn back(&mut self, frame: FrameNumber) -> Result<Back>;
}

/// What has become of a frame that was away.
#[derive(Debug)]
pub enum Back {
    /// It is done, and lies in this file.
    Done(File),
    /// It cannot be done.
    Failed(Error),
}

/// What carries frames, shared by the filters of a chain.
pub type Exchange = Arc<Mutex<dyn Elsewhere>>;

pub(super) fn lock(exchange: &Exchange) -> MutexGuard<'_, dyn Elsewhere + 'static> {
    exchange.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The filter at work.
pub(super) struct CeleryFilter {
    exchange: Exchange,
    filter: u32,
    width: usize,
    height: usize,
    window: u64,
    next: u64,
    away: VecDeque<(FrameNumber, Frame)>,
    rgb: Rgb,
    bytes: Vec<u8>,
    kept: Kept,
}

impl CeleryFilter {
    pub(super) fn build(
        params: &Params,
        format: &FrameFormat,
        filter: u32,
        exchange: &Exchange,
    ) -> Result<Box<dyn Filter>> {
        let spec = FrameTaskSpec::of(params)?;
        let (width, height) = (format.width as usize, format.height as usize);
        let bytes = width * height * 3;
        Ok(Box::new(Self {
            exchange: Arc::clone(exchange),
            filter,
            window: spec.window(bytes as u64),
            kept: Kept::new(spec.on_error),
            width,
            height,
            next: 0,
            away: VecDeque::new(),
            rgb: Rgb { to: None, from: None },
            // Libswscale may read some bytes past the last row.
            bytes: vec![0; bytes + PADDING],
        }))
    }

    /// Bytes of a frame as RGB.
    fn size(&self) -> usize {
        self.width * self.height * 3
    }

    fn send(&mut self, frame: Frame) -> Result<()> {
        let number = FrameNumber { filter: self.filter, number: self.next, pts: frame.pts() };
        self.next += 1;
        self.rgb.write(&frame, &mut self.bytes)?;
        let mut exchange = lock(&self.exchange);
        let mut file = exchange.away(number)?;
        let failed = |e: std::io::Error| Error::io("cannot write a frame", &e);
        file.write_all(&head(self.width, self.height)).map_err(failed)?;
        file.write_all(&self.bytes[..self.size()]).map_err(failed)?;
        drop(file);
        exchange.gone(number)?;
        drop(exchange);
        self.away.push_back((number, frame));
        Ok(())
    }

    /// Waits for the frame that has been away longest.
    fn receive(&mut self, out: &mut Vec<Frame>) -> Result<()> {
        let Some((number, frame)) = self.away.pop_front() else { return Ok(()) };
        let came = lock(&self.exchange).back(number)?;
        let made = match came {
            Back::Done(file) => match self.read(&frame, file) {
                // Its function has written something else than a frame.
                Err(error) if error.kind() == ErrorKind::Invalid => Err(error),
                read => Ok(read?),
            },
            Back::Failed(error) => Err(error),
        };
        self.kept.keep(made, frame, out).map(drop)
    }

    fn read(&mut self, like: &Frame, mut file: File) -> Result<Frame> {
        read_head(&mut file, self.width, self.height)?;
        let size = self.size();
        read_whole(&mut file, &mut self.bytes[..size], "an array file that is cut off")?;
        self.rgb.read(like, &self.bytes)
    }
}

impl Filter for CeleryFilter {
    fn push(&mut self, frame: Frame, out: &mut Vec<Frame>) -> Result<()> {
        while self.away.len() as u64 >= self.window {
            self.receive(out)?;
        }
        self.send(frame)
    }

    fn finish(&mut self, out: &mut Vec<Frame>) -> Result<()> {
        while !self.away.is_empty() {
            self.receive(out)?;
        }
        self.kept.end()
    }

    fn lost(&mut self) -> Lost {
        self.kept.lost()
    }
}

/// The head of a NumPy array file (version 1.0) of height × width × 3 bytes.
fn head(width: usize, height: usize) -> Vec<u8> {
    let length = u16::try_from(HEAD - 10).unwrap_or(u16::MAX);
    let text =
        format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({height}, {width}, 3), }}");
    let mut head = b"\x93NUMPY\x01\x00".to_vec();
    head.extend_from_slice(&length.to_le_bytes());
    head.extend_from_slice(text.as_bytes());
    head.resize(HEAD - 1, b' ');
    head.push(b'\n');
    head
}

/// What a function has written is no frame.
fn wrong(what: &str) -> Error {
    Error::invalid(format!("a frame came back as {what}"))
}

/// Fills `bytes` from a file; where it ends before, it is what `short` says.
fn read_whole(file: &mut File, bytes: &mut [u8], short: &str) -> Result<()> {
    file.read_exact(bytes).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => wrong(short),
        _ => Error::io("cannot read a frame that came back", &e),
    })
}

/// Reads the head of an array file, which must tell what we have sent: the shape stays.
fn read_head(file: &mut File, width: usize, height: usize) -> Result<()> {
    let mut start = [0; 10];
    read_whole(file, &mut start, "no array file")?;
    let (magic, rest) = start.split_at(6);
    if magic != b"\x93NUMPY" || rest[0] != 1 {
        return Err(wrong("no array file of version 1"));
    }
    let length = usize::from(u16::from_le_bytes([rest[2], rest[3]]));
    if length > LONGEST_HEAD {
        return Err(wrong("an array file with an endless head"));
    }
    let mut text = vec![0; length];
    read_whole(file, &mut text, "an array file that is cut off")?;
    let text: String =
        String::from_utf8_lossy(&text).chars().filter(|c| !c.is_whitespace()).collect();
    let fits = ["'descr':'|u1'", "'fortran_order':False"].iter().all(|part| text.contains(part))
        && text.contains(&format!("'shape':({height},{width},3)"));
    if fits {
        Ok(())
    } else {
        let text: String = text.chars().take(120).flat_map(char::escape_debug).collect();
        Err(wrong(&format!("{text}, not as bytes of the shape ({height}, {width}, 3)")))
    }
}

/// Between a frame's planes and rows of RGB.
struct Rgb {
    to: Option<(Shape, Scaler)>,
    from: Option<(Shape, Scaler)>,
}

impl Rgb {
    /// Writes a frame as rows of RGB without gaps.
    fn write(&mut self, frame: &Frame, bytes: &mut [u8]) -> Result<()> {
        if frame.pixel()? == PixelFormat::Gray8 {
            return gray_to_rgb(frame, bytes);
        }
        let shape = Shape::of(frame);
        let scaler = scaler(&mut self.to, shape, true)?;
        let (planes, strides) = rows(bytes.as_mut_ptr(), shape.width);
        let raw = frame.raw();
        debug_assert!(
            bytes.len() as u64 >= u64::from(frame.width()) * u64::from(frame.height()) * 3
        );
        // SAFETY: the frame has planes of the scaler's shape, and the bytes hold its rows of RGB.
        unsafe {
            scaler.scale(
                (raw.data.as_ptr().cast(), raw.linesize.as_ptr()),
                raw.height,
                (planes.as_ptr(), strides.as_ptr()),
            )
        }
    }

    /// A frame like another one, with the picture of rows of RGB.
    fn read(&mut self, like: &Frame, bytes: &[u8]) -> Result<Frame> {
        if like.pixel()? == PixelFormat::Gray8 {
            return gray_from_rgb(like, bytes);
        }
        let shape = Shape::of(like);
        let scaler = scaler(&mut self.from, shape, false)?;
        let mut frame = like.new_like(like.pixel()?, like.width(), like.height())?;
        let (planes, strides) = rows(bytes.as_ptr().cast_mut(), shape.width);
        let planes = planes.map(<*mut u8>::cast_const);
        let raw = frame.raw_mut();
        // SAFETY: the bytes hold rows of RGB of the scaler's shape, which it only reads.
        unsafe {
            scaler.scale(
                (planes.as_ptr(), strides.as_ptr()),
                shape.height,
                (raw.data.as_ptr().cast(), raw.linesize.as_ptr()),
            )
        }?;
        Ok(frame)
    }
}

/// Grey as RGB. Libswscale takes every grey for one of full range on this way, and not on the way back.
fn gray_to_rgb(frame: &Frame, bytes: &mut [u8]) -> Result<()> {
    let full = frame.is_full_range();
    let plane = frame.plane(0)?;
    for (y, row) in bytes.chunks_exact_mut(plane.width * 3).take(plane.height).enumerate() {
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let luma = plane.bytes[y * plane.stride + x];
            let level = (f32::from(luma) - 16.0) * 255.0 / 219.0;
            pixel.fill(if full { luma } else { rounded(level) });
        }
    }
    Ok(())
}

/// The luma of RGB, by the weights of Rec. 601, as that of a grey frame.
fn gray_from_rgb(like: &Frame, bytes: &[u8]) -> Result<Frame> {
    let full = like.is_full_range();
    let mut frame = like.new_like(PixelFormat::Gray8, like.width(), like.height())?;
    let plane = frame.plane_mut(0)?;
    for (y, row) in bytes.chunks_exact(plane.width * 3).take(plane.height).enumerate() {
        for (x, pixel) in row.chunks_exact(3).enumerate() {
            let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(f32::from);
            let level = 0.299 * r + 0.587 * g + 0.114 * b;
            let luma = if full { level } else { 16.0 + level * 219.0 / 255.0 };
            plane.bytes[y * plane.stride + x] = rounded(luma);
        }
    }
    Ok(frame)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn rounded(level: f32) -> u8 {
    level.round().clamp(0.0, 255.0) as u8
}

fn rows(bytes: *mut u8, width: c_int) -> ([*mut u8; 4], [c_int; 4]) {
    ([bytes, ptr::null_mut(), ptr::null_mut(), ptr::null_mut()], [width * 3, 0, 0, 0])
}

/// The scaler in `place`, made anew for another shape; to RGB, or from it.
fn scaler(place: &mut Option<(Shape, Scaler)>, shape: Shape, to_rgb: bool) -> Result<&mut Scaler> {
    if place.as_ref().is_none_or(|(known, _)| *known != shape) {
        *place = Some((shape, new_scaler(shape, to_rgb)?));
    }
    match place {
        Some((_, scaler)) => Ok(scaler),
        None => Err(Error::internal("no scaler was made")),
    }
}

fn new_scaler(shape: Shape, to_rgb: bool) -> Result<Scaler> {
    let flags = ffi::SWS_BICUBIC
        | ffi::SWS_ACCURATE_RND
        | ffi::SWS_FULL_CHR_H_INT
        | ffi::SWS_FULL_CHR_H_INP;
    let rgb = Shape { format: F::AV_PIX_FMT_RGB24 as c_int, full: true, ..shape };
    let (from, to) = if to_rgb { (shape, rgb) } else { (rgb, shape) };
    Scaler::new(from, to, shape.matrix, flags)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom};

    use super::*;

    #[test]
    fn a_head_is_that_of_numpy_and_comes_back() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&head(640, 360)).unwrap();
        assert_eq!(file.stream_position().unwrap(), 128);
        file.seek(SeekFrom::Start(0)).unwrap();
        read_head(&mut file, 640, 360).unwrap();
        for (width, height) in [(360, 640), (64, 360)] {
            file.seek(SeekFrom::Start(0)).unwrap();
            let error = read_head(&mut file, width, height).unwrap_err();
            assert!(error.message().contains("(360,640,3)"), "{error}");
        }
        let mut short = tempfile::tempfile().unwrap();
        assert!(read_head(&mut short, 1, 1).is_err());
    }

    #[test]
    fn fuzz_array_file() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");
        let mut target = frameloom_fuzz::Target::new("array-file", corpus, 5000);
        target.words =
            &["descr", "|u1", "fortran_order", "False", "True", "shape", "(3,5,3)", "NUMPY"];
        target.seeds = vec![[head(5, 3), vec![7; 45]].concat()];
        let mut rgb = Rgb { to: None, from: None };
        let like = Frame::new(PixelFormat::Yuv420p, 5, 3).unwrap();
        let mut bytes = vec![0; 45 + PADDING];
        target.fuzz(|input| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(input).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            let read = read_head(&mut file, 5, 3)
                .and_then(|()| read_whole(&mut file, &mut bytes[..45], "cut off"))
                .and_then(|()| rgb.read(&like, &bytes));
            read.map_or_else(|e| e.message().to_owned(), |_| "a frame".into())
        });
    }

    #[test]
    fn to_rgb_and_back_costs_two_levels_at_most_of_plain_colours() {
        for pixel in [PixelFormat::Yuv420p, PixelFormat::Yuv444p, PixelFormat::Gray8] {
            for (luma, chroma) in [(16u8, 128u8), (235, 128), (120, 100), (90, 150)] {
                let mut frame = Frame::new(pixel, 34, 18).unwrap();
                for plane in 0..pixel.planes() {
                    let value = if plane == 0 { luma } else { chroma };
                    frame.plane_mut(plane).unwrap().bytes.fill(value);
                }
                let mut rgb = Rgb { to: None, from: None };
                let mut bytes = vec![0; 34 * 18 * 3 + PADDING];
                rgb.write(&frame, &mut bytes).unwrap();
                let back = rgb.read(&frame, &bytes).unwrap();
                for plane in 0..pixel.planes() {
                    let (a, b) = (frame.plane(plane).unwrap(), back.plane(plane).unwrap());
                    for y in 0..a.height {
                        for x in 0..a.width {
                            let (a, b) = (a.bytes[y * a.stride + x], b.bytes[y * b.stride + x]);
                            assert!(a.abs_diff(b) <= 2, "{pixel:?} plane {plane}: {a} became {b}");
                        }
                    }
                }
            }
        }
    }
}
