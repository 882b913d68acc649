//! Files that filters take: never a path of the server, but a name in its operator's catalogue or
//! content that the client has sent.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use frameloom_core::pipeline::FilterSpec;
use frameloom_core::spec::SpecFile;
use frameloom_core::{Error, ErrorKind, Result};
use futures_util::StreamExt;
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::App;
use super::auth::Who;
use super::jobs::{Jobs, now_ms};
use super::problem::{ApiError, ApiResult, Problem};
use super::request::{FileRequest, JobRequest};
use super::view::rfc3339;
use crate::store::{JobDir, Store, is_sha256, sha256_of};

/// Seconds without a byte after which a client is given up.
const SILENT: Duration = Duration::from_secs(60);

/// Bytes between two looks at the room that is left.
const LOOK_EVERY: u64 = 16 << 20;

/// How long a file that was sent is kept after its last use.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// What files there are.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FileList {
    /// Names in the server's catalogue, which filters may take as they are.
    catalogue: Vec<String>,
    /// What you have sent.
    files: Vec<FileView>,
}

/// A file that was sent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FileView {
    /// SHA-256 of its content, hexadecimal.
    sha256: String,
    /// Size in bytes.
    size: u64,
    /// When it will be deleted if no further job takes it (RFC 3339).
    expires_at: String,
}

/// Where a job gets a file of one of its filters from.
pub(crate) struct Given {
    pub(crate) file: SpecFile,
    from: Origin,
}

enum Origin {
    Catalogue,
    Client,
}

/// The files that a job's filters take, found in the catalogue or among what its owner has sent.
///
/// # Errors
/// Invalid for a name that is in neither, or an attachment that no filter takes; Conflict for one
/// whose content has not come.
pub(crate) fn find(
    jobs: &Jobs,
    owner: &str,
    request: &JobRequest,
    filters: &[FilterSpec],
) -> Result<Vec<Given>> {
    let store = &jobs.parts.store;
    let wanted = jobs.parts.catalogue.files(filters)?;
    let mut names = BTreeSet::new();
    for FileRequest { name, .. } in &request.files {
        let name = name.as_str();
        if !wanted.iter().any(|wanted| wanted == name) {
            let name = name.escape_debug();
            return Err(Error::invalid(format!("files: no filter takes a file '{name}'")));
        }
        if !names.insert(name) {
            let name = name.escape_debug();
            return Err(Error::invalid(format!("files: '{name}' is given twice")));
        }
    }
    let given = |name: String| match request.files.iter().find(|file| file.name == name) {
        Some(attached) => from_client(store, owner, attached),
        None => from_catalogue(store, name),
    };
    wanted.into_iter().map(given).collect()
}

fn from_client(store: &Store, owner: &str, file: &FileRequest) -> Result<Given> {
    let FileRequest { name, sha256, size } = file;
    let shown = name.escape_debug();
    if !is_sha256(sha256) {
        return Err(Error::invalid(format!(
            "file '{shown}': sha256 '{}' is not 64 hexadecimal digits in lower case",
            sha256.escape_debug()
        )));
    }
    match store.sent_by(owner).find(sha256)? {
        Some(there) if there == *size => {}
        Some(there) => {
            return Err(Error::invalid(format!(
                "file '{shown}': size {size}, but the content of this SHA-256 has {there} bytes"
            )));
        }
        None => {
            return Err(Error::conflict(format!(
                "file '{shown}': its content has not come; send it by PUT /v1/files/{sha256} first"
            )));
        }
    }
    let file = SpecFile { name: name.clone(), sha256: sha256.clone(), size: *size };
    Ok(Given { file, from: Origin::Client })
}

fn from_catalogue(store: &Store, name: String) -> Result<Given> {
    let Some(file) = store.open_catalogue(&name)? else {
        let names = store.catalogue()?;
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let near = frameloom_core::catalogue::did_you_mean(&name, &known);
        let holds = if known.is_empty() {
            "is empty".into()
        } else {
            format!("holds {}", known.join(", "))
        };
        return Err(Error::invalid(format!(
            "file '{}' of a filter is neither attached (\"files\") nor in this server's catalogue, which {holds}{near}",
            name.escape_debug()
        )));
    };
    let failed = |e: std::io::Error| Error::io(format!("cannot read '{name}'"), &e);
    let size = file.metadata().map_err(failed)?.len();
    // A model may have hundreds of megabytes.
    let sha256 = tokio::task::block_in_place(|| sha256_of(&file)).map_err(failed)?;
    Ok(Given { file: SpecFile { name, sha256, size }, from: Origin::Catalogue })
}

/// Gives a new job its files.
///
/// # Errors
/// Conflict where the operator has just changed one; of the file system.
pub(crate) fn attach(store: &Store, owner: &str, files: &[Given], dir: &JobDir<'_>) -> Result<()> {
    for Given { file: SpecFile { name, sha256, .. }, from } in files {
        tokio::task::block_in_place(|| match from {
            Origin::Client => dir.attach_sent(name, &store.sent_by(owner), sha256),
            Origin::Catalogue => match store.open_catalogue(name)? {
                Some(file) => dir.attach(name, &file, sha256),
                None => Err(Error::conflict(format!("'{name}' has just gone; try again"))),
            },
        })?;
    }
    Ok(())
}

impl Jobs {
    /// Deletes files that clients sent and no job has taken for long.
    pub(crate) fn tend_files(&self) {
        let kept = i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
        let before = now_ms().saturating_sub(kept) / 1000;
        self.parts.store.drop_unused_files(before);
    }
}

fn named(sha256: &str) -> ApiResult<&str> {
    if is_sha256(sha256) {
        return Ok(sha256);
    }
    Err(Error::not_found(format!(
        "'{}' is no SHA-256: 64 hexadecimal digits in lower case",
        sha256.escape_debug()
    ))
    .into())
}

/// The files that filters may take: names in the server's catalogue, and what you have sent.
#[utoipa::path(get, path = "/v1/files", tag = "files",
    responses((status = 200, body = FileList), (status = 401, body = Problem)))]
pub(crate) async fn list(State(app): State<Arc<App>>, who: Who) -> ApiResult<Json<FileList>> {
    let store = &app.jobs.parts.store;
    let kept = i64::try_from(KEPT.as_secs()).unwrap_or(i64::MAX);
    let files = store.sent_by(&who.name).list()?.into_iter().filter(|f| is_sha256(&f.sha256));
    let files = files.map(|file| FileView {
        expires_at: rfc3339(file.used.saturating_add(kept).saturating_mul(1000)),
        sha256: file.sha256,
        size: file.size,
    });
    Ok(Json(FileList { catalogue: store.catalogue()?, files: files.collect() }))
}

/// Whether a file with this content has come from you; `Content-Length` tells its size. It counts as used.
#[utoipa::path(head, path = "/v1/files/{sha256}", tag = "files", params(("sha256" = String, Path)),
    responses((status = 200), (status = 401, body = Problem), (status = 404)))]
pub(crate) async fn find_sent(
    State(app): State<Arc<App>>,
    who: Who,
    Path(sha256): Path<String>,
) -> ApiResult<Response> {
    let size = app.jobs.parts.store.sent_by(&who.name).find(named(&sha256)?)?;
    let size = size.ok_or_else(|| Error::not_found("no such content has come from you"))?;
    let mut response = StatusCode::OK.into_response();
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    Ok(response)
}

/// Sends a file that a filter of a later job takes. It is kept for a day after its last use; jobs keep
/// their own.
#[utoipa::path(put, path = "/v1/files/{sha256}", tag = "files",
    params(("sha256" = String, Path, description = "SHA-256 of the content, hexadecimal, in lower case.")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, description = "It has come."), (status = 204, description = "It was there already."),
        (status = 400, body = Problem, description = "The content is another, or breaks off."), (status = 401, body = Problem),
        (status = 404, body = Problem, description = "The name is no SHA-256."), (status = 408, body = Problem),
        (status = 413, body = Problem), (status = 507, body = Problem, description = "The store is full, or your files take too much of it.")))]
pub(crate) async fn put(
    State(app): State<Arc<App>>,
    who: Who,
    Path(sha256): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<StatusCode> {
    let (sent, config) = (app.jobs.parts.store.sent_by(&who.name), &app.jobs.config);
    if sent.find(named(&sha256)?)?.is_some() {
        return Ok(StatusCode::NO_CONTENT);
    }
    let too_large = || {
        let most = config.max_file;
        Error::new(
            ErrorKind::TooLarge,
            format!("a file has at most {most} bytes here (--max-file)"),
        )
    };
    let told = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if told.is_some_and(|told: u64| told > config.max_file) {
        return Err(too_large().into());
    }
    let room = |size: u64| -> ApiResult<()> {
        if app.jobs.is_full() {
            return Err(ApiError::full("the store is full; send the file when there is room"));
        }
        let taken: u64 = sent.list()?.iter().map(|file| file.size).sum();
        if taken.saturating_add(size) > config.max_files {
            return Err(ApiError::full(&format!(
                "your files take {taken} bytes, and {} at most (--max-files); they are deleted a day after their last use, or \
                 by DELETE /v1/files/SHA256",
                config.max_files
            )));
        }
        Ok(())
    };
    room(told.unwrap_or(0))?;
    let failed = |e: std::io::Error| match Error::io("cannot keep the file", &e) {
        error if error.kind() == ErrorKind::Exhausted => {
            ApiError::full("the store is full; send the file when there is room")
        }
        error => error.into(),
    };
    let (mut file, sending) = sent.begin(&sha256)?;
    let (mut hash, mut size, mut looked) = (Sha256::new(), 0u64, 0u64);
    let mut body = body.into_data_stream();
    loop {
        let Ok(next) = tokio::time::timeout(SILENT, body.next()).await else {
            return Err(ApiError::with_status(
                Error::new(ErrorKind::Timeout, "no byte came for a minute; send the file again"),
                StatusCode::REQUEST_TIMEOUT,
            ));
        };
        let Some(bytes) = next else { break };
        let bytes = bytes.map_err(|e| {
            Error::invalid(format!("the body was cut off after {size} bytes; send the file again"))
                .with_source(e)
        })?;
        size += bytes.len() as u64;
        if size > config.max_file {
            return Err(too_large().into());
        }
        // A slow disk must not hold up those who share this thread.
        tokio::task::block_in_place(|| {
            hash.update(&bytes);
            file.write_all(&bytes)
        })
        .map_err(failed)?;
        if size - looked > LOOK_EVERY {
            looked = size;
            // What has come of it is counted already.
            room(0)?;
        }
    }
    let came: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if came != sha256 {
        return Err(Error::invalid(format!(
            "the SHA-256 of the {size} bytes that came is {came}, not {sha256}"
        ))
        .into());
    }
    room(0)?;
    sent.keep(&sha256, &file, sending)?;
    Ok(StatusCode::CREATED)
}

/// Deletes a file that you have sent; jobs that took it keep it.
#[utoipa::path(delete, path = "/v1/files/{sha256}", tag = "files", params(("sha256" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 404, body = Problem)))]
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    who: Who,
    Path(sha256): Path<String>,
) -> ApiResult<StatusCode> {
    if app.jobs.parts.store.sent_by(&who.name).remove(named(&sha256)?)? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Error::not_found("no such content has come from you").into())
}
