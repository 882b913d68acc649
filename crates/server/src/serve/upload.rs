//! Sources that are sent along: streamed to the store, and resumed by offset as tus 1.0 has it.

use std::io::{Seek, SeekFrom, Write};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use frameloom_core::{Error, ErrorKind};
use futures_util::{Stream, StreamExt};

use super::App;
use super::auth::Who;
use super::job::Job;
use super::jobs::Jobs;
use super::problem::{ApiError, ApiResult};

/// Seconds without a byte after which a client is given up.
const SILENT: std::time::Duration = std::time::Duration::from_secs(60);

/// Bytes between two looks at the store's free room.
const LOOK_EVERY: u64 = 64 << 20;

fn header_number(headers: &HeaderMap, name: &str) -> ApiResult<Option<u64>> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        Error::invalid(format!("header '{name}': {value:?} is not a number of bytes")).into()
    })
}

/// Appends a stream to a job's source of `length` bytes, where that is known; answers how many bytes
/// there are then.
///
/// What has come is kept, also where the client goes away in the middle.
pub(crate) async fn receive<E>(
    jobs: &Arc<Jobs>,
    job: &Arc<Job>,
    from: u64,
    length: Option<u64>,
    mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
) -> ApiResult<u64>
where
    E: std::fmt::Display,
{
    let dir = jobs.parts.store.job(job.id());
    let mut file = dir.open_upload()?;
    let failed = |e: std::io::Error| match Error::io("cannot keep the upload", &e) {
        error if error.kind() == ErrorKind::Exhausted => {
            ApiError::full("the store is full; send the rest when there is room")
        }
        error => error.into(),
    };
    file.seek(SeekFrom::Start(from)).map_err(failed)?;
    let most = length.unwrap_or(u64::MAX).min(jobs.config.max_upload);
    let (mut size, mut looked) = (from, from);
    let room = |size: u64| {
        if jobs.is_full() {
            return Err(ApiError::full("the store is full; send the rest when there is room"));
        }
        let others = jobs.partial_bytes(job);
        if others.saturating_add(size) > jobs.config.max_partial {
            return Err(ApiError::full(&format!(
                "uploads that are not whole take {others} bytes beside this one (--max-partial); send the rest later"
            )));
        }
        Ok(())
    };
    room(from)?;
    loop {
        let next = tokio::time::timeout(SILENT, body.next()).await;
        let Ok(next) = next else {
            return Err(ApiError::with_status(
                Error::new(ErrorKind::Timeout, "no byte came for a minute; resume the upload"),
                StatusCode::REQUEST_TIMEOUT,
            ));
        };
        let Some(bytes) = next else { break };
        let bytes = bytes.map_err(|e| {
            Error::invalid(format!("the body was cut off after {size} bytes; resume the upload"))
                .with_source(e)
        })?;
        if size + bytes.len() as u64 > most {
            return Err(if most < jobs.config.max_upload {
                Error::new(
                    ErrorKind::TooLarge,
                    format!("more than the {most} bytes that were told came"),
                )
                .into()
            } else {
                jobs.config.too_large().into()
            });
        }
        // A slow disk must not hold up those who share this thread.
        tokio::task::block_in_place(|| file.write_all(&bytes)).map_err(failed)?;
        size += bytes.len() as u64;
        job.set_uploaded(size);
        if size - looked > LOOK_EVERY {
            looked = size;
            room(size)?;
        }
    }
    Ok(size)
}

/// Ends an upload: the job begins.
pub(crate) async fn finish(jobs: &Arc<Jobs>, job: &Arc<Job>, size: u64) -> ApiResult<()> {
    if size == 0 {
        return Err(Error::invalid("the source is empty; send a video").into());
    }
    jobs.uploaded(job, size)?;
    Ok(())
}

fn awaited(app: &App, who: &Who, id: &str) -> ApiResult<Arc<Job>> {
    let job = app.jobs.get(who, id)?;
    if !job.awaits_upload() {
        return Err(job.conflict("its source has come already").into());
    }
    Ok(job)
}

fn tus(mut response: Response, offset: u64, length: Option<u64>) -> Response {
    let headers = response.headers_mut();
    headers.insert("tus-resumable", HeaderValue::from_static("1.0.0"));
    headers.insert("upload-offset", HeaderValue::from(offset));
    match length {
        Some(length) => drop(headers.insert("upload-length", HeaderValue::from(length))),
        None => drop(headers.insert("upload-defer-length", HeaderValue::from_static("1"))),
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// How much of a source has come.
#[utoipa::path(head, path = "/v1/uploads/{id}", params(("id" = String, Path)), tag = "uploads",
    responses((status = 200, description = "`Upload-Offset` tells how many bytes are there."),
        (status = 401, body = super::problem::Problem), (status = 404), (status = 409)))]
pub(crate) async fn offset(
    State(app): State<Arc<App>>,
    who: Who,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let job = awaited(&app, &who, &id)?;
    let at = app.jobs.parts.store.job(job.id()).upload_size()?;
    Ok(tus(StatusCode::OK.into_response(), at, job.submission.upload_size))
}

/// Appends to a source at `Upload-Offset` (tus 1.0). The job begins when `Upload-Length`, told here
/// or as the source's size before, is reached.
#[utoipa::path(patch, path = "/v1/uploads/{id}", params(("id" = String, Path)), tag = "uploads",
    request_body(content = Vec<u8>, content_type = "application/offset+octet-stream"),
    responses((status = 204, description = "Taken; `Upload-Offset` tells how far."),
        (status = 400, body = super::problem::Problem), (status = 401, body = super::problem::Problem),
        (status = 404, body = super::problem::Problem),
        (status = 409, body = super::problem::Problem, description = "The offset is another, or somebody else is writing."),
        (status = 413, body = super::problem::Problem), (status = 415, body = super::problem::Problem),
        (status = 507, body = super::problem::Problem)))]
pub(crate) async fn append(
    State(app): State<Arc<App>>,
    who: Who,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    if headers.get(header::CONTENT_TYPE).is_none_or(|t| t != "application/offset+octet-stream") {
        return Err(ApiError::with_status(
            Error::invalid("send Content-Type: application/offset+octet-stream"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ));
    }
    let job = awaited(&app, &who, &id)?;
    let told = header_number(&headers, "upload-offset")?
        .ok_or_else(|| Error::invalid("header 'Upload-Offset' is missing"))?;
    let length = header_number(&headers, "upload-length")?.or(job.submission.upload_size);
    let writing =
        job.writer.try_lock().map_err(|_| job.conflict("somebody else is sending its source"))?;
    let at = app.jobs.parts.store.job(job.id()).upload_size()?;
    if told != at {
        let error =
            Error::conflict(format!("Upload-Offset {told}: {at} bytes are there; go on there"));
        return Ok(tus(ApiError::from(error).into_response(), at, length));
    }
    if length.is_some_and(|length| length < at) {
        let told = length.unwrap_or_default();
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("Upload-Length {told}: {at} bytes have come already"),
        )
        .into());
    }
    let size = receive(&app.jobs, &job, at, length, body.into_data_stream()).await?;
    if length == Some(size) {
        finish(&app.jobs, &job, size).await?;
    }
    drop(writing);
    Ok(tus(StatusCode::NO_CONTENT.into_response(), size, length))
}

/// Sends a source in one piece; the job begins.
#[utoipa::path(put, path = "/v1/uploads/{id}", params(("id" = String, Path)), tag = "uploads",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204, description = "Taken."), (status = 400, body = super::problem::Problem),
        (status = 401, body = super::problem::Problem), (status = 404, body = super::problem::Problem),
        (status = 409, body = super::problem::Problem), (status = 413, body = super::problem::Problem),
        (status = 507, body = super::problem::Problem)))]
pub(crate) async fn whole(
    State(app): State<Arc<App>>,
    who: Who,
    Path(id): Path<String>,
    body: Body,
) -> ApiResult<StatusCode> {
    let job = awaited(&app, &who, &id)?;
    let writing =
        job.writer.try_lock().map_err(|_| job.conflict("somebody else is sending its source"))?;
    let file = app.jobs.parts.store.job(job.id()).open_upload()?;
    file.set_len(0).map_err(|e| Error::io("cannot begin the upload anew", &e))?;
    let length = job.submission.upload_size;
    let size = receive(&app.jobs, &job, 0, length, body.into_data_stream()).await?;
    finish(&app.jobs, &job, size).await?;
    drop(writing);
    Ok(StatusCode::NO_CONTENT)
}
