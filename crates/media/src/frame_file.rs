//! Frames as files: a head of 4096 bytes, which is JSON filled up with spaces, and the planes behind
//! it, row by row without gaps.

use std::ffi::c_int;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};

use ffmpeg_next::ffi;
use frameloom_core::plan::ColorTags;
use frameloom_core::time::Rational;
use frameloom_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::frame::{Frame, PixelFormat};
use crate::hdr::{RawLight, RawMastering};
use crate::{color, ff};

/// Length of the head in bytes.
const HEAD: usize = 4096;

/// Longest side of a picture in pixels.
const LONGEST: u32 = 32_768;

/// Parts that one system call writes or reads at most.
const MOST_PARTS: usize = 1024;

/// What a file tells of its frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Width in pixels.
    pub(crate) width: u32,
    /// Height in pixels.
    pub(crate) height: u32,
    /// FFmpeg's name of the pixel format, one that filters see.
    pub(crate) pixel_format: String,
    /// Presentation time in ticks.
    #[serde(default)]
    pub(crate) pts: i64,
    /// Colour tags.
    #[serde(default = "no_tags")]
    pub(crate) color: ColorTags,
    /// Sample aspect ratio.
    #[serde(default = "no_ratio")]
    pub(crate) sample_aspect_ratio: Rational,
    /// Whether it holds two fields.
    #[serde(default)]
    pub(crate) interlaced: bool,
    /// Whether the upper field comes first.
    #[serde(default)]
    pub(crate) top_field_first: bool,
    /// FFmpeg's notes on the display that it was mastered on and on its light, hexadecimal: `tonemap`
    /// goes by them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hdr: Vec<String>,
    /// Milliseconds that its filters took.
    #[serde(default)]
    pub(crate) worked_ms: f32,
}

/// The kinds of notes that go along, with their sizes.
const NOTES: [(ffi::AVFrameSideDataType, usize); 2] = [
    (ffi::AVFrameSideDataType::AV_FRAME_DATA_MASTERING_DISPLAY_METADATA, size_of::<RawMastering>()),
    (ffi::AVFrameSideDataType::AV_FRAME_DATA_CONTENT_LIGHT_LEVEL, size_of::<RawLight>()),
];

/// The notes on a frame.
fn notes(frame: &Frame) -> Vec<String> {
    let note = |(kind, size)| {
        // SAFETY: the frame is valid; null, or side data that lives as long as the frame.
        let bytes = unsafe {
            let data = ffi::av_frame_get_side_data(frame.as_ptr(), kind).as_ref()?;
            std::slice::from_raw_parts(data.data, data.size)
        };
        let digits = |byte: &u8| format!("{byte:02x}");
        (bytes.len() == size).then(|| bytes.iter().map(digits).collect::<String>())
    };
    let all = NOTES.map(note);
    if all.iter().all(Option::is_none) {
        return Vec::new();
    }
    all.into_iter().map(Option::unwrap_or_default).collect()
}

/// Gives a frame its notes; what is none is left out.
fn add_notes(frame: &mut Frame, notes: &[String]) -> Result<()> {
    for ((kind, size), text) in NOTES.into_iter().zip(notes) {
        let digits = text.as_bytes().chunks(2);
        let bytes: Option<Vec<u8>> = digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        let Some(bytes) = bytes.filter(|bytes| bytes.len() == size) else { continue };
        // SAFETY: the frame is valid; what is made has room for so many bytes.
        unsafe {
            let data = ffi::av_frame_new_side_data(frame.as_mut_ptr(), kind, size);
            let data = data.as_mut().ok_or_else(ff::out_of_memory)?;
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), data.data, size);
        }
    }
    Ok(())
}

fn no_tags() -> ColorTags {
    let unknown = || "unknown".to_owned();
    ColorTags {
        range: unknown(),
        primaries: unknown(),
        transfer: unknown(),
        matrix: unknown(),
        chroma_location: unknown(),
    }
}

fn no_ratio() -> Rational {
    Rational::new(0, 1)
}

impl Head {
    fn of(frame: &Frame, worked_ms: f32) -> Result<Self> {
        let raw = frame.raw();
        let ratio = raw.sample_aspect_ratio;
        Ok(Self {
            width: frame.width(),
            height: frame.height(),
            pixel_format: frame.pixel()?.name().to_owned(),
            pts: frame.pts(),
            color: color::of_frame(raw),
            sample_aspect_ratio: Rational::new(ratio.num, ratio.den),
            interlaced: raw.interlaced_frame != 0,
            top_field_first: raw.top_field_first != 0,
            hdr: notes(frame),
            worked_ms,
        })
    }

    /// The frame's pixel format.
    ///
    /// # Errors
    /// Invalid where it is none that filters see.
    pub(crate) fn pixel(&self) -> Result<PixelFormat> {
        PixelFormat::from_name(&self.pixel_format).map_err(|_| {
            Error::invalid(format!(
                "pixel format '{}' of a frame's file is none of gray, yuv420p, yuv422p, yuv444p and yuv420p10le",
                self.pixel_format.escape_debug()
            ))
        })
    }

    /// Gives a frame what the file tells of it.
    fn tell(&self, frame: &mut Frame) {
        let raw = frame.raw_mut();
        raw.pts = self.pts;
        let ratio = self.sample_aspect_ratio;
        (raw.sample_aspect_ratio.num, raw.sample_aspect_ratio.den) = (ratio.num, ratio.den);
        raw.interlaced_frame = c_int::from(self.interlaced);
        raw.top_field_first = c_int::from(self.top_field_first);
        color::tag_frame(raw, &self.color);
    }
}

/// Writes a frame whose filters took so many milliseconds.
///
/// # Errors
/// Of the file system; Internal where the frame is not in a format that filters see.
pub(crate) fn write(frame: &Frame, worked_ms: f32, mut file: &File) -> Result<()> {
    let pixel = frame.pixel()?;
    let mut head = serde_json::to_vec(&Head::of(frame, worked_ms)?)
        .map_err(|e| Error::internal("cannot write JSON").with_source(e))?;
    if head.len() > HEAD {
        return Err(Error::internal("a frame tells too much of itself"));
    }
    head.resize(HEAD, b' ');
    let planes = (0..pixel.planes()).map(|i| frame.plane(i)).collect::<Result<Vec<_>>>()?;
    let mut parts = vec![IoSlice::new(&head)];
    for plane in &planes {
        let row = plane.width * pixel.sample_bytes() as usize;
        if row == plane.stride {
            parts.push(IoSlice::new(&plane.bytes[..row * plane.height]));
        } else {
            parts.extend(plane.bytes.chunks(plane.stride).map(|line| IoSlice::new(&line[..row])));
        }
    }
    let mut parts = parts.as_mut_slice();
    while !parts.is_empty() {
        let most = parts.len().min(MOST_PARTS);
        match file.write_vectored(&parts[..most]) {
            Ok(0) => return Err(Error::exhausted("cannot write a frame: its file takes no more")),
            Ok(count) => IoSlice::advance_slices(&mut parts, count),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("cannot write a frame", &e)),
        }
    }
    Ok(())
}

/// Reads what a file tells of its frame; the planes come next.
///
/// # Errors
/// Invalid where it is no frame's file, or one of another size than its head tells.
pub(crate) fn read_head(mut file: &File) -> Result<Head> {
    let failed = |e: std::io::Error| Error::io("cannot read a frame", &e);
    let mut head = [0; HEAD];
    let read = file.read_exact(&mut head);
    read.map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::invalid("a frame's file that is cut off"),
        _ => failed(e),
    })?;
    let text = head.trim_ascii_end();
    let head: Head = serde_json::from_slice(text)
        .map_err(|e| Error::invalid(format!("a frame's file whose head is wrong ({e})")))?;
    let pixel = head.pixel()?;
    let sides = 1..=LONGEST;
    if !sides.contains(&head.width) || !sides.contains(&head.height) {
        return Err(Error::invalid(format!(
            "a frame of {}x{}; sides have 1 to {LONGEST} pixels",
            head.width, head.height
        )));
    }
    let mut size = HEAD as u64;
    for plane in 0..pixel.planes() {
        let (width, height) = pixel.plane_size(plane, head.width, head.height);
        size += u64::from(width) * u64::from(height) * u64::from(pixel.sample_bytes());
    }
    let length = file.metadata().map_err(failed)?.len();
    if length != size {
        return Err(Error::invalid(format!(
            "a frame's file of {length} bytes; {}x{} of {} are {size} with the head",
            head.width, head.height, head.pixel_format
        )));
    }
    Ok(head)
}

/// Reads the frame of a file whose head was read. With `like` it has that one's further properties.
///
/// # Errors
/// Of the file system; Exhausted where memory is.
pub(crate) fn read(head: &Head, mut file: &File, like: Option<&Frame>) -> Result<Frame> {
    let pixel = head.pixel()?;
    let mut frame = match like {
        Some(like) => like.new_like(pixel, head.width, head.height)?,
        None => {
            let mut frame = Frame::new(pixel, head.width, head.height)?;
            add_notes(&mut frame, &head.hdr)?;
            frame
        }
    };
    head.tell(&mut frame);
    for plane in 0..pixel.planes() {
        let plane = frame.plane_mut(plane)?;
        let row = plane.width * pixel.sample_bytes() as usize;
        let mut parts: Vec<IoSliceMut<'_>> = if row == plane.stride {
            vec![IoSliceMut::new(&mut plane.bytes[..row * plane.height])]
        } else {
            let lines = plane.bytes.chunks_mut(plane.stride);
            lines.map(|line| IoSliceMut::new(&mut line[..row])).collect()
        };
        let mut parts = parts.as_mut_slice();
        while !parts.is_empty() {
            let most = parts.len().min(MOST_PARTS);
            match file.read_vectored(&mut parts[..most]) {
                Ok(0) => return Err(Error::invalid("a frame's file that is cut off")),
                Ok(count) => IoSliceMut::advance_slices(&mut parts, count),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("cannot read a frame", &e)),
            }
        }
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom};

    use super::*;

    fn sample(pixel: PixelFormat, width: u32, height: u32) -> Frame {
        let mut frame = Frame::new(pixel, width, height).unwrap();
        for plane in 0..pixel.planes() {
            let plane = frame.plane_mut(plane).unwrap();
            for (at, byte) in plane.bytes.iter_mut().enumerate() {
                *byte = u8::try_from(at * 31 % 251).unwrap();
            }
        }
        let mut head = Head::of(&frame, 0.0).unwrap();
        head.pts = -7;
        (head.color.range, head.color.matrix) = ("pc".into(), "bt709".into());
        (head.interlaced, head.top_field_first) = (true, true);
        head.sample_aspect_ratio = Rational::new(4, 3);
        let digits = |size: usize| (0..size).map(|i| format!("{:02x}", i % 256)).collect();
        add_notes(&mut frame, &NOTES.map(|(_, size)| digits(size))).unwrap();
        head.tell(&mut frame);
        frame
    }

    fn rows(frame: &Frame) -> Vec<Vec<u8>> {
        let pixel = frame.pixel().unwrap();
        let plane = |i| {
            let plane = frame.plane(i).unwrap();
            let row = plane.width * pixel.sample_bytes() as usize;
            plane.bytes.chunks(plane.stride).map(|line| line[..row].to_vec()).collect::<Vec<_>>()
        };
        (0..pixel.planes()).flat_map(plane).collect()
    }

    #[test]
    fn a_frame_comes_back_as_it_was() {
        for pixel in PixelFormat::EIGHT_BIT.into_iter().chain([PixelFormat::Yuv420p10]) {
            for (width, height) in [(1, 1), (64, 48), (131, 1301)] {
                let frame = sample(pixel, width, height);
                let mut file = tempfile::tempfile().unwrap();
                write(&frame, 2.5, &file).unwrap();
                file.seek(SeekFrom::Start(0)).unwrap();
                let head = read_head(&file).unwrap();
                assert_eq!(head, Head::of(&frame, 2.5).unwrap());
                assert_eq!(head.hdr.len(), 2);
                let back = read(&head, &file, None).unwrap();
                assert_eq!(Head::of(&back, 2.5).unwrap(), head);
                assert!(rows(&back) == rows(&frame), "{pixel:?} {width}x{height}");
            }
        }
    }

    #[test]
    fn fuzz_frame_file() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");
        let mut target = frameloom_fuzz::Target::new("frame-file", corpus, 2000);
        target.words =
            &["width", "height", "pixel_format", "gray", "yuv420p10le", "pts", "hdr", "color"];
        for pixel in [PixelFormat::Gray8, PixelFormat::Yuv420p, PixelFormat::Yuv420p10] {
            let mut file = tempfile::tempfile().unwrap();
            write(&sample(pixel, 5, 3), 1.5, &file).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            target.seeds.push(bytes);
        }
        let like = sample(PixelFormat::Yuv420p, 5, 3);
        target.fuzz(|input| {
            // The head has its length again, so that what is changed stays a head.
            let mut bytes = input.to_vec();
            if let Some(end) = bytes.iter().position(|byte| *byte == b'}') {
                let (head, planes) = bytes.split_at((end + 1).min(HEAD));
                let planes = planes.trim_ascii_start();
                let mut whole = head.to_vec();
                whole.resize(HEAD, b' ');
                whole.extend_from_slice(planes);
                bytes = whole;
            }
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            let read = read_head(&file).and_then(|head| {
                let like = (head.width == 5).then_some(&like);
                read(&head, &file, like).map(|frame| rows(&frame).len())
            });
            read.map_or_else(|e| e.message().to_owned(), |rows| format!("{rows} rows"))
        });
    }

    #[test]
    fn what_is_no_frame_is_refused_in_words() {
        let refused = |head: &str, more: usize| {
            let mut file = tempfile::tempfile().unwrap();
            write!(file, "{head:HEAD$}").unwrap();
            file.write_all(&vec![0; more]).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            read_head(&file).unwrap_err().message().to_owned()
        };
        let gray = r#"{"width":3,"height":2,"pixel_format":"gray"}"#;
        for (head, more, words) in [
            ("{}", 6, "head is wrong"),
            (gray, 5, "of 4101 bytes; 3x2 of gray are 4102"),
            (&gray.replace("gray", "rgb24"), 6, "pixel format 'rgb24'"),
            (&gray.replace('3', "0"), 0, "a frame of 0x2"),
            (&gray.replace('3', "99999"), 6, "a frame of 99999x2"),
        ] {
            let said = refused(head, more);
            assert!(said.contains(words), "'{said}' lacks '{words}'");
        }
        assert!(read_head(&tempfile::tempfile().unwrap()).is_err());
    }
}
