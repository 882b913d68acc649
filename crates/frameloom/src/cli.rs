//! The command line.

use std::path::Path;

use clap::{Args, Parser, Subcommand};
use frameloom_core::catalogue::{ParamKind, did_you_mean, one_of};
use frameloom_core::pipeline::FilterSpec;
use frameloom_core::spec::{
    Codec, Container, DetectionsFormat, EncoderSpec, Granularity, JobSpec, KeptMetadata,
    LARGEST_FILE, OnError, SpecFile,
};
use frameloom_core::time::parse_time;
use frameloom_core::{Error, ErrorKind, Result};
use frameloom_server::store::sha256_of;

use crate::cmd;

/// Runs filters over every frame of a video, on every core, frame for frame exact.
#[derive(Debug, Parser)]
#[command(name = "frameloom", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Process a video on this machine.
    Run(cmd::run::RunArgs),
    /// Serve many clients: an HTTP API and a dashboard around the same engine.
    Serve(cmd::serve::ServeArgs),
    /// Do tasks for a server, on any machine that mounts its store.
    Worker(cmd::worker::WorkerArgs),
    /// Send a video to a server and get the result back.
    Submit(cmd::submit::SubmitArgs),
    /// List a server's jobs.
    Jobs(cmd::jobs::JobsArgs),
    /// Show where a job stands.
    Status(cmd::jobs::StatusArgs),
    /// Stop a job.
    Cancel(cmd::jobs::JobIdArgs),
    /// Try a failed or cancelled job again; segments that were done stay done.
    Retry(cmd::jobs::RetryArgs),
    /// Erase a job with its source and output.
    Rm(cmd::jobs::JobIdArgs),
    /// Show what was decided about a job's tasks, with the reason of every failure.
    Logs(cmd::jobs::JobIdArgs),
    /// Get a finished job's output.
    Fetch(cmd::jobs::FetchArgs),
    /// Ask whether a server or a node answers.
    Health(cmd::health::HealthArgs),
    /// Show how a video would be cut into segments, without processing it.
    Plan(cmd::plan::PlanArgs),
    /// Look for faces or things in an output in which they should be hidden.
    Verify(cmd::verify::VerifyArgs),
    /// Show what a file holds.
    Probe(cmd::probe::ProbeArgs),
    /// List the filters, or explain one.
    Filters(cmd::filters::FiltersArgs),
    /// Show what this installation has: libraries, detectors' models, what shuts slots off.
    Doctor(cmd::doctor::DoctorArgs),
    /// Print a completion script for a shell.
    Completions(cmd::completions::CompletionsArgs),
    /// Print the man page.
    Man,
    /// A slot: does tasks for a node, by its standard input.
    #[command(hide = true)]
    Slot(cmd::slot::SlotArgs),
}

impl Cli {
    /// Whether the program tells of itself as JSON.
    pub(crate) fn logs_json(&self) -> bool {
        let format = match &self.command {
            Command::Serve(args) => args.log_format,
            Command::Worker(args) => args.log_format,
            _ => cmd::serve::LogFormat::Text,
        };
        format == cmd::serve::LogFormat::Json
    }

    /// Does what was asked for; answers the exit code.
    pub(crate) fn run(self) -> Result<u8> {
        match self.command {
            Command::Run(args) => cmd::run::run(args),
            Command::Serve(args) => cmd::serve::run(args),
            Command::Worker(args) => cmd::worker::run(args),
            Command::Submit(args) => cmd::submit::run(args),
            Command::Jobs(args) => cmd::jobs::list(args).map(|()| 0),
            Command::Status(args) => cmd::jobs::status(args).map(|()| 0),
            Command::Cancel(args) => cmd::jobs::cancel(args).map(|()| 0),
            Command::Retry(args) => cmd::jobs::retry(&args).map(|()| 0),
            Command::Rm(args) => cmd::jobs::remove(args).map(|()| 0),
            Command::Logs(args) => cmd::jobs::logs(args).map(|()| 0),
            Command::Fetch(args) => cmd::jobs::fetch_output(args).map(|()| 0),
            Command::Health(args) => cmd::health::run(args).map(|()| 0),
            Command::Plan(args) => cmd::plan::run(args).map(|()| 0),
            Command::Verify(args) => cmd::verify::run(args),
            Command::Probe(args) => cmd::probe::run(args).map(|()| 0),
            Command::Filters(args) => cmd::filters::run(args).map(|()| 0),
            Command::Doctor(args) => cmd::doctor::run(args),
            Command::Completions(args) => cmd::completions::run(args).map(|()| 0),
            Command::Man => cmd::man::run().map(|()| 0),
            Command::Slot(args) => cmd::slot::run(args).map(|()| 0),
        }
    }
}

/// What shapes the output: the same for `run` and `plan`.
#[derive(Debug, Default, Args)]
pub(crate) struct JobArgs {
    /// A filter, NAME:key=value:key=value; give it once for each filter, in order.
    ///
    /// In values '\:' is a colon and '…' quotes. 'ffmpeg:GRAPH' takes the rest as a libavfilter
    /// graph. 'frameloom filters' lists them all.
    #[arg(short = 'f', long = "filter", value_name = "FILTER")]
    filters: Vec<String>,

    /// Longest segment in seconds, above 0 [default: 2 to 8, shorter towards the end].
    ///
    /// Segments are whole groups of pictures and are what is spread over slots. Shorter ones spread
    /// better, longer ones compress better. The frames are the same either way.
    #[arg(long, value_name = "SECONDS")]
    segment: Option<String>,

    /// What is spread over slots and nodes: segment or frame [default: segment].
    ///
    /// With 'segment' a slot decodes, filters and encodes a few seconds of video: the fastest. With
    /// 'frame' it decodes and encodes them, and each frame goes through the filters as a task of its own,
    /// in any node's slot: for filters that take far longer than decoding and encoding, and few segments.
    /// The output is the same byte for byte. Filters that keep state run in order beside these tasks.
    #[arg(long, value_name = "WHAT")]
    granularity: Option<String>,

    /// What becomes of a frame that fails three times with --granularity frame: fail (the job fails),
    /// skip (it is left out), hold (the frame before is shown again) or original (it stays as it is)
    /// [default: fail].
    #[arg(long, value_name = "WHAT")]
    on_error: Option<String>,

    /// Video codec: h264, hevc, vp9, av1 or ffv1 [default: vp9 in .webm, else h264].
    ///
    /// h264 is libx264 (veryfast, CRF 20), hevc libx265 (medium, CRF 24), vp9 libvpx-vp9 (cpu-used
    /// 4, CRF 32), av1 libsvtav1 (preset 8, CRF 32), ffv1 is lossless. A keyframe comes each 2 s.
    #[arg(long, value_name = "CODEC", conflicts_with = "encoder")]
    codec: Option<String>,

    /// A video encoder of the installed FFmpeg by name, like h264_nvenc.
    #[arg(long, value_name = "NAME")]
    encoder: Option<String>,

    /// Constant rate factor: lower is better and larger [default: by codec].
    ///
    /// 0 to 51 for h264 and hevc, 0 to 63 for vp9 and av1; up to two decimals.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    crf: Option<String>,

    /// The encoder's preset: how long it takes to make the output small [default: by codec].
    #[arg(long, value_name = "P")]
    preset: Option<String>,

    /// Lose nothing in encoding (h264, hevc, vp9, ffv1).
    #[arg(long)]
    lossless: bool,

    /// A further option of the encoder, KEY=VALUE; may be given more than once.
    ///
    /// Options that name files, devices or threads are refused.
    #[arg(long, value_name = "K=V")]
    encoder_opt: Vec<String>,

    /// First time to keep, from the first frame: seconds, mm:ss or hh:mm:ss, all with decimals
    /// [default: 0].
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    from: Option<String>,

    /// First time no longer to keep, as --from [default: the end].
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    to: Option<String>,

    /// Take the video stream of this number instead of the one ffmpeg would take.
    #[arg(long, value_name = "N")]
    stream: Option<u32>,

    /// Leave out all sound.
    #[arg(long)]
    no_audio: bool,

    /// Refuse a source of which a stream would be left out or converted, instead of saying so.
    #[arg(long)]
    strict_streams: bool,

    /// Keep 10 bits a sample (with --codec hevc); HDR sources need it.
    #[arg(long)]
    keep_depth: bool,

    /// Hash all of the source to know it again, not its first, last and 16 spread MiB.
    #[arg(long)]
    verify_source: bool,

    /// Make no video: what 'faces', 'objects' or 'motion' find is all that is wanted.
    #[arg(long)]
    pub(crate) detections_only: bool,

    /// Keep of a source in which something is hidden what may tell of it: covers, data, subtitles, location or device;
    /// may be given more than once.
    ///
    /// With a filter that hides (faces:action=blur), cover pictures, data streams and attachments, subtitles (drones write
    /// their places there), and tags of place and device are left out otherwise.
    #[arg(long, value_name = "WHAT", value_delimiter = ',',
        value_parser = ["covers", "data", "subtitles", "location", "device"])]
    keep_metadata: Vec<String>,

    /// Show previews of frames as they were, though something is hidden in them.
    #[arg(long)]
    reveal_previews: bool,
}

/// Where the files lie that filters take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FilesLie {
    /// On this machine.
    Here,
    /// On this machine, or in a server's catalogue.
    HereOrThere,
}

/// Whether a file's name may be one in a server's catalogue: a plain name of nothing here.
fn may_be_elsewhere(name: &str) -> bool {
    !name.contains('/') && !Path::new(name).exists()
}

/// A file that a filter takes, known by its content.
pub(crate) fn file(name: &str) -> Result<SpecFile> {
    let failed = |e: std::io::Error| Error::io(format!("cannot read '{name}'"), &e);
    let file = cmd::open_file(Path::new(name)).map_err(|e| e.at("file of a filter"))?;
    let size = file.metadata().map_err(failed)?.len();
    if size > LARGEST_FILE {
        // Before it is read, hashed and copied into the work.
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("file '{name}' of a filter has {size} bytes; {LARGEST_FILE} are allowed"),
        ));
    }
    let sha256 = sha256_of(&file).map_err(failed)?;
    Ok(SpecFile { name: name.to_owned(), sha256, size })
}

/// The word that somebody may have meant who names a file that is not there, for a parameter that takes words, too.
fn near(filters: &[FilterSpec], name: &str) -> String {
    let takers = filters.iter().filter_map(|spec| {
        let info = frameloom_media::catalogue().find(&spec.name).ok()?;
        let (key, _) = spec.params.iter().find(|(_, value)| *value == name)?;
        Some(&info.params.iter().find(|param| param.name == key)?.kind)
    });
    let words = takers.filter_map(|kind| match kind {
        ParamKind::File { words } => Some(*words),
        _ => None,
    });
    let words: Vec<&str> = words.flatten().copied().collect();
    did_you_mean(name, &words)
}

fn seconds(text: &str, what: &str) -> Result<i64> {
    parse_time(text).map_err(|e| e.at(format!("--{what}")))
}

impl JobArgs {
    /// The job that is asked for, its filters checked; the output goes into `container`.
    ///
    /// # Errors
    /// Invalid with what is wrong.
    pub(crate) fn spec(
        &self,
        container: Container,
        detections_only: Option<DetectionsFormat>,
        lie: FilesLie,
    ) -> Result<JobSpec> {
        let mut filters = Vec::new();
        for text in &self.filters {
            let filter: FilterSpec = text.parse()?;
            frameloom_media::catalogue().check(&filter)?;
            filters.push(filter);
        }
        let segment_us = self.segment.as_deref().map(|s| seconds(s, "segment")).transpose()?;
        if segment_us == Some(0) {
            return Err(Error::invalid("--segment '0': it must be above 0 s"));
        }
        let from_us = self.from.as_deref().map(|s| seconds(s, "from")).transpose()?;
        let to_us = self.to.as_deref().map(|s| seconds(s, "to")).transpose()?;
        if let (from, Some(to)) = (from_us.unwrap_or(0), to_us)
            && to <= from
        {
            return Err(Error::invalid(format!(
                "--to '{}' is not behind --from '{}'",
                self.to.as_deref().unwrap_or_default(),
                self.from.as_deref().unwrap_or("0")
            )));
        }
        let granularity =
            one_of("--granularity", self.granularity.as_deref(), &Granularity::ALL, |g| g.name())?;
        let on_error = one_of("--on-error", self.on_error.as_deref(), &OnError::ALL, |e| e.name())?;
        if granularity.is_segment() && !on_error.is_fail() {
            return Err(Error::invalid(
                "--on-error is for frames that are tasks: give --granularity frame with it (the filter celery \
                 has on_error=)",
            ));
        }
        let files = frameloom_media::catalogue().files(&filters)?;
        let is_here = |name: &&String| lie == FilesLie::Here || !may_be_elsewhere(name);
        let named = |name: &String| {
            file(name).map_err(|error| match error.kind() {
                ErrorKind::NotFound => {
                    Error::not_found(error.message().to_owned() + &near(&filters, name))
                }
                _ => error,
            })
        };
        let files = files.iter().filter(is_here).map(named).collect::<Result<_>>()?;
        let is_kept =
            |kept: &KeptMetadata| self.keep_metadata.iter().any(|name| name == kept.name());
        Ok(JobSpec {
            filters,
            granularity,
            on_error,
            files,
            detections_only,
            keep_metadata: KeptMetadata::ALL.into_iter().filter(is_kept).collect(),
            reveal_previews: self.reveal_previews,
            encoder: self.encoder()?,
            container,
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

    fn encoder(&self) -> Result<EncoderSpec> {
        let codec = self.codec.as_deref().map(|text| {
            let names: Vec<&str> = Codec::ALL.iter().map(|codec| codec.name()).collect();
            Codec::ALL.into_iter().find(|codec| codec.name() == text).ok_or_else(|| {
                let near = frameloom_core::catalogue::did_you_mean(text, &names);
                Error::invalid(format!(
                    "--codec '{text}' is none of {}{near}; --encoder takes any encoder of FFmpeg",
                    names.join(", ")
                ))
            })
        });
        let options = self.encoder_opt.iter().map(|text| {
            text.split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .ok_or_else(|| Error::invalid(format!("--encoder-opt '{text}': write KEY=VALUE")))
        });
        Ok(EncoderSpec {
            codec: codec.transpose()?,
            encoder: self.encoder.clone(),
            crf_hundredths: self.crf.as_deref().map(hundredths).transpose()?,
            preset: self.preset.clone(),
            lossless: self.lossless,
            options: options.collect::<Result<_>>()?,
        })
    }
}

/// `20.5` as 2050.
fn hundredths(text: &str) -> Result<u32> {
    let wrong = || {
        Error::invalid(format!(
            "--crf '{text}' is not a number from 0 to 63 with up to two decimals"
        ))
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 2 {
        return Err(wrong());
    }
    let whole: u32 = whole.parse().ok().filter(|whole| *whole <= 1000).ok_or_else(wrong)?;
    let fraction: u32 = format!("{fraction:0<2}").parse().map_err(|_| wrong())?;
    Ok(whole * 100 + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn rate_factors_have_up_to_two_decimals() {
        assert_eq!(hundredths("20").unwrap(), 2000);
        assert_eq!(hundredths("20.5").unwrap(), 2050);
        assert_eq!(hundredths("0.25").unwrap(), 25);
        for bad in ["", "-1", "a", "1.234", ".5", "1e3", "99999999999"] {
            assert!(hundredths(bad).unwrap_err().message().contains(&format!("'{bad}'")));
        }
    }
}
