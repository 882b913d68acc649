//! The worker nodes over HTTP: what the server knows of them, and what a node tells itself.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use frameloom_core::id::EngineId;
use frameloom_core::wire::{NodeInfo, PROTOCOL};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::App;
use super::api::text;
use super::auth::Who;
use super::listen::Listener;
use super::problem::{ApiResult, Problem};
use crate::engine::NodeStatus;

/// A worker node.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WorkerView {
    /// Its id.
    id: String,
    /// Its name, where it has told of itself.
    name: Option<String>,
    /// Its machine's name.
    host: Option<String>,
    /// Segments that it does at a time.
    slots: Option<u32>,
    /// Segments that need a GPU that it does at a time, beside the others.
    gpu_slots: Option<u32>,
    /// Segment slots without work.
    free_slots: u32,
    /// Attempts that it works on.
    held: usize,
    /// The machine's load: the mean of a minute, in cores.
    load: f64,
    /// Seconds since it last told that it lives.
    silent_seconds: f64,
    /// Whether it is believed to live.
    lives: bool,
    /// The short name of its engine: it does segments of plans that such an engine made.
    engine: Option<String>,
    /// Its versions.
    versions: Option<String>,
    /// Why it gets no task, where it gets none.
    #[serde(skip_serializing_if = "Option::is_none")]
    apart: Option<String>,
}

impl WorkerView {
    fn of(node: &NodeStatus, ours: EngineId) -> Self {
        let info = node.info.as_ref();
        let engine = info.map(|info| info.engine.id());
        let apart = info.and_then(|info| {
            if info.protocol != PROTOCOL {
                Some(format!("it speaks version {}, the server {PROTOCOL}", info.protocol))
            } else if info.engine.id() != ours {
                Some(format!("its engine differs from the server's, {ours}"))
            } else {
                None
            }
        });
        let versions = info.map(|NodeInfo { engine: e, .. }| {
            format!(
                "frameloom {}, {}, {}, OpenCV {}, ONNX Runtime {}, models {}, {}",
                e.frameloom,
                e.ffmpeg,
                e.encoders,
                e.opencv,
                if e.onnxruntime.is_empty() { "none" } else { &e.onnxruntime },
                e.models,
                e.cpu
            )
        });
        Self {
            id: node.id.to_string(),
            name: info.map(|info| info.name.clone()),
            host: info.map(|info| info.host.clone()),
            slots: info.map(|info| info.slots),
            gpu_slots: info.map(|info| info.gpu_slots),
            free_slots: node.beat.free_slots,
            held: node.beat.held.len(),
            load: f64::from(node.beat.load) / 100.0,
            silent_seconds: node.silent.as_secs_f64(),
            lives: node.lives,
            engine: engine.map(|engine| engine.to_string()),
            versions,
            apart,
        }
    }
}

/// The worker nodes that have told of themselves.
#[utoipa::path(get, path = "/v1/workers", tag = "server",
    responses((status = 200, body = Vec<WorkerView>), (status = 401, body = Problem)))]
pub(crate) async fn workers(
    State(app): State<Arc<App>>,
    _who: Who,
) -> ApiResult<Json<Vec<WorkerView>>> {
    let ours = app.jobs.parts.versions.id();
    let nodes = app.jobs.parts.engine.status().nodes();
    Ok(Json(nodes.iter().map(|node| WorkerView::of(node, ours)).collect()))
}

/// Serves a node's own `/healthz` and `/metrics` until it is stopped.
pub async fn serve_node(
    listener: Listener,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    stop: CancellationToken,
) {
    let tell = move || {
        let metrics = Arc::clone(&metrics);
        async move { prometheus(metrics()) }
    };
    let router =
        Router::new().route("/healthz", get(super::api::healthz)).route("/metrics", get(tell));
    listener.serve(router, stop).await;
}

fn prometheus(metrics: String) -> Response {
    text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics)
}
