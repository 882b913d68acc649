//! The Celery broker against a real redis-server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use frameloom_broker::celery::{Announcement, Celery, queue_name};
use frameloom_broker::{Broker, contract};
use frameloom_core::ErrorKind;
use frameloom_core::id::{AttemptId, EngineId, JobId, StoreId};
use frameloom_core::wire::{Queue, Task, TaskMessage};
use support::Redis;

fn message(k: u32) -> TaskMessage {
    TaskMessage {
        job: JobId::from_bits(1),
        task: Task::Segment(k),
        attempt: AttemptId::from_bits(u128::from(k)),
    }
}

fn queue() -> Queue {
    Queue::Segment(EngineId::from_digest(&[3; 6]))
}

async fn connect(redis: &Redis) -> Celery {
    Celery::connect(&redis.url(), None, StoreId::from_bits(1)).await.unwrap()
}

#[tokio::test]
async fn keeps_the_contract() {
    let redis = Redis::start(&[]);
    contract::check(&connect(&redis).await).await;
}

#[tokio::test]
async fn two_nodes_share_a_queue_and_a_wait_given_up_loses_nothing() {
    let redis = Redis::start(&[]);
    let (server, one, two) = (connect(&redis).await, connect(&redis).await, connect(&redis).await);
    for _ in 0..20 {
        // Waits that are given up at any moment, while messages come.
        let given_up = tokio::time::timeout(Duration::from_millis(3), one.receive(queue()));
        let (taken, sent) = tokio::join!(given_up, server.send(queue(), message(1), 6));
        sent.unwrap();
        let received = match taken {
            Ok(received) => received,
            Err(_) => two.receive(queue()).await,
        };
        assert_eq!(received.unwrap(), message(1));
        assert_eq!(server.len(queue()).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_broker_that_was_gone_is_used_again_and_flushed_queues_are_made_known() {
    let mut redis = Redis::start(&[]);
    let (server, node) = (connect(&redis).await, connect(&redis).await);
    server.send(queue(), message(1), 6).await.unwrap();
    assert_eq!(node.receive(queue()).await.unwrap(), message(1));
    redis.stop();
    let error = server.send(queue(), message(2), 6).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains(&format!("redis://127.0.0.1:{}/0", redis.port())), "{error}");
    let waiting = tokio::spawn(async move { node.receive(queue()).await });
    redis.restart();
    // The first tries may find the connection still broken.
    while server.send(queue(), message(3), 6).await.is_err() {}
    assert_eq!(waiting.await.unwrap().unwrap(), message(3));
    let name = queue_name(queue());
    let members: Vec<String> = redis::cmd("SMEMBERS")
        .arg(format!("_kombu.binding.{name}"))
        .query(&mut redis.connection())
        .unwrap();
    assert_eq!(members, [format!("{name}\x06\x16\x06\x16{name}")]);
}

#[tokio::test]
async fn what_nobody_should_send_is_dropped_and_counted_and_the_rest_goes_on() {
    let redis = Redis::start(&[]);
    let broker = connect(&redis).await;
    let name = queue_name(queue());
    let large = "x".repeat(10 << 20);
    for rubbish in ["", "{", "\u{0}", r#"{"body":"e30=","headers":{"task":"os.system"}}"#, &large] {
        let _: i64 =
            redis::cmd("LPUSH").arg(&name).arg(rubbish).query(&mut redis.connection()).unwrap();
    }
    broker.send(queue(), message(5), 0).await.unwrap();
    assert_eq!(broker.receive(queue()).await.unwrap(), message(5));
    assert_eq!(broker.refused(), 5);
    // Tasks of another store are for nobody here.
    let other = Celery::connect(&redis.url(), None, StoreId::from_bits(2)).await.unwrap();
    other.send(queue(), message(6), 0).await.unwrap();
    broker.send(queue(), message(7), 0).await.unwrap();
    assert_eq!(broker.receive(queue()).await.unwrap(), message(7));
    assert_eq!(broker.refused(), 6);
}

#[tokio::test]
async fn what_is_wrong_with_an_address_is_said() {
    let redis = Redis::start(&["--requirepass", "secret", "--databases", "4"]);
    let port = redis.port();
    let kind = |url: String| async move {
        let error = Celery::connect(&url, None, StoreId::from_bits(1)).await.err().unwrap();
        assert!(!error.message().contains("wrong-word"), "{error}");
        (error.kind(), error.message().to_owned())
    };
    let (refused, text) = kind(format!("redis://127.0.0.1:{port}/0")).await;
    assert_eq!(refused, ErrorKind::Unauthorized, "{text}");
    assert!(text.contains("password"), "{text}");
    let (refused, text) = kind(format!("redis://:wrong-word@127.0.0.1:{port}/0")).await;
    assert_eq!(refused, ErrorKind::Unauthorized, "{text}");
    let (refused, text) = kind(format!("redis://:secret@127.0.0.1:{port}/9")).await;
    assert_eq!(refused, ErrorKind::Invalid, "{text}");
    assert!(text.contains("database"), "{text}");
    let (refused, text) = kind("redis://127.0.0.1:1/0".to_owned()).await;
    assert_eq!(refused, ErrorKind::Unavailable, "{text}");

    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "secret\n").unwrap();
    let url = format!("redis://127.0.0.1:{port}/0");
    let broker = Celery::connect(&url, Some(password.path()), StoreId::from_bits(1)).await.unwrap();
    assert!(broker.warnings().await.is_empty(), "{:?}", broker.warnings().await);
}

#[tokio::test]
async fn a_server_is_known_while_it_lives_and_bad_settings_are_told() {
    let redis = Redis::start(&["--maxmemory-policy", "allkeys-lru"]);
    let broker = connect(&redis).await;
    assert_eq!(broker.announced().await.unwrap(), None);
    let said = Announcement::now(StoreId::from_bits(1), EngineId::from_digest(&[1; 6]));
    broker.announce(&said).await.unwrap();
    assert_eq!(broker.announced().await.unwrap(), Some(said));
    broker.withdraw().await;
    assert_eq!(broker.announced().await.unwrap(), None);
    let warnings = broker.warnings().await;
    assert!(warnings.len() == 1 && warnings[0].contains("noeviction"), "{warnings:?}");
}
