//! Messages of strangers that are not done yet, as kombu notes them: whoever is left gives those of a
//! worker that died to another.

use std::time::Duration;

use frameloom_core::Result;
use serde_json::Value;
use tokio::time::Instant;

use super::Shared;
use super::message::{new_uuid, redelivered};
use super::names::{FRAME_TASK, key};
use super::worker::epoch_seconds;
/// kombu's keys; all applications of a database share them.
const MESSAGES: &str = "unacked";
const INDEX: &str = "unacked_index";
const LOCK: &str = "unacked_mutex";

/// How long the lock lasts whose holder died, in milliseconds.
const LOCK_LASTS: u64 = 300_000;

/// Messages that are looked at in one go.
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
    // Those of other applications stay where they are, and are passed over.
    let mut passed = 0;
    loop {
        let mut pipe = redis::pipe();
        pipe.zrangebyscore_limit(INDEX, "-inf", until, passed, MOST);
        let (tags,): (Vec<String>,) = shared.ask(&pipe).await?;
        if tags.is_empty() {
            return Ok(());
        }
        let mut pipe = redis::pipe();
        pipe.cmd("HMGET").arg(MESSAGES).arg(&tags);
        let (noted,): (Vec<Option<Vec<u8>>>,) = shared.ask(&pipe).await?;
        for (tag, noted) in tags.iter().zip(noted) {
            match noted.and_then(|noted| of_a_frame(&noted)) {
                Some(message) => hand_on(shared, tag, message).await?,
                None => passed += 1,
            }
        }
    }
}

/// The message that is noted, where it is in the queue of strangers' frames. Whatever else is another
/// application's: its own workers give it back.
fn of_a_frame(noted: &[u8]) -> Option<Value> {
    let noted: Value = serde_json::from_slice(noted).ok()?;
    match noted {
        Value::Array(mut parts) if parts.get(2).is_some_and(|queue| queue == FRAME_TASK) => {
            Some(parts.swap_remove(0))
        }
        _ => None,
    }
}

/// Puts a message back into its queue, as the next; drops it where nobody could read it.
async fn hand_on(shared: &Shared, tag: &str, message: Value) -> Result<()> {
    let mut pipe = redis::pipe();
    pipe.atomic();
    forget(&mut pipe, tag);
    let again = redelivered(message);
    if let Ok((message, urgency)) = &again {
        pipe.rpush(key(FRAME_TASK, *urgency), message).ignore();
    }
    let () = shared.ask(&pipe).await?;
    match again {
        Ok(_) => tracing::info!(tag, "a stranger's frame, whose node died, is given to another"),
        Err(error) => shared.refuse(FRAME_TASK, &error),
    }
    Ok(())
}
