//! Messages as Celery's second protocol has them, in the envelope of kombu's Redis transport.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use frameloom_core::id::{AttemptId, JobId, StoreId};
use frameloom_core::wire::{FrameMessage, FrameTask, PROTOCOL, StrangeFrame, Task, TaskMessage};
use frameloom_core::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::names::{FRAME_TASK, TASKS};
use crate::{LEAST_URGENT, Urgency};

/// Largest message that is read, in bytes; ours have less than 4 KB.
const MOST: usize = 64 << 10;

/// Characters of a task's arguments that tools see.
const MOST_SHOWN: usize = 400;

/// Characters of what a parser says of a message that are told: it quotes the message.
const MOST_TOLD: usize = 200;

/// A random UUID, as text.
pub(super) fn new_uuid() -> String {
    // Without randomness a tag repeats, which nothing of ours looks at.
    let half = || u128::from(getrandom::u64().unwrap_or_default());
    uuid(half() << 64 | half())
}

/// 128 bits as a UUID.
pub(super) fn uuid(bits: u128) -> String {
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The id of an attempt's task, as Celery writes ids.
pub(super) fn task_id(attempt: AttemptId) -> String {
    uuid(attempt.bits())
}

/// The attempt of a task's id.
pub(super) fn attempt_of(id: &str) -> Option<AttemptId> {
    id.replace('-', "").parse().ok()
}

/// Where a message goes, for its envelope.
pub(super) struct Address<'a> {
    pub(super) exchange: &'a str,
    pub(super) routing_key: &'a str,
    pub(super) urgency: Urgency,
    /// 1: not kept by a broker that could keep it; 2: kept.
    pub(super) delivery_mode: u8,
}

/// A message in kombu's envelope.
pub(super) fn envelope(body: &Value, headers: &Value, to: &Address<'_>, more: Value) -> String {
    let mut properties = json!({
        "delivery_mode": to.delivery_mode,
        "delivery_info": { "exchange": to.exchange, "routing_key": to.routing_key },
        "priority": to.urgency,
        "body_encoding": "base64",
        "delivery_tag": new_uuid(),
    });
    if let (Value::Object(properties), Value::Object(more)) = (&mut properties, more) {
        properties.extend(more);
    }
    json!({
        "body": BASE64.encode(body.to_string()),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": properties,
    })
    .to_string()
}

/// The arguments of a task: references, never pixels.
pub(super) fn arguments(message: &TaskMessage, store: StoreId) -> Value {
    let mut kwargs = json!({
        "version": PROTOCOL,
        "store": store,
        "job": message.job,
        "attempt": message.attempt,
    });
    if let Some(k) = message.task.segment() {
        kwargs["segment"] = k.into();
    }
    kwargs
}

/// The arguments of a frame's task.
pub(super) fn frame_arguments(message: &FrameMessage, store: StoreId) -> Value {
    let mut kwargs = json!(message);
    kwargs["version"] = PROTOCOL.into();
    kwargs["store"] = json!(store);
    kwargs
}

/// A task to send.
pub(super) struct Sent<'a> {
    pub(super) task: &'a str,
    pub(super) id: &'a str,
    pub(super) kwargs: &'a Value,
}

/// Arguments as tools show them: cut off, for frames' files are many.
pub(super) fn repr(kwargs: &Value) -> String {
    let text = kwargs.to_string();
    match text.char_indices().nth(MOST_SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// A task as a message that a Celery worker can read.
pub(super) fn encode(task: &Sent<'_>, queue: &str, urgency: Urgency, origin: &str) -> String {
    let Sent { task, id, kwargs } = task;
    let body = json!([
        [],
        kwargs,
        { "callbacks": null, "errbacks": null, "chain": null, "chord": null }
    ]);
    let headers = json!({
        "lang": "rs",
        "task": task,
        "id": id,
        "root_id": id,
        "parent_id": null,
        "group": null,
        "retries": 0,
        "eta": null,
        "expires": null,
        "timelimit": [null, null],
        "argsrepr": "()",
        "kwargsrepr": repr(kwargs),
        "origin": origin,
        "ignore_result": true,
    });
    let to = Address { exchange: "", routing_key: queue, urgency, delivery_mode: 2 };
    envelope(&body, &headers, &to, json!({ "correlation_id": id }))
}

/// The parts of an envelope.
#[derive(Debug, Deserialize)]
pub(super) struct Envelope {
    body: String,
    #[serde(rename = "content-type", default)]
    content_type: String,
    #[serde(default)]
    pub(super) headers: Map<String, Value>,
    #[serde(default)]
    properties: Properties,
}

/// The properties that are looked at, as kombu has them.
#[derive(Debug, Default, Deserialize)]
struct Properties {
    #[serde(default)]
    body_encoding: Option<String>,
    #[serde(default)]
    delivery_tag: Option<String>,
    /// Marked where the message is delivered again.
    #[serde(default, rename = "delivery_info")]
    _delivery_info: Option<Map<String, Value>>,
}

impl Envelope {
    /// Reads an envelope.
    ///
    /// # Errors
    /// Invalid, in words.
    pub(super) fn read(raw: &[u8]) -> Result<Self> {
        if raw.len() > MOST {
            return Err(Error::invalid(format!("a message of {} bytes", raw.len())));
        }
        serde_json::from_slice(raw).map_err(|e| {
            Error::invalid(format!("a message that is not kombu's JSON ({})", said(&e)))
        })
    }

    /// The body's JSON.
    ///
    /// # Errors
    /// Invalid, in words.
    pub(super) fn body(&self) -> Result<Value> {
        if self.content_type != "application/json" {
            return Err(Error::invalid(format!(
                "content type '{}'; only application/json is read",
                shown(&self.content_type)
            )));
        }
        let text = match self.properties.body_encoding.as_deref() {
            Some("base64") => BASE64
                .decode(&self.body)
                .map_err(|e| Error::invalid(format!("a body that is not base64 ({})", said(&e))))?,
            _ => self.body.clone().into_bytes(),
        };
        serde_json::from_slice(&text)
            .map_err(|e| Error::invalid(format!("a body that is not JSON ({})", said(&e))))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(Value::as_str)
    }

    /// Who sent it, for a log line.
    pub(super) fn origin(&self) -> String {
        shown(self.header("origin").unwrap_or("unknown"))
    }
}

/// A message as it goes to another receiver, marked so, and how urgent it is.
///
/// # Errors
/// Invalid where it is not kombu's.
pub(super) fn redelivered(message: Value) -> Result<(String, Urgency)> {
    let wrong = || Error::invalid("a noted message that is not kombu's");
    let Value::Object(mut message) = message else { return Err(wrong()) };
    part(&mut message, "headers").ok_or_else(wrong)?.insert("redelivered".into(), true.into());
    let properties = part(&mut message, "properties").ok_or_else(wrong)?;
    let urgency = properties.get("priority").and_then(Value::as_u64).unwrap_or(0);
    let info = part(properties, "delivery_info").ok_or_else(wrong)?;
    info.insert("redelivered".into(), true.into());
    let text = Value::Object(message).to_string();
    Envelope::read(text.as_bytes())?;
    Ok((text, Urgency::try_from(urgency).unwrap_or(LEAST_URGENT)))
}

/// An object within an object, made where there is none; `None` where something else is there.
fn part<'a>(of: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    let value = of.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut()
}

/// A stranger's text, cut off and without control characters.
fn shown(text: &str) -> String {
    cut(text, 80)
}

fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).flat_map(char::escape_debug).take(most).collect()
}

/// What a parser says, which may quote a stranger's text.
pub(super) fn said(error: &impl std::fmt::Display) -> String {
    cut(&error.to_string(), MOST_TOLD)
}

/// Most frames and filters of a stranger's task.
const MOST_FRAMES: usize = 64;
const MOST_FILTERS: usize = 64;

#[derive(Deserialize)]
struct Strange {
    filters: Vec<String>,
    frames: Vec<String>,
    #[serde(default)]
    frame: u64,
    output: String,
}

#[derive(Deserialize)]
struct Arguments {
    job: JobId,
    attempt: AttemptId,
    #[serde(default)]
    segment: Option<u32>,
}

/// A message that nodes of a store do.
///
/// # Errors
/// Invalid: what it is that nobody should have sent, and from where.
pub(super) fn decode(raw: &[u8], store: StoreId) -> Result<TaskMessage> {
    let envelope = Envelope::read(raw)?;
    task(&envelope, store).map_err(|e| e.at(format!("from {}", envelope.origin())))
}

/// The name and the keyword arguments of a task that is to be done now, as nodes know it.
fn asked(envelope: &Envelope) -> Result<(&str, Value)> {
    let Some(name) = envelope.header("task") else {
        return Err(Error::invalid("a message of Celery's first protocol, or no task at all"));
    };
    if !TASKS.contains(&name) {
        return Err(Error::invalid(format!("task '{}', which nobody here does", shown(name))));
    }
    due(envelope)?;
    let mut body = envelope.body()?;
    let kwargs = body.get_mut(1).filter(|kwargs| kwargs.is_object()).map(Value::take);
    let kwargs = kwargs.ok_or_else(|| Error::invalid("a body that is not [args, kwargs, …]"))?;
    Ok((name, kwargs))
}

/// Whether arguments are of our version and store.
fn fits(kwargs: &Value, store: StoreId) -> Result<()> {
    let version = kwargs.get("version").and_then(Value::as_u64);
    if version != Some(u64::from(PROTOCOL)) {
        return Err(Error::invalid(format!(
            "version {} of our messages; the number {PROTOCOL} is awaited",
            shown(&kwargs.get("version").unwrap_or(&Value::Null).to_string())
        )));
    }
    let given = kwargs.get("store").and_then(Value::as_str).unwrap_or_default();
    if given != store.to_string() {
        return Err(Error::invalid(format!("a task on store {}; ours is {store}", shown(given))));
    }
    Ok(())
}

/// Arguments as they should be.
fn read<T: serde::de::DeserializeOwned>(name: &str, kwargs: Value) -> Result<T> {
    serde_json::from_value(kwargs)
        .map_err(|e| Error::invalid(format!("arguments of '{name}' that are wrong ({})", said(&e))))
}

/// A frame from a queue of this name: of a job from an engine's, of a stranger from that for all.
///
/// # Errors
/// As [`decode`].
pub(super) fn decode_frame(queue: &str, raw: &[u8], store: StoreId) -> Result<FrameTask> {
    let envelope = Envelope::read(raw)?;
    frame_task(&envelope, queue == FRAME_TASK, store)
        .map_err(|e| e.at(format!("from {}", envelope.origin())))
}

fn frame_task(envelope: &Envelope, strange: bool, store: StoreId) -> Result<FrameTask> {
    let (name, mut kwargs) = asked(envelope)?;
    if name != FRAME_TASK {
        return Err(Error::invalid(format!("task '{name}' in a queue of frames")));
    }
    if !strange {
        fits(&kwargs, store)?;
        return read(name, kwargs).map(FrameTask::Ours);
    }
    // Strangers need not say for which version and store: then it is for any.
    if kwargs.get("version").is_none() {
        kwargs["version"] = PROTOCOL.into();
    }
    if kwargs.get("store").is_none() {
        kwargs["store"] = store.to_string().into();
    }
    fits(&kwargs, store)?;
    let given: Strange = read(name, kwargs)?;
    let frame = usize::try_from(given.frame).unwrap_or(usize::MAX);
    if !(1..=MOST_FRAMES).contains(&given.frames.len()) || frame >= given.frames.len() {
        return Err(Error::invalid(format!(
            "frame {} of {}; 1 to {MOST_FRAMES} frames are taken, counted from 0",
            given.frame,
            given.frames.len()
        )));
    }
    if given.filters.len() > MOST_FILTERS {
        return Err(Error::invalid(format!("more than {MOST_FILTERS} filters")));
    }
    let tag = envelope.properties.delivery_tag.clone();
    let tag = tag.ok_or_else(|| Error::invalid("a message without a delivery tag"))?;
    Ok(FrameTask::Stranger(StrangeFrame {
        tag,
        id: shown(envelope.header("id").unwrap_or_default()),
        filters: given.filters,
        frames: given.frames.into_iter().map(|path| place(&path)).collect::<Result<_>>()?,
        frame,
        output: place(&given.output)?,
    }))
}

/// A path of a stranger's frame: `frames/NAME/…`, without a way back.
fn place(path: &str) -> Result<PathBuf> {
    let parts: Vec<&str> = path.split('/').collect();
    let plain = |part: &&str| !part.is_empty() && !part.starts_with('.');
    if parts.len() < 3 || parts[0] != "frames" || path.len() > 1024 || !parts.iter().all(plain) {
        return Err(Error::invalid(format!(
            "path '{}' is not frames/DIRECTORY/FILE, relative to the store's root",
            shown(path)
        )));
    }
    Ok(PathBuf::from(path))
}

fn task(envelope: &Envelope, store: StoreId) -> Result<TaskMessage> {
    let (name, kwargs) = asked(envelope)?;
    fits(&kwargs, store)?;
    let given: Arguments = read(name, kwargs)?;
    let task = match (name, given.segment) {
        ("frameloom.plan", None) => Task::Plan,
        ("frameloom.track", None) => Task::Track,
        ("frameloom.concat", None) => Task::Concat,
        ("frameloom.detect", Some(k)) => Task::Detect(k),
        ("frameloom.segment", Some(k)) => Task::Segment(k),
        _ => return Err(Error::invalid(format!("'{name}' with or without a segment"))),
    };
    Ok(TaskMessage { job: given.job, task, attempt: given.attempt })
}

/// Whether a task is to be done now.
fn due(envelope: &Envelope) -> Result<()> {
    let moment = |name: &str| match envelope.headers.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let text = value.as_str().unwrap_or_default();
            let wrong = || Error::invalid(format!("{name} '{}'", shown(&value.to_string())));
            text.parse::<jiff::Timestamp>().map(Some).map_err(|_| wrong())
        }
    };
    let now = jiff::Timestamp::now();
    if moment("expires")?.is_some_and(|at| at <= now) {
        return Err(Error::invalid("a task that has expired"));
    }
    if moment("eta")?.is_some_and(|at| at > now) {
        return Err(Error::invalid("a task for later (eta), which nobody here holds back"));
    }
    Ok(())
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
