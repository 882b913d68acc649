//! Traces by OpenTelemetry's protocol (OTLP over HTTP, as JSON): a job is one trace, from its first
//! byte to its output. It is sent once, when the job ends.
//!
//! Source: OpenTelemetry protocol 1.x, `ExportTraceServiceRequest` in its JSON form.

use std::sync::Arc;
use std::time::Duration;

use frameloom_core::id::{AttemptId, JobId};
use frameloom_core::wire::Task;
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

/// Spans of one job that are kept at most; what comes after is counted only.
const MOST_SPANS: usize = 20_000;

/// A span of a job.
#[derive(Debug)]
struct Span {
    name: String,
    id: u64,
    parent: u64,
    start: u64,
    end: u64,
    attributes: Vec<(&'static str, Value)>,
    error: Option<String>,
}

/// What is known of a job's trace so far.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    spans: Vec<Span>,
    open: Vec<(AttemptId, u64)>,
    dropped: usize,
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0)
}

/// The least 64 bits of an id, for a span: never 0.
fn span_id(bits: u128) -> u64 {
    u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(1).max(1)
}

impl Trace {
    /// Begins anew, for a job that is begun.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Hears what the engine tells.
    pub(crate) fn hear(&mut self, job: JobId, event: &JobEvent) {
        match event {
            JobEvent::Started { attempt, .. } => self.open.push((*attempt, now())),
            JobEvent::Accepted { task, attempt, in_slot, slot, .. } => {
                self.close(job, *task, *attempt, slot, *in_slot, None);
            }
            JobEvent::Failed { task, attempt, error, .. } => {
                let why = error.message().to_owned();
                self.close(job, *task, *attempt, "", None, Some(why));
            }
            JobEvent::Planned { .. } | JobEvent::Progress(_) => {}
        }
    }

    fn close(
        &mut self,
        job: JobId,
        task: Task,
        attempt: AttemptId,
        slot: &str,
        in_slot: Option<Duration>,
        error: Option<String>,
    ) {
        let end = now();
        let begun = self.open.iter().position(|(open, _)| *open == attempt);
        let start = begun.map_or(end, |at| self.open.swap_remove(at).1);
        if self.spans.len() + 2 > MOST_SPANS {
            self.dropped += 1;
            return;
        }
        let (root, id) = (span_id(job.bits()), span_id(attempt.bits()));
        let mut attributes = vec![("frameloom.attempt", json!(attempt.to_string()))];
        if let Some(k) = task.segment() {
            attributes.push(("frameloom.segment", json!(k)));
        }
        let name = task.kind();
        let span = Span { name: name.into(), id, parent: root, start, end, attributes, error };
        self.spans.push(span);
        if let Some(took) = in_slot {
            let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            self.spans.push(Span {
                name: format!("slot.{name}"),
                id: id.rotate_left(1).max(1),
                parent: id,
                start: end.saturating_sub(took).max(start),
                end,
                attributes: vec![("frameloom.slot", json!(slot))],
                error: None,
            });
        }
    }
}

/// The request that tells of a whole job.
fn request(config: &TraceConfig, job: &Job, trace: &Trace) -> Value {
    let at = |ms: i64| ms.max(0).unsigned_abs().saturating_mul(1_000_000);
    let root = span_id(job.id().bits());
    let state = job.state();
    let mut spans = vec![Span {
        name: "job".into(),
        id: root,
        parent: 0,
        start: at(job.submission.created_ms),
        end: job.ended_ms().map_or_else(now, at),
        attributes: vec![
            ("frameloom.job", json!(job.id().to_string())),
            ("frameloom.state", json!(state.name())),
            ("frameloom.spans_dropped", json!(trace.dropped)),
        ],
        error: (state == State::Failed)
            .then(|| job.error().map_or_else(String::new, |error| error.message().to_owned())),
    }];
    if let Some(end) = job.uploaded_ms() {
        spans.push(Span {
            name: "upload".into(),
            id: root.rotate_left(1).max(1),
            parent: root,
            start: at(job.submission.created_ms),
            end: at(end),
            attributes: Vec::new(),
            error: None,
        });
    }
    let trace_id = job.id().to_string();
    let spans: Vec<Value> =
        spans.iter().chain(&trace.spans).map(|span| span.json(&trace_id)).collect();
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
        let status = match &self.error {
            Some(why) => json!({ "code": 2, "message": why }),
            None => json!({ "code": 1 }),
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

/// Sends a job's trace in the background, where the server is told to.
pub(crate) fn export(jobs: &Arc<Jobs>, job: &Arc<Job>) {
    let Some(config) = jobs.config.traces.clone() else { return };
    let body = request(&config, job, &job.trace()).to_string();
    let (jobs, id) = (Arc::clone(jobs), job.id());
    tokio::task::spawn_blocking(move || {
        let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        headers.extend(config.headers);
        if let Err(error) = (jobs.parts.post)(&config.url, &headers, &body) {
            tracing::warn!(%error, job = %id, "a trace was not taken");
        }
    });
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
    fn attempts_are_spans_of_their_job() {
        let (job, attempt) = (JobId::from_bits(7), AttemptId::from_bits(9));
        let mut trace = Trace::default();
        trace.hear(job, &JobEvent::Started { task: Task::Segment(3), attempt, slot_pid: 1 });
        trace.hear(
            job,
            &JobEvent::Accepted {
                task: Task::Segment(3),
                attempt,
                took: Duration::from_secs(1),
                in_slot: Some(Duration::from_secs(3600)),
                slot: "n/0".into(),
            },
        );
        let spans: Vec<Value> = trace.spans.iter().map(|span| span.json("00")).collect();
        assert_eq!(spans[0]["name"], "segment");
        assert_eq!(spans[0]["parentSpanId"], "0000000000000007");
        assert_eq!(spans[1]["parentSpanId"], spans[0]["spanId"]);
        // A slot's clock must not begin before its attempt.
        assert!(spans[1]["startTimeUnixNano"].as_str() >= spans[0]["startTimeUnixNano"].as_str());
        assert_eq!(spans[0]["attributes"][1]["value"]["intValue"], "3");
    }
}
