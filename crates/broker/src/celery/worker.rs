//! What Celery's tools see of a node, and how they steer it: events, and remote control.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use frameloom_core::Result;
use frameloom_core::frame_task::glob;
use frameloom_core::id::{AttemptId, EngineId};
use frameloom_core::wire::{Queue, Task, TaskMessage};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::link::back_off;
use super::message::{Address, Envelope, arguments, attempt_of, envelope, said, task_id};
use super::names::{FRAME_TASK, SEPARATOR, frame_queue, queue_name, task_name, tasks_of};
use super::{Celery, REMOTE_CONTROL, Shared};

/// How often a node tells that it lives, in seconds.
const EVERY: f64 = 2.0;

/// Events that wait to be published at most; more are left out.
const MOST_EVENTS: usize = 10_000;

/// How long no more is said of calls that are not understood.
const QUIET: Duration = Duration::from_secs(60);

/// The exchange by which tools get answers.
const REPLIES: &str = "reply.celery.pidbox";

/// Answers to remote control are kept for so long, in seconds.
const ANSWER_KEPT: i64 = 60;

/// A task at work, as tools show it.
#[derive(Debug, Clone)]
pub struct Active {
    /// The attempt.
    pub attempt: AttemptId,
    /// Its task.
    pub task: Task,
    /// Process id of its slot.
    pub pid: u32,
    /// When it was begun.
    pub since: Instant,
}

/// A node that tools may steer.
pub trait Steered: Send + Sync {
    /// The tasks at work.
    fn active(&self) -> Vec<Active>;

    /// Takes no new task, finishes those held, and ends.
    fn drain(&self);

    /// The queues that it receives from now.
    fn queues(&self) -> Vec<Queue>;

    /// Its engine, where it filters single frames.
    fn frames(&self) -> Option<EngineId>;

    /// Stops an attempt, if it is at work here.
    fn revoke(&self, attempt: AttemptId);

    /// The machine's load: means of 1, 5 and 15 minutes.
    fn load(&self) -> [f64; 3];
}

/// What tools are told of a node.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// The node's name.
    pub name: String,
    /// Segments done at a time.
    pub slots: usize,
    /// Frameloom's version.
    pub version: String,
}

enum Happened {
    Received,
    Started { pid: u32 },
    Succeeded { runtime: Duration },
    Failed { why: String },
    Revoked,
}

struct Event {
    message: TaskMessage,
    happened: Happened,
}

/// Tells what becomes of tasks. It never waits: what cannot be told at once is left out.
#[derive(Clone)]
pub struct Events(mpsc::Sender<Event>);

impl Events {
    fn tell(&self, message: &TaskMessage, happened: Happened) {
        // Tools that miss an event show less; nothing rests on it.
        drop(self.0.try_send(Event { message: message.clone(), happened }));
    }

    /// A task has come.
    pub fn received(&self, message: &TaskMessage) {
        self.tell(message, Happened::Received);
    }

    /// A slot has begun it.
    pub fn started(&self, message: &TaskMessage, pid: u32) {
        self.tell(message, Happened::Started { pid });
    }

    /// It ended well.
    pub fn succeeded(&self, message: &TaskMessage, runtime: Duration) {
        self.tell(message, Happened::Succeeded { runtime });
    }

    /// It failed.
    pub fn failed(&self, message: &TaskMessage, why: &str) {
        self.tell(message, Happened::Failed { why: why.to_owned() });
    }

    /// It was stopped.
    pub fn revoked(&self, message: &TaskMessage) {
        self.tell(message, Happened::Revoked);
    }
}

/// A node as tools see it.
struct Visible {
    shared: Arc<Shared>,
    config: WorkerConfig,
    hostname: String,
    steered: Arc<dyn Steered>,
    began: Instant,
    ended: BTreeMap<&'static str, u64>,
}

impl Celery {
    /// Shows a node to Celery's tools, and lets them steer it. Answers what its tasks are told by,
    /// and a future that runs until it is dropped; `offline` first says good-bye.
    pub fn show<F: Future<Output = ()> + Send>(
        &self,
        config: WorkerConfig,
        steered: Arc<dyn Steered>,
        offline: F,
    ) -> (Events, impl Future<Output = ()> + Send + use<F>) {
        let (sender, events) = mpsc::channel(MOST_EVENTS);
        let visible = Visible {
            shared: Arc::clone(&self.shared),
            hostname: format!("frameloom@{}", config.name),
            config,
            steered,
            began: Instant::now(),
            ended: BTreeMap::new(),
        };
        (Events(sender), visible.run(events, offline))
    }
}

impl Visible {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        offline: impl Future<Output = ()> + Send,
    ) {
        let (sender, mut asked) = mpsc::channel(64);
        let listening = tokio::spawn(listen(Arc::clone(&self.shared), sender));
        let mut beat = tokio::time::interval(Duration::from_secs_f64(EVERY));
        let mut offline = std::pin::pin!(offline);
        self.publish_alive("worker-online").await;
        loop {
            tokio::select! {
                () = &mut offline => break,
                _ = beat.tick() => self.publish_alive("worker-heartbeat").await,
                Some(event) = events.recv() => {
                    let mut batch = vec![event];
                    while batch.len() < 256 && let Ok(event) = events.try_recv() {
                        batch.push(event);
                    }
                    self.publish_tasks(batch).await;
                }
                Some(call) = asked.recv() => self.answer(call).await,
            }
        }
        listening.abort();
        self.publish_alive("worker-offline").await;
    }

    async fn publish(&self, messages: Vec<(String, String)>) {
        let mut pipe = redis::pipe();
        for (channel, message) in messages {
            pipe.publish(channel, message).ignore();
        }
        let done: Result<()> = self.shared.ask(&pipe).await;
        if let Err(error) = done {
            tracing::debug!(%error, "an event is lost");
        }
    }

    async fn publish_alive(&self, kind: &str) {
        let fields = json!({
            "freq": EVERY,
            "active": self.steered.active().len(),
            "processed": self.ended.values().sum::<u64>(),
            "loadavg": self.steered.load(),
            "sw_ident": "frameloom",
            "sw_ver": self.config.version,
            "sw_sys": "Linux",
        });
        self.publish(vec![self.shared.event(kind, &self.hostname, fields)]).await;
    }

    async fn publish_tasks(&mut self, events: Vec<Event>) {
        let mut messages = Vec::new();
        for Event { message, happened } in events {
            let uuid = task_id(message.attempt);
            let name = task_name(message.task);
            let (kind, fields) = match happened {
                Happened::Received => (
                    "task-received",
                    json!({
                        "uuid": uuid, "name": name, "args": "()",
                        "kwargs": arguments(&message, self.shared.store).to_string(),
                        "root_id": uuid, "parent_id": null, "retries": 0, "eta": null, "expires": null,
                    }),
                ),
                Happened::Started { pid } => ("task-started", json!({ "uuid": uuid, "pid": pid })),
                Happened::Succeeded { runtime } => {
                    *self.ended.entry(name).or_default() += 1;
                    let runtime = runtime.as_secs_f64();
                    (
                        "task-succeeded",
                        json!({ "uuid": uuid, "result": "None", "runtime": runtime }),
                    )
                }
                Happened::Failed { why } => {
                    *self.ended.entry(name).or_default() += 1;
                    ("task-failed", json!({ "uuid": uuid, "exception": why, "traceback": why }))
                }
                Happened::Revoked => (
                    "task-revoked",
                    json!({ "uuid": uuid, "terminated": true, "signum": null, "expired": false }),
                ),
            };
            messages.push(self.shared.event(kind, &self.hostname, fields));
        }
        self.publish(messages).await;
    }

    /// Does what a tool asks, and answers where it wants an answer.
    async fn answer(&self, call: Call) {
        let to_us = |names: &[String]| names.contains(&self.hostname);
        if call.destination.as_deref().is_some_and(|names| !to_us(names)) {
            return;
        }
        if call.destination.is_none() && !self.matches(&call) {
            return;
        }
        let Some(answer) = self.obey(&call) else { return };
        let Some(to) = call.reply_to else { return };
        if let Err(error) = self.reply(&to, call.ticket.as_deref(), answer).await {
            tracing::debug!(%error, "an answer is lost");
        }
    }

    /// Whether a pattern that a tool gives means this node.
    fn matches(&self, call: &Call) -> bool {
        match (call.pattern.as_deref(), call.matcher.as_deref()) {
            (None, _) => true,
            (Some(pattern), Some("glob") | None) => glob(pattern, &self.hostname),
            // Regular expressions are answered by nobody rather than by all.
            _ => false,
        }
    }

    fn obey(&self, call: &Call) -> Option<Value> {
        let active = || -> Value {
            let task = |active: &Active| {
                let since = active.since.elapsed().as_secs_f64();
                let name = task_name(active.task);
                json!({
                    "id": task_id(active.attempt), "name": name, "type": name,
                    "args": [], "kwargs": { "task": active.task.to_string() },
                    "hostname": self.hostname, "time_start": epoch_seconds() - since,
                    "acknowledged": true, "worker_pid": active.pid,
                    "delivery_info": { "exchange": "", "routing_key": "", "priority": null, "redelivered": false },
                })
            };
            self.steered.active().iter().map(task).collect()
        };
        let receives = self.steered.queues();
        let mut queues: Vec<String> = receives.iter().map(|queue| queue_name(*queue)).collect();
        let mut tasks: Vec<&str> = receives.iter().flat_map(|q| tasks_of(*q)).copied().collect();
        if let Some(engine) = self.steered.frames() {
            queues.extend([frame_queue(engine), FRAME_TASK.to_owned()]);
            tasks.push(FRAME_TASK);
        }
        tasks.sort_unstable();
        tasks.dedup();
        Some(match call.method.as_str() {
            "ping" => json!({ "ok": "pong" }),
            "stats" => json!({
                "total": self.ended,
                "pid": std::process::id(),
                "clock": self.shared.clock.load(std::sync::atomic::Ordering::Relaxed).to_string(),
                "uptime": self.began.elapsed().as_secs(),
                "pool": {
                    "max-concurrency": self.config.slots,
                    "processes": self.steered.active().iter().map(|a| a.pid).collect::<Vec<_>>(),
                    "implementation": "frameloom slots",
                },
                "broker": { "transport": "redis", "hostname": self.shared.link.shown() },
                "prefetch_count": 0,
                "rusage": {},
                "sw_ident": "frameloom",
                "sw_ver": self.config.version,
            }),
            "active" => active(),
            "registered" | "registered_tasks" => json!(tasks),
            "active_queues" => queues
                .iter()
                .map(|name| {
                    json!({
                        "name": name, "routing_key": name, "durable": true, "exclusive": false,
                        "auto_delete": false, "alias": null, "bindings": [],
                        "exchange": { "name": "", "type": "direct", "durable": true },
                    })
                })
                .collect(),
            "conf" => json!({
                "broker_url": self.shared.link.shown(),
                "task_queues": queues,
                "worker_concurrency": self.config.slots,
                "task_serializer": "json",
                "accept_content": ["json"],
                "task_ignore_result": true,
            }),
            "revoked" => json!(self.shared.revoked.ids()),
            "scheduled" | "reserved" | "query_task" => json!([]),
            "report" => json!({ "ok": format!("frameloom {}", self.config.version) }),
            "clock" => {
                json!({ "clock": self.shared.clock.load(std::sync::atomic::Ordering::Relaxed) })
            }
            "shutdown" => {
                tracing::info!("a shutdown by remote control: tasks at work finish first");
                self.steered.drain();
                // As Celery: whoever shuts down hears nothing.
                return None;
            }
            "revoke" => {
                let ids: Vec<&str> = match call.arguments.get("task_id") {
                    Some(Value::String(id)) => vec![id],
                    Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_str).collect(),
                    _ => Vec::new(),
                };
                for id in &ids {
                    self.shared.revoked.add(id);
                }
                for attempt in ids.into_iter().filter_map(attempt_of) {
                    self.steered.revoke(attempt);
                }
                json!({ "ok": "tasks are stopped where they are at work, and frames are not begun" })
            }
            "enable_events" | "disable_events" => json!({ "ok": "task events are always told" }),
            "terminate" => json!({ "error": "use revoke with terminate" }),
            // Workers greet each other so; no answer is one.
            "hello" => return None,
            other => {
                json!({ "error": format!("no such command here: '{}'", other.escape_debug()) })
            }
        })
    }

    async fn reply(&self, to: &ReplyTo, ticket: Option<&str>, answer: Value) -> Result<()> {
        if to.exchange != REPLIES {
            // Whoever else's queue it is.
            return Ok(());
        }
        let known = format!("_kombu.binding.{REPLIES}");
        let (members,): (Vec<String>,) = self.shared.ask(redis::pipe().smembers(known)).await?;
        let body = json!({ &self.hostname: answer });
        let clock = self.shared.clock.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let headers = json!({ "ticket": ticket, "clock": clock });
        for member in members {
            let mut parts = member.split(SEPARATOR);
            let (Some(key), Some(_), Some(queue)) = (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            if key != to.routing_key {
                continue;
            }
            let address = Address {
                exchange: &to.exchange,
                routing_key: &to.routing_key,
                urgency: 0,
                delivery_mode: 1,
            };
            let message = envelope(&body, &headers, &address, json!({}));
            let mut pipe = redis::pipe();
            pipe.lpush(queue, message).ignore();
            // Whoever asked may be gone, and nobody else reads it.
            pipe.expire(queue, ANSWER_KEPT).ignore();
            let () = self.shared.ask(&pipe).await?;
        }
        Ok(())
    }
}

/// Seconds since 1970, as Celery has times.
pub(super) fn epoch_seconds() -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact for some thousand years")]
    let now = jiff::Timestamp::now().as_millisecond() as f64;
    now / 1e3
}

#[derive(Debug, Deserialize)]
struct ReplyTo {
    exchange: String,
    routing_key: String,
}

/// What a tool asks.
#[derive(Debug, Deserialize)]
struct Call {
    method: String,
    #[serde(default)]
    arguments: Value,
    #[serde(default)]
    destination: Option<Vec<String>>,
    #[serde(default)]
    pattern: Option<String>,
    #[serde(default)]
    matcher: Option<String>,
    #[serde(default)]
    ticket: Option<String>,
    #[serde(default)]
    reply_to: Option<ReplyTo>,
}

/// Reads what a tool asks; `None` where it came too late.
fn read_call(raw: &[u8]) -> Result<Option<Call>> {
    let envelope = Envelope::read(raw)?;
    let expires = envelope.headers.get("expires").and_then(Value::as_f64);
    if expires.is_some_and(|at| at < epoch_seconds()) {
        return Ok(None);
    }
    let call = serde_json::from_value(envelope.body()?);
    call.map(Some).map_err(|e| {
        frameloom_core::Error::invalid(format!(
            "a remote control call that is wrong ({})",
            said(&e)
        ))
    })
}

/// Hears what tools ask, over a connection of its own that comes back.
async fn listen(shared: Arc<Shared>, calls: mpsc::Sender<Call>) {
    let channel = format!("/{}.{REMOTE_CONTROL}", shared.link.database());
    let mut tries = 0;
    let mut quiet_until = Instant::now();
    loop {
        match shared.link.listener().await {
            Ok(mut listener) => {
                if listener.subscribe(&channel).await.is_ok() {
                    tries = 0;
                    let mut messages = listener.into_on_message();
                    while let Some(message) = messages.next().await {
                        match read_call(message.get_payload_bytes()) {
                            Ok(Some(call)) => {
                                if calls.send(call).await.is_err() {
                                    return;
                                }
                            }
                            Ok(None) => {}
                            Err(error) if quiet_until <= Instant::now() => {
                                quiet_until = Instant::now() + QUIET;
                                tracing::warn!(%error, "remote control is not understood");
                            }
                            Err(error) => tracing::debug!(%error, "not understood either"),
                        }
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "cannot hear remote control"),
        }
        tokio::time::sleep(back_off(tries)).await;
        tries += 1;
    }
}
