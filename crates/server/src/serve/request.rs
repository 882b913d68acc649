//! What a client asks for, as it stands in JSON, checked against the filter catalogue.

use std::collections::BTreeMap;

use frameloom_core::catalogue::{Catalogue, one_of};
use frameloom_core::spec::{
    Codec, Container, DetectionsFormat, EncoderSpec, Granularity, JobSpec, KeptMetadata, OnError,
};
use frameloom_core::time::parse_time;
use frameloom_core::{Error, Result};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest list of filters, and longest text of one.
const MOST_FILTERS: usize = 64;
const MOST_TEXT: usize = 8192;

/// A new job.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JobRequest {
    /// Where the source comes from.
    pub source: SourceRequest,
    /// Filters in order, each as on the command line: `blur:sigma=3`.
    pub filters: Vec<String>,
    /// Files that filters take, whose content was sent to `/v1/files/SHA256` before. What is not among them is a name in
    /// the server's catalogue.
    pub files: Vec<FileRequest>,
    /// The encoder.
    pub encoder: EncoderRequest,
    /// The output's container: `mp4` (default), `mov`, `mkv` or `webm`.
    pub container: Option<String>,
    /// Longest segment in seconds.
    pub segment: Option<f64>,
    /// First time to keep: seconds or `[hh:]mm:ss[.f]` from the first frame.
    pub from: Option<String>,
    /// First time no longer to keep.
    pub to: Option<String>,
    /// Number of the video stream to take.
    pub stream: Option<u32>,
    /// Leave out all sound.
    pub no_audio: bool,
    /// Refuse a source of which a stream would be left out or converted.
    pub strict_streams: bool,
    /// Keep 10 bits a sample.
    pub keep_depth: bool,
    /// Hash the whole source to know it again.
    pub verify_source: bool,
    /// What is spread over slots: `segment` (default) or `frame`, for which each frame goes through the
    /// filters as a task of its own. The output is the same.
    pub granularity: Option<String>,
    /// What becomes of a frame that fails three times with `frame`: `fail` (default), `skip`, `hold` or
    /// `original`.
    pub on_error: Option<String>,
    /// Make no video: what filters find is the output, as `jsonl`, `csv` or `coco`.
    pub detections_only: Option<String>,
    /// What is kept of a source in which something is hidden: `covers`, `data`, `subtitles`, `location`,
    /// `device`.
    pub keep_metadata: Vec<String>,
    /// Show previews of frames as they were, though something is hidden in them.
    pub reveal_previews: bool,
    /// Keep a line of metrics for each frame.
    pub frame_metrics: bool,
    /// 0 to 9, higher is more urgent; 5 by default.
    pub priority: Option<u8>,
    /// Where the output goes beside the store: a path under an allowed writable directory.
    pub output: Option<OutputRequest>,
    /// An address that hears of the job's end, at a host that the server allows.
    pub webhook: Option<String>,
}

/// Where a source comes from: one of both.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SourceRequest {
    /// It is sent along, or to `upload_url`.
    pub upload: bool,
    /// It lies at this path on the server, under an allowed directory.
    pub path: Option<String>,
    /// The file's name, a hint for probing.
    pub name: Option<String>,
    /// Its size in bytes, where known.
    pub size: Option<u64>,
}

/// A file that a filter takes, known by its content.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileRequest {
    /// The value of the filter's parameter.
    pub name: String,
    /// SHA-256 of its content, hexadecimal, in lower case.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Where an output goes beside the store.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputRequest {
    /// A path under an allowed writable directory.
    pub path: String,
}

/// How the output is encoded.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EncoderRequest {
    /// `h264`, `hevc`, `vp9`, `av1` or `ffv1`.
    pub codec: Option<String>,
    /// A video encoder of FFmpeg by name, instead of a codec.
    pub encoder: Option<String>,
    /// Constant rate factor.
    pub crf: Option<f64>,
    /// The encoder's preset.
    pub preset: Option<String>,
    /// Lose nothing.
    pub lossless: bool,
    /// Further options of the encoder.
    pub options: BTreeMap<String, String>,
}

impl JobRequest {
    /// The container of the output.
    ///
    /// # Errors
    /// Invalid for an unknown one.
    pub fn container(&self) -> Result<Container> {
        let Some(name) = &self.container else { return Ok(Container::Mp4) };
        Container::ALL.into_iter().find(|c| c.name() == name).ok_or_else(|| {
            Error::invalid(format!("container '{name}' is none of mp4, mov, mkv and webm"))
        })
    }

    /// The specification, its filters checked, without the files that they take.
    ///
    /// # Errors
    /// Invalid with what is wrong.
    pub fn spec(&self, catalogue: &Catalogue) -> Result<JobSpec> {
        if self.filters.len() > MOST_FILTERS {
            return Err(Error::invalid(format!("more than {MOST_FILTERS} filters")));
        }
        let mut filters = Vec::new();
        for text in &self.filters {
            if text.len() > MOST_TEXT {
                return Err(Error::invalid(format!("a filter of more than {MOST_TEXT} bytes")));
            }
            let filter = text.parse()?;
            catalogue.check(&filter)?;
            filters.push(filter);
        }
        let time = |text: &Option<String>, what: &str| {
            text.as_deref().map(|t| parse_time(t).map_err(|e| e.at(what.to_owned()))).transpose()
        };
        let (from_us, to_us) = (time(&self.from, "from")?, time(&self.to, "to")?);
        if to_us.is_some_and(|to| to <= from_us.unwrap_or(0)) {
            return Err(Error::invalid("'to' is not behind 'from'"));
        }
        let segment_us = self.segment.map(micros).transpose()?;
        let granularity =
            one_of("granularity", self.granularity.as_deref(), &Granularity::ALL, |g| g.name())?;
        let on_error = one_of("on_error", self.on_error.as_deref(), &OnError::ALL, |e| e.name())?;
        if granularity.is_segment() && !on_error.is_fail() {
            return Err(Error::invalid("'on_error' is for jobs with granularity 'frame'"));
        }
        Ok(JobSpec {
            filters,
            granularity,
            on_error,
            files: Vec::new(),
            detections_only: self.detections_only()?,
            keep_metadata: self.keep_metadata()?,
            reveal_previews: self.reveal_previews,
            encoder: self.encoder.spec()?,
            container: self.container()?,
            segment_us,
            from_us,
            to_us,
            stream: self.stream,
            no_audio: self.no_audio,
            strict_streams: self.strict_streams,
            keep_depth: self.keep_depth,
            verify_source: self.verify_source,
        })
    }

    fn detections_only(&self) -> Result<Option<DetectionsFormat>> {
        use DetectionsFormat::{Coco, Csv, Jsonl};
        let Some(name) = self.detections_only.as_deref() else { return Ok(None) };
        let format = [Jsonl, Csv, Coco].into_iter().find(|format| format.name() == name);
        format.map(Some).ok_or_else(|| {
            let name = name.escape_debug();
            Error::invalid(format!("detections_only '{name}' is none of jsonl, csv and coco"))
        })
    }

    fn keep_metadata(&self) -> Result<Vec<KeptMetadata>> {
        let find = |name: &String| {
            KeptMetadata::ALL.into_iter().find(|kept| kept.name() == name).ok_or_else(|| {
                Error::invalid(format!(
                    "keep_metadata '{name}' is none of covers, data, subtitles, location and device"
                ))
            })
        };
        let mut kept = self.keep_metadata.iter().map(find).collect::<Result<Vec<_>>>()?;
        kept.sort_unstable();
        kept.dedup();
        Ok(kept)
    }

    /// The priority.
    ///
    /// # Errors
    /// Invalid above 9.
    pub fn priority(&self) -> Result<u8> {
        match self.priority.unwrap_or(5) {
            priority @ 0..=9 => Ok(priority),
            other => Err(Error::invalid(format!("priority {other} is not from 0 to 9"))),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "checked to be in range")]
fn micros(seconds: f64) -> Result<i64> {
    if seconds > 0.0 && seconds <= 1e9 {
        Ok(((seconds * 1e6).round() as i64).max(1))
    } else {
        Err(Error::invalid(format!("segment {seconds}: it must be above 0 s")))
    }
}

impl EncoderRequest {
    fn spec(&self) -> Result<EncoderSpec> {
        let codec = self.codec.as_deref().map(|name| {
            Codec::ALL.into_iter().find(|codec| codec.name() == name).ok_or_else(|| {
                let names = Codec::ALL.map(Codec::name);
                let near = frameloom_core::catalogue::did_you_mean(name, &names);
                Error::invalid(format!("codec '{name}' is none of {}{near}", names.join(", ")))
            })
        });
        if self.codec.is_some() && self.encoder.is_some() {
            return Err(Error::invalid("'codec' and 'encoder' exclude each other"));
        }
        let crf = self.crf.map(|crf| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
            if (0.0..=1000.0).contains(&crf) {
                Ok((crf * 100.0).round() as u32)
            } else {
                Err(Error::invalid(format!("crf {crf} is not a number from 0 to 63")))
            }
        });
        Ok(EncoderSpec {
            codec: codec.transpose()?,
            encoder: self.encoder.clone(),
            crf_hundredths: crf.transpose()?,
            preset: self.preset.clone(),
            lossless: self.lossless,
            options: self.options.clone().into_iter().collect(),
        })
    }
}
