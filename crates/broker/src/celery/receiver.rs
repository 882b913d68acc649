//! Receives from one queue, or a few, for all slots of a process that wait for it, over one connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use frameloom_core::Result;
use frameloom_core::id::StoreId;
use redis::aio::MultiplexedConnection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Shared;
use super::link::back_off;
use super::names::{keys, queue_of};
use super::unacked;

/// Seconds that one look at a queue waits for a message.
const WAIT: f64 = 1.0;

/// Slots of a process that wait for a message of a queue, at most.
const MOST_WAITING: usize = 1024;

/// How often a queue is made known again: FLUSHALL forgets it.
pub(super) const MADE_KNOWN_EVERY: Duration = Duration::from_secs(60);

/// What is received, and from where.
pub(super) struct Source<M> {
    /// The queues, which come first in turns.
    pub(super) queues: Vec<String>,
    /// Reads a message that came from a queue of this name.
    pub(super) decode: fn(&str, &[u8], StoreId) -> Result<M>,
    /// The id by which a message may be revoked before it is begun.
    pub(super) id: fn(&M) -> Option<String>,
    /// The queue whose messages are noted until they are done.
    pub(super) noted: Option<&'static str>,
}

/// A message with the list that it came from and its text, in case nobody wants it any more.
struct Delivery<M> {
    message: M,
    key: String,
    raw: Vec<u8>,
    /// Whether it is noted as not done yet.
    noted: bool,
}

/// Somebody who waits for a message.
pub(super) struct Request<M>(oneshot::Sender<Delivery<M>>);

/// Waits for one message; dropped, it takes none.
struct Wait<M: Send + 'static> {
    delivery: oneshot::Receiver<Delivery<M>>,
    shared: Arc<Shared>,
}

impl<M: Send + 'static> Drop for Wait<M> {
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
async fn give_back<M>(shared: &Shared, delivery: Delivery<M>) {
    let mut command = redis::pipe();
    command.atomic().rpush(&delivery.key, &delivery.raw).ignore();
    if delivery.noted {
        unacked::forget(&mut command, &unacked::tag_of(&delivery.raw));
    }
    let done: Result<()> = shared.ask(&command).await;
    if let Err(error) = done {
        // Then it is lost, and the server sends it again.
        tracing::debug!(%error, "a message cannot be given back");
    }
}

/// What receives for the slots of a process, by what they wait for.
pub(super) struct Receivers<K, M>(Mutex<BTreeMap<K, mpsc::Sender<Request<M>>>>);

impl<K, M> Default for Receivers<K, M> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord, M> Receivers<K, M> {
    /// The way to ask one, which is started where there is none, or none any more.
    pub(super) fn of(
        &self,
        key: K,
        start: impl FnOnce(mpsc::Receiver<Request<M>>),
    ) -> mpsc::Sender<Request<M>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(&key);
        if let Some(requests) = known.filter(|requests| !requests.is_closed()) {
            return requests.clone();
        }
        if known.is_some() {
            tracing::error!("what receives messages has died, and is started again");
        }
        let (sender, requests) = mpsc::channel(MOST_WAITING);
        start(requests);
        all.insert(key, sender.clone());
        sender
    }
}

/// Waits for a message of a queue whose receiver listens to `requests`.
pub(super) async fn wait<M: Send + 'static>(
    shared: Arc<Shared>,
    requests: &mpsc::Sender<Request<M>>,
) -> Result<M> {
    let ended = || frameloom_core::Error::unavailable("what receives messages has ended");
    let (sender, delivery) = oneshot::channel();
    requests.send(Request(sender)).await.map_err(|_| ended())?;
    let mut wait = Wait { delivery, shared };
    match (&mut wait.delivery).await {
        Ok(delivery) => Ok(delivery.message),
        Err(_) => Err(ended()),
    }
}

/// Receives for those who ask, until nobody can ask any more.
pub(super) async fn receive<M>(
    shared: Arc<Shared>,
    mut source: Source<M>,
    mut requests: mpsc::Receiver<Request<M>>,
) {
    let mut tries = 0;
    let mut connection = None;
    let mut known = None;
    let mut restored = None;
    let mut next: Option<Request<M>> = None;
    let queue = source.queues.join(", ");
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
        if source.noted.is_some() {
            unacked::restore_now_and_then(&shared, &mut restored).await;
        }
        source.queues.rotate_left(1);
        match look(&shared, &source, &mut connection, &mut known).await {
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
async fn hand_on<M>(
    shared: &Shared,
    mut delivery: Delivery<M>,
    requests: &mut mpsc::Receiver<Request<M>>,
) {
    while let Ok(request) = requests.try_recv() {
        match request.0.send(delivery) {
            Ok(()) => return,
            Err(back) => delivery = back,
        }
    }
    give_back(shared, delivery).await;
}

/// Looks for a message for a while; one that nobody should have sent is dropped here.
async fn look<M>(
    shared: &Shared,
    source: &Source<M>,
    connection: &mut Option<MultiplexedConnection>,
    known: &mut Option<Instant>,
) -> Result<Option<Delivery<M>>> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(shared.link.connection().await?),
    };
    if known.is_none_or(|at| at.elapsed() > MADE_KNOWN_EVERY) {
        for queue in &source.queues {
            shared.make_known(queue).await?;
        }
        *known = Some(Instant::now());
    }
    let lists: Vec<String> = source.queues.iter().flat_map(|queue| keys(queue)).collect();
    let mut command = redis::cmd("BRPOP");
    command.arg(&lists).arg(WAIT);
    let found: Option<(String, Vec<u8>)> =
        command.query_async(connection).await.map_err(|e| shared.link.error(&e))?;
    let Some((key, raw)) = found else { return Ok(None) };
    let queue = queue_of(&key);
    match (source.decode)(queue, &raw, shared.store) {
        Ok(message) => {
            if let Some(id) = (source.id)(&message)
                && shared.revoked.take(&id)
            {
                tracing::debug!(id, queue, "a task is revoked before it is begun");
                return Ok(None);
            }
            let noted = source.noted == Some(queue);
            if noted && let Err(error) = unacked::note(shared, &raw).await {
                // As with any of Celery's workers, it is lost if this node dies.
                tracing::debug!(%error, "a frame is not noted");
            }
            Ok(Some(Delivery { message, key, raw, noted }))
        }
        Err(error) => {
            shared.refuse(queue, &error);
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_that_has_died_is_started_again() {
        let receivers: Receivers<u8, ()> = Receivers::default();
        let mut started = Vec::new();
        let first = receivers.of(1, |requests| started.push(requests));
        assert!(receivers.of(1, |_| panic!("it lives")).same_channel(&first));
        started.clear();
        let second = receivers.of(1, |requests| started.push(requests));
        assert!(!second.same_channel(&first) && !second.is_closed());
    }
}
