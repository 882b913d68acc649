//! Bodies that nobody reads to their end: what is under way is taken and thrown away for a while.
//!
//! A server that answers before a body has come and closes leaves bytes unread; the client's kernel
//! then tells a broken connection, and the answer is lost with what it says of the cause.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use futures_util::{Stream, StreamExt};

/// How long a body is thrown away for.
const LONGEST: Duration = Duration::from_secs(30);

/// How long a client that sends nothing is waited for.
const SILENT: Duration = Duration::from_secs(5);

/// A body that is read to its end after it is dropped.
struct Lingering {
    /// What is still to come; `None` once it has.
    body: Option<BodyDataStream>,
    /// The client sends nothing before it is asked to, which reading does.
    unasked: bool,
}

impl Stream for Lingering {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.unasked = false;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let next = body.poll_next_unpin(context);
        if matches!(next, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        next
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.unasked {
            return;
        }
        runtime.spawn(tokio::time::timeout(LONGEST, async move {
            while let Ok(Some(Ok(_))) = tokio::time::timeout(SILENT, body.next()).await {}
        }));
    }
}

/// Sees to it that an answer that comes before the end of a body reaches the client.
pub(crate) async fn linger(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = if body.is_end_stream() {
        body
    } else {
        let unasked = parts.headers.contains_key(header::EXPECT);
        Body::from_stream(Lingering { body: Some(body.into_data_stream()), unasked })
    };
    next.run(Request::from_parts(parts, body)).await
}
