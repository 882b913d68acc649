//! Whatever a slot that was taken over says to its node, and the other way round, is a message or an error.

use std::io::Write;
use std::os::unix::net::UnixStream;

use frameloom_core::Error;
use frameloom_core::id::{AttemptId, JobId};
use frameloom_core::metrics::FrameCounts;
use frameloom_core::slot::{
    FrameNumber, NeededSegment, PlanTask, SegmentOutput, SegmentTask, SlotCommand, SlotDone,
    SlotEvent, SlotFailed, SlotPreview, SlotProgress, SlotReady, TaskOutput, WrittenFile,
};
use frameloom_core::spec::JobSpec;
use frameloom_fuzz::Target;
use serde::Serialize;

use super::parent::take_event;
use super::wire::Peer;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");

const WORDS: [&str; 16] = [
    "event", "do", "ready", "progress", "preview", "need", "away", "gone", "back", "done",
    "failed", "segment", "task", "output", "frames", "number",
];

fn lines(messages: &[impl Serialize]) -> Vec<u8> {
    let lines: Vec<Vec<u8>> = messages.iter().map(|m| serde_json::to_vec(m).unwrap()).collect();
    lines.join(&b"\n"[..])
}

/// What goes over the socket: lines of JSON as messages with their lengths, all else as it is.
fn framed(input: &[u8]) -> Vec<u8> {
    if !input.starts_with(b"{") {
        return input.to_vec();
    }
    let mut bytes = Vec::new();
    for line in input.split(|byte| *byte == b'\n') {
        bytes.extend(u32::try_from(line.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(line);
    }
    bytes
}

#[test]
fn fuzz_slot_events() {
    let frame = FrameNumber { filter: 0, number: 7, pts: -9 };
    let output = TaskOutput::Segment(SegmentOutput {
        file: WrittenFile { size: 1, sha256: "0".repeat(64) },
        frames: FrameCounts::default(),
        cpu_us: 1,
        wall_us: 1,
    });
    let events = [
        SlotEvent::Ready(SlotReady { engine: frameloom_media::engine() }),
        SlotEvent::Progress(SlotProgress { frames: 7 }),
        SlotEvent::Preview(SlotPreview { before: "/9j/".into(), after: "/9j/".into() }),
        SlotEvent::Need(NeededSegment { segment: 3 }),
        SlotEvent::Away(frame),
        SlotEvent::Gone(frame),
        SlotEvent::Back(frame),
        SlotEvent::Done(SlotDone { output }),
        SlotEvent::Failed(SlotFailed { error: Error::corrupt("it is no video") }),
    ];
    let mut target = Target::new("slot-events", CORPUS, 5000);
    target.words = &WORDS;
    target.seeds = vec![lines(&events), framed(&lines(&events))];
    target.fuzz(|input| {
        let (mut said, mut inbox) = (String::new(), Vec::new());
        // It comes in pieces, as a socket has it.
        for piece in framed(input).chunks(1000) {
            inbox.extend_from_slice(piece);
            loop {
                match take_event(&mut inbox) {
                    Ok(Some(event)) => {
                        let text = serde_json::to_string(&event).unwrap();
                        assert_eq!(serde_json::from_str::<SlotEvent>(&text).unwrap(), event);
                        said += text.get(..20).unwrap_or_default();
                    }
                    Ok(None) => break,
                    Err(error) => return said + error.message(),
                }
            }
        }
        said
    });
}

#[test]
fn fuzz_slot_commands() {
    let (job, attempt) = (JobId::from_bits(1), AttemptId::from_bits(2));
    let spec = JobSpec { filters: vec!["blur".parse().unwrap()], ..JobSpec::default() };
    let work = SegmentTask {
        frame_bytes: 0,
        previews: true,
        job,
        attempt,
        segment: 1,
        decode_threads: 1,
        files: vec!["m.onnx".into()],
        tracks: false,
        reveals: true,
    };
    let name = "in.mp4".to_owned();
    let commands = [
        SlotCommand::Plan(PlanTask { attempt, name, spec, files: Vec::new() }),
        SlotCommand::Segment(work),
        SlotCommand::Segments(NeededSegment { segment: 1 }),
        SlotCommand::NoFrame(SlotFailed { error: Error::unavailable("it is gone") }),
    ];
    let mut target = Target::new("slot-commands", CORPUS, 3000);
    (target.words, target.longest) = (&WORDS, 8 << 10);
    target.seeds = vec![lines(&commands), framed(&lines(&commands))];
    target.fuzz(|input| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        // It fits into the socket's buffer.
        theirs.write_all(&framed(input)).unwrap();
        drop(theirs);
        let (mut peer, mut said) = (Peer(ours), 0);
        loop {
            match peer.receive::<SlotCommand>() {
                Ok(Some(_)) => said += 1,
                Ok(None) => return format!("{said} commands"),
                Err(error) => return error.message().to_owned(),
            }
        }
    });
}
