//! The dashboard: hand-written files within the binary, nothing from elsewhere.

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use frameloom_core::Error;

use super::api::text;
use super::problem::ApiResult;

pub(crate) async fn index() -> Response {
    text(StatusCode::OK, "text/html; charset=utf-8", include_str!("page/index.html"))
}

/// The page that shows the OpenAPI document.
pub(crate) async fn api() -> Response {
    text(StatusCode::OK, "text/html; charset=utf-8", include_str!("page/api.html"))
}

pub(crate) async fn asset(Path(name): Path<String>) -> ApiResult<Response> {
    let (kind, body) = match name.as_str() {
        "app.js" => ("text/javascript; charset=utf-8", include_str!("page/app.js")),
        "strip.js" => ("text/javascript; charset=utf-8", include_str!("page/strip.js")),
        "api.js" => ("text/javascript; charset=utf-8", include_str!("page/api.js")),
        "style.css" => ("text/css; charset=utf-8", include_str!("page/style.css")),
        _ => return Err(Error::not_found(format!("no file '{}'", name.escape_debug())).into()),
    };
    let mut response = text(StatusCode::OK, kind, body);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    #[test]
    fn all_of_it_is_small() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/serve/page");
        let sizes = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len());
        let sizes: Vec<u64> = sizes.collect();
        assert!(sizes.len() >= 6 && sizes.iter().sum::<u64>() < 100_000, "{sizes:?}");
    }
}
