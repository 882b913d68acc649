//! The HTTP API around the engine: many clients, one queue. It touches no pixel and parses no media.

mod api;
mod auth;
mod events;
mod files;
mod job;
mod jobs;
mod linger;
mod listen;
mod metrics;
mod output;
mod page;
mod picture;
mod problem;
mod process;
mod replan;
mod request;
mod scale;
mod sight;
mod trace;
mod upload;
mod view;
mod webhook;
mod workers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use frameloom_core::{Error, ErrorKind, Result};
use tokio_util::sync::CancellationToken;

pub use api::openapi;
pub use auth::Tokens;
pub use jobs::{Ask, Parts, Post, is_full};
pub use listen::{Listener, Tls};
pub use problem::Problem;
pub use request::{EncoderRequest, FileRequest, JobRequest, OutputRequest, SourceRequest};
pub use sight::Sights;
pub use trace::TraceConfig;
pub use view::{JobList, JobView, ProgressView, SegmentState, State};
pub use workers::serve_node;

use jobs::Jobs;

/// Largest body of a request that carries no source, in bytes.
const MOST_JSON: usize = 256 << 10;

/// How a server works.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Who gets in.
    pub tokens: Tokens,
    /// Whether it speaks TLS itself.
    pub tls: bool,
    /// Host names by which it is called, in lower case; `*` is any.
    pub hosts: Vec<String>,
    /// Directories whose files may be sources, and whether outputs may be written there.
    pub paths: Vec<(PathBuf, bool)>,
    /// Bytes of the store that are kept free.
    pub min_free: u64,
    /// Largest source that is taken, in bytes.
    pub max_upload: u64,
    /// Jobs that are not over, at most.
    pub max_jobs: usize,
    /// Bytes that uploads which are not whole may take together.
    pub max_partial: u64,
    /// Largest file for a filter that is taken, in bytes.
    pub max_file: u64,
    /// Bytes that the files of one client may take together.
    pub max_files: u64,
    /// How long a finished job's source is kept, and a job that made no output; `None` for ever.
    pub keep: Option<Duration>,
    /// How long a job is kept with its output; `None` for ever.
    pub keep_outputs: Option<Duration>,
    /// Segments done at a time on this machine.
    pub slots: usize,
    /// Celery tasks that clients may have frames sent to, as `NAME@QUEUE` with `*` and `?`.
    pub allowed_tasks: Vec<String>,
    /// Directories that nodes may find elsewhere, by name.
    pub roots: BTreeMap<String, PathBuf>,
    /// Whether `/metrics` is open to everybody.
    pub open_metrics: bool,
    /// Hosts that webhooks may go to, as `HOST` or `HOST:PORT`.
    pub webhook_hosts: Vec<String>,
    /// What webhooks are signed with.
    pub webhook_secret: Option<Secret>,
    /// How long after a job's end its webhook is tried for.
    pub webhook_for: Duration,
    /// Where traces go.
    pub traces: Option<TraceConfig>,
}

/// How long, in milliseconds, what belongs to a job is kept after its end; `None` for ever.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    source: Option<i64>,
    output: Option<i64>,
}

/// A text that is never shown.
#[derive(Clone)]
pub struct Secret(pub String);

impl Secret {
    fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl ServeConfig {
    fn kept(&self) -> Kept {
        let ms = |keep: Duration| i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
        Kept { source: self.keep.map(ms), output: self.keep_outputs.map(ms) }
    }

    /// The named root beneath which a path lies, and the path from there.
    fn root_of(&self, path: &Path) -> Option<(String, PathBuf)> {
        self.roots
            .iter()
            .find_map(|(name, dir)| Some((name.clone(), path.strip_prefix(dir).ok()?.to_owned())))
    }

    fn too_large(&self) -> Error {
        Error::new(
            ErrorKind::TooLarge,
            format!("a source has at most {} bytes here (--max-upload)", self.max_upload),
        )
    }

    /// A path that a client has named, if it lies under an allowed directory.
    fn allowed(&self, path: &str, write: bool) -> Result<PathBuf> {
        let forbidden = || {
            let what = if write { "written" } else { "read" };
            let hint = if write { "--allow-path DIR:rw" } else { "--allow-path DIR" };
            Error::new(
                ErrorKind::Forbidden,
                format!(
                    "path '{}' may not be {what}; the server is started with {hint} for that",
                    path.escape_debug()
                ),
            )
        };
        let asked = Path::new(path);
        if !asked.is_absolute() || path.contains('\0') {
            return Err(Error::invalid(format!("path '{}' is not absolute", path.escape_debug())));
        }
        let dots = asked.components().any(|c| matches!(c, std::path::Component::ParentDir));
        for (root, writable) in &self.paths {
            let Ok(relative) = asked.strip_prefix(root) else { continue };
            if dots || (write && !writable) {
                continue;
            }
            if write {
                // Its directory must be there; what it is called must be a video's name.
                frameloom_core::spec::Container::of_file_name(path)?;
                let parent = relative.parent().unwrap_or(Path::new(""));
                beneath(root, parent, true).map_err(|_| forbidden())?;
                return Ok(asked.to_owned());
            }
            return match beneath(root, relative, false) {
                Ok(()) => Ok(asked.to_owned()),
                Err(rustix::io::Errno::NOENT) => Err(Error::not_found(format!(
                    "path '{}' does not exist on the server",
                    path.escape_debug()
                ))),
                Err(_) => Err(forbidden()),
            };
        }
        Err(forbidden())
    }
}

/// Looks whether `relative` is a regular file (or a directory) beneath `root`, with no link on the way.
fn beneath(
    root: &Path,
    relative: &Path,
    directory: bool,
) -> std::result::Result<(), rustix::io::Errno> {
    use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
    let open = |dir: &std::os::fd::OwnedFd, path: &Path| {
        rustix::fs::openat2(
            dir,
            path,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
    };
    let root = rustix::fs::open(root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let found = open(&root, relative)?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
    let wanted = if directory { FileType::Directory } else { FileType::RegularFile };
    if kind == wanted { Ok(()) } else { Err(rustix::io::Errno::ACCESS) }
}

/// What all requests share.
struct App {
    jobs: Arc<Jobs>,
    stop: CancellationToken,
}

/// A server that has read its store and runs what was not over.
pub struct Server {
    app: Arc<App>,
}

impl Server {
    /// Reads the store, and goes on with the jobs that are not over. Within a tokio runtime.
    ///
    /// # Errors
    /// Of the store.
    pub fn new(parts: Parts, config: ServeConfig, stop: CancellationToken) -> Result<Self> {
        let jobs = Jobs::load(parts, config)?;
        let tended = Arc::clone(&jobs);
        let until = stop.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = until.cancelled() => return,
                    () = tokio::time::sleep(Duration::from_secs(1)) => {
                        tokio::task::block_in_place(|| tended.tend());
                    }
                }
            }
        });
        Ok(Self { app: Arc::new(App { jobs, stop }) })
    }

    /// Takes no new jobs any more.
    pub fn drain(&self) {
        self.app.jobs.drain();
    }

    /// Serves all listeners until it is stopped.
    pub async fn serve(&self, listeners: Vec<Listener>) {
        let router = self.router();
        let all = listeners
            .into_iter()
            .map(|listener| tokio::spawn(listener.serve(router.clone(), self.app.stop.clone())));
        for listener in all.collect::<Vec<_>>() {
            // A listener ends only where the server is stopped.
            drop(listener.await);
        }
    }

    fn router(&self) -> Router {
        let app = Arc::clone(&self.app);
        let sources = Router::new()
            .route(
                "/v1/uploads/{id}",
                axum::routing::patch(upload::append).put(upload::whole).head(upload::offset),
            )
            .route(
                "/v1/files/{sha256}",
                axum::routing::put(files::put).head(files::find_sent).delete(files::remove),
            )
            .route("/v1/process", post(process::process).put(process::process))
            .route("/v1/jobs", get(api::list).post(api::create))
            .layer(DefaultBodyLimit::disable());
        let rest = Router::new()
            .route("/v1/jobs/{id}", get(api::show).delete(api::remove))
            .route("/v1/jobs/{id}/events", get(api::events))
            .route("/v1/jobs/{id}/logs", get(api::logs))
            .route("/v1/jobs/{id}/frames/latest.jpg", get(picture::latest))
            .route("/v1/jobs/{id}/frames/{picture}", get(picture::frame))
            .route("/v1/jobs/{id}/preview.gif", get(picture::gif))
            .route("/v1/jobs/{id}/preview.webp", get(picture::webp))
            .route("/v1/jobs/{id}/preview.mp4", get(picture::mp4))
            .route("/v1/jobs/{id}/output", get(output::output))
            .route("/v1/jobs/{id}/detections.jsonl", get(output::detections))
            .route("/v1/jobs/{id}/metrics", get(output::metrics))
            .route("/v1/jobs/{id}/retry", post(api::retry))
            .route("/v1/jobs/{id}/replan", post(api::replan))
            .route("/v1/files", get(files::list))
            .route("/v1/filters", get(api::filters))
            .route("/v1/workers", get(workers::workers))
            .route("/v1/scale", get(scale::scale))
            .route("/v1/session", post(auth::login))
            .route("/v1/openapi.json", get(api::document))
            .route("/healthz", get(api::healthz))
            .route("/readyz", get(api::readyz))
            .route("/metrics", get(metrics::metrics))
            .route("/", get(page::index))
            .route("/api", get(page::api))
            .route("/assets/{name}", get(page::asset))
            .layer(DefaultBodyLimit::max(MOST_JSON));
        sources
            .merge(rest)
            .fallback(api::nowhere)
            .method_not_allowed_fallback(api::wrong_method)
            .layer(from_fn_with_state(Arc::clone(&app), auth::guard))
            .layer(from_fn(linger::linger))
            .with_state(app)
    }
}

/// Hears what happens to a job, and shows it after each event as clients see it.
#[cfg(test)]
pub(crate) fn watched(file: frameloom_core::wire::JobFile) -> crate::engine::Watcher {
    let submission = file.submission.clone().unwrap();
    let job = job::Job::new(file, submission, sight::Sight { looks: true, hides: false });
    Box::new(move |event| {
        job.hear(event);
        serde_json::to_value(job.view(Kept::default())).unwrap();
    })
}
