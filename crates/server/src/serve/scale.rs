//! How many slots the work in hand could use: for whatever adds and removes worker nodes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::auth::Who;
use super::job::Job;
use super::problem::{ApiResult, Problem};
use crate::engine::NodeStatus;

/// How large the cluster could be for the work in hand.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ScaleView {
    /// Slots that all open jobs together could use now; 0 where nothing is to be done.
    slots_wanted: u64,
    /// Segment slots of the nodes that live.
    slots: u64,
    /// Open jobs that have their source.
    jobs: usize,
}

/// Slots that a job could use: one for each of its tasks that is at work or could be, and one where it is not planned
/// yet, or being joined.
fn wanted(job: &Job) -> u64 {
    let progress = job.progress();
    (u64::from(progress.waiting) + u64::from(progress.running)).max(1)
}

impl ScaleView {
    fn of<'a>(jobs: impl Iterator<Item = &'a Job>, nodes: &[NodeStatus]) -> Self {
        let wants: Vec<u64> = jobs
            .filter(|job| !job.state().is_terminal() && !job.awaits_upload())
            .map(wanted)
            .collect();
        let lives = nodes.iter().filter(|node| node.lives);
        let slots = lives.filter_map(|node| node.info.as_ref()).map(|info| u64::from(info.slots));
        Self { slots_wanted: wants.iter().sum(), slots: slots.sum(), jobs: wants.len() }
    }
}

/// How many slots the open jobs of all owners could use now. The number is in a form that KEDA's scaler `metrics-api`
/// reads, with `valueLocation: slots_wanted`.
///
/// Of a job whose frames are tasks (`granularity` `frame`) its segments are counted, not its frames.
#[utoipa::path(get, path = "/v1/scale", tag = "server",
    responses((status = 200, body = ScaleView), (status = 401, body = Problem)))]
pub(crate) async fn scale(State(app): State<Arc<App>>, _who: Who) -> ApiResult<Json<ScaleView>> {
    // It is one number for the whole server: it tells nobody whose work it is.
    let everybody = Who { name: String::new(), admin: true };
    let jobs = app.jobs.visible(&everybody);
    let nodes = app.jobs.parts.engine.status().nodes();
    Ok(Json(ScaleView::of(jobs.iter().map(AsRef::as_ref), &nodes)))
}
