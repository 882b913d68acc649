//! `frameloom submit`: a job for a server, from upload to output.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args;
use frameloom_core::metrics::Metrics;
use frameloom_core::spec::{JobSpec, SpecFile};
use frameloom_core::{Error, ErrorKind, Result};
use frameloom_server::publish::{self, Ready};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::jobs::plain;
use super::{open_file, open_source, shown};
use crate::cli::{FilesLie, JobArgs};
use crate::client::{Client, ServerArgs, error_of};
use crate::outputs::{self, OF_A_FILTER, SOURCE};
use crate::patience::PatienceArgs;
use crate::random;

/// What to submit.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  frameloom submit in.mp4 -o out.mp4 -f blur:sigma=3 --server http://HOST:8080\n  \
    frameloom submit in.mp4 --detach -f edges --server http://HOST:8080\n\n\
    Lost connections are tried again (--patience). Ctrl-C leaves the job at work; 'frameloom fetch' gets its output.\n\
    Exit codes are those of 'run'."
)]
pub(crate) struct SubmitArgs {
    /// A video file; with --path a path on the server.
    #[arg(value_name = "IN")]
    input: PathBuf,

    /// The output file; its name chooses the container.
    #[arg(
        short,
        long,
        value_name = "OUT",
        required_unless_present_any = ["detach", "detections_only"],
        conflicts_with = "detections_only"
    )]
    output: Option<PathBuf>,

    #[command(flatten)]
    job: JobArgs,

    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    patience: PatienceArgs,

    /// Print the job's id and leave.
    #[arg(long)]
    detach: bool,

    /// IN is a path on the server, under a directory that it allows.
    #[arg(long)]
    path: bool,

    /// Replace OUT, and the file of --detections, if they exist.
    #[arg(long)]
    overwrite: bool,

    /// 0 to 9, higher is more urgent.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: u8,

    /// Write metrics to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,

    /// Write what 'faces', 'objects' and 'motion' find to this file: a line of JSON a frame (.jsonl); with
    /// --detections-only also .csv or, in the form of COCO, .json.
    #[arg(long, value_name = "FILE", required_if_eq("detections_only", "true"))]
    detections: Option<PathBuf>,

    /// Say nothing but errors.
    #[arg(short, long)]
    quiet: bool,
}

impl SubmitArgs {
    /// The output's place: that of the video, or of the detections where they are all that is wanted.
    fn out(&self) -> Option<&Path> {
        let only = self.job.detections_only;
        if only { self.detections.as_deref() } else { self.output.as_deref() }
    }
}

/// The request that the command line describes.
fn request(args: &SubmitArgs, spec: &JobSpec, size: Option<u64>) -> Value {
    let name = args.input.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let source = match size {
        Some(size) => json!({ "upload": true, "name": name, "size": size }),
        None => json!({ "path": args.input.to_string_lossy() }),
    };
    let seconds = |us: i64| us as f64 / 1e6;
    let encoder = &spec.encoder;
    let options: serde_json::Map<String, Value> =
        encoder.options.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    json!({
        "source": source,
        "filters": spec.filters.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "files": spec.files,
        "encoder": {
            "codec": encoder.codec.map(|codec| codec.name()),
            "encoder": encoder.encoder,
            "crf": encoder.crf_hundredths.map(|crf| f64::from(crf) / 100.0),
            "preset": encoder.preset,
            "lossless": encoder.lossless,
            "options": options,
        },
        "container": spec.container.name(),
        "segment": spec.segment_us.map(seconds),
        "from": spec.from_us.map(|us| format!("{:.6}", seconds(us))),
        "to": spec.to_us.map(|us| format!("{:.6}", seconds(us))),
        "stream": spec.stream,
        "no_audio": spec.no_audio,
        "strict_streams": spec.strict_streams,
        "keep_depth": spec.keep_depth,
        "verify_source": spec.verify_source,
        "granularity": spec.granularity.name(),
        "on_error": spec.on_error.name(),
        "detections_only": spec.detections_only,
        "keep_metadata": spec.keep_metadata,
        "reveal_previews": spec.reveal_previews,
        "priority": args.priority,
    })
}

/// Sends the files that filters take, where the server does not have them.
fn attach(client: &Client, spec: &JobSpec, say: &dyn Fn(&str)) -> Result<()> {
    for SpecFile { name, sha256, size } in &spec.files {
        let file = open_file(Path::new(name))?;
        let path = format!("/v1/files/{sha256}");
        client
            .patiently(say, || client.put(&path, &file, *size))
            .map_err(|e| e.at(format!("file '{name}' of a filter")))?;
    }
    Ok(())
}

/// Refuses outputs that could not be written at the end, before any work.
fn check_outputs(args: &SubmitArgs, spec: &JobSpec) -> Result<()> {
    let named = [
        ("-o", args.output.as_ref()),
        ("--detections", args.detections.as_ref()),
        ("--metrics", args.metrics.as_ref()),
    ];
    let named = named.into_iter().filter_map(|(option, path)| Some((option, path?.as_path())));
    let of_filters = spec.files.iter().map(|file| (OF_A_FILTER, Path::new(&file.name)));
    let mut taken: Vec<_> = of_filters.collect();
    taken.extend((!args.path).then_some((SOURCE, args.input.as_path())));
    outputs::check(&named.collect::<Vec<_>>(), &taken)
}

/// Submits a job, waits for it and fetches its output.
pub(crate) fn run(args: SubmitArgs) -> Result<u8> {
    let (output, detections) = (args.output.as_deref(), args.detections.as_deref());
    let spec = super::spec(&args.job, output, detections, FilesLie::HereOrThere)?;
    check_outputs(&args, &spec)?;
    let mut replaced = [args.out(), detections].into_iter().flatten().filter(|to| to.exists());
    if let Some(to) = replaced.next().filter(|_| !args.overwrite) {
        return Err(publish::exists(to));
    }
    let file = if args.path { None } else { Some(open_source(&args.input)?) };
    let size = match &file {
        Some(file) => {
            Some(file.metadata().map_err(|e| Error::io("cannot read the source", &e))?.len())
        }
        None => None,
    };
    if size == Some(0) {
        return Err(Error::corrupt(format!("'{}' is empty", shown(&args.input))));
    }
    let client = Client::new(&args.server)?.patient(&args.patience);
    let bar = Shown::new(args.quiet || args.detach);
    let say =
        |text: &str| if args.detach && !args.quiet { eprintln!("{text}") } else { bar.say(text) };
    attach(&client, &spec, &say)?;
    let (wanted, key) = (request(&args, &spec, size), format!("{:032x}", random::bits()?));
    let job = client.patiently(&say, || client.post("/v1/jobs", Some(&wanted), Some(&key)))?;
    let id = job["id"].as_str().unwrap_or_default().to_owned();
    if let (Some(file), Some(path)) = (&file, job["upload_url"].as_str()) {
        client.upload(path, file, &|sent| bar.uploaded(sent, size.unwrap_or(0)))?;
    }
    if args.detach {
        super::print(&format!("{id}\n"))?;
        return Ok(0);
    }
    bar.say(&format!("job {id} at {}/#{id}", client.base()));
    leave_on_interrupt(&id, client.base());
    let job = client.follow(&id, &mut |name, data| bar.event(name, data))?;
    bar.end();
    outcome(&job)?;
    if let Some(path) = &args.metrics {
        let of_metrics = format!("/v1/jobs/{id}/metrics");
        let metrics: Metrics =
            serde_json::from_value(client.patiently(&say, || client.json(&of_metrics))?)
                .map_err(|e| Error::unavailable("the server's metrics are none").with_source(e))?;
        std::fs::write(path, super::pretty(&metrics)?)
            .map_err(|e| Error::io(format!("cannot write '{}'", shown(path)), &e))?;
    }
    if let Some(to) = detections.filter(|_| !args.job.detections_only) {
        fetch(&client, &id, "detections.jsonl", to, args.overwrite)?;
    }
    if let Some(output) = args.out() {
        fetch(&client, &id, "output", output, args.overwrite)?;
        bar.say(&summary(output, &job));
    }
    Ok(0)
}

/// Ctrl-C leaves the job at work, and says how to come back.
fn leave_on_interrupt(id: &str, base: &str) {
    let text = format!(
        "\nframeloom: the job goes on; 'frameloom fetch {id} -o OUT --server {base}' gets its output"
    );
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            eprintln!("{text}");
            #[expect(clippy::exit, reason = "the user asked for it, and nothing is held")]
            std::process::exit(130);
        }
    });
}

/// The error that a job ended with, if it did.
pub(crate) fn outcome(job: &Value) -> Result<()> {
    match job["state"].as_str() {
        Some("succeeded") => Ok(()),
        Some("cancelled") => Err(Error::new(ErrorKind::Cancelled, "the job was cancelled")),
        _ => Err(error_of(&job["error"]).unwrap_or_else(|| Error::unavailable("the job failed"))),
    }
}

/// Reads what a job has made to its place: whole, or not at all.
pub(crate) fn fetch(
    client: &Client,
    id: &str,
    what: &str,
    output: &Path,
    overwrite: bool,
) -> Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(output.file_name().unwrap_or_default());
    name.push(format!(".{id}.part"));
    let part = output.with_file_name(name);
    let failed = |e: std::io::Error| Error::io(format!("cannot write '{}'", shown(&part)), &e);
    let file = File::create(&part).map_err(failed)?;
    let got = client
        .download(&format!("/v1/jobs/{id}/{what}"), &file)
        .and_then(|()| file.sync_all().map_err(failed))
        .and_then(|()| Ready::prepare(&part, output)?.publish(output, overwrite));
    if got.is_err() {
        // Nothing half-written stays.
        drop(std::fs::remove_file(&part));
    }
    got
}

fn summary(output: &Path, job: &Value) -> String {
    let progress = &job["progress"];
    let segments = job["segments"].as_array().map_or(0, Vec::len);
    let mut text = format!(
        "{}: {} frames, {:.1} fps, {segments} segments",
        shown(output),
        progress["frames"].as_u64().unwrap_or(0),
        progress["fps"].as_f64().unwrap_or(0.0),
    );
    if let Some(ratio) = progress["realtime_ratio"].as_f64() {
        text += &format!(", {ratio:.2}x real time");
    }
    if let Some(retried) = progress["retried"].as_u64().filter(|n| *n > 0) {
        text += &format!(", {retried} tasks tried again");
    }
    text
}

/// What a user sees while a job is at work elsewhere.
pub(crate) struct Shown {
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Shown {
    pub(crate) fn new(quiet: bool) -> Self {
        use std::io::IsTerminal;
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar =
                ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Self { bar, quiet }
    }

    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None if self.quiet => {}
            None => eprintln!("{text}"),
        }
    }

    fn at(&self, position: u64, length: u64, text: String) {
        if let Some(bar) = &self.bar {
            bar.set_length(length);
            bar.set_position(position);
            bar.set_message(text);
        }
    }

    fn uploaded(&self, sent: u64, size: u64) {
        let mib = |bytes: u64| bytes >> 20;
        self.at(sent, size, format!("sending {}/{} MiB", mib(sent), mib(size)));
    }

    pub(crate) fn event(&self, name: &str, data: &Value) {
        match name {
            "progress" => {
                let frames = data["frames"].as_u64().unwrap_or(0);
                let total = data["total"].as_u64().unwrap_or(0);
                let fps = data["fps"].as_f64().unwrap_or(0.0);
                self.at(frames, total, format!("{frames}/{total} frames  {fps:.1} fps"));
            }
            "planned" => {
                for message in data["messages"].as_array().into_iter().flatten() {
                    self.say(&format!("note: {}", plain(message)));
                }
            }
            "state" => {
                if let Some(waiting) = data.get("waiting").filter(|waiting| waiting.is_string()) {
                    self.say(&format!("waiting: {}", plain(waiting)));
                }
            }
            _ => {}
        }
    }

    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
