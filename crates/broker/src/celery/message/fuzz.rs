//! Whatever lies in a queue is a message or an error, of which little is told.

use frameloom_fuzz::Target;

use super::tests::{sample, text};
use super::*;

#[test]
fn fuzz_celery_message() {
    let (message, store) = sample();
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");
    let mut target = Target::new("celery-message", corpus, 20_000);
    target.longest = 2 * MOST;
    target.words = &[
        "body",
        "headers",
        "task",
        "kwargs",
        "store",
        "job",
        "segment",
        "attempt",
        "version",
        "eta",
        "expires",
        "retries",
        "properties",
        "delivery_tag",
        "priority",
        "body_encoding",
        "base64",
        "filters",
        "frames",
        "output",
        "frames/a/../b",
        "2999-01-01T00:00:00+00:00",
        "frameloom.segment",
        "frameloom.frame",
    ];
    let kwargs = json!({
        "filters": ["invert"], "frames": ["frames/a/b"], "frame": 0, "output": "frames/a/c",
    });
    let strange = Sent { task: FRAME_TASK, id: "x", kwargs: &kwargs };
    let whole = [text(&message, store, "q", 6), encode(&strange, FRAME_TASK, 3, "gen1@host")];
    // Each as it lies in Redis, and with its body laid open, so that what is changed stays a body.
    for raw in &whole {
        target.seeds.push(raw.clone().into_bytes());
        let mut open: Value = serde_json::from_str(raw).unwrap();
        let body = BASE64.decode(open["body"].as_str().unwrap()).unwrap();
        open["body"] = serde_json::from_slice(&body).unwrap();
        target.seeds.push(open.to_string().into_bytes());
    }
    target.fuzz(|input| {
        let mut raw = input.to_vec();
        if let Ok(mut open) = serde_json::from_slice::<Value>(input) {
            drop(redelivered(open.clone()));
            if let Some(body) = open.get_mut("body").filter(|body| !body.is_string()) {
                *body = BASE64.encode(body.to_string()).into();
                raw = open.to_string().into_bytes();
            }
        }
        let mut said = String::new();
        for read in [
            decode(&raw, store).map(drop),
            decode_frame(FRAME_TASK, &raw, store).map(drop),
            decode_frame("frameloom.frame.000000000001", &raw, store).map(drop),
        ] {
            let told = read.map_or_else(|error| error.to_string(), |()| "read".to_owned());
            assert!(told.len() < 400, "{told}");
            said += &told;
        }
        said
    });
}
