//! A client of a server: requests, errors by the one table, uploads that go on after a break.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use frameloom_core::{Error, ErrorKind, Result};
use serde_json::Value;
use ureq::http::{Response, StatusCode};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, SendBody};

use crate::cmd::shown;
use crate::patience::{PatienceArgs, Tries};

/// Which server, and who is asking.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// The server's URL, like http://127.0.0.1:8080.
    #[arg(long, value_name = "URL", env = "FRAMELOOM_SERVER")]
    server: String,

    /// File that holds the token; FRAMELOOM_TOKEN holds the token itself.
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,

    /// Certificates, as PEM, that the server's is signed by.
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
}

/// A connection to a server.
pub(crate) struct Client {
    agent: Agent,
    base: String,
    token: Option<String>,
    patience: Duration,
}

fn unreachable(base: &str, error: &dyn std::fmt::Display) -> Error {
    let error = error.to_string();
    if error.contains("invalid peer certificate") {
        return Error::invalid(format!(
            "the certificate of '{base}' is not known ({error}); give --cacert FILE"
        ));
    }
    Error::unavailable(format!("the server at '{base}' does not answer ({error})"))
}

impl Client {
    /// A client as asked for.
    ///
    /// # Errors
    /// Invalid for a URL or certificate that is none; NotFound for files that are not there.
    pub(crate) fn new(args: &ServerArgs) -> Result<Self> {
        let base = args.server.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") && !base.starts_with("https://") {
            return Err(Error::invalid(format!(
                "--server '{}' is not a URL like http://127.0.0.1:8080",
                args.server
            )));
        }
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|e| Error::io(format!("cannot read '{}'", shown(path)), &e))
        };
        let token = match &args.token {
            Some(path) => Some(String::from_utf8_lossy(&read(path)?).trim().to_owned()),
            None => std::env::var("FRAMELOOM_TOKEN").ok(),
        };
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(300)));
        if let Some(path) = &args.cacert {
            let pem = read(path)?;
            let certificate = Certificate::from_pem(&pem).map_err(|e| {
                Error::invalid(format!("'{}' holds no certificate", shown(path))).with_source(e)
            })?;
            let roots = RootCerts::new_with_certs(&[certificate]);
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        let patience = PatienceArgs::default().time();
        Ok(Self { agent: config.build().new_agent(), base, token, patience })
    }

    /// The same with this patience.
    pub(crate) fn patient(self, args: &PatienceArgs) -> Self {
        Self { patience: args.time(), ..self }
    }

    fn tries(&self) -> Tries {
        Tries::new(self.patience)
    }

    /// The server's URL.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn bearer(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("Bearer {token}"))
    }

    fn answer(&self, sent: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>> {
        let response = sent.map_err(|e| unreachable(&self.base, &e))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(refused(status, response))
    }

    /// Reads `path`.
    ///
    /// # Errors
    /// What the server answers; Unavailable where it does not.
    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response<Body>> {
        let mut request = self.agent.get(self.url(path));
        if let Some(bearer) = self.bearer() {
            request = request.header("authorization", bearer);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.answer(request.call())
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) fn json(&self, path: &str) -> Result<Value> {
        parsed(self.get(path, &[])?)
    }

    /// Sends JSON, or nothing, and reads JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) fn post(
        &self,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Value> {
        let mut request = self.agent.post(self.url(path));
        if let Some(bearer) = self.bearer() {
            request = request.header("authorization", bearer);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        parsed(self.answer(match body {
            Some(body) => request.send_json(body),
            None => request.send_empty(),
        })?)
    }

    /// What `ask` answers, asked again where no server does; `say` hears of it once.
    ///
    /// `ask` must be safe to repeat: its answer can be lost after the server did what it was asked.
    ///
    /// # Errors
    /// What the server answers; Unavailable where it does not come.
    pub(crate) fn patiently<T>(
        &self,
        say: &dyn Fn(&str),
        mut ask: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let mut tries = self.tries();
        loop {
            let answer = ask();
            let Err(error) = &answer else { return answer };
            if error.kind() != ErrorKind::Unavailable || self.patience.is_zero() {
                return answer;
            }
            if tries.count == 0 {
                say(&format!("note: {error}; tried again for {} s", self.patience.as_secs()));
            }
            if !tries.again() {
                return answer;
            }
        }
    }

    /// Deletes `path`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) fn delete(&self, path: &str) -> Result<()> {
        let mut request = self.agent.delete(self.url(path));
        if let Some(bearer) = self.bearer() {
            request = request.header("authorization", bearer);
        }
        self.answer(request.call()).map(drop)
    }

    /// Bytes of an upload that have come.
    fn offset(&self, path: &str) -> Result<u64> {
        let mut request = self.agent.head(self.url(path));
        if let Some(bearer) = self.bearer() {
            request = request.header("authorization", bearer);
        }
        let response = self.answer(request.call())?;
        let offset = response.headers().get("upload-offset");
        let offset = offset.and_then(|v| v.to_str().ok()?.parse().ok());
        offset.ok_or_else(|| Error::unavailable("the server does not say how much has come"))
    }

    /// Sends a file to `path`, going on where a lost connection was; `progress` hears how far.
    ///
    /// # Errors
    /// What the server answers; Unavailable where it does not come back.
    pub(crate) fn upload(&self, path: &str, file: &File, progress: &dyn Fn(u64)) -> Result<()> {
        let failed = |e: std::io::Error| Error::io("cannot read the source", &e);
        let size = file.metadata().map_err(failed)?.len();
        let (mut offset, mut tries) = (0, self.tries());
        loop {
            let mut part = file;
            part.seek(SeekFrom::Start(offset)).map_err(failed)?;
            let mut reader = Told { inner: part, at: offset, progress };
            let mut request = self
                .agent
                .patch(self.url(path))
                .header("content-type", "application/offset+octet-stream")
                .header("tus-resumable", "1.0.0")
                .header("upload-offset", offset.to_string())
                .header("upload-length", size.to_string())
                .header("content-length", (size - offset).to_string());
            if let Some(bearer) = self.bearer() {
                request = request.header("authorization", bearer);
            }
            let sent = self.answer(request.send(SendBody::from_reader(&mut reader)));
            let error = match sent {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let full = error.kind() == ErrorKind::Exhausted;
            if !full && error.kind() != ErrorKind::Unavailable && error.kind() != ErrorKind::Timeout
            {
                return Err(error);
            }
            if !tries.again() {
                return Err(error);
            }
            match self.offset(path) {
                Ok(now) => {
                    if now > offset {
                        tries.progress();
                    }
                    offset = now;
                }
                // It has come whole, and only the answer was lost.
                Err(gone) if gone.kind() == ErrorKind::Conflict => return Ok(()),
                Err(_) => {}
            }
        }
    }

    /// Sends a file of `size` bytes to `path` in one piece, where the server does not have it already.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) fn put(&self, path: &str, mut file: &File, size: u64) -> Result<()> {
        let mut request = self.agent.head(self.url(path));
        if let Some(bearer) = self.bearer() {
            request = request.header("authorization", bearer);
        }
        match self.answer(request.call()) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            known => return known.map(drop),
        }
        file.rewind().map_err(|e| Error::io("cannot read the file", &e))?;
        let mut request = self.agent.put(self.url(path)).header("content-length", size.to_string());
        if let Some(bearer) = self.bearer() {
            request = request.header("authorization", bearer);
        }
        self.answer(request.send(SendBody::from_reader(&mut file))).map(drop)
    }

    /// Follows a job's events until it is over; answers the job as it ended.
    ///
    /// # Errors
    /// What the server answers; Unavailable where it does not come back.
    pub(crate) fn follow(&self, id: &str, hear: &mut dyn FnMut(&str, &Value)) -> Result<Value> {
        let path = format!("/v1/jobs/{id}/events");
        let (mut last, mut tries) = (String::from("0"), self.tries());
        loop {
            let stream = self.get(&path, &[("last-event-id", &last)]);
            let mut broken = None;
            match stream {
                Ok(response) => {
                    let (mut name, mut data) = (String::new(), String::new());
                    for line in BufReader::new(response.into_body().into_reader()).lines() {
                        let Ok(line) = line else { break };
                        if let Some(value) = line.strip_prefix("id:") {
                            value.trim().clone_into(&mut last);
                        } else if let Some(value) = line.strip_prefix("event:") {
                            value.trim().clone_into(&mut name);
                        } else if let Some(value) = line.strip_prefix("data:") {
                            data += value.trim_start();
                        } else if line.is_empty() && !data.is_empty() {
                            tries.progress();
                            let value = serde_json::from_str(&data).unwrap_or(Value::Null);
                            hear(&name, &value);
                            if name == "end" {
                                return Ok(value);
                            }
                            data.clear();
                        }
                    }
                    tries.heard();
                }
                Err(error) if error.kind() == ErrorKind::Unavailable => broken = Some(error),
                Err(error) => return Err(error),
            }
            // A server that was started again has a new list of events.
            if let Ok(job) = self.json(&format!("/v1/jobs/{id}")) {
                let over =
                    matches!(job["state"].as_str(), Some("succeeded" | "failed" | "cancelled"));
                if over {
                    return Ok(job);
                }
                if tries.count > 0 {
                    "0".clone_into(&mut last);
                }
            }
            if !tries.again() {
                return Err(broken.unwrap_or_else(|| self.broken_off()));
            }
        }
    }

    /// Reads a job's output into `to`, going on where a lost connection was.
    ///
    /// # Errors
    /// What the server answers; Exhausted where the disk is full.
    pub(crate) fn download(&self, path: &str, to: &File) -> Result<()> {
        let failed = |e: std::io::Error| Error::io("cannot write the output", &e);
        let (mut at, mut tries) = (0u64, self.tries());
        loop {
            let range = format!("bytes={at}-");
            let headers: &[(&str, &str)] = if at > 0 { &[("range", &range)] } else { &[] };
            let response = match self.get(path, headers) {
                Err(error) if error.kind() == ErrorKind::Unavailable && tries.again() => continue,
                response => response?,
            };
            if at > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
                at = 0;
            }
            let length = response.headers().get("content-length");
            let length: Option<u64> = length.and_then(|v| v.to_str().ok()?.parse().ok());
            let whole = length.map(|length| at + length);
            let mut file = to;
            file.set_len(at).and_then(|()| file.seek(SeekFrom::Start(at))).map_err(failed)?;
            let mut body = response.into_body().into_reader();
            let mut buffer = vec![0; 256 << 10];
            loop {
                match body.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(n) => {
                        std::io::Write::write_all(&mut file, &buffer[..n]).map_err(failed)?;
                        at += n as u64;
                        tries.progress();
                    }
                }
            }
            if whole.is_none_or(|whole| at == whole) {
                return Ok(());
            }
            if !tries.again() {
                return Err(self.broken_off());
            }
        }
    }

    fn broken_off(&self) -> Error {
        unreachable(&self.base, &"the connection breaks off again and again")
    }
}

fn parsed(response: Response<Body>) -> Result<Value> {
    let text = response.into_body().with_config().limit(64 << 20).read_to_string();
    let text =
        text.map_err(|e| Error::unavailable("the server's answer breaks off").with_source(e))?;
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text)
        .map_err(|e| Error::unavailable("the server's answer is no JSON").with_source(e))
}

/// The error that a server's answer tells.
fn refused(status: StatusCode, response: Response<Body>) -> Error {
    let body = parsed(response).unwrap_or(Value::Null);
    error_of(&body).unwrap_or_else(|| {
        let kind = match status.as_u16() {
            401 => ErrorKind::Unauthorized,
            403 => ErrorKind::Forbidden,
            404 => ErrorKind::NotFound,
            409 => ErrorKind::Conflict,
            400..=499 => ErrorKind::Invalid,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, format!("the server answers with status {status}"))
    })
}

/// The error of a problem document.
pub(crate) fn error_of(problem: &Value) -> Option<Error> {
    let kind: ErrorKind = serde_json::from_value(problem.get("kind")?.clone()).ok()?;
    Some(Error::new(kind, problem.get("detail")?.as_str()?))
}

/// A reader that tells how far it is.
struct Told<'a> {
    inner: &'a File,
    at: u64,
    progress: &'a dyn Fn(u64),
}

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.at += n as u64;
        (self.progress)(self.at);
        Ok(n)
    }
}

/// Sends a text to an address of somebody else's, follows no redirection, and wants a status of 2xx.
///
/// # Errors
/// Unavailable where it was not taken.
pub(crate) fn post_text(url: &str, headers: &[(String, String)], body: &str) -> Result<()> {
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_global(Some(Duration::from_secs(20)))
        .build()
        .new_agent();
    let mut request = agent.post(url);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let failed = |why: String| Error::unavailable(format!("'{url}': {why}"));
    let answer = request.send(body).map_err(|e| failed(e.to_string()))?;
    if answer.status().is_success() {
        Ok(())
    } else {
        Err(failed(format!("status {}", answer.status().as_u16())))
    }
}

#[cfg(test)]
mod tests;
