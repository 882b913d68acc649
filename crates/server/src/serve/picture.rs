//! Pictures of a job: what its last frame looks like, any frame before and after the filters, and a
//! few seconds from all of it. Slots make them; the server reads no media.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use frameloom_core::slot::{PictureKind, PictureTask, SlotCommand};
use frameloom_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use tokio::task::block_in_place;

use super::App;
use super::api::text;
use super::auth::Who;
use super::job::Job;
use super::output::{self, send};
use super::problem::{ApiResult, Problem};
use super::sight::may_show_source;
use super::view::State as Stands;
use crate::resume;
use crate::store::What;

/// Largest picture that a slot may make, in bytes.
const MOST_PICTURE: u64 = 256 << 20;

/// Which picture to show.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PictureQuery {
    /// `before` or `after` (default) the filters.
    side: Option<String>,
}

/// Whether the picture after the filters is wanted.
fn is_after(query: std::result::Result<Query<PictureQuery>, QueryRejection>) -> ApiResult<bool> {
    let Query(query) = query.map_err(|e| Error::invalid(e.body_text()))?;
    match query.side.as_deref() {
        None | Some("after") => Ok(true),
        Some("before") => Ok(false),
        Some(other) => {
            let other = other.escape_debug();
            Err(Error::invalid(format!("side '{other}' is neither before nor after")).into())
        }
    }
}

/// What the frame that was processed last looks like, before or after its filters.
#[utoipa::path(get, path = "/v1/jobs/{id}/frames/latest.jpg", tag = "jobs", params(("id" = String, Path), PictureQuery),
    responses((status = 200, content_type = "image/jpeg", body = Vec<u8>), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem, description = "Something is hidden in the job, and its source is not shown."),
        (status = 404, body = Problem, description = "There is no picture yet.")))]
pub(crate) async fn latest(
    State(app): State<Arc<App>>,
    who: Who,
    Path(id): Path<String>,
    query: std::result::Result<Query<PictureQuery>, QueryRejection>,
) -> ApiResult<Response> {
    let after = is_after(query)?;
    let job = app.jobs.get(&who, &id)?;
    if !after {
        may_show_source(&job)?;
    }
    let picture = app.jobs.parts.store.job(job.id()).read_preview(after)?;
    let picture = picture.ok_or_else(|| Error::not_found("there is no picture yet"))?;
    let mut response = text(StatusCode::OK, "image/jpeg", picture);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// A frame of a finished job in full size, by its number from 0, after the filters or before them.
#[utoipa::path(get, path = "/v1/jobs/{id}/frames/{picture}", tag = "jobs",
    params(("id" = String, Path), ("picture" = String, Path, description = "The frame's number and `.jpg`: `120.jpg`."), PictureQuery),
    responses((status = 200, content_type = "image/jpeg", body = Vec<u8>), (status = 304), (status = 206),
        (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem, description = "Something is hidden in the job, and its source is not shown."),
        (status = 404, body = Problem, description = "There is no such frame."),
        (status = 409, body = Problem, description = "The job is not finished."), (status = 416, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem), (status = 504, body = Problem)))]
pub(crate) async fn frame(
    State(app): State<Arc<App>>,
    who: Who,
    Path((id, picture)): Path<(String, String)>,
    query: std::result::Result<Query<PictureQuery>, QueryRejection>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let after = is_after(query)?;
    let job = app.jobs.get(&who, &id)?;
    let number = picture.strip_suffix(".jpg").and_then(|number| number.parse().ok());
    let number: u64 = number.ok_or_else(|| {
        let picture = picture.escape_debug();
        Error::not_found(format!("'{picture}' is no frame: a number and .jpg, or latest.jpg"))
    })?;
    let start_us = job.file.spec.from_us.filter(|_| !after);
    let kind = PictureKind::Frame { number, start_us };
    let made = ask(&app, &job, kind, !after).await?;
    send(made, "image/jpeg", &headers).await
}

/// A few seconds of small frames from all of a finished job's output.
#[utoipa::path(get, path = "/v1/jobs/{id}/preview.gif", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, content_type = "image/gif", body = Vec<u8>), (status = 304), (status = 206),
        (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem, description = "The job is not finished."),
        (status = 416, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem)))]
pub(crate) async fn gif(
    State(app): State<Arc<App>>,
    who: Who,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let job = app.jobs.get(&who, &id)?;
    let made = kept(&app, &job, PictureKind::Gif, "preview.gif").await?;
    send(made, "image/gif", request.headers()).await
}

/// The same as animated WebP, smaller and in more colours.
#[utoipa::path(get, path = "/v1/jobs/{id}/preview.webp", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, content_type = "image/webp", body = Vec<u8>), (status = 304), (status = 206),
        (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem, description = "The job is not finished."),
        (status = 416, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem)))]
pub(crate) async fn webp(
    State(app): State<Arc<App>>,
    who: Who,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let job = app.jobs.get(&who, &id)?;
    let made = kept(&app, &job, PictureKind::Webp, "preview.webp").await?;
    send(made, "image/webp", request.headers()).await
}

/// The same as MP4.
#[utoipa::path(get, path = "/v1/jobs/{id}/preview.mp4", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, content_type = "video/mp4", body = Vec<u8>), (status = 304), (status = 206),
        (status = 401, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem, description = "The job is not finished."),
        (status = 416, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem)))]
pub(crate) async fn mp4(
    State(app): State<Arc<App>>,
    who: Who,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let job = app.jobs.get(&who, &id)?;
    let made = kept(&app, &job, PictureKind::Mp4, "preview.mp4").await?;
    send(made, "video/mp4", request.headers()).await
}

/// A picture that is made once and kept with the job.
async fn kept(app: &App, job: &Job, kind: PictureKind, name: &str) -> ApiResult<File> {
    let dir = app.jobs.parts.store.job(job.id());
    if job.state() == Stands::Succeeded {
        match dir.open_for_client(name) {
            Ok(Some(file)) if file.metadata().is_ok_and(|meta| meta.len() <= MOST_PICTURE) => {
                return Ok(file);
            }
            Ok(None) => {}
            // Something else lies there: it is made again.
            Ok(Some(_)) => dir.refused(What::Picture, &"a picture that is too large"),
            Err(error) if error.kind() == ErrorKind::Internal => {
                dir.refused(What::Picture, &error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let made = ask(app, job, kind, false).await?;
    let kept = block_in_place(|| dir.keep_for_client(name, &made, MOST_PICTURE));
    if let Err(error) = kept {
        tracing::warn!(%error, job = %job.id(), "a picture is not kept");
    }
    Ok(made)
}

/// Has a slot make a picture of a job's output, or of its source.
async fn ask(app: &App, job: &Job, kind: PictureKind, source: bool) -> ApiResult<File> {
    if source {
        may_show_source(job)?;
    }
    if job.state() != Stands::Succeeded {
        return Err(job.conflict("its frames can be seen when it has succeeded").into());
    }
    let video = if source {
        open_source(app, job)?
    } else if job.file.spec.detections_only.is_some() {
        return Err(Error::not_found("the job made no video: it looked for things only").into());
    } else {
        let file = app.jobs.parts.store.job(job.id()).open_for_client("output")?;
        file.ok_or_else(|| Error::not_found("the output was deleted"))?
    };
    let failed = |e: rustix::io::Errno| Error::io("cannot make a file in memory", &e.into());
    let memory = rustix::fs::memfd_create("picture", rustix::fs::MemfdFlags::CLOEXEC);
    let made = File::from(memory.map_err(failed)?);
    let copy = made.try_clone().map_err(|e| Error::io("cannot hand on a file", &e))?;
    let name = if source { job.file.source.name.clone() } else { output::file_name(job) };
    let stream = job.file.spec.stream.filter(|_| source);
    let command = SlotCommand::Picture(PictureTask { name, stream, kind });
    (app.jobs.parts.pictures)(command, vec![video.into(), OwnedFd::from(copy)]).await?;
    let size = made.metadata().map_err(|e| Error::io("cannot read a picture", &e))?.len();
    if size > MOST_PICTURE {
        let error = Error::internal(format!("a picture of {size} bytes; {MOST_PICTURE} are read"));
        app.jobs.parts.store.refused().note(What::Picture, &error);
        return Err(error.into());
    }
    Ok(made)
}

fn open_source(app: &App, job: &Job) -> Result<File> {
    let path = &job.file.source.path;
    if job.submission.upload {
        let file = app.jobs.parts.store.job(job.id()).open_source()?;
        return file.ok_or_else(|| Error::not_found("the source was deleted"));
    }
    app.jobs.config.allowed(&path.to_string_lossy(), false)?;
    resume::open_source(path).map_err(|e| Error::io("the source cannot be read any more", &e))
}
