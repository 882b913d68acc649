//! Receives from one queue, for all slots of a process that wait for it, over one connection.

use std::sync::Arc;
use std::time::Duration;

use frameloom_core::Result;
use frameloom_core::wire::TaskMessage;
use redis::aio::MultiplexedConnection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Shared;
use super::link::back_off;
use super::message::decode;
use super::names::keys;

/// Seconds that one look at a queue waits for a message.
const WAIT: f64 = 1.0;

/// How often a queue is made known again: FLUSHALL forgets it.
pub(super) const MADE_KNOWN_EVERY: Duration = Duration::from_secs(60);

/// A message with the list that it came from and its text, in case nobody wants it any more.
struct Delivery {
    message: TaskMessage,
    key: String,
    raw: Vec<u8>,
}

/// Somebody who waits for a message.
pub(super) struct Request(oneshot::Sender<Delivery>);

/// Waits for one message; dropped, it takes none.
struct Wait {
    delivery: oneshot::Receiver<Delivery>,
    shared: Arc<Shared>,
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.delivery.close();
        // It may have come between the last look and now.
        if let Ok(delivery) = self.delivery.try_recv() {
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move { give_back(&shared, delivery).await });
        }
    }
}

/// Puts a message that nobody wants any more back to where it came from, as the next.
async fn give_back(shared: &Shared, delivery: Delivery) {
    let mut command = redis::pipe();
    command.rpush(&delivery.key, &delivery.raw).ignore();
    let done: Result<()> = shared.ask(&command).await;
    if let Err(error) = done {
        // Then it is lost, and the server sends it again.
        tracing::debug!(%error, "a message cannot be given back");
    }
}

/// Waits for a message of a queue whose receiver listens to `requests`.
pub(super) async fn wait(
    shared: Arc<Shared>,
    requests: &mpsc::Sender<Request>,
) -> Result<TaskMessage> {
    let ended = || frameloom_core::Error::unavailable("the broker was closed");
    let (sender, delivery) = oneshot::channel();
    requests.send(Request(sender)).await.map_err(|_| ended())?;
    let mut wait = Wait { delivery, shared };
    match (&mut wait.delivery).await {
        Ok(delivery) => Ok(delivery.message),
        Err(_) => Err(ended()),
    }
}

/// Receives for those who ask, until nobody can ask any more.
pub(super) async fn receive(
    shared: Arc<Shared>,
    queue: String,
    mut requests: mpsc::Receiver<Request>,
) {
    let mut tries = 0;
    let mut connection = None;
    let mut known = None;
    let mut next: Option<Request> = None;
    loop {
        let request = match next.take().filter(|request| !request.0.is_closed()) {
            Some(request) => request,
            None => match requests.recv().await {
                Some(request) => request,
                None => return,
            },
        };
        if request.0.is_closed() {
            continue;
        }
        match look(&shared, &queue, &mut connection, &mut known).await {
            Ok(found) => {
                if tries > 0 {
                    tracing::info!(queue, broker = shared.link.shown(), "the broker answers again");
                }
                tries = 0;
                match found {
                    Some(delivery) => {
                        if let Err(delivery) = request.0.send(delivery) {
                            hand_on(&shared, delivery, &mut requests).await;
                        }
                    }
                    None => next = Some(request),
                }
            }
            Err(error) => {
                connection = None;
                known = None;
                if tries == 0 {
                    tracing::warn!(%error, queue, "cannot receive; trying again");
                }
                next = Some(request);
                tokio::time::sleep(back_off(tries)).await;
                tries += 1;
            }
        }
    }
}

/// Gives a message to the next who waits, or back.
async fn hand_on(shared: &Shared, mut delivery: Delivery, requests: &mut mpsc::Receiver<Request>) {
    while let Ok(request) = requests.try_recv() {
        match request.0.send(delivery) {
            Ok(()) => return,
            Err(back) => delivery = back,
        }
    }
    give_back(shared, delivery).await;
}

/// Looks for a message for a while; one that nobody should have sent is dropped here.
async fn look(
    shared: &Shared,
    queue: &str,
    connection: &mut Option<MultiplexedConnection>,
    known: &mut Option<Instant>,
) -> Result<Option<Delivery>> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(shared.link.connection().await?),
    };
    if known.is_none_or(|at| at.elapsed() > MADE_KNOWN_EVERY) {
        shared.make_known(queue).await?;
        *known = Some(Instant::now());
    }
    let mut command = redis::cmd("BRPOP");
    command.arg(&keys(queue)).arg(WAIT);
    let found: Option<(String, Vec<u8>)> =
        command.query_async(connection).await.map_err(|e| shared.link.error(&e))?;
    let Some((key, raw)) = found else { return Ok(None) };
    match decode(&raw, shared.store) {
        Ok(message) => Ok(Some(Delivery { message, key, raw })),
        Err(error) => {
            shared.refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tracing::warn!(%error, queue, "a message is refused");
            Ok(None)
        }
    }
}
