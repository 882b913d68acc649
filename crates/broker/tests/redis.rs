//! The Celery broker against a real redis-server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use frameloom_broker::celery::{
    Access, Active, Announcement, Celery, Steered, WorkerConfig, queue_name,
};
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

/// A node that only tells what it is told.
#[derive(Default)]
struct Told {
    queues: Mutex<Vec<Queue>>,
    revoked: Mutex<Vec<AttemptId>>,
}

impl Steered for Told {
    fn active(&self) -> Vec<Active> {
        Vec::new()
    }
    fn drain(&self) {}
    fn queues(&self) -> Vec<Queue> {
        self.queues.lock().unwrap().clone()
    }
    fn frames(&self) -> Option<EngineId> {
        None
    }
    fn revoke(&self, attempt: AttemptId) {
        self.revoked.lock().unwrap().push(attempt);
    }
    fn load(&self) -> [f64; 3] {
        [0.0; 3]
    }
}

fn shown() -> WorkerConfig {
    WorkerConfig { name: "told".into(), slots: 1, version: "1".into() }
}

async fn connect(redis: &Redis) -> Celery {
    Celery::connect(&redis.url(), &Access::default(), StoreId::from_bits(1)).await.unwrap()
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
    let other =
        Celery::connect(&redis.url(), &Access::default(), StoreId::from_bits(2)).await.unwrap();
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
        let error =
            Celery::connect(&url, &Access::default(), StoreId::from_bits(1)).await.err().unwrap();
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
    let access = Access { password: Some(password.path().to_owned()), ..Access::default() };
    let broker = Celery::connect(&url, &access, StoreId::from_bits(1)).await.unwrap();
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
    // A server with another store neither overwrites it nor takes it back.
    let other = Announcement { store: StoreId::from_bits(2), ..said };
    let error = broker.announce(&other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.message().contains(&said.store.to_string()), "{error}");
    broker.withdraw(other.store).await;
    assert_eq!(broker.announced().await.unwrap(), Some(said));
    broker.withdraw(said.store).await;
    assert_eq!(broker.announced().await.unwrap(), None);
    let () = redis::cmd("SET")
        .arg("frameloom.server")
        .arg("somebody's")
        .query(&mut redis.connection())
        .unwrap();
    assert_eq!(broker.announce(&said).await.unwrap_err().kind(), ErrorKind::Conflict);
    let warnings = broker.warnings().await;
    assert!(warnings.len() == 1 && warnings[0].contains("noeviction"), "{warnings:?}");
}

/// The remote ends of connections to a port on this machine with a timer that asks whether the other side
/// lives, and all of them.
fn kept_alive(port: u16) -> (usize, usize) {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let to = format!("0100007F:{port:04X}");
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // 01: established; 02: the timer of keepalive.
    let ours: Vec<_> = lines.filter(|f| f[2] == to && f[3] == "01").collect();
    (ours.iter().filter(|fields| fields[5].starts_with("02:")).count(), ours.len())
}

#[tokio::test]
async fn whoever_only_listens_is_asked_whether_it_is_there() {
    let redis = Redis::start(&[]);
    let broker = connect(&redis).await;
    let waiting = broker.receive(queue());
    let timed = tokio::time::timeout(Duration::from_millis(300), waiting).await;
    assert!(timed.is_err(), "a message came");
    let told = Arc::new(Told::default());
    let (_, showing) = broker.show(shown(), told, std::future::pending());
    let showing = tokio::spawn(showing);
    let end = Instant::now() + Duration::from_secs(20);
    // The shared one, that of the receiver, and that which hears remote control.
    let mut seen = (0, 0);
    while seen != (3, 3) {
        assert!(Instant::now() < end, "of {} connections {} are kept alive", seen.1, seen.0);
        tokio::time::sleep(Duration::from_millis(20)).await;
        seen = kept_alive(redis.port());
    }
    showing.abort();
}

#[tokio::test]
async fn a_redis_that_became_a_replica_is_left() {
    let redis = Redis::start(&[]);
    let broker = connect(&redis).await;
    broker.send(queue(), message(1), 6).await.unwrap();
    let mut raw = redis.connection();
    let clients = |raw: &mut redis::Connection| -> Vec<String> {
        let list: String = redis::cmd("CLIENT").arg("LIST").query(raw).unwrap();
        let ids = list.lines().filter_map(|line| line.split(' ').next().map(str::to_owned));
        ids.collect()
    };
    let before = clients(&mut raw);
    assert_eq!(before.len(), 2, "{before:?}");
    let () = redis::cmd("REPLICAOF").arg("127.0.0.1").arg(1).query(&mut raw).unwrap();
    let error = broker.send(queue(), message(2), 6).await.unwrap_err();
    assert!(error.message().contains("takes no writes"), "{error}");
    let end = Instant::now() + Duration::from_secs(20);
    while clients(&mut raw).iter().filter(|id| before.contains(id)).count() > 1 {
        assert!(Instant::now() < end, "the connection is kept");
        tokio::task::yield_now().await;
    }
    let () = redis::cmd("REPLICAOF").arg("NO").arg("ONE").query(&mut raw).unwrap();
    broker.send(queue(), message(3), 6).await.unwrap();
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

#[tokio::test]
async fn noted_messages_that_nobody_can_read_are_dropped_and_those_of_others_hide_none() {
    let redis = Redis::start(&[]);
    let mut raw = redis.connection();
    let engine = EngineId::from_digest(&[1; 6]);
    let broker = connect(&redis).await;
    broker.restore_after(Duration::from_millis(10));
    // More of another application than are looked at in one go, and all are older.
    let mut pipe = redis::pipe();
    let foreign = json!([{ "body": "" }, "", "celery"]).to_string();
    for at in 0..250 {
        let tag = format!("foreign-{at}");
        pipe.zadd("unacked_index", &tag, 1).ignore().hset("unacked", &tag, &foreign).ignore();
    }
    // What stands there need not be kombu's.
    let bad = [
        json!({ "body": "", "headers": "x", "properties": {} }),
        json!({ "body": "", "headers": {}, "properties": "x" }),
        json!({ "body": "", "properties": { "delivery_info": "x" } }),
        json!({ "body": 7 }),
        json!("x"),
    ];
    for (at, message) in bad.iter().enumerate() {
        let noted = json!([message, "", "frameloom.frame"]).to_string();
        let tag = format!("bad-{at}");
        pipe.zadd("unacked_index", &tag, 2).ignore().hset("unacked", &tag, noted).ignore();
    }
    let good: Value = serde_json::from_str(&strange("t")).unwrap();
    let noted = json!([good, "", "frameloom.frame"]).to_string();
    pipe.zadd("unacked_index", "t", 3).ignore().hset("unacked", "t", noted).ignore();
    // So it may be in the queue, too.
    let text = strange("u").replace(r#"{"exchange":"","routing_key":"frameloom.frame"}"#, r#""x""#);
    assert_ne!(text, strange("u"));
    pipe.lpush("frameloom.frame", text).ignore();
    let () = pipe.query(&mut raw).unwrap();

    let next = tokio::time::timeout(Duration::from_secs(20), broker.receive_frame(engine));
    let FrameTask::Stranger(frame) = next.await.expect("no frame comes").unwrap() else {
        panic!("a frame of a job")
    };
    assert_eq!(frame.tag, "t");
    assert!(broker.refused() >= 5, "{}", broker.refused());
    let left: Vec<String> = redis::cmd("HKEYS").arg("unacked").query(&mut raw).unwrap();
    let foreign = left.iter().filter(|tag| tag.starts_with("foreign-")).count();
    assert_eq!((foreign, left.len()), (250, 251), "{left:?}");
    // The queue's own is refused, and the receiver lives on.
    broker.frame_is_done(&frame).await.unwrap();
    let () = redis::cmd("LPUSH").arg("frameloom.frame").arg(strange("v")).query(&mut raw).unwrap();
    let FrameTask::Stranger(frame) = broker.receive_frame(engine).await.unwrap() else {
        panic!("a frame of a job")
    };
    assert_eq!((frame.tag.as_str(), broker.refused()), ("v", 6));
}

/// What a node answers to a tool.
fn ask(redis: &Redis, method: &str) -> Value {
    let mut raw = redis.connection();
    let (exchange, key) = ("reply.celery.pidbox", "asker");
    let () = redis::cmd("SADD")
        .arg(format!("_kombu.binding.{exchange}"))
        .arg(format!("{key}\x06\x16\x06\x16answers"))
        .query(&mut raw)
        .unwrap();
    let body = json!({
        "method": method, "arguments": {}, "destination": ["frameloom@told"],
        "ticket": "1", "reply_to": { "exchange": exchange, "routing_key": key },
    });
    let base64 = base64::engine::general_purpose::STANDARD;
    let message = json!({
        "body": base64.encode(body.to_string()), "content-type": "application/json", "headers": {},
        "properties": { "body_encoding": "base64", "delivery_info": {}, "delivery_tag": "1" },
    });
    // It may not listen yet.
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let heard: u32 = redis::cmd("PUBLISH")
            .arg("/0.celery.pidbox")
            .arg(message.to_string())
            .query(&mut raw)
            .unwrap();
        if heard > 0 {
            break;
        }
        assert!(Instant::now() < end, "nobody listens");
        std::thread::yield_now();
    }
    let (_, answer): (String, String) =
        redis::cmd("BRPOP").arg("answers").arg(20).query(&mut raw).unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let body = base64.decode(answer["body"].as_str().unwrap()).unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    body["frameloom@told"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_see_what_a_node_does_now() {
    let redis = Redis::start(&[]);
    let broker = connect(&redis).await;
    let told = Arc::new(Told::default());
    *told.queues.lock().unwrap() = vec![Queue::Control, queue()];
    let steered = Arc::clone(&told) as Arc<dyn Steered>;
    let (_, showing) = broker.show(shown(), steered, std::future::pending());
    let showing = tokio::spawn(showing);
    let names = |answer: &Value| -> Vec<String> {
        answer.as_array().unwrap().iter().map(|q| q["name"].as_str().unwrap().into()).collect()
    };
    let queues = [queue_name(Queue::Control), queue_name(queue())];
    assert_eq!(names(&ask(&redis, "active_queues")), queues);
    *told.queues.lock().unwrap() = vec![queue()];
    assert_eq!(names(&ask(&redis, "active_queues")), queues[1..]);
    // Jobs that are planned anew for an engine are done wholly by nodes of its queue.
    let all = ["concat", "detect", "plan", "segment", "track"].map(|t| format!("frameloom.{t}"));
    assert_eq!(ask(&redis, "registered"), json!(all));
    showing.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_revoked_is_not_begun() {
    let redis = Redis::start(&[]);
    let (server, broker) = (connect(&redis).await, connect(&redis).await);
    let told = Arc::new(Told::default());
    let steered = Arc::clone(&told) as Arc<dyn Steered>;
    let (_, showing) = broker.show(shown(), steered, std::future::pending());
    let showing = tokio::spawn(showing);
    ask(&redis, "ping");
    let attempt = AttemptId::from_bits(77);
    server.revoke(&[AttemptId::from_bits(1), attempt]).await.unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while told.revoked.lock().unwrap().len() < 2 {
        assert!(Instant::now() < end, "nothing is heard");
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&redis, "revoked").as_array().unwrap().len(), 2);
    let id = "00000000-0000-0000-0000-00000000004d";
    let revoked = strange("t").replace(r#""id":"1""#, &format!(r#""id":"{id}""#));
    assert!(revoked.contains(id), "{revoked}");
    let () = redis::cmd("LPUSH")
        .arg("frameloom.frame")
        .arg(revoked)
        .arg(strange("u"))
        .query(&mut redis.connection())
        .unwrap();
    let next = broker.receive_frame(EngineId::from_digest(&[1; 6])).await.unwrap();
    assert!(matches!(&next, FrameTask::Stranger(frame) if frame.tag == "u"), "{next:?}");
    showing.abort();
}
