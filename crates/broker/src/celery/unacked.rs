//! Messages of strangers that are not done yet, as kombu notes them: whoever is left gives those of a
//! worker that died to another.

use std::time::Duration;

use frameloom_core::Result;
use serde_json::Value;
use tokio::time::Instant;

use super::Shared;
use super::message::new_uuid;
use super::names::{FRAME_TASK, key};
use super::worker::epoch_seconds;
use crate::Urgency;

/// kombu's keys; all applications of a database share them.
const MESSAGES: &str = "unacked";
const INDEX: &str = "unacked_index";
const LOCK: &str = "unacked_mutex";

/// How long the lock lasts whose holder died, in milliseconds.
const LOCK_LASTS: u64 = 300_000;

/// Messages that are given back at a time.
const MOST: isize = 100;

/// How often is looked for messages of workers that died, at least.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// A message's delivery tag; empty where it has none.
pub(super) fn tag_of(raw: &[u8]) -> String {
    let message: Value = serde_json::from_slice(raw).unwrap_or_default();
    message["properties"]["delivery_tag"].as_str().unwrap_or_default().to_owned()
}

/// Notes a message as not done.
pub(super) async fn note(shared: &Shared, raw: &[u8]) -> Result<()> {
    let message: Value = serde_json::from_slice(raw).unwrap_or_default();
    let tag = tag_of(raw);
    let noted = Value::from(vec![message, "".into(), FRAME_TASK.into()]).to_string();
    let mut pipe = redis::pipe();
    pipe.zadd(INDEX, &tag, epoch_seconds()).ignore().hset(MESSAGES, &tag, noted).ignore();
    shared.ask(&pipe).await
}

/// Adds to `pipe` that a message is done.
pub(super) fn forget(pipe: &mut redis::Pipeline, tag: &str) {
    pipe.zrem(INDEX, tag).ignore().hdel(MESSAGES, tag).ignore();
}

/// Gives back what workers that died have left, if it is time to look.
pub(super) async fn restore_now_and_then(shared: &Shared, looked: &mut Option<Instant>) {
    let after = shared.restore_after();
    if looked.is_some_and(|at| at.elapsed() < LOOK_EVERY.min(after / 2)) {
        return;
    }
    *looked = Some(Instant::now());
    if let Err(error) = restore(shared, after).await {
        tracing::debug!(%error, "cannot look for frames of nodes that died");
    }
}

/// Puts messages that have been noted for so long back into their queue, as the next.
async fn restore(shared: &Shared, after: Duration) -> Result<()> {
    let lock = new_uuid();
    let mut pipe = redis::pipe();
    pipe.cmd("SET").arg(LOCK).arg(&lock).arg("NX").arg("PX").arg(LOCK_LASTS);
    let (got,): (Option<String>,) = shared.ask(&pipe).await?;
    if got.is_none() {
        // Somebody else looks now.
        return Ok(());
    }
    let done = give_back(shared, epoch_seconds() - after.as_secs_f64()).await;
    let mut pipe = redis::pipe();
    pipe.cmd("EVAL")
        .arg(
            "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('del', KEYS[1]) end return 0",
        )
        .arg(1)
        .arg(LOCK)
        .arg(&lock)
        .ignore();
    let () = shared.ask(&pipe).await?;
    done
}

async fn give_back(shared: &Shared, until: f64) -> Result<()> {
    let mut pipe = redis::pipe();
    pipe.zrangebyscore_limit(INDEX, "-inf", until, 0, MOST);
    let (tags,): (Vec<String>,) = shared.ask(&pipe).await?;
    for tag in tags {
        let mut pipe = redis::pipe();
        pipe.hget(MESSAGES, &tag);
        let (noted,): (Option<Vec<u8>>,) = shared.ask(&pipe).await?;
        let noted: Value = serde_json::from_slice(&noted.unwrap_or_default()).unwrap_or_default();
        if noted[2] != FRAME_TASK || !noted[0].is_object() {
            // Another application's: its own workers give it back.
            continue;
        }
        let mut message = noted[0].clone();
        message["headers"]["redelivered"] = true.into();
        message["properties"]["delivery_info"]["redelivered"] = true.into();
        let urgency = message["properties"]["priority"].as_u64().unwrap_or(0);
        let urgency = Urgency::try_from(urgency).unwrap_or(crate::LEAST_URGENT);
        let mut pipe = redis::pipe();
        pipe.atomic();
        forget(&mut pipe, &tag);
        pipe.rpush(key(FRAME_TASK, urgency), message.to_string()).ignore();
        let () = shared.ask(&pipe).await?;
        tracing::info!(tag, "a stranger's frame, whose node died, is given to another");
    }
    Ok(())
}
