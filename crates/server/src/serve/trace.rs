//! Traces by OpenTelemetry's protocol (OTLP over HTTP, as JSON): a job is one trace, from its first
//! byte to its output, whichever servers worked on it.
//!
//! What happens to a job is written to `trace` in its directory, a line each, and sent when the job
//! ends. All ids follow from the job's and its attempts' ids, so nothing else has to be remembered.
//!
//! Source: OpenTelemetry protocol 1.x, `ExportTraceServiceRequest` in its JSON form.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use frameloom_core::id::AttemptId;
use frameloom_core::wire::Task;
use frameloom_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::job::Job;
use super::jobs::Jobs;
use super::view::State;
use crate::engine::JobEvent;

/// Where traces go.
#[derive(Debug, Clone)]
pub struct TraceConfig {
    /// The address that takes `ExportTraceServiceRequest`.
    pub url: String,
    /// Headers that are sent along.
    pub headers: Vec<(String, String)>,
    /// The name of this service.
    pub service: String,
}

impl TraceConfig {
    /// As OpenTelemetry's environment variables say; `None` where no endpoint is set.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let url = given("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| {
            let base = given("OTEL_EXPORTER_OTLP_ENDPOINT")?;
            Some(format!("{}/v1/traces", base.trim_end_matches('/')))
        })?;
        let headers = given("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default();
        let headers = headers
            .split(',')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
            .collect();
        let service = given("OTEL_SERVICE_NAME").unwrap_or_else(|| "frameloom".into());
        Some(Self { url, headers, service })
    }
}

/// Spans of a request at most.
const MOST_SPANS: usize = 2000;

/// Seconds before each try to send a trace; then it is given up.
const TRIES: [u64; 5] = [0, 1, 5, 30, 120];

/// Traces that are on their way at a time.
pub(crate) const MOST_AT_A_TIME: usize = 4;

/// A line of a job's `trace`; times are nanoseconds since 1970.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The job is tried again after it had ended.
    Again { at: u64 },
    /// Its source has come.
    Uploaded { at: u64 },
    /// A server has begun it; attempts of a server before are lost.
    Begun { at: u64 },
    /// An attempt was begun.
    Started { task: Task, attempt: AttemptId, at: u64 },
    /// An attempt has ended; the slot says that it worked so long.
    Ended {
        task: Task,
        attempt: AttemptId,
        at: u64,
        slot: String,
        in_slot: Option<u64>,
        error: Option<String>,
    },
    /// The job is over.
    Over { at: u64, state: String, error: Option<String> },
}

/// How a span ended.
#[derive(Debug)]
enum Status {
    /// Nothing is known of it.
    Unset,
    Ok,
    Error(String),
}

/// A span of a job.
#[derive(Debug)]
struct Span {
    name: String,
    id: u64,
    parent: u64,
    start: u64,
    end: u64,
    attributes: Vec<(&'static str, Value)>,
    status: Status,
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0)
}

fn nanos(ms: i64) -> u64 {
    ms.max(0).unsigned_abs().saturating_mul(1_000_000)
}

/// The least 64 bits of an id, for a span: never 0.
fn span_id(bits: u128) -> u64 {
    u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(1).max(1)
}

fn open(jobs: &Jobs, job: &Job) -> Option<File> {
    jobs.config.traces.as_ref()?;
    let opened = jobs.parts.store.job(job.id()).append_to("trace");
    opened.inspect_err(|error| tracing::debug!(%error, job = %job.id(), "no trace is kept")).ok()
}

fn note(mut file: &File, line: &Line) {
    let written = serde_json::to_string(line).map_err(std::io::Error::from);
    // At once, so that lines of two writers do not mix.
    let written = written.and_then(|text| file.write_all(format!("{text}\n").as_bytes()));
    if let Err(error) = written {
        tracing::debug!(%error, "a span is lost");
    }
}

/// A job's source has come.
pub(crate) fn uploaded(jobs: &Jobs, job: &Job) {
    if let Some(file) = open(jobs, job) {
        note(&file, &Line::Uploaded { at: now() });
    }
}

/// A job is tried again.
pub(crate) fn again(jobs: &Jobs, job: &Job) {
    if let Some(file) = open(jobs, job) {
        note(&file, &Line::Again { at: now() });
    }
}

/// Writes down what happens to a job while this server works on it.
pub(crate) struct Tracer(File);

impl Tracer {
    /// The job is begun; `None` where no traces are wanted.
    pub(crate) fn begin(jobs: &Jobs, job: &Job) -> Option<Self> {
        let file = open(jobs, job)?;
        note(&file, &Line::Begun { at: now() });
        Some(Self(file))
    }

    /// Hears what the engine tells.
    pub(crate) fn hear(&self, event: &JobEvent) {
        let at = now();
        let line = match event {
            JobEvent::Started { task, attempt, .. } => {
                Line::Started { task: *task, attempt: *attempt, at }
            }
            JobEvent::Accepted { task, attempt, in_slot, slot, .. } => {
                let nanos = |took: Duration| u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
                let (in_slot, slot) = (in_slot.map(nanos), slot.clone());
                Line::Ended { task: *task, attempt: *attempt, at, slot, in_slot, error: None }
            }
            JobEvent::Failed { task, attempt, error, .. } => {
                let (slot, error) = (String::new(), Some(error.message().to_owned()));
                Line::Ended { task: *task, attempt: *attempt, at, slot, in_slot: None, error }
            }
            JobEvent::Planned { .. } | JobEvent::Progress(_) => return,
        };
        note(&self.0, &line);
    }
}

/// A job is over: its trace is sent in the background, where the server is told to.
pub(crate) fn over(jobs: &Arc<Jobs>, job: &Arc<Job>) {
    let (Some(file), Some(ended)) = (open(jobs, job), job.ended_ms()) else { return };
    let error = job.error().map(|error| error.message().to_owned());
    let state = job.state().name().to_owned();
    note(&file, &Line::Over { at: nanos(ended), state, error });
    let dir = jobs.parts.store.job(job.id());
    let whole = dir.scratch(&format!("trace.{ended}"));
    match fs::rename(dir.scratch("trace"), &whole) {
        Ok(()) => export(jobs, job, whole),
        Err(error) => tracing::warn!(%error, job = %job.id(), "a trace is lost"),
    }
}

/// Sends what a server before has left of the traces of a job that is over.
pub(crate) fn left(jobs: &Arc<Jobs>, job: &Arc<Job>) {
    if jobs.config.traces.is_none() {
        return;
    }
    let dir = jobs.parts.store.job(job.id()).scratch("");
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name == "trace" {
            over(jobs, job);
        } else if name.starts_with("trace.") {
            export(jobs, job, path);
        }
    }
}

fn export(jobs: &Arc<Jobs>, job: &Arc<Job>, path: PathBuf) {
    let Some(config) = jobs.config.traces.clone() else { return };
    let (jobs, job) = (Arc::clone(jobs), Arc::clone(job));
    tokio::spawn(async move {
        for wait in TRIES {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            let place = jobs.exports.acquire().await;
            let (config, from) = (config.clone(), path.clone());
            let (jobs, job) = (Arc::clone(&jobs), Arc::clone(&job));
            let sent = tokio::task::spawn_blocking(move || {
                let name = from.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let file = jobs.parts.store.job(job.id()).open_for_client(name)?;
                let file = file.ok_or_else(|| Error::not_found("the trace is gone"))?;
                send(&config, &job, &file, &|body| {
                    let json = ("content-type".to_owned(), "application/json".to_owned());
                    let headers: Vec<_> =
                        std::iter::once(json).chain(config.headers.clone()).collect();
                    (jobs.parts.post)(&config.url, &headers, body)
                })
                .inspect_err(|error| {
                    tracing::warn!(%error, job = %job.id(), "a trace was not taken");
                })
            });
            let sent = sent.await;
            drop(place);
            if matches!(sent, Ok(Ok(()))) {
                break;
            }
        }
        // Sent or given up. It may be gone with its job.
        drop(fs::remove_file(&path));
    });
}

/// Largest trace that is read, in bytes.
const MOST_TRACE: u64 = 256 << 20;

/// Reads lines and posts the spans that they tell of.
fn send(
    config: &TraceConfig,
    job: &Job,
    lines: &File,
    post: &dyn Fn(&str) -> Result<()>,
) -> Result<()> {
    let mut reading = Reading::new(job.id().bits(), nanos(job.submission.created_ms));
    let trace = job.id().to_string();
    let flush = |spans: &mut Vec<Span>| {
        let body = request(config, &trace, spans).to_string();
        spans.clear();
        post(&body)
    };
    for line in BufReader::new(lines.take(MOST_TRACE)).lines() {
        let line = line.map_err(|e| Error::io("cannot read a trace", &e))?;
        // A line that was cut off tells nothing.
        if let Ok(line) = serde_json::from_str(&line) {
            reading.line(line, &trace);
        }
        if reading.spans.len() >= MOST_SPANS {
            flush(&mut reading.spans)?;
        }
    }
    if reading.spans.is_empty() { Ok(()) } else { flush(&mut reading.spans) }
}

/// The spans that lines tell of, as far as they are read.
struct Reading {
    root: u64,
    start: u64,
    /// Attempts that have begun.
    open: BTreeMap<AttemptId, (Task, u64)>,
    spans: Vec<Span>,
}

impl Reading {
    fn new(job: u128, start: u64) -> Self {
        Self { root: span_id(job), start, open: BTreeMap::new(), spans: Vec::new() }
    }

    fn line(&mut self, line: Line, job: &str) {
        match line {
            Line::Again { at } => {
                // Another part of the same trace.
                (self.root, self.start) = ((self.root ^ at).max(1), at);
            }
            Line::Uploaded { at } => {
                let (start, root) = (self.start, self.root);
                self.spans.push(Span {
                    name: "upload".into(),
                    id: root.rotate_left(1).max(1),
                    parent: root,
                    start,
                    end: at,
                    attributes: Vec::new(),
                    status: Status::Ok,
                });
            }
            Line::Begun { at } => {
                for (attempt, (task, start)) in std::mem::take(&mut self.open) {
                    let why = "its server ended before".to_owned();
                    self.attempt(task, attempt, (start, at), Status::Error(why));
                }
            }
            Line::Started { task, attempt, at } => drop(self.open.insert(attempt, (task, at))),
            Line::Ended { task, attempt, at, slot, in_slot, error } => {
                let start = self.open.remove(&attempt).map_or(at, |(_, start)| start);
                let status = error.map_or(Status::Ok, Status::Error);
                self.attempt(task, attempt, (start, at), status);
                if let Some(took) = in_slot {
                    let id = span_id(attempt.bits());
                    self.spans.push(Span {
                        name: format!("slot.{}", task.kind()),
                        id: id.rotate_left(1).max(1),
                        parent: id,
                        start: at.saturating_sub(took).max(start),
                        end: at,
                        attributes: vec![("frameloom.slot", json!(slot))],
                        status: Status::Ok,
                    });
                }
            }
            Line::Over { at, state, error } => {
                // Stopped, or lost with their nodes.
                for (attempt, (task, start)) in std::mem::take(&mut self.open) {
                    self.attempt(task, attempt, (start, at), Status::Unset);
                }
                let failed = state == State::Failed.name();
                self.spans.push(Span {
                    name: "job".into(),
                    id: self.root,
                    parent: 0,
                    start: self.start,
                    end: at,
                    attributes: vec![
                        ("frameloom.job", json!(job)),
                        ("frameloom.state", json!(state)),
                    ],
                    status: if failed {
                        Status::Error(error.unwrap_or_default())
                    } else {
                        Status::Ok
                    },
                });
            }
        }
    }

    fn attempt(
        &mut self,
        task: Task,
        attempt: AttemptId,
        (start, end): (u64, u64),
        status: Status,
    ) {
        let mut attributes = vec![("frameloom.attempt", json!(attempt.to_string()))];
        if let Some(k) = task.segment() {
            attributes.push(("frameloom.segment", json!(k)));
        }
        let (id, parent) = (span_id(attempt.bits()), self.root);
        let name = task.kind().to_owned();
        self.spans.push(Span { name, id, parent, start, end, attributes, status });
    }
}

/// The request that tells of spans.
fn request(config: &TraceConfig, trace: &str, spans: &[Span]) -> Value {
    let spans: Vec<Value> = spans.iter().map(|span| span.json(trace)).collect();
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    json!({ "resourceSpans": [{
        "resource": { "attributes": [
            text("service.name", &config.service),
            text("service.version", env!("CARGO_PKG_VERSION")),
        ] },
        "scopeSpans": [{ "scope": { "name": "frameloom" }, "spans": spans }],
    }] })
}

impl Span {
    fn json(&self, trace: &str) -> Value {
        let attributes: Vec<Value> = self
            .attributes
            .iter()
            .map(|(key, value)| {
                let value = match value {
                    // 64-bit numbers are strings in the JSON form of protocol buffers.
                    Value::Number(n) => json!({ "intValue": n.to_string() }),
                    other => json!({ "stringValue": other.as_str().unwrap_or_default() }),
                };
                json!({ "key": key, "value": value })
            })
            .collect();
        let status = match &self.status {
            Status::Unset => json!({ "code": 0 }),
            Status::Ok => json!({ "code": 1 }),
            Status::Error(why) => json!({ "code": 2, "message": why }),
        };
        let parent = if self.parent == 0 { String::new() } else { format!("{:016x}", self.parent) };
        json!({
            "traceId": trace,
            "spanId": format!("{:016x}", self.id),
            "parentSpanId": parent,
            "name": self.name,
            "kind": 1,
            "startTimeUnixNano": self.start.to_string(),
            "endTimeUnixNano": self.end.max(self.start).to_string(),
            "attributes": attributes,
            "status": status,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_where_traces_go() {
        let of = |pairs: &[(&str, &str)]| {
            TraceConfig::of(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(of(&[]).is_none());
        assert!(of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]).is_none());
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/");
        let config = of(&[base, ("OTEL_EXPORTER_OTLP_HEADERS", "a=b, c = d")]).unwrap();
        assert_eq!(config.url, "http://c:4318/v1/traces");
        assert_eq!(config.headers, [("a".into(), "b".into()), ("c".into(), "d".into())]);
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t/x");
        assert_eq!(of(&[base, own]).unwrap().url, "http://t/x");
    }

    #[test]
    fn a_trace_goes_on_in_the_next_server_and_when_tried_again() {
        let attempt = AttemptId::from_bits;
        let started = |n, at| Line::Started { task: Task::Segment(3), attempt: attempt(n), at };
        let ended = |n, at, in_slot| Line::Ended {
            task: Task::Segment(3),
            attempt: attempt(n),
            at,
            slot: "n/0".into(),
            in_slot,
            error: None,
        };
        let over = || Line::Over { at: 90, state: "succeeded".into(), error: None };
        let told = |lines: Vec<Line>| -> Vec<Value> {
            let mut reading = Reading::new(7, 5);
            lines.into_iter().for_each(|line| reading.line(line, "j"));
            reading.spans.iter().map(|span| span.json("00")).collect()
        };
        let spans = told(vec![
            Line::Uploaded { at: 10 },
            Line::Begun { at: 11 },
            started(100, 20),
            Line::Begun { at: 50 },
            started(101, 60),
            started(102, 60),
            ended(101, 70, Some(3_600_000_000_000)),
            over(),
        ]);
        let shown: Vec<_> = spans
            .iter()
            .map(|span| {
                let time = |key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
                let code = span["status"]["code"].as_u64().unwrap();
                let times = (time("startTimeUnixNano"), time("endTimeUnixNano"));
                (span["name"].as_str().unwrap(), times, code)
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("upload", (5, 10), 1),
                // Cut off by the restart.
                ("segment", (20, 50), 2),
                ("segment", (60, 70), 1),
                // A slot's clock must not begin before its attempt.
                ("slot.segment", (60, 70), 1),
                // A second attempt beside, stopped with the job.
                ("segment", (60, 90), 0),
                ("job", (5, 90), 1),
            ]
        );
        assert_eq!(spans[5]["spanId"], "0000000000000007");
        assert_eq!(spans[1]["parentSpanId"], spans[5]["spanId"]);
        assert_eq!(spans[3]["parentSpanId"], spans[2]["spanId"]);
        assert_eq!(spans[1]["attributes"][1]["value"]["intValue"], "3");
        let again = told(vec![Line::Again { at: 64 }, over()]);
        assert_eq!(again[0]["spanId"], "0000000000000047");
        assert_eq!(again[0]["startTimeUnixNano"], "64");
    }
}
