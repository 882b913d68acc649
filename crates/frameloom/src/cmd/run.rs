//! `frameloom run`: the whole engine in one process and its slots.

use std::fs;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use frameloom_broker::{Broker, Memory};
use frameloom_core::frame_task::FILTER;
use frameloom_core::id::{AttemptId, JobId, NodeId, StoreId};
use frameloom_core::metrics::{Metrics, SlotMetrics};
use frameloom_core::spec::JobSpec;
use frameloom_core::wire::{Decision, JobFile, SourceRef};
use frameloom_core::{Error, ErrorKind, Result};
use frameloom_server::engine::{self, Begin, EngineConfig, JobOutcome, Links};
use frameloom_server::publish::{self, Ready};
use frameloom_server::resume::{self, Found, Past, Publishing};
use frameloom_server::store::Store;
use frameloom_server::summary::{self, RunFacts};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::broker::BrokerArgs;
use super::shown;
use crate::cli::{FilesLie, JobArgs};
use crate::node::{Node, NodeConfig};
use crate::outputs::{self, OF_A_FILTER, SOURCE};
use crate::progress::{Display, Style};
use crate::random;
use crate::work_dir::WorkDir;

/// How often is looked whether the work directory is still there.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What to run.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  frameloom run in.mp4 -o out.mp4 -f blur:sigma=3 -f edges\n  \
    frameloom run in.mkv -o out.mkv -f ffmpeg:hflip,eq=contrast=1.2 --codec hevc\n\n\
    Exit codes: 0 done, 2 wrong request, 3 not found, 4 conflict, 5 media that cannot be processed,\n\
    6 resources used up or a part that died, 70 a bug, 130 stopped by Ctrl-C, 143 by SIGTERM.\n\
    After 6, 130, 143 or a crash the same command goes on where it was.")]
pub(crate) struct RunArgs {
    /// A video file, or '-' for a pipe on standard input.
    #[arg(value_name = "IN")]
    input: PathBuf,

    /// The output file; its name ends in .mp4, .mov, .mkv or .webm and chooses the container.
    #[arg(
        short,
        long,
        value_name = "OUT",
        required_unless_present = "detections_only",
        conflicts_with = "detections_only"
    )]
    output: Option<PathBuf>,

    #[command(flatten)]
    job: JobArgs,

    /// Segments done at a time, each by a process of its own, 1 to 256 [default: one a core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    slots: Option<u32>,

    /// Replace OUT, and the file of --detections, if they exist.
    #[arg(long)]
    overwrite: bool,

    /// Where work is kept until the run is done [default: .OUT.frameloom beside OUT].
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,

    /// The Redis by which '-f celery:…' reaches Celery workers; they find --work as FRAMELOOM_DATA.
    #[arg(long, value_name = "URL", requires = "work")]
    broker: Option<String>,

    #[command(flatten)]
    broker_access: BrokerArgs,

    /// Start over, whatever an earlier run has done.
    #[arg(long)]
    fresh: bool,

    /// Write metrics to this file, as JSON; docs/metrics.schema.json is their schema.
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,

    /// Write a line of JSON for each frame to this file: pts, segment, attempt, slot, ms by step.
    #[arg(long, value_name = "FILE")]
    frame_metrics: Option<PathBuf>,

    /// Write what 'faces', 'objects' and 'motion' find to this file: a line of JSON a frame (.jsonl); with
    /// --detections-only also .csv or, in the form of COCO, .json.
    #[arg(long, value_name = "FILE", required_if_eq("detections_only", "true"))]
    detections: Option<PathBuf>,

    /// How progress is shown; json prints an event a line on standard output.
    #[arg(long, value_name = "STYLE", default_value = "auto")]
    progress: Style,

    /// Say nothing but errors.
    #[arg(short, long)]
    quiet: bool,

    /// Memory that a slot may take, in MiB, 64 or more.
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(64..=1 << 20))]
    slot_memory: u64,

    /// Seconds that a slot at work may be silent before it is stopped, 1 or more.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    slot_timeout: u64,

    /// Abort at this publishing step, to try how the next run goes on.
    #[arg(long, value_name = "STEP", hide = true)]
    fault: Option<String>,
}

impl RunArgs {
    /// The output's place: that of the video, or of the detections where they are all that is wanted.
    fn out(&self) -> &Path {
        self.output.as_deref().or(self.detections.as_deref()).unwrap_or(Path::new(""))
    }

    /// The job that is asked for.
    fn spec(&self) -> Result<JobSpec> {
        super::spec(&self.job, self.output.as_deref(), self.detections.as_deref(), FilesLie::Here)
    }
}

/// How a run ended otherwise than by an error that another try would meet again.
enum End {
    Done,
    Stopped(u8),
    /// By something that the user can mend; what was done so far is of use then.
    Kept(Error),
}

/// Runs a job; answers the exit code.
pub(crate) fn run(args: RunArgs) -> Result<u8> {
    let style = (!args.quiet).then_some(args.progress);
    let spec = args.spec()?;
    let from_pipe = args.input.as_os_str() == "-";
    if !from_pipe {
        super::open_source(&args.input)?;
    }
    check_outputs(&args, &spec, from_pipe)?;
    super::check_runtime(&spec)?;
    check_broker(&args, &spec)?;
    let path = args.work.clone().unwrap_or_else(|| WorkDir::beside(args.out()));
    let work = WorkDir::open(&path)?;
    let ended = match within(&args, spec, &work, style) {
        // Whatever failed, it did so for that.
        Ok(End::Kept(error)) | Err(error) if !work.is_there() => {
            Err(work.gone().with_source(error))
        }
        ended => ended,
    };
    match ended {
        Ok(End::Done) => {
            if work.is_there() {
                work.strip()?;
            }
            super::fault(args.fault)("while removing")?;
            work.remove().map(|()| 0)
        }
        Ok(End::Stopped(code)) => {
            eprintln!("frameloom: stopped; the same command goes on where it was");
            Ok(code)
        }
        Ok(End::Kept(error)) => {
            eprintln!(
                "frameloom: the work done so far is kept; once this is mended the same command goes on where it was"
            );
            Err(error)
        }
        Err(error) => {
            use ErrorKind::{Conflict, Corrupt, Invalid, NotFound, TooLarge, Unsupported};
            if matches!(
                error.kind(),
                Invalid | NotFound | Conflict | Unsupported | Corrupt | TooLarge
            ) {
                // Why the run failed is what the user must hear, not that sweeping up failed too.
                if let Err(error) = work.remove() {
                    tracing::warn!(%error, "the work directory is left behind");
                }
            } else {
                eprintln!(
                    "frameloom: the work done so far is kept; the same command goes on where it was"
                );
            }
            Err(error)
        }
    }
}

/// Looks for things in a video as `spec` says, within the new directory `work`, and writes what is found to `to`; answers
/// the exit code, which is not 0 where somebody stopped it.
///
/// # Errors
/// As a run's.
pub(crate) fn look(
    input: &Path,
    spec: JobSpec,
    work: &Path,
    to: &Path,
    slots: Option<u32>,
) -> Result<u8> {
    let args = RunArgs {
        input: input.to_owned(),
        output: None,
        job: JobArgs::default(),
        broker: None,
        broker_access: BrokerArgs::default(),
        slots,
        overwrite: false,
        work: None,
        fresh: false,
        metrics: None,
        frame_metrics: None,
        detections: Some(to.to_owned()),
        progress: Style::Auto,
        quiet: true,
        slot_memory: 2048,
        slot_timeout: 60,
        fault: None,
    };
    let terminal = std::io::stderr().is_terminal();
    let style = terminal.then_some(Style::Bar);
    match within(&args, spec, &WorkDir::open(work)?, style)? {
        End::Done => Ok(0),
        End::Stopped(code) => Ok(code),
        End::Kept(error) => Err(error),
    }
}

/// Runs a job in its work directory.
fn within(args: &RunArgs, spec: JobSpec, work: &WorkDir, style: Option<Style>) -> Result<End> {
    let store = Store::open(work.path())?;
    let from_pipe = args.input.as_os_str() == "-";
    let source = if from_pipe { spool(args, work)? } else { source_of(&args.input)? };
    let frame_metrics = args.frame_metrics.is_some();
    let id = JobId::from_bits(random::bits()?);
    let job = JobFile { id, spec, source, frame_metrics, submission: None };
    let slots = args.slots.map_or_else(cores, |slots| slots as usize);
    let display = Arc::new(Mutex::new(Display::new(style, slots)));
    let ended = in_work(args, work, Arc::new(store), job, slots, &display);
    lock(&display).end();
    ended
}

fn lock(display: &Mutex<Display>) -> MutexGuard<'_, Display> {
    display.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Refuses outputs that could not be written at the end, before any work.
fn check_outputs(args: &RunArgs, spec: &JobSpec, from_pipe: bool) -> Result<()> {
    let mut written = vec![(if args.output.is_some() { "-o" } else { "--detections" }, args.out())];
    let beside = args.detections.as_ref().filter(|_| args.output.is_some());
    let reports = [
        ("--metrics", args.metrics.as_ref()),
        ("--frame-metrics", args.frame_metrics.as_ref()),
        ("--detections", beside),
    ];
    let named = reports.into_iter().filter_map(|(option, path)| Some((option, path?.as_path())));
    written.extend(named);
    let of_filters = spec.files.iter().map(|file| (OF_A_FILTER, Path::new(&file.name)));
    let mut taken: Vec<_> = of_filters.collect();
    taken.extend((!from_pipe).then_some((SOURCE, args.input.as_path())));
    outputs::check(&written, &taken)
}

/// Refuses filters whose frames would reach nobody.
fn check_broker(args: &RunArgs, spec: &JobSpec) -> Result<()> {
    let away = spec.filters.iter().find(|filter| filter.name == FILTER);
    match (away, &args.broker) {
        (Some(filter), None) => Err(Error::invalid(format!(
            "filter '{filter}' needs Celery workers: give --broker redis://HOST/0 and --work DIR, and start them \
             with FRAMELOOM_DATA=DIR; or submit the job to a server that has a broker"
        ))),
        _ => Ok(()),
    }
}

fn source_of(input: &Path) -> Result<SourceRef> {
    let path = fs::canonicalize(input)
        .map_err(|e| Error::io(format!("cannot read '{}'", shown(input)), &e))?;
    let name = input.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(SourceRef { path, name, root: None })
}

/// Takes a pipe on standard input into the work directory: media is read more than once.
fn spool(args: &RunArgs, work: &WorkDir) -> Result<SourceRef> {
    let dir = work.path().join("spool");
    let failed = |e: std::io::Error| Error::io("cannot take standard input", &e);
    fs::create_dir_all(&dir).map_err(failed)?;
    let path = dir.join("source");
    let temporary = dir.join("source.tmp");
    let mut file = fs::File::create(&temporary).map_err(failed)?;
    let copied = std::io::copy(&mut std::io::stdin().lock().by_ref(), &mut file).map_err(failed)?;
    if copied == 0 {
        return Err(Error::corrupt(format!(
            "standard input is empty; pipe a video into 'frameloom run - -o {}'",
            shown(args.out())
        )));
    }
    fs::rename(&temporary, &path).map_err(failed)?;
    let path = fs::canonicalize(&path).map_err(failed)?;
    Ok(SourceRef { path, name: "standard input".into(), root: None })
}

/// Runs the job within its locked work directory.
fn in_work(
    args: &RunArgs,
    directory: &WorkDir,
    store: Arc<Store>,
    mut job: JobFile,
    slots: usize,
    display: &Arc<Mutex<Display>>,
) -> Result<End> {
    let begun = Instant::now();
    let mut found = past(args, &store, &job, &lock(display))?;
    let publishing = found.as_ref().and_then(|found| found.publishing);
    if publishing.is_some_and(|past| publish::is_published(args.out(), past.output)) {
        lock(display).say("the output was there already; only the work directory was left");
        return Ok(End::Done);
    }
    if let Err(error) = check_places(args, publishing) {
        return if found.is_some() { Ok(End::Kept(error)) } else { Err(error) };
    }
    match &found {
        Some(found) => {
            job.id = found.id;
            let kept = found.kept();
            store.job(job.id).sweep(&found.open, |name| kept.contains(name))?;
        }
        None => store.job(job.id).create(&job, |dir| super::attach(dir, &job.spec))?,
    }
    let nothing_done = found.as_ref().is_some_and(|found| found.plan.is_none());
    if nothing_done {
        found = None;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::io("cannot start", &e))?;
    let (ended, stats) =
        runtime.block_on(work(args, directory, &store, &job, found, slots, display))?;
    let outcome = match ended {
        Ok(outcome) => outcome,
        Err(Stop::Signal(code)) => return Ok(End::Stopped(code)),
        Err(Stop::Error(error)) => return Err(error),
    };
    let facts = RunFacts {
        output_name: args.out().to_string_lossy().into_owned(),
        wall: begun.elapsed(),
        cpu: cpu_time(),
        cores: cores(),
        slots: stats,
        source_kept: summary::kept_by_owner(),
    };
    let metrics = summary::metrics(&job, &outcome, facts);
    if let Err(error) = publish_all(args, &store, &job, &outcome, &metrics, publishing) {
        return Ok(End::Kept(error));
    }
    let display = lock(display);
    if args.quiet {
        return Ok(End::Done);
    }
    for message in &outcome.concat.messages {
        display.say(&format!("note: {}", message.text));
    }
    if metrics.frames.concealed > 0 {
        display.say(&format!("note: {} damaged frames were concealed", metrics.frames.concealed));
    }
    display.summary(&words(&metrics), &metrics);
    Ok(End::Done)
}

/// What an earlier run left, if it was of the same job.
fn past(args: &RunArgs, store: &Store, job: &JobFile, display: &Display) -> Result<Option<Found>> {
    let fingerprint = |whole| resume::fingerprint_of(&job.source.path, whole);
    let past = if args.fresh {
        Past::Other("--fresh".into())
    } else {
        resume::look(store, job, &frameloom_media::engine(), &fingerprint)?
    };
    match past {
        Past::None => Ok(None),
        Past::Same(found) => Ok(Some(*found)),
        Past::Other(why) => {
            let jobs = store.jobs()?;
            if !jobs.is_empty() {
                display.say(&format!("starting over: {why}"));
            }
            jobs.into_iter().try_for_each(|id| store.remove(id))?;
            Ok(None)
        }
    }
}

/// Why a run stopped.
enum Stop {
    Signal(u8),
    Error(Error),
}

/// Runs engine and node until the job ends, somebody stops it, or the work directory takes nothing any more.
async fn work(
    args: &RunArgs,
    directory: &WorkDir,
    store: &Arc<Store>,
    job: &JobFile,
    found: Option<Found>,
    slots: usize,
    display: &Arc<Mutex<Display>>,
) -> Result<(Result<JobOutcome, Stop>, Vec<SlotMetrics>)> {
    let failed = |e: std::io::Error| Error::io("cannot watch signals", &e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let broker: Arc<dyn Broker> = Arc::new(Memory::new());
    let (wake, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    let (hopeless, mut despair) = mpsc::channel(1);
    let celery = match &args.broker {
        None => None,
        Some(url) => {
            // Celery workers know the store by it, also when this run is over.
            let id = store.name(StoreId::from_bits(random::bits()?))?;
            Some(Arc::new(args.broker_access.connect(url, id).await?))
        }
    };
    let config = NodeConfig {
        name: super::host_name(),
        slots,
        gpu_slots: 0,
        frame_slots: slots,
        control: true,
        within_server: true,
        celery,
        roots: std::collections::BTreeMap::new(),
        slot: super::slot_config(args.slot_memory << 20, Duration::from_secs(args.slot_timeout))?,
        beat: Duration::from_millis(200),
        hopeless: Some(hopeless),
    };
    let id = NodeId::from_bits(random::bits()?);
    let node = Node::new(id, Arc::clone(store), Arc::clone(&broker), Arc::clone(&wake), config);
    let node = tokio::spawn(node.run(stop.clone()));
    let config = EngineConfig {
        poll: Duration::from_millis(100),
        lease: Duration::from_secs(10),
        window: slots + 2,
        // Where the system gives no random numbers the run would not have begun.
        new_id: Box::new(|| AttemptId::from_bits(random::bits().unwrap_or_default())),
        fault: super::fault(args.fault.clone()),
        hold: Box::new(|| false),
        // The lock on the work directory keeps other runs away.
        before_commit: Box::new(|| Ok(())),
        // Whoever asks for a GPU here has one.
        gpu_for: None,
    };
    let engine = engine::start(config, Links { store: Arc::clone(store), broker, wake });
    let cancel = CancellationToken::new();
    let watching = Arc::clone(display);
    let begin = Begin {
        job: job.clone(),
        found,
        home: None,
        priority: 5,
        watcher: Box::new(move |event| lock(&watching).event(&event)),
        cancel: cancel.clone(),
    };
    let running = engine.run(begin);
    tokio::pin!(running);
    let mut stopped = None;
    let mut looked = tokio::time::interval(LOOK_EVERY);
    let ended = loop {
        let stop = tokio::select! {
            ended = &mut running => break ended,
            _ = interrupt.recv() => Stop::Signal(130),
            _ = terminate.recv() => Stop::Signal(143),
            Some(error) = despair.recv() => Stop::Error(error),
            _ = looked.tick() => {
                if directory.is_there() { continue }
                Stop::Error(directory.gone())
            }
        };
        stopped = stopped.or(Some(stop));
        cancel.cancel();
    };
    stop.cancel();
    let stats = node.await.map_err(|e| Error::internal("the node ended").with_source(e))?;
    let ended = match (ended, stopped) {
        (Ok(outcome), _) => Ok(outcome),
        (Err(error), Some(stop)) if error.kind() == ErrorKind::Cancelled => Err(stop),
        (Err(error), _) => Err(Stop::Error(error)),
    };
    Ok((ended, stats))
}

/// Whether the file at `to` may be replaced: the user says so, or an earlier run has put it there.
fn may_replace(args: &RunArgs, to: &Path, earlier: Option<(u64, u64)>) -> bool {
    args.overwrite || earlier.is_some_and(|earlier| publish::is_published(to, earlier))
}

/// Whether something has this name, be it a link that leads nowhere.
fn is_taken(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Refuses to replace what may be the user's work.
///
/// # Errors
/// Conflict.
fn check_places(args: &RunArgs, earlier: Option<Publishing>) -> Result<()> {
    let detections = earlier.and_then(|earlier| earlier.detections);
    for (to, earlier) in [(Some(args.out()), None), (args.detections.as_deref(), detections)] {
        if let Some(to) = to.filter(|to| is_taken(to) && !may_replace(args, to, earlier)) {
            return Err(publish::exists(to));
        }
    }
    Ok(())
}

/// Puts the output and what is beside it at their places, the output last but for the work directory. All of it lies on the
/// file systems of its places before the first file is put there.
fn publish_all(
    args: &RunArgs,
    store: &Store,
    job: &JobFile,
    outcome: &JobOutcome,
    metrics: &Metrics,
    earlier: Option<Publishing>,
) -> Result<()> {
    let fault = super::fault(args.fault.clone());
    let text = super::pretty(metrics)?;
    let mut beside: Vec<(Ready, &Path)> = Vec::new();
    if let (Some(to), Some(from)) = (&args.frame_metrics, &outcome.frame_metrics) {
        beside.push((Ready::copy(from, to)?, to));
    }
    if let Some(to) = &args.metrics {
        let from = outcome.output.with_extension("metrics");
        let failed = |e: std::io::Error| Error::io(format!("cannot write '{}'", shown(to)), &e);
        fs::write(&from, &text).map_err(failed)?;
        beside.push((Ready::prepare(&from, to)?, to));
    }
    let detections = match (&args.detections, &outcome.detections) {
        (Some(to), Some(from)) => Some((Ready::copy(from, to)?, to)),
        _ => None,
    };
    fault("before intent")?;
    let ready = Ready::prepare(&outcome.output, args.out())?;
    let (size, inode) = ready.identity();
    let (mut journal, _) = store.job(job.id).open_journal()?;
    let identity = detections.as_ref().map(|(ready, _)| ready.identity());
    journal.append(&[Decision::Publishing { size, inode, detections: identity }])?;
    fault("before publish")?;
    beside.into_iter().try_for_each(|(ready, to)| ready.publish(to, true))?;
    if let Some((ready, to)) = detections {
        let earlier = earlier.and_then(|earlier| earlier.detections);
        ready.publish(to, may_replace(args, to, earlier))?;
    }
    fault("after detections")?;
    ready.publish(args.out(), args.overwrite)?;
    fault("after publish")?;
    Ok(())
}

/// CPU time of this process and its children that have ended.
fn cpu_time() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let own = clock_gettime(ClockId::ProcessCPUTime);
    let own = Duration::new(own.tv_sec.unsigned_abs(), u32::try_from(own.tv_nsec).unwrap_or(0));
    own + children_cpu_time().unwrap_or_default()
}

/// CPU time of children that have ended and were waited for, by `/proc`.
fn children_cpu_time() -> Option<Duration> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    // Fields 16 and 17 of proc(5), counted behind the name: time of children in user and kernel.
    let ticks = fields.get(13)?.parse::<u64>().ok()? + fields.get(14)?.parse::<u64>().ok()?;
    let a_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_millis(ticks.saturating_mul(1000) / a_second.max(1)))
}

/// The summary of a run.
fn words(metrics: &Metrics) -> String {
    let mut text = format!(
        "{}: {} frames in {:.1} s, {:.1} fps, {:.2}x real time, {} segments",
        shown(Path::new(&metrics.output.name)),
        metrics.frames.output,
        metrics.wall_seconds,
        metrics.effective_fps,
        metrics.realtime_ratio,
        metrics.job.segments,
    );
    for found in metrics.detections.iter().flat_map(|detections| &detections.detectors) {
        text += &format!(
            "\n{}: {} boxes in {} frames, {} tracks ({})",
            found.filter, found.boxes, found.frames, found.tracks, found.detector
        );
    }
    if metrics.tasks.retried > 0 {
        text += &format!(
            ", {} tasks tried again ({:.1}% of the frames)",
            metrics.tasks.retried, metrics.frames.retried_percent
        );
    }
    text
}
