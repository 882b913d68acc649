//! What a source holds.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::{Message, VideoInfo};

/// A source as found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProbeReport {
    /// Its file's name.
    pub name: String,
    /// FFmpeg's name of the demuxer.
    pub format: String,
    /// Size in bytes.
    pub size: u64,
    /// Duration in microseconds, where known.
    pub duration_us: Option<i64>,
    /// Start in microseconds, where known.
    pub start_us: Option<i64>,
    /// Its streams.
    pub streams: Vec<ProbedStream>,
    /// What a user should know.
    pub messages: Vec<Message>,
}

/// A stream as found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProbedStream {
    /// Its number in the file.
    pub index: u32,
    /// `video`, `audio`, `subtitle`, `data` or `attachment`.
    pub kind: String,
    /// FFmpeg's name of its codec.
    pub codec: String,
    /// Whether a job would process it.
    pub chosen: bool,
    /// Its language, where tagged.
    pub language: Option<String>,
    /// Samples a second, of sound.
    pub sample_rate: Option<u32>,
    /// Channels, of sound.
    pub channels: Option<u32>,
    /// More, of video.
    pub video: Option<VideoInfo>,
}

impl fmt::Display for ProbeReport {
    #[expect(clippy::cast_precision_loss, reason = "for display")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.escape_debug();
        write!(f, "{name}: {}, {:.1} MB", self.format, self.size as f64 / 1e6)?;
        if let Some(us) = self.duration_us {
            write!(f, ", {:.3} s", us as f64 / 1e6)?;
        }
        for s in &self.streams {
            write!(f, "\n  {} {:<10} {}", s.index, s.kind, s.codec)?;
            if let Some(v) = &s.video {
                write!(f, " {}x{} {}", v.width, v.height, v.pixel_format)?;
                if v.frame_rate.is_known() {
                    write!(f, " {:.3} fps ({})", v.frame_rate.to_f64(), v.frame_rate)?;
                }
                if v.rotation != 0 {
                    write!(f, ", shown turned by {} degrees", v.rotation)?;
                }
                if !matches!(v.field_order.as_str(), "progressive" | "unknown") {
                    write!(f, ", interlaced {}", v.field_order)?;
                }
            }
            if let (Some(rate), Some(channels)) = (s.sample_rate, s.channels) {
                write!(f, " {rate} Hz, {channels} channels")?;
            }
            if let Some(language) = &s.language {
                write!(f, " ({})", language.escape_debug())?;
            }
            if s.chosen {
                write!(f, "  <- processed")?;
            }
        }
        self.messages.iter().try_for_each(|message| write!(f, "\n  note: {}", message.text))
    }
}
