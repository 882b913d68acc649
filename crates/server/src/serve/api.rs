//! Jobs over HTTP: accept, show, list, follow, stop, try again.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, Multipart, OriginalUri, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use frameloom_core::Error;
use frameloom_core::wire::Decision;
use futures_util::{Stream, StreamExt};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use utoipa::OpenApi;

use super::auth::Who;
use super::problem::{ApiError, ApiResult, Problem};
use super::request::JobRequest;
use super::view::{JobList, JobView, State as Stands};
use super::{App, MOST_JSON, upload};

/// Jobs on a page, at most.
const MOST_LISTED: usize = 200;

#[derive(OpenApi)]
#[openapi(
    info(title = "Frameloom", description = "Heavy per-frame video processing, spread over processes and machines.", license(name = "Apache-2.0 OR MIT")),
    paths(create, list, show, remove, retry, replan, events, logs, filters, healthz, readyz, super::workers::workers, super::scale::scale,
        super::picture::latest, super::picture::frame, super::picture::gif, super::picture::webp, super::picture::mp4,
        super::output::output, super::output::detections, super::output::metrics, super::files::list, super::files::find_sent, super::files::put, super::files::remove,
        super::upload::offset, super::upload::append,
        super::upload::whole, super::process::process, super::metrics::metrics),
    components(schemas(JobRequest, JobView, JobList, Problem)),
    tags((name = "jobs"), (name = "uploads"), (name = "files"), (name = "server"))
)]
struct Document;

/// The OpenAPI document, as JSON.
///
/// # Errors
/// Internal where it cannot be written.
pub fn openapi() -> frameloom_core::Result<String> {
    let failed =
        |e: serde_json::Error| Error::internal("cannot write the OpenAPI document").with_source(e);
    let mut document = serde_json::to_value(Document::openapi()).map_err(failed)?;
    // Every error is a problem document.
    let reference = serde_json::json!({ "schema": { "$ref": "#/components/schemas/Problem" } });
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    let operations = paths.filter_map(|(_, path)| path.as_object_mut()).flatten();
    for (method, operation) in operations {
        let responses = operation["responses"].as_object_mut().into_iter().flatten();
        for (status, response) in responses.filter(|(status, _)| status.as_str() >= "400") {
            response["content"] = if method == "head" {
                serde_json::json!({})
            } else {
                serde_json::json!({ "application/problem+json": reference })
            };
            if response["description"].as_str().is_none_or(str::is_empty) {
                let code = status.parse().ok().and_then(|code| StatusCode::from_u16(code).ok());
                response["description"] = code.and_then(|c| c.canonical_reason()).into();
            }
        }
    }
    serde_json::to_string_pretty(&document).map_err(failed)
}

pub(crate) async fn document() -> ApiResult<Response> {
    Ok(([(header::CONTENT_TYPE, "application/json")], openapi()?).into_response())
}

pub(crate) async fn nowhere(OriginalUri(uri): OriginalUri) -> ApiError {
    Error::not_found(format!("there is nothing at '{}'", uri.path().escape_debug())).into()
}

pub(crate) async fn wrong_method(method: Method, OriginalUri(uri): OriginalUri) -> ApiError {
    ApiError::with_status(
        Error::invalid(format!("'{}' does not take {method}", uri.path().escape_debug())),
        StatusCode::METHOD_NOT_ALLOWED,
    )
}

/// The key by which a client knows its request again, with a digest of the request.
pub(crate) fn idempotency(
    headers: &HeaderMap,
    request: &[u8],
) -> ApiResult<Option<(String, String)>> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=255).contains(&key.len()));
    let key = key.ok_or_else(|| Error::invalid("Idempotency-Key: 1 to 255 ASCII characters"))?;
    let digest = Sha256::digest(request).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some((key.to_owned(), digest)))
}

fn parse(text: &[u8]) -> ApiResult<JobRequest> {
    // serde would take a list for the fields in their order.
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(Error::invalid("the request is no JSON object").into());
    }
    serde_json::from_slice(text).map_err(|e| Error::invalid(format!("the request: {e}")).into())
}

/// Makes a job. JSON describes it; its source lies at a path, or follows at `upload_url`. With
/// `multipart/form-data` the part `spec` is that JSON and the part `source` the video itself.
///
/// The same `Idempotency-Key` gives the same job, after a restart too.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs",
    params(("idempotency-key" = Option<String>, Header)),
    request_body(content((JobRequest = "application/json"), (Vec<u8> = "multipart/form-data"))),
    responses((status = 201, body = JobView), (status = 200, body = JobView, description = "The job of an earlier request with this key."),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 408, body = Problem), (status = 409, body = Problem, description = "The output exists, a file's content has not come, or somebody else is sending the source."),
        (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 422, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem), (status = 507, body = Problem)))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    who: Who,
    headers: HeaderMap,
    request: Request,
) -> ApiResult<Response> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let (job, known) = if kind.starts_with("multipart/form-data") {
        let form = Multipart::from_request(request, &()).await;
        let form = form.map_err(|e| Error::invalid(e.body_text()))?;
        from_form(&app, &who, &headers, form).await?
    } else if kind.starts_with("application/json") {
        let text = to_bytes(request.into_body(), MOST_JSON).await;
        let text = text.map_err(|_| too_long())?;
        let key = idempotency(&headers, &text)?;
        let request = parse(&text)?;
        app.jobs.validate(&request).await?;
        app.jobs.create(&who, &request, key)?
    } else {
        return Err(ApiError::with_status(
            Error::invalid("send application/json or multipart/form-data"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ));
    };
    let status = if known { StatusCode::OK } else { StatusCode::CREATED };
    let view = job.view(app.jobs.config.kept());
    let place = format!("/v1/jobs/{}", view.id);
    Ok((status, [(header::LOCATION, place)], Json(view)).into_response())
}

fn too_long() -> ApiError {
    Error::new(
        frameloom_core::ErrorKind::TooLarge,
        format!("a description has at most {MOST_JSON} bytes"),
    )
    .into()
}

async fn from_form(
    app: &Arc<App>,
    who: &Who,
    headers: &HeaderMap,
    mut form: Multipart,
) -> ApiResult<(Arc<super::job::Job>, bool)> {
    let broken = |e: axum::extract::multipart::MultipartError| {
        ApiError::from(Error::invalid(format!("the form: {}", e.body_text())))
    };
    let mut request = JobRequest::default();
    let mut text = Vec::new();
    while let Some(mut field) = form.next_field().await.map_err(broken)? {
        match field.name() {
            Some("spec") => {
                while let Some(part) = field.chunk().await.map_err(broken)? {
                    text.extend_from_slice(&part);
                    if text.len() > MOST_JSON {
                        return Err(too_long());
                    }
                }
                request = parse(&text)?;
            }
            Some("source") => {
                request.source.upload = true;
                if request.source.name.is_none() {
                    request.source.name = field.file_name().map(str::to_owned);
                }
                let key = idempotency(headers, &text)?;
                app.jobs.validate(&request).await?;
                let (job, known) = app.jobs.create(who, &request, key)?;
                if job.awaits_upload() {
                    let writing = job
                        .writer
                        .try_lock()
                        .map_err(|_| job.conflict("somebody else is sending its source"))?;
                    let at = app.jobs.parts.store.job(job.id()).open_upload()?;
                    at.set_len(0).map_err(|e| Error::io("cannot begin the upload anew", &e))?;
                    let size =
                        upload::receive(&app.jobs, &job, 0, job.submission.upload_size, field)
                            .await?;
                    if let Some(field) = form.next_field().await.map_err(broken)? {
                        let name = field.name().unwrap_or("").escape_debug().to_string();
                        app.jobs.purge(&job)?;
                        return Err(Error::invalid(format!(
                            "the form's part '{name}' comes after 'source', which must be the last"
                        ))
                        .into());
                    }
                    upload::finish(&app.jobs, &job, size).await?;
                    drop(writing);
                }
                return Ok((job, known));
            }
            other => {
                let name = other.unwrap_or("").escape_debug().to_string();
                return Err(Error::invalid(format!(
                    "the form's part '{name}' is neither 'spec' nor 'source'"
                ))
                .into());
            }
        }
    }
    Err(Error::invalid("the form has no part 'source'").into())
}

/// Which jobs to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Only jobs in this state.
    state: Option<String>,
    /// `-created` (default), `created`, `priority` or `-priority`.
    sort: Option<String>,
    /// Jobs on a page, 1 to 200; 50 by default.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// What `next` of the page before said.
    after: Option<String>,
}

/// Lists jobs.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", params(ListQuery),
    responses((status = 200, body = JobList), (status = 400, body = Problem), (status = 401, body = Problem)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    who: Who,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> ApiResult<Json<JobList>> {
    let Query(query) = query.map_err(|e| Error::invalid(e.body_text()))?;
    let limit = query.limit.unwrap_or(50);
    if !(1..=MOST_LISTED).contains(&limit) {
        return Err(Error::invalid(format!("limit {limit} is not from 1 to {MOST_LISTED}")).into());
    }
    let states = [
        Stands::Queued,
        Stands::Planning,
        Stands::Running,
        Stands::Assembling,
        Stands::Succeeded,
        Stands::Failed,
        Stands::Cancelled,
    ];
    let mut jobs = app.jobs.visible(&who);
    if let Some(name) = &query.state {
        let state = states.into_iter().find(|state| state.name() == name).ok_or_else(|| {
            let names = states.map(Stands::name).join(", ");
            Error::invalid(format!("state '{}' is none of {names}", name.escape_debug()))
        })?;
        jobs.retain(|job| job.state() == state);
    }
    let key = |job: &super::job::Job| (job.submission.created_ms, job.id());
    jobs.sort_by_key(|job| key(job));
    match query.sort.as_deref().unwrap_or("-created") {
        "created" => {}
        "-created" => jobs.reverse(),
        "priority" => jobs.sort_by_key(|job| job.submission.priority),
        "-priority" => jobs.sort_by_key(|job| std::cmp::Reverse(job.submission.priority)),
        other => {
            return Err(Error::invalid(format!(
                "sort '{}' is none of created, -created, priority, -priority",
                other.escape_debug()
            ))
            .into());
        }
    }
    let begin = match &query.after {
        None => 0,
        Some(after) => {
            let at = jobs.iter().position(|job| job.id().to_string() == *after);
            at.ok_or_else(|| Error::invalid("'after' names no job of this list"))? + 1
        }
    };
    let page = &jobs[begin..(begin + limit).min(jobs.len())];
    let keep = app.jobs.config.kept();
    let next = (begin + page.len() < jobs.len())
        .then(|| page.last().map(|job| job.id().to_string()))
        .flatten();
    // A job may have 100,000 segments, and a page 200 jobs.
    let views = page.iter().map(|job| JobView { segments: Vec::new(), ..job.view(keep) }).collect();
    Ok(Json(JobList { jobs: views, next, total: jobs.len() }))
}

/// Shows a job.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, body = JobView), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    who: Who,
    Path(id): Path<String>,
) -> ApiResult<Json<JobView>> {
    Ok(Json(app.jobs.get(&who, &id)?.view(app.jobs.config.kept())))
}

/// What to do with a job.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveQuery {
    /// Erase source, segments and output at once, of a finished job too.
    #[serde(default)]
    purge: bool,
}

/// Stops a job, or with `purge` erases it.
#[utoipa::path(delete, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path), RemoveQuery),
    responses((status = 202, description = "It is being stopped."), (status = 204, description = "It is gone."),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "It is over already.")))]
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    who: Who,
    Path(id): Path<String>,
    query: Result<Query<RemoveQuery>, axum::extract::rejection::QueryRejection>,
) -> ApiResult<StatusCode> {
    let Query(query) = query.map_err(|e| Error::invalid(e.body_text()))?;
    let job = app.jobs.get(&who, &id)?;
    if query.purge {
        app.jobs.purge(&job)?;
        return Ok(StatusCode::NO_CONTENT);
    }
    app.jobs.cancel(&job)?;
    Ok(StatusCode::ACCEPTED)
}

/// Tries a failed or cancelled job again; segments that were done stay done.
#[utoipa::path(post, path = "/v1/jobs/{id}/retry", tag = "jobs", params(("id" = String, Path)),
    responses((status = 202, body = JobView), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub(crate) async fn retry(
    State(app): State<Arc<App>>,
    who: Who,
    Path(id): Path<String>,
) -> ApiResult<(StatusCode, Json<JobView>)> {
    let job = app.jobs.get(&who, &id)?;
    app.jobs.retry(&job)?;
    Ok((StatusCode::ACCEPTED, Json(job.view(app.jobs.config.kept()))))
}

/// Has a job that waits for a node planned anew, and done from its beginning, by nodes of another engine that are
/// there.
#[utoipa::path(post, path = "/v1/jobs/{id}/replan", tag = "jobs", params(("id" = String, Path)),
    responses((status = 202, body = JobView), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "It waits for no node, or no other node is there.")))]
pub(crate) async fn replan(
    State(app): State<Arc<App>>,
    who: Who,
    Path(id): Path<String>,
) -> ApiResult<(StatusCode, Json<JobView>)> {
    let job = app.jobs.get(&who, &id)?;
    app.jobs.replan(&job)?;
    Ok((StatusCode::ACCEPTED, Json(job.view(app.jobs.config.kept()))))
}

/// Follows a job by server-sent events: `state`, `planned`, `task`, `progress`, and at last `end`.
/// A client that comes back with `Last-Event-ID` goes on there.
#[utoipa::path(get, path = "/v1/jobs/{id}/events", tag = "jobs",
    params(("id" = String, Path), ("last-event-id" = Option<u64>, Header)),
    responses((status = 200, content_type = "text/event-stream", body = serde_json::Value), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(crate) async fn events(
    State(app): State<Arc<App>>,
    who: Who,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Sse<impl Stream<Item = Result<Sent, Infallible>>>> {
    let job = app.jobs.get(&who, &id)?;
    let last = headers.get("last-event-id").and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let watch = job.events.watch();
    let at = job.events.resume(last.unwrap_or(0), job.state().is_terminal());
    let state = (job, watch, at, app.stop.clone(), false);
    let stream =
        futures_util::stream::unfold(state, |(job, mut watch, at, stop, over)| async move {
            if over {
                return None;
            }
            loop {
                watch.borrow_and_update();
                if let Some(event) = job.events.after(at) {
                    let sent = Sent::default()
                        .id(event.id.to_string())
                        .event(event.name)
                        .data(&*event.data);
                    let over = event.name == "end" && job.state().is_terminal();
                    return Some((Ok(sent), (job, watch, event.id, stop, over)));
                }
                tokio::select! {
                    () = stop.cancelled() => return None,
                    changed = watch.changed() => if changed.is_err() { return None },
                }
            }
        });
    Ok(Sse::new(stream.boxed()).keep_alive(KeepAlive::default()))
}

/// What was decided about a job's tasks, a line each, with the reason of every failure.
#[utoipa::path(get, path = "/v1/jobs/{id}/logs", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, content_type = "text/plain", body = String), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(crate) async fn logs(
    State(app): State<Arc<App>>,
    who: Who,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let job = app.jobs.get(&who, &id)?;
    let dir = app.jobs.parts.store.job(job.id());
    // A long journal must not hold up those who share this thread.
    let decisions = tokio::task::block_in_place(|| dir.decisions())?;
    let lines = decisions.into_iter().map(|decision| match decision {
        Decision::Sent { task, attempt } => format!("{task} sent, attempt {attempt}\n"),
        Decision::Accepted(report) => {
            let slot = report.slot.escape_debug();
            format!("{} accepted, attempt {}, slot {slot}\n", report.task, report.attempt)
        }
        Decision::Failed { task, attempt, error } => {
            let detail = error.message().escape_debug();
            format!("{task} failed, attempt {attempt}: {}: {detail}\n", error.kind().name())
        }
        Decision::Uploaded { size } => format!("source received, {size} bytes\n"),
        Decision::Ended { end, error, at_ms } => {
            let why = error.map(|e| format!(": {}", e.message().escape_debug()));
            let at = super::view::rfc3339(at_ms);
            format!("{at} {end:?}{}\n", why.unwrap_or_default())
        }
        Decision::Retried => "tried again\n".into(),
        Decision::Replanned { engine } => format!("planned anew for engine {engine}\n"),
        Decision::Notified => "webhook taken\n".into(),
        Decision::Unheard => "webhook given up\n".into(),
        Decision::Publishing { .. } => String::new(),
    });
    Ok(text(StatusCode::OK, "text/plain; charset=utf-8", lines.collect::<String>()))
}

/// The filters there are, with their parameters.
#[utoipa::path(get, path = "/v1/filters", tag = "server",
    responses((status = 200, body = serde_json::Value), (status = 401, body = Problem)))]
pub(crate) async fn filters(State(app): State<Arc<App>>, _who: Who) -> Response {
    Json(app.jobs.parts.catalogue.0).into_response()
}

/// Whether the server answers.
#[utoipa::path(get, path = "/healthz", tag = "server", responses((status = 200, body = String)))]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the server takes jobs.
#[utoipa::path(get, path = "/readyz", tag = "server",
    responses((status = 200, body = String), (status = 503, body = Problem)))]
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> ApiResult<&'static str> {
    if app.jobs.is_full() {
        return Err(Error::unavailable("the store is full").into());
    }
    if let Some(trouble) = app.jobs.parts.engine.status().broker_trouble() {
        return Err(Error::unavailable(format!("the broker is gone: {trouble}")).into());
    }
    Ok("ready\n")
}

/// A response's body that is known whole.
pub(crate) fn text(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = (status, body.into()).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
