//! What the server tells Prometheus.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use frameloom_core::wire::Task;

use super::App;
use super::api::text;
use super::auth::Who;
use super::problem::ApiResult;
use super::view::State as Stands;
use crate::store::What;

/// Upper bounds of the buckets of tasks' times, in seconds.
const BOUNDS: [f64; 12] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// Steps of a job that are timed.
const STEPS: [&str; 5] = ["plan", "detect", "track", "segment", "concat"];

/// A histogram: tasks by how long they took.
#[derive(Debug, Default, Clone)]
struct Histogram {
    /// Tasks of each bucket alone, the last one above all bounds.
    counts: [u64; BOUNDS.len() + 1],
    sum: f64,
}

/// How long accepted tasks took, by step, since the server began.
#[derive(Debug, Default)]
pub(crate) struct Durations(Mutex<[Histogram; STEPS.len()]>);

impl Durations {
    /// Notes a task that took so long, from claimed to accepted.
    pub(crate) fn note(&self, task: Task, took: Duration) {
        let step = STEPS.iter().position(|step| *step == task.kind()).unwrap_or(0);
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all[step].counts[bucket] += 1;
        all[step].sum += seconds;
    }

    fn text(&self) -> String {
        let name = "frameloom_task_seconds";
        let mut out = format!(
            "# HELP {name} Time of tasks from claimed to accepted.\n# TYPE {name} histogram\n"
        );
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (step, histogram) in STEPS.iter().zip(&all) {
            let mut below = 0;
            let bounds = BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
            for (bound, count) in bounds.zip(histogram.counts) {
                below += count;
                out += &format!("{name}_bucket{{step=\"{step}\",le=\"{bound}\"}} {below}\n");
            }
            out += &format!("{name}_sum{{step=\"{step}\"}} {}\n", histogram.sum);
            out += &format!("{name}_count{{step=\"{step}\"}} {below}\n");
        }
        out
    }
}

/// Counters and gauges in Prometheus' text format. It needs a token unless the server is started
/// with `--open-metrics`.
#[utoipa::path(get, path = "/metrics", tag = "server",
    responses((status = 200, content_type = "text/plain", body = String), (status = 401, body = super::problem::Problem)))]
pub(crate) async fn metrics(State(app): State<Arc<App>>, request: Request) -> ApiResult<Response> {
    if !app.jobs.config.open_metrics {
        let (mut parts, _) = request.into_parts();
        Who::from_request_parts(&mut parts, &app).await?;
    }
    let everybody = Who { name: String::new(), admin: true };
    let jobs = app.jobs.visible(&everybody);
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
        let mut lines = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in samples {
            lines += &format!("{name}{labels} {value}\n");
        }
        out += &lines;
    };
    let states = [
        Stands::Queued,
        Stands::Planning,
        Stands::Running,
        Stands::Assembling,
        Stands::Succeeded,
        Stands::Failed,
        Stands::Cancelled,
    ];
    let by_state: Vec<(String, u64)> = states
        .iter()
        .map(|state| {
            let count = jobs.iter().filter(|job| job.state() == *state).count();
            (format!("{{state=\"{}\"}}", state.name()), count as u64)
        })
        .collect();
    family("frameloom_jobs", "gauge", "Jobs by state.", &by_state);
    let ends = [Stands::Succeeded, Stands::Failed, Stands::Cancelled].into_iter();
    let ended: Vec<_> = ends
        .zip(&app.jobs.ended)
        .map(|(end, count)| {
            (format!("{{state=\"{}\"}}", end.name()), count.load(Ordering::Relaxed))
        })
        .collect();
    let help = "Jobs that ended since the server began.";
    family("frameloom_jobs_ended_total", "counter", help, &ended);
    let open: Vec<_> = jobs.iter().filter(|job| !job.state().is_terminal()).collect();
    let sum = |value: &dyn Fn(&crate::engine::Progress) -> u64| -> u64 {
        open.iter().fold(0, |sum: u64, job| sum.saturating_add(value(&job.progress())))
    };
    let plain = |value: u64| vec![(String::new(), value)];
    let ended = app.jobs.frames.load(Ordering::Relaxed);
    family(
        "frameloom_frames_total",
        "counter",
        "Frames processed since the server began.",
        &plain(ended.saturating_add(sum(&|p| p.frames))),
    );
    let retries = app.jobs.retries.load(Ordering::Relaxed) + sum(&|p| u64::from(p.retried));
    family(
        "frameloom_retries_total",
        "counter",
        "Tasks tried again after a failure.",
        &plain(retries),
    );
    family(
        "frameloom_queue_depth",
        "gauge",
        "Tasks not yet begun.",
        &plain(sum(&|p| u64::from(p.waiting))),
    );
    let refused = app.jobs.parts.store.refused();
    let refused: Vec<(String, u64)> =
        What::ALL.map(|what| (format!("{{what=\"{}\"}}", what.name()), refused.count(what))).into();
    family(
        "frameloom_refused_total",
        "counter",
        "What nodes, slots and workers left on the store and was refused.",
        &refused,
    );
    let hooks = &app.jobs.hooks;
    let webhooks: Vec<(String, u64)> =
        [("taken", &hooks.taken), ("refused", &hooks.refused), ("given_up", &hooks.given_up)]
            .map(|(result, count)| {
                (format!("{{result=\"{result}\"}}"), count.load(Ordering::Relaxed))
            })
            .into();
    family(
        "frameloom_webhooks_total",
        "counter",
        "Webhooks that were taken or given up, and tries that were refused.",
        &webhooks,
    );
    family(
        "frameloom_webhooks_waiting",
        "gauge",
        "Webhooks that are still to be taken.",
        &plain(hooks.waiting.load(Ordering::Relaxed)),
    );
    let (mut free, mut held) = (0, 0);
    let nodes = app.jobs.parts.engine.status().nodes();
    for node in nodes.iter().filter(|node| node.lives) {
        free += u64::from(node.beat.free_slots);
        held += node.beat.held.len() as u64;
    }
    let slots = [("{state=\"free\"}".to_owned(), free), ("{state=\"busy\"}".to_owned(), held)];
    family("frameloom_slots", "gauge", "Slots by what they do.", &slots);
    out += &app.jobs.durations.text();
    Ok(text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", out))
}
