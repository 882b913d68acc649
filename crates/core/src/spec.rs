//! What a user asks for: a job, its pipeline and its encoder.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pipeline::FilterSpec;
use crate::{Error, Result};

/// A job as submitted. Two equal specifications over the same source give the same plan.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JobSpec {
    /// The filters, in order; none means that the video is only encoded anew.
    pub filters: Vec<FilterSpec>,
    /// The encoder.
    pub encoder: EncoderSpec,
    /// The output's container.
    pub container: Container,
    /// Longest segment in microseconds; `None` leaves it to the planner (2 to 8 s).
    pub segment_us: Option<i64>,
    /// First time to keep, in microseconds from the first frame.
    pub from_us: Option<i64>,
    /// First time no longer to keep, in microseconds from the first frame.
    pub to_us: Option<i64>,
    /// The video stream's number in the source; `None` takes FFmpeg's default choice.
    pub stream: Option<u32>,
    /// Leave out all sound.
    pub no_audio: bool,
    /// Refuse a source of which a stream would be dropped or converted.
    pub strict_streams: bool,
    /// Keep more than 8 bits a sample (and HDR) where the encoder can.
    pub keep_depth: bool,
    /// Hash the whole source for its fingerprint, not samples of it.
    pub verify_source: bool,
    /// What was found is the whole output, in this form: no video is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detections_only: Option<DetectionsFormat>,
    /// What is kept of a source in which something is hidden, though it may tell of what is hidden.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep_metadata: Vec<KeptMetadata>,
    /// The files that filters take, by the names that they are given by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<SpecFile>,
    /// Show previews of frames as they were, though something is hidden in them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reveal_previews: bool,
    /// What a task is: a segment, or each frame that filters work on.
    pub granularity: Granularity,
    /// What becomes of a frame whose task has failed three times, where frames are tasks.
    pub on_error: OnError,
}

/// Size in bytes of the largest file that a filter takes.
pub const LARGEST_FILE: u64 = 1 << 30;

/// A file that a filter takes: its content is part of the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpecFile {
    /// The value of the filter's parameter.
    pub name: String,
    /// SHA-256 of its content, hexadecimal.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
}

/// The form of a detections file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DetectionsFormat {
    /// JSON, a line a frame, with a header line.
    #[default]
    Jsonl,
    /// Comma-separated values, a line a box.
    Csv,
    /// The JSON of COCO: images, annotations, categories.
    Coco,
}

impl DetectionsFormat {
    /// The form that a file name's extension names: `.jsonl`, `.csv` or, for COCO, `.json`.
    ///
    /// # Errors
    /// Invalid, naming the extensions there are.
    pub fn of_file_name(name: &str) -> Result<Self> {
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        match extension.to_ascii_lowercase().as_str() {
            "jsonl" => Ok(Self::Jsonl),
            "csv" => Ok(Self::Csv),
            "json" => Ok(Self::Coco),
            _ => Err(Error::invalid(format!(
                "detections '{name}': the name must end in .jsonl, .csv or, for COCO, .json"
            ))),
        }
    }

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Coco => "coco",
        }
    }

    /// Its usual file name extension.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Coco => "json",
        }
    }
}

/// What of a source may tell of what is hidden in it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum KeptMetadata {
    /// Cover pictures.
    Covers,
    /// Data streams and attachments.
    Data,
    /// Subtitles: cameras and drones write where they are into such streams.
    Subtitles,
    /// Tags of place.
    Location,
    /// Tags of the device and its owner.
    Device,
}

impl KeptMetadata {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Covers, Self::Data, Self::Subtitles, Self::Location, Self::Device];

    /// Its name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Covers => "covers",
            Self::Data => "data",
            Self::Subtitles => "subtitles",
            Self::Location => "location",
            Self::Device => "device",
        }
    }
}

/// What the filters' work is handed out by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Granularity {
    /// Whoever does a segment decodes, filters and encodes it.
    #[default]
    Segment,
    /// Whoever does a segment decodes and encodes it; each frame goes through the filters as a task.
    Frame,
}

impl Granularity {
    /// All of them.
    pub const ALL: [Granularity; 2] = [Granularity::Segment, Granularity::Frame];

    /// Its name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::Frame => "frame",
        }
    }

    /// Whether it is the usual one.
    pub fn is_segment(&self) -> bool {
        *self == Self::Segment
    }
}

/// What becomes of a frame whose task has failed three times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The job fails.
    #[default]
    Fail,
    /// The frame is left out.
    Skip,
    /// The frame that came out before is shown once more; the first stays as it is.
    Hold,
    /// The frame stays as it is.
    Original,
}

impl OnError {
    /// All of them.
    pub const ALL: [OnError; 4] = [OnError::Fail, OnError::Skip, OnError::Hold, OnError::Original];

    /// Its name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Skip => "skip",
            Self::Hold => "hold",
            Self::Original => "original",
        }
    }

    /// Whether the job fails.
    pub fn is_fail(&self) -> bool {
        *self == Self::Fail
    }
}

/// How the output video is encoded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EncoderSpec {
    /// The codec; `None` takes the container's default.
    pub codec: Option<Codec>,
    /// A video encoder of FFmpeg by name, instead of a codec.
    pub encoder: Option<String>,
    /// Constant rate factor in hundredths (2050 is 20.5); the range is the encoder's.
    pub crf_hundredths: Option<u32>,
    /// The encoder's preset.
    pub preset: Option<String>,
    /// Encode without loss.
    pub lossless: bool,
    /// Further options of the encoder, `(key, value)` in the order given.
    pub options: Vec<(String, String)>,
}

/// A video codec that Frameloom has defaults for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// H.264 / AVC.
    H264,
    /// H.265 / HEVC.
    Hevc,
    /// VP9.
    Vp9,
    /// AV1.
    Av1,
    /// FFV1, lossless.
    Ffv1,
}

impl Codec {
    /// All of them.
    pub const ALL: [Codec; 5] = [Codec::H264, Codec::Hevc, Codec::Vp9, Codec::Av1, Codec::Ffv1];

    /// Its name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::H264 => "h264",
            Self::Hevc => "hevc",
            Self::Vp9 => "vp9",
            Self::Av1 => "av1",
            Self::Ffv1 => "ffv1",
        }
    }

    /// The containers that hold it.
    pub fn containers(self) -> &'static [Container] {
        use Container::{Mkv, Mov, Mp4, Webm};
        match self {
            Self::H264 | Self::Hevc => &[Mp4, Mov, Mkv],
            Self::Vp9 | Self::Av1 => &[Mp4, Mkv, Webm],
            Self::Ffv1 => &[Mkv],
        }
    }
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The output's container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Container {
    /// MPEG-4 Part 14.
    #[default]
    Mp4,
    /// QuickTime.
    Mov,
    /// Matroska; its time base is 1 ms.
    Mkv,
    /// WebM; its time base is 1 ms.
    Webm,
}

impl Container {
    /// All of them.
    pub const ALL: [Container; 4] =
        [Container::Mp4, Container::Mov, Container::Mkv, Container::Webm];

    /// Its name, which is its file name extension.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::Mov => "mov",
            Self::Mkv => "mkv",
            Self::Webm => "webm",
        }
    }

    /// FFmpeg's name of its muxer.
    pub fn muxer(self) -> &'static str {
        match self {
            Self::Mkv => "matroska",
            other => other.name(),
        }
    }

    /// The codec taken where none is asked for.
    pub fn default_codec(self) -> Codec {
        match self {
            Self::Webm => Codec::Vp9,
            _ => Codec::H264,
        }
    }

    /// The container that a file name's extension names, in any case.
    ///
    /// # Errors
    /// Invalid, naming the extensions there are.
    pub fn of_file_name(name: &str) -> Result<Self> {
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        match extension.to_ascii_lowercase().as_str() {
            "mp4" | "m4v" => Ok(Self::Mp4),
            "mov" => Ok(Self::Mov),
            "mkv" => Ok(Self::Mkv),
            "webm" => Ok(Self::Webm),
            _ => Err(Error::invalid(format!(
                "output '{name}': its name must end in .mp4, .mov, .mkv or .webm, which choose the container"
            ))),
        }
    }
}

impl std::fmt::Display for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_name_chooses_the_container() {
        assert_eq!(Container::of_file_name("a.b.MP4").unwrap(), Container::Mp4);
        assert_eq!(Container::of_file_name("dir.x/out.webm").unwrap(), Container::Webm);
        for bad in ["out", "out.", "out.avi", ""] {
            let error = Container::of_file_name(bad).unwrap_err();
            assert!(error.message().contains(&format!("'{bad}'")), "{error}");
        }
    }

    #[test]
    fn every_container_holds_its_default_codec() {
        for container in Container::ALL {
            assert!(container.default_codec().containers().contains(&container));
        }
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(serde_json::from_str::<JobSpec>(r#"{"filtres":[]}"#).is_err());
    }
}
