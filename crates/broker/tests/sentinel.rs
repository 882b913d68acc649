//! The broker behind a real sentinel, whose master dies.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::{Duration, Instant};

use frameloom_broker::celery::{Access, Celery};
use frameloom_broker::{Broker, contract};
use frameloom_core::ErrorKind;
use frameloom_core::id::{AttemptId, EngineId, JobId, StoreId};
use frameloom_core::wire::{Queue, Task, TaskMessage};
use support::sentinel::Watched;

async fn connect(url: &str) -> frameloom_core::Result<Celery> {
    Celery::connect(url, &Access::default(), StoreId::from_bits(1)).await
}

#[tokio::test]
async fn keeps_the_contract_and_goes_on_with_the_replica_when_the_master_dies() {
    let mut watched = Watched::start();
    let (server, node) =
        (connect(&watched.url()).await.unwrap(), connect(&watched.url()).await.unwrap());
    contract::check(&server).await;
    let queue = Queue::Segment(EngineId::from_digest(&[3; 6]));
    let message = TaskMessage {
        job: JobId::from_bits(1),
        task: Task::Segment(1),
        attempt: AttemptId::from_bits(1),
    };
    // One waits for a message all the time.
    let waits = tokio::spawn(async move { node.receive(queue).await });
    watched.master.stop();
    let error = server.send(queue, message.clone(), 6).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let end = Instant::now() + Duration::from_secs(30);
    while let Err(error) = server.send(queue, message.clone(), 6).await {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(Instant::now() < end, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(waits.await.unwrap().unwrap(), message);
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let watched = Watched::start();
    let wrong = watched.url().replace("=mine", "=yours");
    let error = connect(&wrong).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("know no master of this name"), "{error}");
    assert!(error.message().contains("master_name=yours"), "{error}");
    let port = watched.port().to_string();
    let plain = watched.url().replace(&port, &watched.master.port().to_string());
    let error = connect(&plain).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.message().contains("not point to a sentinel"), "{error}");
    let nobody = watched.url().replace(&port, "1");
    let error = connect(&nobody).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    // One of them that answers is enough.
    let some = watched.url().replace("sentinel://", "sentinel://127.0.0.1:1;sentinel://");
    assert!(connect(&some).await.unwrap().address().contains(";sentinel://127.0.0.1:"));
}
