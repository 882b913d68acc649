//! The Celery broker against a real redis-server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use base64::Engine as _;
use frameloom_broker::celery::{Announcement, Celery, queue_name};
use frameloom_broker::{Broker, contract};
use frameloom_core::ErrorKind;
use frameloom_core::id::{AttemptId, EngineId, JobId, StoreId};
use frameloom_core::wire::{FrameTask, Queue, Task, TaskMessage};
use serde_json::{Value, json};
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

/// A frame that a Celery client sends.
fn strange(tag: &str) -> String {
    let kwargs =
        json!({ "filters": ["invert"], "frames": ["frames/a/in"], "output": "frames/a/out" });
    let body =
        base64::engine::general_purpose::STANDARD.encode(json!([[], kwargs, {}]).to_string());
    json!({
        "body": body, "content-type": "application/json", "content-encoding": "utf-8",
        "headers": { "lang": "py", "task": "frameloom.frame", "id": "1", "root_id": "1" },
        "properties": {
            "body_encoding": "base64", "delivery_tag": tag, "priority": 0, "delivery_mode": 2,
            "correlation_id": "1",
            "delivery_info": { "exchange": "", "routing_key": "frameloom.frame" },
        },
    })
    .to_string()
}

#[tokio::test]
async fn a_strangers_frame_is_noted_until_it_is_done_and_goes_to_another_node_else() {
    let redis = Redis::start(&[]);
    let mut raw = redis.connection();
    let engine = EngineId::from_digest(&[1; 6]);
    let (dies, other) = (connect(&redis).await, connect(&redis).await);
    // Another application's message has been with its worker for long.
    let foreign = json!([{ "body": "" }, "", "celery"]).to_string();
    let _: () = redis::pipe()
        .zadd("unacked_index", "foreign", 1)
        .hset("unacked", "foreign", &foreign)
        .lpush("frameloom.frame", strange("t"))
        .query(&mut raw)
        .unwrap();
    let FrameTask::Stranger(first) = dies.receive_frame(engine).await.unwrap() else {
        panic!("a frame of a job")
    };
    assert_eq!((first.tag.as_str(), first.filters.as_slice()), ("t", &["invert".to_owned()][..]));
    let noted: String = redis::cmd("HGET").arg("unacked").arg("t").query(&mut raw).unwrap();
    let noted: Value = serde_json::from_str(&noted).unwrap();
    let sent: Value = serde_json::from_str(&strange("t")).unwrap();
    assert_eq!(noted, json!([sent, "", "frameloom.frame"]));

    // It is not done for too long.
    other.restore_after(Duration::from_millis(10));
    let again = other.receive_frame(engine).await.unwrap();
    assert_eq!(again, FrameTask::Stranger(first.clone()));
    let noted: String = redis::cmd("HGET").arg("unacked").arg("t").query(&mut raw).unwrap();
    let noted: Value = serde_json::from_str(&noted).unwrap();
    assert_eq!(noted[0]["headers"]["redelivered"], true);
    assert_eq!(noted[0]["properties"]["delivery_info"]["redelivered"], true);
    other.frame_is_done(&first).await.unwrap();
    let left: Vec<String> = redis::cmd("HKEYS").arg("unacked").query(&mut raw).unwrap();
    assert_eq!(left, ["foreign"]);
    let left: Vec<String> =
        redis::cmd("ZRANGE").arg("unacked_index").arg(0).arg(-1).query(&mut raw).unwrap();
    assert_eq!(left, ["foreign"]);
    let locked: bool = redis::cmd("EXISTS").arg("unacked_mutex").query(&mut raw).unwrap();
    assert!(!locked, "the lock is left behind");
}
