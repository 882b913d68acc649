//! Celery's protocol over Redis, so that nodes on other machines take tasks, and Celery's own tools
//! see them.
//!
//! Redis holds nothing that matters: a message that is lost, late or doubled changes no result. So a
//! message is popped and that is all; there is no list of unacknowledged ones to restore from. Only for
//! frames that strangers send the keys are kept that kombu has for it.

mod announced;
mod link;
mod message;
mod names;
mod receiver;
mod revoked;
mod unacked;
mod worker;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use frameloom_core::id::{AttemptId, EngineId, StoreId};
use frameloom_core::wire::{FrameMessage, FrameTask, Queue, StrangeFrame, TaskMessage};
use frameloom_core::{Error, Result};
use redis::aio::MultiplexedConnection;
use serde_json::json;
use tokio::time::Instant;

use crate::{Broker, LEAST_URGENT, Reply, Urgency};
use link::Link;
use message::{Address, encode, envelope, task_id};
use names::{FRAME_TASK, frame_queue};
use receiver::{MADE_KNOWN_EVERY, Receivers, Source};
use revoked::Revoked;

pub use announced::Announcement;
pub use link::Access;
pub use names::{TASKS, queue_name, task_name};
pub use worker::{Active, Events, Steered, WorkerConfig};

/// The exchange by which tools steer workers.
const REMOTE_CONTROL: &str = "celery.pidbox";

/// After how long a stranger's frame that is not done is given to another node.
const RESTORE_AFTER: Duration = Duration::from_secs(300);

/// What queues and connections share.
struct Shared {
    link: Link,
    /// The connection for short commands; none while it is broken.
    connection: tokio::sync::Mutex<Option<MultiplexedConnection>>,
    store: StoreId,
    /// Who sends, as Celery has it: `gen4711@host`.
    origin: String,
    refused: AtomicU64,
    /// Tasks that are not to be begun.
    revoked: Revoked,
    /// Celery's logical clock.
    clock: AtomicU64,
    /// After how many milliseconds a stranger's frame that is not done is given to another node.
    restore_after_ms: AtomicU64,
}

impl Shared {
    fn restore_after(&self) -> Duration {
        Duration::from_millis(self.restore_after_ms.load(Ordering::Relaxed))
    }

    /// Sends commands over the shared connection, which is made anew where it is broken.
    async fn ask<T: redis::FromRedisValue>(&self, pipe: &redis::Pipeline) -> Result<T> {
        let mut connection = {
            let mut place = self.connection.lock().await;
            match &*place {
                Some(connection) => connection.clone(),
                None => place.insert(self.link.connection().await?).clone(),
            }
        };
        let answer: redis::RedisResult<T> = pipe.query_async(&mut connection).await;
        match answer {
            Ok(answer) => Ok(answer),
            Err(e) => {
                if link::is_spoilt(&e) {
                    *self.connection.lock().await = None;
                }
                Err(self.link.error(&e))
            }
        }
    }

    /// Counts and tells of a message that nobody should have sent.
    fn refuse(&self, queue: &str, error: &Error) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%error, queue, "a message is refused");
    }

    /// Makes a queue known to tools that list queues.
    async fn make_known(&self, queue: &str) -> Result<()> {
        let (sets, member) = names::binding(queue);
        let mut pipe = redis::pipe();
        pipe.atomic();
        for set in sets {
            pipe.sadd(set, &member).ignore();
        }
        self.ask(&pipe).await
    }

    /// An event's message and where it is published.
    fn event(&self, kind: &str, hostname: &str, mut fields: serde_json::Value) -> (String, String) {
        let clock = self.clock.fetch_add(1, Ordering::Relaxed) + 1;
        if let serde_json::Value::Object(fields) = &mut fields {
            let common = json!({
                "type": kind, "hostname": hostname, "pid": std::process::id(), "clock": clock,
                "utcoffset": 0, "timestamp": worker::epoch_seconds(),
            });
            if let serde_json::Value::Object(common) = common {
                fields.extend(common);
            }
        }
        let routing_key = kind.replacen('-', ".", 1);
        let to = Address {
            exchange: "celeryev",
            routing_key: &routing_key,
            urgency: 0,
            delivery_mode: 1,
        };
        let message = envelope(&fields, &json!({ "hostname": hostname }), &to, json!({}));
        (format!("/{}.celeryev/{routing_key}", self.link.database()), message)
    }
}

/// Queues in Redis.
pub struct Celery {
    shared: Arc<Shared>,
    receivers: Receivers<Queue, TaskMessage>,
    frame_receivers: Receivers<EngineId, FrameTask>,
    /// When queues were last made known.
    known: Mutex<BTreeMap<String, Instant>>,
}

impl Celery {
    /// Connects to the Redis at `url`, for tasks on this store.
    ///
    /// # Errors
    /// Invalid, Unauthorized or Unavailable: what is wrong with address, certificate, password or database.
    pub async fn connect(url: &str, access: &Access, store: StoreId) -> Result<Self> {
        let link = Link::new(url, access)?;
        let name = host_name();
        let shared = Shared {
            connection: tokio::sync::Mutex::new(None),
            store,
            origin: format!("gen{}@{name}", std::process::id()),
            refused: AtomicU64::new(0),
            revoked: Revoked::default(),
            clock: AtomicU64::new(0),
            restore_after_ms: AtomicU64::new(millis(RESTORE_AFTER)),
            link,
        };
        let _: Vec<String> = shared.ask(redis::pipe().cmd("PING")).await?;
        Ok(Self {
            shared: Arc::new(shared),
            receivers: Receivers::default(),
            frame_receivers: Receivers::default(),
            known: Mutex::new(BTreeMap::new()),
        })
    }

    /// The address without a password.
    pub fn address(&self) -> &str {
        self.shared.link.shown()
    }

    /// What should be set otherwise in Redis, with what to do.
    pub async fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let at = self.shared.link.shown();
        let info: Result<Vec<String>> =
            self.shared.ask(redis::pipe().cmd("INFO").arg("server")).await;
        let version = info.ok().and_then(|info| {
            let line =
                info.first()?.lines().find_map(|line| line.strip_prefix("redis_version:"))?;
            Some(line.trim().to_owned())
        });
        if let Some(version) = version.filter(|version| is_old(version)) {
            warnings.push(format!("{at} is Redis {version}; take 6.2 or newer"));
        }
        // Managed Redis often allows no CONFIG.
        let mut asked = redis::pipe();
        asked.cmd("CONFIG").arg("GET").arg("maxmemory-policy");
        let policy: Result<Vec<Vec<String>>> = self.shared.ask(&asked).await;
        if let Some([_, policy]) = policy.unwrap_or_default().first().map(Vec::as_slice)
            && policy != "noeviction"
        {
            warnings.push(format!(
                "{at} has maxmemory-policy {policy} and may throw queues away; \
                 set 'maxmemory-policy noeviction' in its configuration"
            ));
        }
        if self.shared.link.is_open() {
            warnings.push(format!(
                "{at} is reached over the network without a password: whoever reaches it may send tasks; \
                 set 'requirepass' and give --broker-password-file"
            ));
        }
        warnings
    }

    /// Sends a task with frames to a queue of Python workers; `fields` are its arguments beside the store.
    ///
    /// # Errors
    /// Unavailable where Redis does not answer.
    pub async fn send_frames(
        &self,
        queue: &str,
        task: &str,
        attempt: AttemptId,
        mut fields: serde_json::Value,
        urgency: Urgency,
    ) -> Result<()> {
        let shared = &self.shared;
        fields["store"] = shared.store.to_string().into();
        self.send_task(queue, task, attempt, &fields, urgency).await
    }

    /// How many messages wait in a queue of this name.
    ///
    /// # Errors
    /// Unavailable where Redis does not answer.
    pub async fn depth_of(&self, queue: &str) -> Result<usize> {
        let mut pipe = redis::pipe();
        for key in names::keys(queue) {
            pipe.llen(key);
        }
        let lengths: Vec<usize> = self.shared.ask(&pipe).await?;
        Ok(lengths.into_iter().sum())
    }

    async fn send_task(
        &self,
        queue: &str,
        task: &str,
        attempt: AttemptId,
        kwargs: &serde_json::Value,
        urgency: Urgency,
    ) -> Result<()> {
        let shared = &self.shared;
        if self.is_unknown(queue) {
            shared.make_known(queue).await?;
            self.set_known(queue, true);
        }
        let urgency = urgency.min(LEAST_URGENT);
        let id = task_id(attempt);
        let raw = encode(&message::Sent { task, id: &id, kwargs }, queue, urgency, &shared.origin);
        let sent = json!({
            "uuid": id, "name": task, "args": "()", "kwargs": message::repr(kwargs),
            "queue": queue, "exchange": "", "routing_key": queue, "retries": 0,
            "root_id": id, "parent_id": null,
        });
        let (channel, event) = shared.event("task-sent", &shared.origin, sent);
        let mut pipe = redis::pipe();
        pipe.lpush(names::key(queue, urgency), raw).ignore();
        pipe.publish(channel, event).ignore();
        let done: Result<()> = shared.ask(&pipe).await;
        done.inspect_err(|_| self.set_known(queue, false))
    }

    /// Gives strangers' frames that are not done after so long to another node: kombu's
    /// `visibility_timeout`, 300 s where nothing is said.
    pub fn restore_after(&self, time: Duration) {
        self.shared.restore_after_ms.store(millis(time), Ordering::Relaxed);
    }

    /// Messages that nobody should have sent, so far.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Whether a queue has to be made known.
    fn is_unknown(&self, queue: &str) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(queue).is_none_or(|at| at.elapsed() > MADE_KNOWN_EVERY)
    }

    fn set_known(&self, queue: &str, known: bool) {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known {
            all.insert(queue.to_owned(), Instant::now());
        } else {
            all.remove(queue);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a version is below 6.2.
fn is_old(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < (6, 2)
}

/// This machine's name.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

impl Broker for Celery {
    fn send(&self, queue: Queue, message: TaskMessage, urgency: Urgency) -> Reply<'_, ()> {
        Box::pin(async move {
            let kwargs = message::arguments(&message, self.shared.store);
            let (name, task) = (queue_name(queue), task_name(message.task));
            self.send_task(&name, task, message.attempt, &kwargs, urgency).await
        })
    }

    fn receive(&self, queue: Queue) -> Reply<'_, TaskMessage> {
        let requests = self.receivers.of(queue, |requests| {
            let source = Source {
                queues: vec![queue_name(queue)],
                decode: |_, raw, store| message::decode(raw, store),
                id: |_| None,
                noted: None,
            };
            tokio::spawn(receiver::receive(Arc::clone(&self.shared), source, requests));
        });
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { receiver::wait(shared, &requests).await })
    }

    fn len(&self, queue: Queue) -> Reply<'_, usize> {
        Box::pin(async move { self.depth_of(&queue_name(queue)).await })
    }

    fn send_frames(
        &self,
        engine: EngineId,
        frames: Vec<FrameMessage>,
        urgency: Urgency,
    ) -> Reply<'_, ()> {
        let urgency = urgency.min(LEAST_URGENT);
        Box::pin(async move {
            let shared = &self.shared;
            let queue = frame_queue(engine);
            if self.is_unknown(&queue) {
                shared.make_known(&queue).await?;
                self.set_known(&queue, true);
            }
            // No events: there are as many as frames, and nothing rests on them.
            let encode = |frame: &FrameMessage| {
                let kwargs = message::frame_arguments(frame, shared.store);
                let id = task_id(frame.attempt);
                let task = message::Sent { task: FRAME_TASK, id: &id, kwargs: &kwargs };
                encode(&task, &queue, urgency, &shared.origin)
            };
            let messages: Vec<String> = frames.iter().map(encode).collect();
            if messages.is_empty() {
                return Ok(());
            }
            let mut pipe = redis::pipe();
            pipe.lpush(names::key(&queue, urgency), messages).ignore();
            let done: Result<()> = shared.ask(&pipe).await;
            done.inspect_err(|_| self.set_known(&queue, false))
        })
    }

    fn receive_frame(&self, engine: EngineId) -> Reply<'_, FrameTask> {
        let requests = self.frame_receivers.of(engine, |requests| {
            let source = Source {
                queues: vec![frame_queue(engine), FRAME_TASK.to_owned()],
                decode: message::decode_frame,
                id: |frame| match frame {
                    FrameTask::Ours(frame) => Some(task_id(frame.attempt)),
                    FrameTask::Stranger(frame) => Some(frame.id.clone()),
                },
                noted: Some(FRAME_TASK),
            };
            tokio::spawn(receiver::receive(Arc::clone(&self.shared), source, requests));
        });
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { receiver::wait(shared, &requests).await })
    }

    fn frames_waiting(&self, engine: EngineId) -> Reply<'_, usize> {
        Box::pin(async move { self.depth_of(&frame_queue(engine)).await })
    }

    fn frame_is_done<'a>(&'a self, frame: &'a StrangeFrame) -> Reply<'a, ()> {
        Box::pin(async move {
            let mut pipe = redis::pipe();
            pipe.atomic();
            unacked::forget(&mut pipe, &frame.tag);
            self.shared.ask(&pipe).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert!(is_old("6.0.16") && is_old("5.9.9") && !is_old("6.2.0") && !is_old("7.0.15"));
        assert!(!is_old("10.0"));
    }
}
