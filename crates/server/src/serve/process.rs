//! One request that sends a video, waits, and gets the video back: for clients that have only `curl`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use frameloom_core::{Error, ErrorKind};

use super::api::idempotency;
use super::auth::Who;
use super::job::Job;
use super::jobs::Jobs;
use super::problem::{ApiResult, Problem};
use super::request::JobRequest;
use super::view::State as Stands;
use super::{App, Kept};
use super::{output, upload};

/// Cancels the job where its client goes away.
struct Leaves {
    jobs: Arc<Jobs>,
    job: Option<Arc<Job>>,
}

impl Drop for Leaves {
    fn drop(&mut self) {
        if let Some(job) = self.job.take()
            && let Err(error) = self.jobs.cancel(&job)
        {
            tracing::debug!(%error, "a client left a job that is over");
        }
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
            .flatten();
        match hex {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The request that a query describes: `f` for each filter, and the names of the JSON's fields.
fn request(query: &str) -> ApiResult<JobRequest> {
    let mut request = JobRequest::default();
    request.source.upload = true;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value);
        let wrong = |what: &str| Error::invalid(format!("{key}='{value}' is not {what}"));
        let number = || value.parse::<f64>().map_err(|_| wrong("a number"));
        let truth = || match value.as_str() {
            "" | "1" | "true" => Ok(true),
            "0" | "false" => Ok(false),
            _ => Err(wrong("true or false")),
        };
        match key {
            "f" | "filter" => request.filters.push(value),
            "container" => request.container = Some(value),
            "codec" => request.encoder.codec = Some(value),
            "encoder" => request.encoder.encoder = Some(value),
            "crf" => request.encoder.crf = Some(number()?),
            "preset" => request.encoder.preset = Some(value),
            "lossless" => request.encoder.lossless = truth()?,
            "segment" => request.segment = Some(number()?),
            "from" => request.from = Some(value),
            "to" => request.to = Some(value),
            "stream" => request.stream = Some(value.parse().map_err(|_| wrong("a number"))?),
            "priority" => request.priority = Some(value.parse().map_err(|_| wrong("a number"))?),
            "no_audio" => request.no_audio = truth()?,
            "strict_streams" => request.strict_streams = truth()?,
            "keep_depth" => request.keep_depth = truth()?,
            "granularity" => request.granularity = Some(value),
            "on_error" => request.on_error = Some(value),
            "name" => request.source.name = Some(value),
            other => {
                let known = [
                    "f",
                    "filter",
                    "container",
                    "codec",
                    "encoder",
                    "crf",
                    "preset",
                    "lossless",
                    "segment",
                    "from",
                    "to",
                    "stream",
                    "priority",
                    "no_audio",
                    "strict_streams",
                    "keep_depth",
                    "granularity",
                    "on_error",
                    "name",
                ];
                let near = frameloom_core::catalogue::did_you_mean(other, &known);
                return Err(Error::invalid(format!(
                    "unknown parameter '{}'{near}",
                    decode(other).escape_debug()
                ))
                .into());
            }
        }
    }
    Ok(request)
}

/// Takes a video, waits for the job, and answers with the result.
///
/// The query describes the job: `f=blur:sigma=3` for each filter, and `codec`, `crf`, `container` …
/// No status is sent before the job's end, so errors have theirs. A client that leaves cancels the
/// job, unless it sent an `Idempotency-Key`.
#[utoipa::path(post, path = "/v1/process", tag = "jobs",
    params(("f" = Option<Vec<String>>, Query, description = "A filter, in order."), ("codec" = Option<String>, Query),
        ("container" = Option<String>, Query), ("idempotency-key" = Option<String>, Header)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, content_type = "video/mp4", body = Vec<u8>), (status = 206), (status = 304), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 408, body = Problem), (status = 409, body = Problem), (status = 413, body = Problem), (status = 416, body = Problem), (status = 422, body = Problem),
        (status = 429, body = Problem), (status = 503, body = Problem), (status = 504, body = Problem), (status = 507, body = Problem)))]
pub(crate) async fn process(
    State(app): State<Arc<App>>,
    who: Who,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let query = query.unwrap_or_default();
    let request = request(&query)?;
    let key = idempotency(&headers, query.as_bytes())?;
    let kept = key.is_some();
    app.jobs.validate(&request).await?;
    let (job, known) = app.jobs.create(&who, &request, key)?;
    let mut leaves = Leaves { jobs: Arc::clone(&app.jobs), job: (!kept).then(|| Arc::clone(&job)) };
    if !known || job.awaits_upload() {
        let writing = job
            .writer
            .try_lock()
            .map_err(|_| job.conflict("somebody else is sending its source"))?;
        let file = app.jobs.parts.store.job(job.id()).open_upload()?;
        file.set_len(0).map_err(|e| Error::io("cannot begin the upload anew", &e))?;
        let size = upload::receive(&app.jobs, &job, 0, None, body.into_data_stream()).await?;
        upload::finish(&app.jobs, &job, size).await?;
        drop(writing);
    }
    tokio::select! {
        () = job.ended() => {}
        () = app.stop.cancelled() => {
            return Err(Error::unavailable("the server is stopping; the job goes on when it is back").into());
        }
    }
    leaves.job = None;
    if job.state() != Stands::Succeeded {
        let error = job.error();
        return Err(error
            .unwrap_or_else(|| Error::new(ErrorKind::Cancelled, "the job was cancelled"))
            .into());
    }
    let mut response = output::made(&app, &job, &HeaderMap::new()).await?;
    let view = job.view(Kept::default());
    let summary = format!(
        "id={}; frames={}; fps={:.1}; retried={}",
        view.id, view.progress.frames, view.progress.fps, view.progress.retried
    );
    let links = format!(
        "</v1/jobs/{0}>; rel=\"describedby\", </v1/jobs/{0}/metrics>; rel=\"related\"",
        view.id
    );
    for (name, value) in [("frameloom-summary", summary), ("link", links)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_describes_a_job() {
        let asked = request("f=blur:sigma=3&f=edges&crf=20.5&lossless&name=a%20b.mp4").unwrap();
        assert_eq!(asked.filters, ["blur:sigma=3", "edges"]);
        assert_eq!((asked.encoder.crf, asked.encoder.lossless), (Some(20.5), true));
        assert_eq!(asked.source.name.as_deref(), Some("a b.mp4"));
        assert!(request("g=1").is_err());
        assert!(request("crf=x").is_err());
    }
}
