//! What a job has made, for clients: the video with ranges, what was found in it, its metrics.

use std::fs::File;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use frameloom_core::spec::{Container, DetectionsFormat};
use frameloom_core::{Error, Result};
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio_util::io::ReaderStream;

use super::App;
use super::auth::Who;
use super::job::Job;
use super::problem::{ApiError, ApiResult};
use super::view::State as Stands;

/// The media type of JSON, a line each.
const JSON_LINES: &str = "application/x-ndjson";

/// The name under which a client keeps a job's output.
pub(crate) fn file_name(job: &Job) -> String {
    let name = &job.file.source.name;
    let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
    match job.file.spec.detections_only {
        Some(format) => format!("{stem}-detections.{}", format.extension()),
        None => format!("{stem}-frameloom.{}", job.file.spec.container),
    }
}

/// The media type of a job's output.
fn media_type(job: &Job) -> &'static str {
    match (job.file.spec.detections_only, job.file.spec.container) {
        (Some(DetectionsFormat::Jsonl), _) => JSON_LINES,
        (Some(DetectionsFormat::Csv), _) => "text/csv",
        (Some(DetectionsFormat::Coco), _) => "application/json",
        (None, Container::Mp4) => "video/mp4",
        (None, Container::Mov) => "video/quicktime",
        (None, Container::Mkv) => "video/x-matroska",
        (None, Container::Webm) => "video/webm",
    }
}

/// The part of a file of `size` bytes that a `Range` header asks for; `Err` where it has none.
fn range(value: &str, size: u64) -> Option<Result<(u64, u64), ()>> {
    let (from, to) = value.strip_prefix("bytes=")?.split_once('-')?;
    if to.contains(',') || from.contains(',') {
        return None;
    }
    let (start, end) = match (from.trim(), to.trim()) {
        ("", last) => (size.saturating_sub(last.parse().ok()?), size),
        (first, "") => (first.parse().ok()?, size),
        (first, last) => {
            (first.parse().ok()?, last.parse::<u64>().ok()?.saturating_add(1).min(size))
        }
    };
    Some(if start < end { Ok((start, end)) } else { Err(()) })
}

/// A file, or the part that is asked for.
pub(crate) async fn send(
    file: std::fs::File,
    kind: &str,
    request: &HeaderMap,
) -> ApiResult<Response> {
    let failed = |e: std::io::Error| Error::io("cannot read an output", &e);
    let meta = file.metadata().map_err(failed)?;
    let size = meta.len();
    let tag = {
        use std::os::unix::fs::MetadataExt;
        format!("\"{:x}-{:x}-{:x}\"", size, meta.mtime(), meta.mtime_nsec())
    };
    let has = |name: header::HeaderName, wanted: &str| {
        request
            .get(name)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.split(',').any(|v| v.trim() == wanted || v.trim() == "*"))
    };
    let mut headers = HeaderMap::new();
    let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    headers.insert(header::ETAG, value(&tag));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if has(header::IF_NONE_MATCH, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    headers.insert(header::CONTENT_TYPE, value(kind));
    let fresh = !request.contains_key(header::IF_RANGE) || has(header::IF_RANGE, &tag);
    let wanted = request
        .get(header::RANGE)
        .filter(|_| fresh)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| range(v, size));
    let (status, start, end) = match wanted {
        None => (StatusCode::OK, 0, size),
        Some(Ok((start, end))) => {
            headers
                .insert(header::CONTENT_RANGE, value(&format!("bytes {start}-{}/{size}", end - 1)));
            (StatusCode::PARTIAL_CONTENT, start, end)
        }
        Some(Err(())) => {
            let error =
                Error::invalid(format!("the file has {size} bytes; the range has none of them"));
            let error = ApiError::with_status(error, StatusCode::RANGE_NOT_SATISFIABLE);
            let mut response = error.into_response();
            response.headers_mut().insert(header::CONTENT_RANGE, value(&format!("bytes */{size}")));
            return Ok(response);
        }
    };
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(end - start));
    let mut file = tokio::fs::File::from_std(file);
    file.seek(SeekFrom::Start(start)).await.map_err(failed)?;
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(end - start), 256 << 10));
    Ok((status, headers, body).into_response())
}

/// A file of a finished job; what to say where the job is not finished, and where the file is gone.
///
/// # Errors
/// Conflict and NotFound, in these words; of the file system.
fn finished(app: &App, job: &Job, name: &str, (not_yet, gone): (&str, &str)) -> Result<File> {
    if job.state() != Stands::Succeeded {
        return Err(job.conflict(not_yet));
    }
    let file = app.jobs.parts.store.job(job.id()).open_for_client(name)?;
    file.ok_or_else(|| Error::not_found(gone))
}

/// A finished job's output, whole or in part.
pub(crate) async fn made(app: &App, job: &Job, request: &HeaderMap) -> ApiResult<Response> {
    let file = finished(app, job, "output", ("there is no output", "the output was deleted"))?;
    let mut response = send(file, media_type(job), request).await?;
    let safe: String = file_name(job)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.() ".contains(c) { c } else { '_' })
        .collect();
    if let Ok(value) = HeaderValue::from_str(&format!("inline; filename=\"{safe}\"")) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

/// A job's output.
#[utoipa::path(get, path = "/v1/jobs/{id}/output", params(("id" = String, Path)), tag = "jobs",
    responses((status = 200, content_type = "video/mp4", body = Vec<u8>), (status = 206), (status = 304),
        (status = 401, body = super::problem::Problem), (status = 404, body = super::problem::Problem),
        (status = 409, body = super::problem::Problem, description = "There is no output yet."),
        (status = 416, body = super::problem::Problem)))]
pub(crate) async fn output(
    State(app): State<Arc<App>>,
    who: Who,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let job = app.jobs.get(&who, &id)?;
    made(&app, &job, request.headers()).await
}

/// What was found in a finished job's video: a header, and a line of JSON a frame, as `run --detections`
/// writes it. Of a job with `detections_only` it is the output, in the form that was asked for.
#[utoipa::path(get, path = "/v1/jobs/{id}/detections.jsonl", params(("id" = String, Path)), tag = "jobs",
    responses((status = 200, content_type = "application/x-ndjson", body = String), (status = 206), (status = 304),
        (status = 401, body = super::problem::Problem),
        (status = 404, body = super::problem::Problem, description = "There is no such job, or it looks for nothing."),
        (status = 409, body = super::problem::Problem, description = "The job is not finished."),
        (status = 416, body = super::problem::Problem)))]
pub(crate) async fn detections(
    State(app): State<Arc<App>>,
    who: Who,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let job = app.jobs.get(&who, &id)?;
    if !job.sight.looks {
        return Err(Error::not_found(format!(
            "job {} has no detections: none of its filters looks for something",
            job.id()
        ))
        .into());
    }
    if job.file.spec.detections_only.is_some() {
        return made(&app, &job, request.headers()).await;
    }
    let words = ("there are no detections", "the detections were deleted");
    let file = finished(&app, &job, "detections.jsonl", words)?;
    send(file, JSON_LINES, request.headers()).await
}

/// A finished job's metrics, as `run --metrics` writes them; `docs/metrics.schema.json` is their schema.
#[utoipa::path(get, path = "/v1/jobs/{id}/metrics", params(("id" = String, Path)), tag = "jobs",
    responses((status = 200, content_type = "application/json", body = serde_json::Value), (status = 304), (status = 206),
        (status = 401, body = super::problem::Problem), (status = 404, body = super::problem::Problem),
        (status = 409, body = super::problem::Problem), (status = 416, body = super::problem::Problem)))]
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    who: Who,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let job = app.jobs.get(&who, &id)?;
    let words = ("there are no metrics", "the metrics were deleted");
    let file = finished(&app, &job, "metrics.json", words)?;
    send(file, "application/json", request.headers()).await
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn ranges() {
        assert_eq!(range("bytes=0-9", 100), Some(Ok((0, 10))));
        assert_eq!(range("bytes=90-", 100), Some(Ok((90, 100))));
        assert_eq!(range("bytes=-5", 100), Some(Ok((95, 100))));
        assert_eq!(range("bytes=50-500", 100), Some(Ok((50, 100))));
        assert_eq!(range("bytes=100-", 100), Some(Err(())));
        assert_eq!(range("bytes=-0", 100), Some(Err(())));
        for other in ["items=0-9", "bytes=0-1,3-4", "bytes=a-b", "bytes", "bytes=5"] {
            assert_eq!(range(other, 100), None, "{other}");
        }
    }
}
