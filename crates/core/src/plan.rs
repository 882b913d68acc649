//! The plan: everything that decides the output's bytes, fixed once before any work begins.
//!
//! A plan is a pure function of the source, the pipeline, the encoder settings and the segment
//! length; never of slots, nodes or load. So any attempt anywhere gives the same bytes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::catalogue::Footprint;
use crate::id::EngineId;
use crate::pipeline::FilterSpec;
use crate::spec::{Codec, Container, DetectionsFormat, Granularity, KeptMetadata, OnError};
use crate::time::{Interval, Rational, TimeBase};
use crate::{Error, Result};

/// Version of this structure; a plan of another version is made anew.
pub const PLAN_VERSION: u32 = 7;

/// A job cut into tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// The versions that shape bytes.
    pub engine: Engine,
    /// The source as found.
    pub source: SourceInfo,
    /// What part of the source's timeline is kept, in source ticks.
    pub trim: Interval,
    /// Subtracted from every source timestamp, in ticks of the video's time base.
    pub offset: i64,
    /// The filters, in order.
    pub filters: Vec<PlannedFilter>,
    /// The footprint of the whole chain.
    pub footprint: Footprint,
    /// The pictures that the filters get: the source's, converted and turned.
    pub working: PictureInfo,
    /// The pictures that the encoder gets.
    pub output: OutputInfo,
    /// What is looked for, where a filter looks for anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detection: Option<PlannedDetection>,
    /// Whether a filter hides what is found: then nothing of it may show elsewhere.
    #[serde(default)]
    pub hides: bool,
    /// What of the source is left out because it may tell of what is hidden.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<KeptMetadata>,
    /// The encoder.
    pub encoder: PlannedEncoder,
    /// What becomes of each stream of the source.
    pub streams: Vec<PlannedStream>,
    /// The segments, in order; they partition the timeline.
    pub segments: Vec<Segment>,
    /// Entry points at or before the segments' starts, by pts; where decoding may begin.
    pub entries: Vec<EntryPoint>,
    /// Why the timeline is one segment, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What a user should know: conversions, streams left out, damage.
    pub messages: Vec<Message>,
    /// What the filters' work is handed out by; it shapes no byte.
    #[serde(default, skip_serializing_if = "Granularity::is_segment")]
    pub granularity: Granularity,
    /// What becomes of a frame whose task has failed three times, where frames are tasks.
    #[serde(default, skip_serializing_if = "OnError::is_fail")]
    pub on_error: OnError,
    /// Bytes read from the source to make the plan, its fingerprint aside.
    pub index_bytes_read: u64,
}

/// The pinned versions that shape bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Engine {
    /// Frameloom's version.
    pub frameloom: String,
    /// FFmpeg's libraries, as `libavcodec 59.37.100, …`.
    pub ffmpeg: String,
    /// The libraries of encoders, by the names of their files, which tell their versions.
    pub encoders: String,
    /// OpenCV's version.
    pub opencv: String,
    /// ONNX Runtime's version by the name of its file; empty where it is not installed.
    #[serde(default)]
    pub onnxruntime: String,
    /// One digest of the models that are part of the program.
    #[serde(default)]
    pub models: String,
    /// The instruction set class, where a step's bytes depend on it.
    pub cpu: String,
}

impl Engine {
    /// Its short name, by which queues and nodes are told apart.
    pub fn id(&self) -> EngineId {
        let Self { frameloom, ffmpeg, encoders, opencv, onnxruntime, models, cpu } = self;
        let mut hash = Sha256::new();
        for part in [frameloom, ffmpeg, encoders, opencv, onnxruntime, models, cpu] {
            // No version holds a zero, so no two engines give the same bytes.
            hash.update(part);
            hash.update([0]);
        }
        EngineId::from_digest(&hash.finalize())
    }
}

/// What identifies a source's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fingerprint {
    /// Size in bytes.
    pub size: u64,
    /// Modification time in nanoseconds since 1970.
    pub modified_ns: i64,
    /// SHA-256, hexadecimal: of the first, last and 16 spread MiB, or of all with `whole`.
    pub sha256: String,
    /// Whether all of the file was hashed.
    pub whole: bool,
}

/// The source as found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SourceInfo {
    /// The file's name as given, without directories.
    pub name: String,
    /// FFmpeg's name of the demuxer, e.g. `mov,mp4,m4a,3gp,3g2,mj2`.
    pub format: String,
    /// What identifies its content.
    pub fingerprint: Fingerprint,
    /// Where time begins, in microseconds: the earliest start of any stream, which becomes 0.
    pub start_us: i64,
    /// Duration in microseconds, as far as the container tells.
    pub duration_us: Option<i64>,
    /// The video stream that is processed.
    pub video: VideoInfo,
}

/// A video stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VideoInfo {
    /// Its number in the file.
    pub stream: u32,
    /// FFmpeg's name of its codec.
    pub codec: String,
    /// Coded width in pixels, before rotation.
    pub width: u32,
    /// Coded height in pixels, before rotation.
    pub height: u32,
    /// FFmpeg's name of its pixel format.
    pub pixel_format: String,
    /// Seconds a tick.
    pub time_base: TimeBase,
    /// Smallest pts known, in ticks.
    pub start_pts: Option<i64>,
    /// Average frame rate; unknown where `den` is 0.
    pub frame_rate: Rational,
    /// Frames, where the container tells.
    pub frames: Option<u64>,
    /// Frames that precede another one in coding order and follow it when shown, at most, as far as
    /// the packets tell: a decoder must hold back as many.
    pub reorder: u32,
    /// Clockwise rotation for display: 0, 90, 180 or 270 degrees.
    pub rotation: u32,
    /// Whether it is to be flipped horizontally before the rotation.
    pub flip: bool,
    /// Sample aspect ratio; 0/1 where unknown.
    pub sample_aspect_ratio: Rational,
    /// Order of its fields: `progressive`, `tff`, `bff` or `unknown`.
    pub field_order: String,
    /// Colour tags.
    pub color: ColorTags,
    /// Whether its timestamps begin anew on the way, as in joined streams; they are made to go on.
    pub discontinuous: bool,
    /// What an HDR source tells of the display it was made on, where it does.
    #[serde(default, skip_serializing_if = "Hdr::is_empty")]
    pub hdr: Hdr,
}

/// HDR10's static metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Hdr {
    /// The display that the video was mastered on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mastering: Option<MasteringDisplay>,
    /// How bright its content is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub light: Option<ContentLight>,
}

impl Hdr {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.mastering.is_none() && self.light.is_none()
    }
}

/// A mastering display, as SMPTE ST 2086 counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MasteringDisplay {
    /// Chromaticity `[x, y]` of red, green and blue in units of 0.00002.
    pub primaries: [[u32; 2]; 3],
    /// Chromaticity `[x, y]` of white in units of 0.00002.
    pub white: [u32; 2],
    /// Least luminance in units of 0.0001 cd/m².
    pub min_luminance: u32,
    /// Greatest luminance in units of 0.0001 cd/m².
    pub max_luminance: u32,
}

/// A content's light level, as CTA-861.3 defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContentLight {
    /// Greatest light level of any pixel in cd/m² (MaxCLL).
    pub max_content: u32,
    /// Greatest mean light level of any frame in cd/m² (MaxFALL).
    pub max_frame_average: u32,
}

/// Colour tags by FFmpeg's names; `unknown` where not tagged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ColorTags {
    /// Range: `tv`, `pc` or `unknown`.
    pub range: String,
    /// Primaries.
    pub primaries: String,
    /// Transfer characteristic.
    pub transfer: String,
    /// Matrix.
    pub matrix: String,
    /// Place of the chroma samples.
    pub chroma_location: String,
}

/// The stages of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stages {
    /// Segments of the timeline.
    pub segments: u32,
    /// Pieces of the timeline that are looked into, and what is found is followed, before any segment is processed; 0 where
    /// nothing is looked for first.
    pub pieces: u32,
    /// Whether they are processed: else all that is wanted is what was found.
    pub render: bool,
}

impl Plan {
    /// Whether it can be done: its parts are numbered from 0, lie in order, begin and end where the others do, and name
    /// what is there. Whoever made it may have been taken over by what it looked at.
    ///
    /// # Errors
    /// Internal with what is wrong.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: &str| Error::internal(format!("the plan {what}"));
        if self.version != PLAN_VERSION {
            return Err(wrong(&format!("is of version {}, not {PLAN_VERSION}", self.version)));
        }
        let pieces = self.detection.as_ref().map_or(&[][..], |detection| &detection.pieces);
        for (what, parts) in [("segments", self.segments.as_slice()), ("pieces", pieces)] {
            let Some((first, last)) = parts.first().zip(parts.last()) else {
                if what == "segments" {
                    return Err(wrong("has no segments"));
                }
                continue;
            };
            let numbered = (0..).zip(parts).all(|(index, part)| part.index == index);
            let ordered = parts.windows(2).all(|pair| {
                let (before, after) = (pair[0].interval, pair[1].interval);
                before.end.is_some() && before.end == after.start && before.start < before.end
            });
            let whole = first.interval.start.is_none() && last.interval.end.is_none();
            let entered = parts.iter().all(|part| (part.entry as usize) < self.entries.len());
            if !(numbered && ordered && whole && entered) {
                return Err(wrong(&format!("has {what} that do not make up its timeline")));
            }
        }
        if self.stages().pieces == 0 && !self.stages().render {
            return Err(wrong("has nothing to do"));
        }
        Ok(())
    }

    /// The stages of the job.
    pub fn stages(&self) -> Stages {
        let count = |segments: &[Segment]| u32::try_from(segments.len()).unwrap_or(u32::MAX);
        let detection = self.detection.as_ref();
        Stages {
            segments: count(&self.segments),
            pieces: detection.map_or(0, |detection| count(&detection.pieces)),
            render: detection.is_none_or(|detection| detection.only.is_none()),
        }
    }

    /// Whether a detections file is made beside the video.
    pub fn writes_detections(&self) -> bool {
        self.detection.as_ref().is_some_and(|detection| detection.only.is_none())
    }

    /// The pictures that the encoder gets.
    pub fn encoded(&self) -> &PictureInfo {
        self.filters.last().map_or(&self.working, |filter| &filter.output)
    }
}

impl PictureInfo {
    /// Bytes of its samples.
    pub fn bytes(&self) -> u64 {
        let (width, height) = (u64::from(self.width), u64::from(self.height));
        let (x, y, sample) = match self.pixel_format.as_str() {
            "gray" => return width * height,
            "yuv420p" => (2, 2, 1),
            "yuv422p" => (2, 1, 1),
            "yuv420p10le" => (2, 2, 2),
            _ => (1, 1, 1),
        };
        sample * (width * height + 2 * width.div_ceil(x) * height.div_ceil(y))
    }
}

/// A filter with what it needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedFilter {
    /// As written.
    pub spec: FilterSpec,
    /// What it needs.
    pub footprint: Footprint,
    /// The pictures that come out of it.
    pub output: PictureInfo,
}

/// What all pictures at one place of the pipeline have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PictureInfo {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// FFmpeg's name of the pixel format.
    pub pixel_format: String,
    /// Sample aspect ratio; 0/1 where unknown.
    pub sample_aspect_ratio: Rational,
    /// Order of its fields: `progressive`, `tff`, `bff` or `unknown`.
    pub field_order: String,
    /// Colour tags.
    pub color: ColorTags,
}

/// What is looked for in a job's frames.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedDetection {
    /// Who looks, one a filter that does.
    pub detectors: Vec<PlannedDetector>,
    /// What is looked into piece by piece before any segment is processed: the timeline, cut finer than into segments where
    /// there are few of those. Empty where things are looked for only as segments are processed.
    pub pieces: Vec<Segment>,
    /// The form in which what was found is the whole output; `None` where a video comes out.
    pub only: Option<DetectionsFormat>,
}

/// A filter that looks for things.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedDetector {
    /// The filter's number in the pipeline, from 0.
    pub filter: u32,
    /// The detector: a model's or a method's name.
    pub name: String,
    /// SHA-256 of its model, hexadecimal; empty where it has none.
    pub sha256: String,
    /// The names of what it finds.
    pub classes: Vec<String>,
    /// What is done with it, e.g. `blur`.
    pub action: String,
    /// How it is followed over time; `None` where it is not.
    pub tracking: Option<PlannedTracking>,
}

/// How what is found is followed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedTracking {
    /// A track needs a detection at least this sure, 0..=1.
    pub threshold: f32,
    /// Detections at least this sure continue a track, 0..=1.
    pub low: f32,
}

/// The pictures that the encoder gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutputInfo {
    /// Container.
    pub container: Container,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// FFmpeg's name of the pixel format that filters see and the encoder gets.
    pub pixel_format: String,
    /// Sample aspect ratio after rotation and filters.
    pub sample_aspect_ratio: Rational,
}

/// The encoder with all its options, the same for every segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedEncoder {
    /// The codec, where it is one that has defaults.
    pub codec: Option<Codec>,
    /// FFmpeg's name of the encoder.
    pub name: String,
    /// Options, `(key, value)`, in order.
    pub options: Vec<(String, String)>,
    /// Most frames from one keyframe to the next.
    pub keyframe_interval: u32,
    /// Encoder threads; fixed here because they shape bytes.
    pub threads: u32,
    /// Frames at the start of a segment that are encoded twice, so that the rate control begins as it would amidst a long
    /// encode; 0 for none.
    pub rehearsed: u32,
}

/// What becomes of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedStream {
    /// Its number in the source.
    pub index: u32,
    /// `video`, `audio`, `subtitle`, `data` or `attachment`.
    pub kind: String,
    /// FFmpeg's name of its codec.
    pub codec: String,
    /// What is done with it.
    pub action: StreamAction,
}

/// What is done with a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum StreamAction {
    /// It is the video that runs through the pipeline.
    Process,
    /// Its packets are copied bit for bit.
    Copy,
    /// It is decoded and encoded anew, because the container does not hold its codec.
    Transcode {
        /// FFmpeg's name of the encoder.
        encoder: String,
    },
    /// It is left out.
    Drop {
        /// Why.
        why: String,
    },
}

/// Something a user should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// A stable word for programs, e.g. `stream_dropped`.
    pub code: String,
    /// The same for a person.
    pub text: String,
}

impl Message {
    /// A message with a stable code and a text for a person.
    pub fn new(code: &str, text: impl Into<String>) -> Self {
        Self { code: code.into(), text: text.into() }
    }
}

/// A half-open interval of presentation time, processed as one unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Segment {
    /// Its number, from 0.
    pub index: u32,
    /// Its interval in source ticks. The first has no start and the last no end.
    #[serde(flatten)]
    pub interval: Interval,
    /// The number in `entries` of where its decoding begins.
    pub entry: u32,
    /// Why it begins where it does, where that is not an entry point as others are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where decoding may begin: all frames from `pts` on come out right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EntryPoint {
    /// Presentation time of its packet in source ticks, or its decoding time where the container
    /// has no other (AVI). The lowest value there is for the beginning of the file.
    pub pts: i64,
    /// How to get there.
    pub seek: Seek,
}

/// How a demuxer is brought to an entry point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Seek {
    /// The beginning of the file.
    Start,
    /// The container's index at this decoding or presentation time, in source ticks.
    Timestamp(i64),
    /// This byte of the file.
    Byte(i64),
}
