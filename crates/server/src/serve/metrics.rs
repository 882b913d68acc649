//! What the server tells Prometheus.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::App;
use super::api::text;
use super::auth::Who;
use super::problem::ApiResult;
use super::view::State as Stands;

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
    let open: Vec<_> = jobs.iter().filter(|job| !job.state().is_terminal()).collect();
    let sum = |value: &dyn Fn(&crate::engine::Progress) -> u64| -> u64 {
        open.iter().map(|job| value(&job.progress())).sum()
    };
    let plain = |value: u64| vec![(String::new(), value)];
    let ended = app.jobs.frames.load(Ordering::Relaxed);
    family(
        "frameloom_frames_total",
        "counter",
        "Frames processed since the server began.",
        &plain(ended + sum(&|p| p.frames)),
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
    let (mut free, mut held) = (0, 0);
    for node in app.jobs.parts.store.nodes()? {
        if let Ok(Some(beat)) = app.jobs.parts.store.read_beat(node) {
            free += u64::from(beat.free_slots);
            held += beat.held.len() as u64;
        }
    }
    let slots = [("{state=\"free\"}".to_owned(), free), ("{state=\"busy\"}".to_owned(), held)];
    family("frameloom_slots", "gauge", "Slots by what they do.", &slots);
    Ok(text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", out))
}
