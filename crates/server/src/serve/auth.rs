//! Who is asking, and whether a request comes from where it says.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use frameloom_core::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};

use super::App;
use super::problem::{ApiError, ApiResult};

/// The cookie that a page's login sets.
const COOKIE: &str = "frameloom_session";

/// Whoever has shown a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    /// The name that jobs belong to.
    pub(crate) name: String,
    /// Whether all jobs are theirs to see.
    pub(crate) admin: bool,
}

/// What a token opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Jobs of one's own.
    Client,
    /// All jobs.
    Admin,
    /// Numbers.
    Watcher,
}

/// What a token of whoever only watches opens: it tells of no job.
const WATCHED: [&str; 2] = ["/metrics", "/v1/scale"];

impl Who {
    /// Whether jobs of `owner` are theirs to see.
    pub(crate) fn sees(&self, owner: &str) -> bool {
        self.admin || self.name == owner
    }
}

/// The tokens that open the server, by their digests; none opens it to everybody.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    known: BTreeMap<[u8; 32], (String, Role)>,
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl Tokens {
    /// Reads a token file: `name:token`, `name:token:admin` or `name:token:metrics` a line; empty lines and those with `#` are
    /// passed.
    ///
    /// # Errors
    /// Invalid with the number of the line that is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let mut known = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why: &str| Error::invalid(format!("token file, line {number}: {why}"));
            let mut parts = line.split(':');
            let (name, token) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            let role = match parts.next() {
                None => Role::Client,
                Some("admin") => Role::Admin,
                Some("metrics") => Role::Watcher,
                Some(_) => {
                    return Err(wrong("after the token only ':admin' or ':metrics' may follow"));
                }
            };
            if name.is_empty() || parts.next().is_some() {
                return Err(wrong("write name:token, name:token:admin or name:token:metrics"));
            }
            if token.len() < 16 {
                return Err(wrong("a token has at least 16 characters"));
            }
            if known.insert(digest(token), (name.to_owned(), role)).is_some() {
                return Err(wrong("the token stands there twice"));
            }
        }
        if known.is_empty() {
            return Err(Error::invalid("the token file holds no token"));
        }
        Ok(Self { known })
    }

    /// Whether a token is asked for.
    pub fn are_asked_for(&self) -> bool {
        !self.known.is_empty()
    }

    /// Whoever has this token, and asks for `path`.
    ///
    /// # Errors
    /// Unauthorized for a token that is not known, Forbidden for one that opens other paths only.
    fn who(&self, token: &str, path: &str) -> Result<Who> {
        // By digest: how long a look-up takes tells nothing of a token.
        let (name, role) = self
            .known
            .get(&digest(token))
            .ok_or_else(|| Error::new(ErrorKind::Unauthorized, "the token is not known"))?;
        if *role == Role::Watcher && !WATCHED.contains(&path) {
            let words = format!("the token of '{name}' opens {} only", WATCHED.join(" and "));
            return Err(Error::new(ErrorKind::Forbidden, words));
        }
        Ok(Who { name: name.clone(), admin: *role == Role::Admin })
    }
}

/// The token of a request, by header or cookie.
fn token(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    bearer.or_else(|| {
        headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
    })
}

impl FromRequestParts<Arc<App>> for Who {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> ApiResult<Self> {
        let tokens = &app.jobs.config.tokens;
        if !tokens.are_asked_for() {
            return Ok(Who { name: "anyone".into(), admin: true });
        }
        let unauthorized = |text: &str| ApiError::from(Error::new(ErrorKind::Unauthorized, text));
        let token = token(&parts.headers)
            .ok_or_else(|| unauthorized("give a token: 'Authorization: Bearer TOKEN'"))?;
        Ok(tokens.who(token, parts.uri.path())?)
    }
}

/// Logs a page in: its token becomes a cookie that scripts cannot read.
pub(crate) async fn login(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: String,
) -> ApiResult<Response> {
    let token = body.trim();
    let tokens = &app.jobs.config.tokens;
    if tokens.are_asked_for() {
        tokens.who(token, "/")?;
    }
    let secure = headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https");
    let secure = if secure || app.jobs.config.tls { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/{secure}");
    let value = HeaderValue::from_str(&cookie)
        .map_err(|_| Error::invalid("a token holds no such characters"))?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, value)]).into_response())
}

/// The host of a `Host` or `Origin` value, without its port, in lower case.
fn host_name(value: &str) -> String {
    let value = value.rsplit_once("://").map_or(value, |(_, rest)| rest);
    let name = if value.starts_with('[') {
        value.split_once(']').map_or(value, |(name, _)| name).trim_start_matches('[')
    } else {
        value.rsplit_once(':').map_or(value, |(name, _)| name)
    };
    name.to_ascii_lowercase()
}

/// Refuses requests that a foreign page has a browser send, and adds the headers that keep pages
/// from doing so.
pub(crate) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let refused = check(&app, &request).err();
    let mut response = match refused {
        Some(error) => error.into_response(),
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (
            "content-security-policy",
            "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; \
             style-src 'self'; script-src 'self'; frame-ancestors 'none'; base-uri 'none'; \
             form-action 'self'",
        ),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn check(app: &App, request: &Request) -> ApiResult<()> {
    let headers = request.headers();
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    if let Some(host) = host {
        let name = host_name(host);
        if !app.jobs.config.hosts.iter().any(|known| *known == name || known == "*") {
            return Err(ApiError::with_status(
                Error::invalid(format!(
                    "host '{}' is not this server's; it is started with --allow-host for others",
                    name.escape_debug()
                )),
                StatusCode::MISDIRECTED_REQUEST,
            ));
        }
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    if let (false, Some(origin)) = (reads, origin) {
        let own = host.is_some_and(|host| {
            origin.rsplit_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host))
        });
        if !own {
            return Err(Error::new(
                ErrorKind::Forbidden,
                format!("a page of '{}' may not write here", origin.escape_debug()),
            )
            .into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_is_read_or_the_line_named() {
        let tokens = Tokens::parse(
            "# who\nann:0123456789abcdef\n\nbob:fedcba9876543210:admin\neye:0011223344556677:metrics\n",
        );
        let tokens = tokens.unwrap();
        let who = |token: &str, path: &str| tokens.who(token, path);
        assert_eq!(who("0123456789abcdef", "/v1/jobs").unwrap().name, "ann");
        assert!(who("fedcba9876543210", "/v1/jobs").unwrap().admin);
        let kind = |token: &str, path: &str| who(token, path).unwrap_err().kind();
        assert_eq!(kind("0123456789abcdeF", "/metrics"), ErrorKind::Unauthorized);
        assert!(!who("0011223344556677", "/metrics").unwrap().admin);
        assert_eq!(who("0011223344556677", "/v1/scale").unwrap().name, "eye");
        for path in ["/", "/v1/jobs", "/v1/scale/", "/v1/workers", "/metrics/x"] {
            assert_eq!(kind("0011223344556677", path), ErrorKind::Forbidden, "{path}");
        }
        for bad in ["", "a:short", "a:0123456789abcdef:root", ":0123456789abcdef", "x"] {
            assert!(Tokens::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_lose_their_port() {
        assert_eq!(host_name("LocalHost:8080"), "localhost");
        assert_eq!(host_name("[::1]:8080"), "::1");
        assert_eq!(host_name("[::1]"), "::1");
        assert_eq!(host_name("http://a.example:1"), "a.example");
        assert_eq!(host_name("10.0.0.1"), "10.0.0.1");
    }
}
