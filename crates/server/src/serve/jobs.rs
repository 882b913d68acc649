//! All jobs of a server: accepted, begun, ended, kept over restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use frameloom_core::catalogue::Catalogue;
use frameloom_core::frame_task::{FILTER, FrameTaskSpec};
use frameloom_core::id::{EngineId, JobId};
use frameloom_core::plan::Engine as Versions;
use frameloom_core::slot::{SlotCommand, TaskOutput, ValidateTask};
use frameloom_core::spec::JobSpec;
use frameloom_core::wire::{Decision, End, JobFile, Queue, SourceRef, Submission, Task};
use frameloom_core::{Error, ErrorKind, Result};

use tokio::task::block_in_place;

use super::ServeConfig;
use super::auth::Who;
use super::files;
use super::job::Job;
use super::metrics::Durations;
use super::problem::{ApiError, ApiResult};
use super::request::JobRequest;
use super::sight::Sights;
use super::trace::{self, Tracer};
use super::webhook;
use crate::engine::{Begin, EngineHandle, Fault, JobEvent, JobOutcome};
use crate::publish::Ready;
use crate::resume::{self, Found};
use crate::store::{JobDir, Store};
use crate::summary::{self, RunFacts};

/// Has a slot do something beside the queue, with descriptors; answers what came of it.
pub type Ask = Box<
    dyn Fn(SlotCommand, Vec<OwnedFd>) -> Pin<Box<dyn Future<Output = Result<TaskOutput>> + Send>>
        + Send
        + Sync,
>;

/// Sends a text to an address, with headers; an error says that it was not taken. It waits.
pub type Post = Box<dyn Fn(&str, &[(String, String)], &str) -> Result<()> + Send + Sync>;

/// What the server is given by the program that it is a part of.
pub struct Parts {
    /// The store.
    pub store: Arc<Store>,
    /// Runs the jobs.
    pub engine: EngineHandle,
    /// The filters there are.
    pub catalogue: Catalogue,
    /// What filters do with what is to be seen.
    pub sights: Sights,
    /// The versions that shape bytes.
    pub versions: Versions,
    /// A slot that checks jobs before they are accepted.
    pub checks: Ask,
    /// A slot that makes pictures of finished jobs.
    pub pictures: Ask,
    /// Sends webhooks and traces.
    pub post: Post,
    /// Draws a new job id.
    pub new_id: Box<dyn Fn() -> Result<JobId> + Send + Sync>,
    /// Called before a job's end is written; an error says that this server may decide no more.
    pub before_commit: Box<dyn Fn() -> Result<()> + Send + Sync>,
    /// See [`Fault`].
    pub fault: Fault,
}

/// All jobs.
pub(crate) struct Jobs {
    pub(crate) parts: Parts,
    pub(crate) config: ServeConfig,
    list: Mutex<BTreeMap<JobId, Arc<Job>>>,
    /// Held while a job is made whose client will know it again.
    creating: Mutex<()>,
    /// Set where the server takes no new jobs any more.
    draining: AtomicBool,
    /// Times that it was tended.
    tended: AtomicU64,
    /// Frames of jobs that have ended, and tasks tried again, for the metrics.
    pub(crate) frames: AtomicU64,
    pub(crate) retries: AtomicU64,
    /// Jobs that ended since the server began: well, not, and by somebody's word.
    pub(crate) ended: [AtomicU64; 3],
    pub(crate) durations: Durations,
    pub(crate) hooks: webhook::Hooks,
    /// Places for traces on their way.
    pub(crate) exports: tokio::sync::Semaphore,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

impl Jobs {
    /// Reads all jobs of the store, and goes on with those that are not over.
    pub(crate) fn load(parts: Parts, config: ServeConfig) -> Result<Arc<Self>> {
        let jobs = Arc::new(Self {
            parts,
            config,
            list: Mutex::default(),
            creating: Mutex::default(),
            draining: AtomicBool::new(false),
            tended: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            ended: Default::default(),
            durations: Durations::default(),
            hooks: webhook::Hooks::default(),
            exports: tokio::sync::Semaphore::new(trace::MOST_AT_A_TIME),
        });
        jobs.set_aside();
        if !jobs.parts.store.has_reserve() {
            tracing::warn!("the store has no room to set aside for journals");
        }
        for id in jobs.parts.store.jobs()? {
            if let Err(error) = jobs.take_over(id) {
                tracing::error!(%error, job = %id, "a job of the store cannot be read; it is left alone");
            }
        }
        Ok(jobs)
    }

    fn take_over(self: &Arc<Self>, id: JobId) -> Result<()> {
        let dir = self.parts.store.job(id);
        let Some(file) = dir.read_job()? else {
            // It was never accepted: its creation was cut off.
            return self.parts.store.remove(id);
        };
        let Some(submission) = file.submission.clone() else {
            return Err(Error::conflict("it was made by 'run'"));
        };
        if file.id != id {
            return Err(Error::internal(format!("its description is that of job '{}'", file.id)));
        }
        let (_, decisions) = dir.open_journal()?;
        let (mut uploaded, mut ended, mut settled) = (None, None, false);
        for decision in &decisions {
            match decision {
                Decision::Uploaded { size } => uploaded = Some(*size),
                Decision::Ended { end, error, at_ms } => {
                    ended = Some((*end, error.clone(), *at_ms));
                    settled = false;
                }
                Decision::Retried => ended = None,
                Decision::Notified | Decision::Unheard => settled = true,
                _ => {}
            }
        }
        // All that cannot be read is found out before the job is taken up: else it would stand there as one that never came.
        let awaited = submission.upload && uploaded.is_none() && ended.is_none();
        let (part, came) = if awaited {
            let came = dir.open_source()?.and_then(|source| source.metadata().ok());
            (dir.upload_size()?, came.map(|meta| meta.len()))
        } else {
            (0, None)
        };
        let sight = self.parts.sights.of(&file.spec.filters);
        let job = Arc::new(Job::new(file, submission, sight));
        job.set_uploaded(uploaded.unwrap_or(part));
        self.list().insert(id, Arc::clone(&job));
        match ended {
            Some((end, error, at_ms)) => {
                job.end(end, error, at_ms);
                if !settled {
                    webhook::notify(self, &job);
                }
                trace::left(self, &job);
            }
            None if awaited => {
                // It came whole, and its server ended before that was written.
                if let Some(size) = came {
                    self.decide(&job, Decision::Uploaded { size })?;
                    job.set_uploaded(size);
                    self.begin(&job);
                }
            }
            None => self.begin(&job),
        }
        Ok(())
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<JobId, Arc<Job>>> {
        lock(&self.list)
    }

    /// All jobs that `who` may see.
    pub(crate) fn visible(&self, who: &Who) -> Vec<Arc<Job>> {
        self.list().values().filter(|job| who.sees(&job.submission.owner)).cloned().collect()
    }

    /// A job that `who` may see.
    pub(crate) fn get(&self, who: &Who, id: &str) -> Result<Arc<Job>> {
        let known = id.parse::<JobId>().ok().and_then(|id| self.list().get(&id).cloned());
        known
            .filter(|job| who.sees(&job.submission.owner))
            .ok_or_else(|| Error::not_found(format!("job '{}' does not exist", id.escape_debug())))
    }

    /// Bytes of all uploads that are not whole, but for that of `but`.
    pub(crate) fn partial_bytes(&self, but: &Job) -> u64 {
        let list = self.list();
        let others = list.values().filter(|job| job.id() != but.id() && job.awaits_upload());
        others.map(|job| job.uploaded()).sum()
    }

    /// Whether a job is still there.
    pub(crate) fn holds(&self, job: &Job) -> bool {
        self.list().contains_key(&job.id())
    }

    /// Takes no new jobs any more.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the store has less room than is to be kept free.
    pub(crate) fn is_full(&self) -> bool {
        is_full(&self.parts.store, self.config.min_free)
    }

    /// Has a slot check what no source could mend: graphs, encoders and their options.
    pub(crate) async fn validate(&self, request: &JobRequest) -> Result<()> {
        let spec = request.spec(&self.parts.catalogue)?;
        let command = SlotCommand::Validate(ValidateTask { spec });
        (self.parts.checks)(command, Vec::new()).await.map(drop)
    }

    /// Accepts a job; answers also whether it was accepted before under the same key.
    pub(crate) fn create(
        self: &Arc<Self>,
        who: &Who,
        request: &JobRequest,
        key: Option<(String, String)>,
    ) -> ApiResult<(Arc<Job>, bool)> {
        // Two requests with one key must not both find that it is new.
        let _creating = key.is_some().then(|| lock(&self.creating));
        if let Some((key, digest)) = &key {
            let known = self.list().values().find_map(|job| {
                let known = job.submission.idempotency.as_ref()?;
                (known.0 == *key && job.submission.owner == who.name)
                    .then(|| (Arc::clone(job), known.1.clone()))
            });
            if let Some((job, before)) = known {
                if before == *digest {
                    return Ok((job, true));
                }
                return Err(ApiError::with_status(
                    Error::conflict(format!(
                        "Idempotency-Key '{}' was given before with another request",
                        key.escape_debug()
                    )),
                    axum::http::StatusCode::UNPROCESSABLE_ENTITY,
                ));
            }
        }
        if self.draining.load(Ordering::Relaxed) {
            return Err(Error::unavailable("the server is about to stop; try again soon").into());
        }
        let mut spec = request.spec(&self.parts.catalogue)?;
        self.may_ask(&spec)?;
        if spec.detections_only.is_some() && !self.parts.sights.of(&spec.filters).looks {
            return Err(Error::invalid(
                "detections_only: none of the filters looks for something; give faces, objects or motion",
            )
            .into());
        }
        let given = files::find(self, &who.name, request, &spec.filters)?;
        spec.files = given.iter().map(|given| given.file.clone()).collect();
        let open = self.list().values().filter(|job| !job.state().is_terminal()).count();
        if open >= self.config.max_jobs {
            return Err(Error::exhausted(format!(
                "{open} jobs are open already; try again when one has ended"
            ))
            .into());
        }
        if self.is_full() {
            return Err(ApiError::full(FULL_NOW));
        }
        if let Some(url) = &request.webhook {
            webhook::check(url, &self.config.webhook_hosts)?;
        }
        let id = (self.parts.new_id)()?;
        let (source, upload) = self.source(id, request)?;
        let output = request.output.as_ref().map(|output| self.output(&output.path)).transpose()?;
        let submission = Submission {
            owner: who.name.clone(),
            created_ms: now_ms(),
            priority: request.priority()?,
            upload,
            upload_size: request.source.size,
            output,
            idempotency: key,
            webhook: request.webhook.clone(),
        };
        let file = JobFile {
            id,
            spec,
            source,
            frame_metrics: request.frame_metrics,
            submission: Some(submission.clone()),
        };
        (self.parts.before_commit)()?;
        let store = &self.parts.store;
        let attach = |dir: &JobDir<'_>| files::attach(store, &who.name, &given, dir);
        if let Err(error) = store.job(id).create(&file, attach) {
            // What is there of it is no job.
            drop(store.remove(id));
            return Err(match error.kind() {
                ErrorKind::Exhausted => ApiError::full(FULL_NOW),
                _ => error.into(),
            });
        }
        let sight = self.parts.sights.of(&file.spec.filters);
        let job = Arc::new(Job::new(file, submission, sight));
        self.list().insert(id, Arc::clone(&job));
        if !upload {
            self.begin(&job);
        }
        Ok((job, false))
    }

    /// Where an output may go beside the store: to a place that nothing takes yet.
    fn output(&self, path: &str) -> Result<PathBuf> {
        let to = self.config.allowed(path, true)?;
        let taken = self
            .list()
            .values()
            .any(|job| !job.state().is_terminal() && job.submission.output.as_ref() == Some(&to));
        if taken || to.symlink_metadata().is_ok() {
            return Err(Error::conflict(format!(
                "output '{}' {}; give another path",
                path.escape_debug(),
                if taken { "is another job's" } else { "exists" }
            )));
        }
        Ok(to)
    }

    /// What a job's filters have Celery workers do.
    fn frame_tasks(&self, spec: &JobSpec) -> Result<Vec<FrameTaskSpec>> {
        let filters = spec.filters.iter().filter(|filter| filter.name == FILTER);
        filters.map(|filter| FrameTaskSpec::of(&self.parts.catalogue.check(filter)?)).collect()
    }

    /// Whether clients may have frames sent to the tasks that a job's filters name.
    fn may_ask(&self, spec: &JobSpec) -> Result<()> {
        for asked in self.frame_tasks(spec)? {
            if !asked.is_allowed(&self.config.allowed_tasks) {
                return Err(Error::new(
                    ErrorKind::Forbidden,
                    format!(
                        "task '{0}' on queue '{1}' is not allowed here; the server is started with \
                         --allow-task '{0}@{1}' for that",
                        asked.task, asked.queue
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The queues that a job's frames are sent to, and the tasks that do them.
    fn queues_of(&self, job: &Job) -> String {
        let tasks = self.frame_tasks(&job.file.spec).unwrap_or_default();
        let name = |task: FrameTaskSpec| format!("{} (task {})", task.queue, task.task);
        let queues: BTreeSet<String> = tasks.into_iter().map(name).collect();
        queues.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// Where the source of a new job lies, and whether it is yet to come.
    fn source(&self, id: JobId, request: &JobRequest) -> ApiResult<(SourceRef, bool)> {
        let source = &request.source;
        match (&source.path, source.upload) {
            (Some(path), false) => {
                let path = self.config.allowed(path, false)?;
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let root = self.config.root_of(&path);
                Ok((SourceRef { path, name, root }, false))
            }
            (None, true) => {
                if source.size.is_some_and(|size| size > self.config.max_upload) {
                    return Err(self.config.too_large().into());
                }
                let name = source.name.clone().unwrap_or_else(|| "upload".into());
                let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
                let name: String = name.chars().filter(|c| !c.is_control()).take(255).collect();
                let path = self.parts.store.job(id).source();
                Ok((SourceRef { path, name, root: None }, true))
            }
            _ => Err(Error::invalid(
                "source: give either 'upload': true or 'path', a path on the server",
            )
            .into()),
        }
    }

    /// Writes down what was decided about a job that is not at work.
    pub(crate) fn decide(&self, job: &Job, decision: Decision) -> Result<()> {
        (self.parts.before_commit)()?;
        let dir = self.parts.store.job(job.id());
        let decisions = [decision];
        self.parts.store.pressing(|| dir.open_journal()?.0.append(&decisions))
    }

    /// The source that was sent along is there.
    pub(crate) fn uploaded(self: &Arc<Self>, job: &Arc<Job>, size: u64) -> Result<()> {
        let _deciding = job.deciding();
        if !job.awaits_upload() {
            // It was cancelled while the last bytes came.
            return Err(job.conflict("its source is of no use any more"));
        }
        (self.parts.fault)("before uploaded")?;
        self.parts.store.job(job.id()).finish_upload()?;
        (self.parts.fault)("within uploaded")?;
        self.decide(job, Decision::Uploaded { size })?;
        (self.parts.fault)("after uploaded")?;
        job.set_uploaded(size);
        trace::uploaded(self, job);
        self.begin(job);
        Ok(())
    }

    /// Tries a failed job again, from where it was.
    pub(crate) fn retry(self: &Arc<Self>, job: &Arc<Job>) -> Result<()> {
        let _deciding = job.deciding();
        if !matches!(job.state(), super::view::State::Failed | super::view::State::Cancelled) {
            return Err(job.conflict("only one that failed or was cancelled can be retried"));
        }
        if job.submission.upload && !job.file.source.path.exists() {
            return Err(job.conflict("its source never came, or is gone"));
        }
        // What its operator allowed may have changed since.
        self.may_ask(&job.file.spec)?;
        self.decide(job, Decision::Retried)?;
        trace::again(self, job);
        self.begin(job);
        Ok(())
    }

    /// Stops a job that is not over.
    pub(crate) fn cancel(self: &Arc<Self>, job: &Arc<Job>) -> Result<()> {
        let _deciding = job.deciding();
        if job.state().is_terminal() {
            return Err(job.conflict("it cannot be cancelled; ?purge=true deletes it"));
        }
        if job.awaits_upload() {
            return self.end(job, End::Cancelled, None, now_ms());
        }
        job.stop();
        Ok(())
    }

    /// Deletes a job with all that belongs to it.
    pub(crate) fn purge(&self, job: &Job) -> Result<()> {
        job.stop();
        let id = job.id();
        let gone = self.list().remove(&id);
        let store = &self.parts.store;
        let removed = store.frames(id).drop_all().and_then(|()| store.remove(id));
        if removed.is_err() {
            // What is still there is still to be seen.
            self.list().extend(gone.map(|job| (id, job)));
        }
        removed
    }

    fn end(
        self: &Arc<Self>,
        job: &Arc<Job>,
        end: End,
        error: Option<Error>,
        at_ms: i64,
    ) -> Result<()> {
        self.decide(job, Decision::Ended { end, error: error.clone(), at_ms })?;
        (self.parts.fault)("after ended")?;
        job.end(end, error, at_ms);
        let place = match end {
            End::Succeeded => 0,
            End::Failed => 1,
            End::Cancelled => 2,
        };
        self.ended[place].fetch_add(1, Ordering::Relaxed);
        webhook::notify(self, job);
        trace::over(self, job);
        Ok(())
    }

    /// Runs a job in the background.
    pub(crate) fn begin(self: &Arc<Self>, job: &Arc<Job>) {
        let (jobs, job) = (Arc::clone(self), Arc::clone(job));
        let cancel = job.begin();
        tokio::spawn(async move {
            let begun = Instant::now();
            let ended = match block_in_place(|| jobs.find(&job)) {
                Ok((found, home)) => {
                    let done = found.as_ref().map(done_tasks).unwrap_or_default();
                    let (watched, timed) = (Arc::clone(&job), Arc::clone(&jobs));
                    let tracer = Tracer::begin(&jobs, &job);
                    let mut fresh = true;
                    let begin = Begin {
                        job: job.file.clone(),
                        found,
                        home,
                        priority: job.submission.priority,
                        watcher: Box::new(move |event| {
                            if let JobEvent::Accepted { task, took, .. } = &event {
                                timed.durations.note(*task, *took);
                            }
                            if let Some(tracer) = &tracer {
                                tracer.hear(&event);
                            }
                            watched.hear(event);
                            if std::mem::take(&mut fresh) {
                                watched.mark_done(&done);
                            }
                        }),
                        cancel: cancel.clone(),
                    };
                    jobs.parts.engine.run(begin).await
                }
                Err(error) => Err(error),
            };
            block_in_place(|| jobs.over(&job, ended, begun.elapsed()));
        });
    }

    /// What is on the store of a job that is about to be run: nothing that is no longer of use; and the engine
    /// that it was planned anew for.
    fn find(&self, job: &Job) -> Result<(Option<Found>, Option<EngineId>)> {
        let dir = self.parts.store.job(job.id());
        let (_, decisions) = dir.open_journal()?;
        let found = resume::found(&dir, decisions)?;
        let home = found.home;
        // What lies on the store may have been rewritten: where the source is was decided when the job came.
        let path = if job.submission.upload {
            dir.source()
        } else {
            self.config.allowed(&job.file.source.path.to_string_lossy(), false)?
        };
        let differs = resume::differs(&found, &self.parts.versions, &|whole| {
            resume::fingerprint_of(&path, whole)
        })?;
        if let Some(why) = differs {
            tracing::info!(job = %job.id(), why, "a job starts over");
            dir.sweep(&found.open, |_| false)?;
            return Ok((None, home));
        }
        let kept = found.kept();
        dir.sweep(&found.open, |name| kept.contains(name))?;
        Ok((Some(found).filter(|found| found.plan.is_some()), home))
    }

    /// A job's run has ended: its output is put in its place, and that is written down.
    fn over(self: &Arc<Self>, job: &Arc<Job>, ended: Result<JobOutcome>, wall: Duration) {
        if !self.holds(job) {
            return;
        }
        // One moment for the end and for what the metrics tell of it.
        let at_ms = now_ms();
        if ended.as_ref().is_err_and(|e| e.kind() == ErrorKind::Cancelled) && self.begun_anew(job) {
            return;
        }
        let ended = ended.and_then(|outcome| self.publish(job, &outcome, wall, at_ms));
        if let Err(error) = self.parts.store.frames(job.id()).drop_all() {
            tracing::warn!(%error, job = %job.id(), "frames on their way are left behind");
        }
        let written = match ended {
            Ok(()) => self.end(job, End::Succeeded, None, at_ms).and_then(|()| {
                // Segments are of no use any more.
                self.parts.store.job(job.id()).drop_results()
            }),
            Err(error) if error.kind() == ErrorKind::Cancelled => {
                self.end(job, End::Cancelled, None, at_ms)
            }
            // A full disk is nobody's fault, and ends no job.
            Err(error) if error.kind() == ErrorKind::Exhausted => Err(error),
            Err(error) => {
                let retried = u64::from(job.progress().retried);
                self.retries.fetch_add(retried, Ordering::Relaxed);
                self.end(job, End::Failed, Some(error), at_ms)
            }
        };
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Exhausted && !job.state().is_terminal() => {
                self.begin_with_room(job, &error);
            }
            Err(error) => {
                tracing::error!(%error, job = %job.id(), "a job's end cannot be written");
            }
        }
    }

    /// Begins a job once more from what its journal says, when the store has room again.
    fn begin_with_room(self: &Arc<Self>, job: &Arc<Job>, error: &Error) {
        tracing::warn!(%error, job = %job.id(), "a job waits for room");
        job.wait_for(Some(FULL));
        let (jobs, job) = (Arc::clone(self), Arc::clone(job));
        let stop = job.stopping();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => {
                        return jobs.over(&job, Err(Error::cancelled("stopped")), Duration::ZERO);
                    }
                    () = tokio::time::sleep(ROOM_AFTER) => {}
                }
                if !jobs.is_full() {
                    return jobs.begin(&job);
                }
            }
        });
    }

    fn publish(&self, job: &Job, outcome: &JobOutcome, wall: Duration, at_ms: i64) -> Result<()> {
        let dir = self.parts.store.job(job.id());
        let facts = RunFacts {
            output_name: super::output::file_name(job),
            wall,
            cpu: Duration::from_micros(outcome.segment_cpu_us),
            cores: self.config.slots,
            slots: Vec::new(),
            source_kept: job.source_kept(self.config.kept(), at_ms),
        };
        let metrics = summary::metrics(&job.file, outcome, facts);
        self.frames.fetch_add(metrics.frames.output, Ordering::Relaxed);
        self.retries.fetch_add(u64::from(metrics.tasks.retried), Ordering::Relaxed);
        let made = dir.open_made(&outcome.output, outcome.concat.file.size)?;
        if let Some(to) = &job.submission.output {
            let to = self.config.allowed(&to.to_string_lossy(), true)?;
            Ready::copy_of(&made, &to)?.publish(&to, true)?;
        }
        (self.parts.fault)("before publish")?;
        dir.write_metrics(&metrics)?;
        (self.parts.fault)("within publish")?;
        let (frames, detections) = (&outcome.frame_metrics, &outcome.detections);
        dir.publish_output(&outcome.output, frames.as_deref(), detections.as_deref())?;
        (self.parts.fault)("after publish")
    }

    /// Sets room aside for when the disk is full, where there is enough.
    fn set_aside(&self) {
        match self.parts.store.set_aside(self.config.min_free) {
            Ok(true) => tracing::info!("room is set aside for journals"),
            Ok(false) => {}
            // Others have taken the room meanwhile.
            Err(error) => tracing::debug!(%error, "no room is set aside"),
        }
    }

    /// Tells jobs whether they wait for room, and deletes what has been kept long enough.
    pub(crate) fn tend(&self) {
        let full = self.is_full();
        self.set_aside();
        if self.tended.fetch_add(1, Ordering::Relaxed).is_multiple_of(FILES_EVERY) {
            self.tend_files();
        }
        let broker = self.parts.engine.status().broker_trouble().map(|_| "broker gone");
        let jobs: Vec<Arc<Job>> = self.list().values().cloned().collect();
        let now = now_ms();
        for job in jobs {
            let state = job.state();
            if !state.is_terminal() && !job.awaits_upload() {
                let progress = job.progress();
                let wants = match (progress.no_node, progress.no_worker) {
                    (Some(queue), _) => Some(no_node(queue)),
                    (None, true) => Some(format!("no worker on queue {}", self.queues_of(&job))),
                    (None, false) => None,
                };
                let full = full || progress.no_room;
                let waits = if full { Some(FULL) } else { broker.or(wants.as_deref()) };
                job.wait_for(waits);
            }
            let kept = |ms: i64, keep: Duration| {
                now.saturating_sub(ms) > i64::try_from(keep.as_millis()).unwrap_or(i64::MAX)
            };
            let old = |keep: Option<Duration>| {
                job.ended_ms().zip(keep).is_some_and(|(ms, keep)| kept(ms, keep))
            };
            let made = state == super::view::State::Succeeded;
            let over = old(if made { self.config.keep_outputs } else { self.config.keep });
            if made
                && !over
                && job.submission.upload
                && old(self.config.keep)
                && let Err(error) = self.parts.store.job(job.id()).drop_source()
            {
                tracing::warn!(%error, job = %job.id(), "a source cannot be deleted");
            }
            let stale = job.awaits_upload() && kept(job.submission.created_ms, UPLOAD_KEPT);
            if (over || stale)
                && let Err(error) = self.purge(&job)
            {
                tracing::warn!(%error, job = %job.id(), "a job cannot be deleted");
            }
        }
    }
}

/// That no node listens to a queue.
fn no_node(queue: Queue) -> String {
    match queue {
        Queue::Segment(engine) => format!("no node for engine {engine}"),
        Queue::Gpu(engine) => {
            format!("no node for engine {engine} with a GPU (queue frameloom.gpu)")
        }
        Queue::Control => "no node for plans".into(),
    }
}

/// What a client hears while there is no room for another job.
const FULL_NOW: &str = "the store is full; try again when there is room";

/// What a job waits for on a full disk.
const FULL: &str = "store full";

/// How long after a write that found no room a job is begun again at the soonest.
const ROOM_AFTER: Duration = Duration::from_secs(2);

/// Times of tending, a second each, between two looks at files that nobody uses.
const FILES_EVERY: u64 = 600;

/// How long an upload that is not whole is kept.
const UPLOAD_KEPT: Duration = Duration::from_secs(24 * 3600);

fn done_tasks(found: &Found) -> Vec<Task> {
    let mut tasks: Vec<Task> = found.segments.iter().map(|report| report.task).collect();
    tasks.sort();
    tasks
}

/// Whether a store has less than `least` bytes of room.
pub fn is_full(store: &Store, least: u64) -> bool {
    store.free().is_ok_and(|free| free < least)
}
