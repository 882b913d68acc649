//! Errors as RFC 9457 problem documents.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use frameloom_core::{Error, ErrorKind};
use serde::Serialize;
use utoipa::ToSchema;

/// A problem document.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// A URI reference that names the kind of error: `urn:frameloom:error:KIND`.
    #[serde(rename = "type")]
    pub kind_uri: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong, quoting what was given, and what to do.
    pub detail: String,
    /// The kind, a stable word for programs.
    pub kind: String,
}

/// The status of an error's kind, by the one table.
pub(crate) fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict | ErrorKind::Cancelled => StatusCode::CONFLICT,
        ErrorKind::Unsupported | ErrorKind::Corrupt => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::Exhausted => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// An error on its way to a client, with a status of its own where the kind has several.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) error: Error,
    pub(crate) status: StatusCode,
}

pub(crate) type ApiResult<T> = std::result::Result<T, ApiError>;

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let status = status(error.kind());
        Self { error, status }
    }
}

impl ApiError {
    /// An error with another status than its kind's.
    pub(crate) fn with_status(error: Error, status: StatusCode) -> Self {
        Self { error, status }
    }

    /// The store is full.
    pub(crate) fn full(detail: &str) -> Self {
        Self::with_status(Error::exhausted(detail), StatusCode::INSUFFICIENT_STORAGE)
    }
}

/// The problem document of an error.
pub(crate) fn problem(error: &Error, status: StatusCode) -> Problem {
    let kind = error.kind().name();
    Problem {
        kind_uri: format!("urn:frameloom:error:{kind}"),
        title: kind.replace('_', " "),
        status: status.as_u16(),
        detail: error.message().to_owned(),
        kind: kind.to_owned(),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() && self.status != StatusCode::INSUFFICIENT_STORAGE {
            tracing::error!(error = %self.error, "a request failed");
        }
        let mut response = (self.status, Json(problem(&self.error, self.status))).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}
