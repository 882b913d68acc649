use super::*;
use proptest::prelude::*;

pub(super) fn sample() -> (TaskMessage, StoreId) {
    let message = TaskMessage {
        job: JobId::from_bits(7),
        task: Task::Segment(41),
        attempt: AttemptId::from_bits(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
    };
    (message, StoreId::from_bits(9))
}

pub(super) fn text(message: &TaskMessage, store: StoreId, queue: &str, urgency: Urgency) -> String {
    let (id, kwargs) = (task_id(message.attempt), arguments(message, store));
    let task = super::super::names::task_name(message.task);
    encode(&Sent { task, id: &id, kwargs: &kwargs }, queue, urgency, "gen1@host")
}

/// A message with one place of its envelope changed.
fn changed(pointer: &str, to: Value) -> String {
    let (message, store) = sample();
    let mut raw: Value = serde_json::from_str(&text(&message, store, "q", 6)).unwrap();
    if let Some(inner) = pointer.strip_prefix("/body") {
        let body = BASE64.decode(raw["body"].as_str().unwrap()).unwrap();
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        *body.pointer_mut(inner).unwrap() = to;
        raw["body"] = BASE64.encode(body.to_string()).into();
    } else {
        *raw.pointer_mut(pointer).unwrap() = to;
    }
    raw.to_string()
}

#[test]
fn a_task_comes_back_and_is_small() {
    let (message, store) = sample();
    let (last, detect) = (Task::Segment(u32::MAX), Task::Detect(7));
    for task in [Task::Plan, detect, Task::Track, Task::Segment(0), last, Task::Concat] {
        let message = TaskMessage { task, ..message.clone() };
        let raw = text(&message, store, "frameloom.cpu.0001020304ff", 3);
        assert!(raw.len() < 4096, "{} bytes", raw.len());
        assert_eq!(decode(raw.as_bytes(), store).unwrap(), message);
    }
    assert_eq!(task_id(message.attempt), "01234567-89ab-cdef-0123-456789abcdef");
    assert_eq!(attempt_of(&task_id(message.attempt)), Some(message.attempt));
}

#[test]
fn what_nobody_should_send_is_refused_in_words() {
    let (_, store) = sample();
    let future = "2999-01-01T00:00:00+00:00";
    let cases = [
        ("rubbish".to_owned(), "not kombu's JSON"),
        (changed("/content-type", json!("application/x-python-serialize")), "content type"),
        (changed("/properties/body_encoding", json!("none")), "not JSON"),
        (
            changed("/headers/lang", json!("py")).replace("\"body\":\"", "\"body\":\"%"),
            "not base64",
        ),
        (changed("/headers/task", json!("os.system")), "task 'os.system', which nobody"),
        (changed("/headers/task", json!(["x"])), "first protocol"),
        (changed("/headers/expires", json!("2001-01-01T00:00:00+00:00")), "expired"),
        (changed("/headers/expires", json!(7)), "expires '7'"),
        (changed("/headers/eta", json!(future)), "for later"),
        (changed("/headers/task", json!("frameloom.plan")), "with or without a segment"),
        (changed("/body/1/version", json!(2)), "version 2"),
        (changed("/body/1/version", json!("1")), "the number 1 is awaited"),
        (changed("/body/1/store", json!("../../etc/passwd")), "a task on store ../../etc"),
        (changed("/body/1/job", json!("../../etc/passwd")), "32 lower-case"),
        (changed("/body/1/job", json!("\n forged \u{1b}]0;")), "\\n forged \\u{1b}"),
        (changed("/body/1/segment", json!(-1)), "arguments of"),
        (changed("/body/1/store", json!("0".repeat(32))), "a task on store 0000"),
        (changed("/body/1", json!("x")), "[args, kwargs, …]"),
        (" ".repeat(MOST + 1), "a message of"),
        (changed("/properties/delivery_info", json!("x")), "not kombu's JSON"),
    ];
    for (raw, words) in cases {
        let error = decode(raw.as_bytes(), store).unwrap_err();
        assert!(error.message().contains(words), "'{error}' lacks '{words}'");
    }
}

#[test]
fn frames_come_back_and_strangers_may_name_nothing_but_frames() {
    let (_, store) = sample();
    let ours = FrameMessage {
        job: JobId::from_bits(7),
        plan: AttemptId::from_bits(8),
        attempt: AttemptId::from_bits(u128::MAX),
        group: AttemptId::from_bits(9),
        frame: u64::MAX,
        first: 0,
        last: u64::MAX,
        from: 0,
        to: u32::MAX,
    };
    let raw = |kwargs: &Value, queue: &str| {
        encode(&Sent { task: FRAME_TASK, id: "x", kwargs }, queue, 3, "gen1@host")
    };
    let text = raw(&frame_arguments(&ours, store), "frameloom.frame.000000000001");
    assert!(text.len() < 4096, "{} bytes", text.len());
    let engine = "frameloom.frame.000000000001";
    let read = decode_frame(engine, text.as_bytes(), store).unwrap();
    assert_eq!(read, FrameTask::Ours(ours));
    // A stranger's is none of an engine, and the other way round.
    assert!(decode_frame(FRAME_TASK, text.as_bytes(), store).is_err());

    let good = json!({ "filters": ["invert"], "frames": ["frames/a/b"], "output": "frames/a/c" });
    let text = raw(&good, FRAME_TASK);
    let read = decode_frame(FRAME_TASK, text.as_bytes(), store).unwrap();
    assert!(matches!(read, FrameTask::Stranger(frame) if frame.frame == 0));
    assert!(decode_frame(engine, text.as_bytes(), store).is_err());
    for (field, value, words) in [
        ("output", json!("frames/a/../b"), "is not frames/DIRECTORY/FILE"),
        ("output", json!("frames/a"), "is not frames/"),
        ("output", json!("/frames/a/b"), "is not frames/"),
        ("output", json!("jobs/a/b"), "is not frames/"),
        ("frames", json!(["frames/.a/b"]), "is not frames/"),
        ("frames", json!(["frames/a/"]), "is not frames/"),
        ("frames", json!([]), "frame 0 of 0"),
        ("frame", json!(1), "frame 1 of 1"),
        ("frame", json!(-1), "arguments of"),
        ("filters", json!(vec!["invert"; 65]), "more than 64"),
        ("store", json!("0"), "a task on store 0"),
        ("version", json!(9), "version 9"),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        let text = raw(&bad, FRAME_TASK);
        let error = decode_frame(FRAME_TASK, text.as_bytes(), store).unwrap_err();
        assert!(error.message().contains(words), "'{error}' lacks '{words}'");
    }
}

#[test]
fn messages_about_frames_stay_below_4_kb() {
    let id = "0123456789abcdef0123456789abcdef";
    let size = |frames: Value, version: u32| {
        let kwargs = json!({
            "version": version, "store": id, "job": id, "attempt": id, "params": { "sigma": 5 },
            "timeout": null, "frames": frames,
        });
        let sent = Sent { task: "mytasks.anonymise", id, kwargs: &kwargs };
        encode(&sent, "python", 3, "gen4711@host").len()
    };
    let written_out = |frames: u64| -> Value {
        let file = |n: u64, kind: &str| format!("frames/{id}/{id}.{n}.{kind}.npy");
        let frame = |n: u64| {
            json!({
                "index": 100_000 + n, "pts": 1_000_000_000_000 + n,
                "input": file(n, "in"), "output": file(n, "out"),
            })
        };
        (0..frames).map(frame).collect()
    };
    // As docs/celery.md says: up to six are written out, more are told by a few numbers.
    assert!(size(written_out(6), 1) < 4 << 10, "{}", size(written_out(6), 1));
    let run = json!({ "group": id, "index": u64::MAX, "pts": vec![10_000_000; 64] });
    assert!(size(run.clone(), 2) < 4 << 10, "{}", size(run, 2));
}

#[test]
fn what_is_told_of_a_message_is_short() {
    let (_, store) = sample();
    let long = "\u{7}x".repeat(20_000);
    for pointer in
        ["/body", "/headers", "/headers/task", "/headers/eta", "/properties", "/content-type"]
    {
        let raw = changed("/headers/lang", json!("py"));
        let mut raw: Value = serde_json::from_str(&raw).unwrap();
        *raw.pointer_mut(pointer).unwrap() = json!(long);
        let raw = raw.to_string().replace("\\u0007", "!");
        let error = decode(raw.as_bytes(), store).unwrap_err();
        assert!(error.to_string().len() < 400, "{pointer}: {error}");
    }
    for pointer in ["/body/1", "/body/1/job", "/body/1/version", "/body/1/segment"] {
        let error = decode(changed(pointer, json!(long)).as_bytes(), store).unwrap_err();
        assert!(error.to_string().len() < 400, "{pointer}: {error}");
    }
}

#[test]
fn a_header_too_many_is_no_harm() {
    let (message, store) = sample();
    let mut raw: Value = serde_json::from_str(&text(&message, store, "q", 6)).unwrap();
    raw["headers"]["stamped_headers"] = json!([]);
    raw["headers"]["replaced_task_nesting"] = json!(0);
    assert_eq!(decode(raw.to_string().as_bytes(), store).unwrap(), message);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        strange: bool, inner: bool, at in 0usize..900, byte: u8, cut in 0usize..900,
    ) {
        let (message, store) = sample();
        let spoil = |raw: &mut Vec<u8>| {
            let len = raw.len();
            raw[at % len] = byte;
            raw.truncate(len - cut % len);
        };
        let raw = if strange {
            let kwargs = json!({
                "filters": ["invert"], "frames": ["frames/a/b"], "frame": 0, "output": "frames/a/c",
            });
            encode(&Sent { task: FRAME_TASK, id: "x", kwargs: &kwargs }, FRAME_TASK, 3, "gen1@host")
        } else {
            text(&message, store, "q", 6)
        };
        let mut raw = if inner {
            let mut raw: Value = serde_json::from_str(&raw).unwrap();
            let mut body = BASE64.decode(raw["body"].as_str().unwrap()).unwrap();
            spoil(&mut body);
            raw["body"] = BASE64.encode(body).into();
            raw.to_string().into_bytes()
        } else {
            raw.into_bytes()
        };
        if !inner {
            spoil(&mut raw);
        }
        drop(decode(&raw, store));
        drop(decode_frame(FRAME_TASK, &raw, store));
        drop(serde_json::from_slice(&raw).map(redelivered));
    }

    #[test]
    fn no_noted_message_makes_it_panic(pointer in 0usize..6, to in 0usize..6) {
        let pointers =
            ["", "/headers", "/properties", "/properties/delivery_info", "/properties/priority", "/body"];
        let values = [json!(null), json!("x"), json!(7), json!([1]), json!({}), json!(-1e300)];
        let mut noted: Value = serde_json::from_str(&changed("/headers/lang", json!("py"))).unwrap();
        *noted.pointer_mut(pointers[pointer]).unwrap() = values[to].clone();
        drop(redelivered(noted));
    }
}
