//! `frameloom doctor`: what this installation has, and what it lacks.

use clap::Args;
use frameloom_core::{Error, Result};
use frameloom_media::ModelInfo;
use landlock::LandlockStatus;
use serde::Serialize;

use crate::slot::sandbox::{self, Shut};

/// How to tell.
#[derive(Debug, Args)]
#[command(
    after_help = "Exits 0 where nothing is missing, 6 where ONNX Runtime is: only detectors need it."
)]
pub(crate) struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What there is.
#[derive(Debug, Serialize)]
struct Report {
    frameloom: String,
    engine: String,
    cpu: String,
    ffmpeg: String,
    encoders: Vec<String>,
    opencv: String,
    onnxruntime: Option<Library>,
    /// Whether ONNX Runtime offers CUDA.
    cuda: bool,
    models: Vec<Model>,
    /// What the kernel shuts slots off with.
    sandbox: String,
    /// What is missing, and what to do.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Library {
    version: String,
    path: String,
}

#[derive(Debug, Serialize)]
struct Model {
    name: &'static str,
    sha256: &'static str,
    license: &'static str,
}

/// Tells what there is; answers the exit code.
pub(crate) fn run(args: DoctorArgs) -> Result<u8> {
    let engine = frameloom_media::engine();
    let found = frameloom_media::runtime_or_advice();
    // From here on this process opens next to nothing: what it loads now, slots can, too.
    let shut = sandbox::enter()?;
    let cuda = found.and_then(|_| frameloom_media::cuda());
    let problem = cuda.as_ref().err().cloned();
    let report = Report {
        engine: engine.id().to_string(),
        frameloom: engine.frameloom,
        cpu: engine.cpu,
        ffmpeg: engine.ffmpeg,
        encoders: engine.encoders.split(", ").map(str::to_owned).collect(),
        opencv: engine.opencv,
        onnxruntime: frameloom_media::runtime().map(|library| Library {
            version: library.version.clone(),
            path: super::shown(&library.path),
        }),
        cuda: cuda.unwrap_or(false),
        models: frameloom_media::models().iter().map(Model::from).collect(),
        sandbox: sandbox_in_words(&shut),
        problems: problem.iter().map(told).collect(),
    };
    super::print(&if args.json { super::pretty(&report)? } else { words(&report) })?;
    Ok(problem.map_or(0, |problem| problem.kind().exit_code()))
}

impl From<&ModelInfo> for Model {
    fn from(model: &ModelInfo) -> Self {
        Self { name: model.name, sha256: model.sha256, license: model.license }
    }
}

/// An error with what caused it.
fn told(error: &Error) -> String {
    match error.source_text() {
        Some(source) => format!("{error} ({source})"),
        None => error.to_string(),
    }
}

fn sandbox_in_words(shut: &Shut) -> String {
    let files = match shut.landlock {
        LandlockStatus::NotImplemented => {
            "no Landlock: this kernel has none (Linux 5.13 and later)".into()
        }
        LandlockStatus::NotEnabled => "no Landlock: this kernel's is not switched on".into(),
        LandlockStatus::Available { effective_abi, .. } => {
            format!("Landlock, version {}", effective_abi as i32)
        }
    };
    let calls = if shut.filtered { "system calls filtered" } else { "system calls NOT filtered" };
    format!("{files}; {calls}")
}

fn words(report: &Report) -> String {
    let mut lines = vec![
        ("frameloom", format!("{} (engine {})", report.frameloom, report.engine)),
        ("processor", report.cpu.clone()),
        ("FFmpeg", report.ffmpeg.clone()),
        ("encoders", report.encoders.join(", ")),
        ("OpenCV", report.opencv.clone()),
        (
            "ONNX Runtime",
            match &report.onnxruntime {
                Some(library) => format!("{} ({})", library.version, library.path),
                None => "missing".into(),
            },
        ),
        ("CUDA", if report.cuda { "yes" } else { "no" }.into()),
    ];
    for model in &report.models {
        lines.push(("model", format!("{:<16} {} {}", model.name, model.sha256, model.license)));
    }
    lines.push(("sandbox", report.sandbox.clone()));
    for problem in &report.problems {
        lines.push(("PROBLEM", problem.clone()));
    }
    lines.into_iter().map(|(name, value)| format!("{name:<14}{value}\n")).collect()
}
