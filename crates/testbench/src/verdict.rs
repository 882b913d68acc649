//! Whether a job is what an undisturbed run makes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use frameloom_core::{Error, ErrorKind, Result};

use crate::call;
use crate::journals::Told;

/// What an undisturbed run made.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The output.
    pub bytes: Vec<u8>,
    /// Its frames, as [`frames`] tells them.
    pub frames: Vec<String>,
}

/// What is wrong with a job.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Frames that are not there, differ, or are too many.
    pub frames: u64,
    /// All that is wrong, in words.
    pub troubles: Vec<String>,
}

/// `pts,md5` of every frame of a file's video.
///
/// # Errors
/// Unavailable where it cannot be decoded.
pub fn frames(file: &Path) -> Result<Vec<String>> {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-i"]).arg(file);
    let text =
        call(ffmpeg.args(["-map", "0:v:0", "-vsync", "passthrough", "-f", "framemd5", "-"]))?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Ok(lines
        .map(|line| {
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            let at = |i: usize| fields.get(i).copied().unwrap_or_default();
            format!("{},{}", at(2), at(5))
        })
        .collect())
}

/// How many frames of one list are not in the other, or the other way round.
fn apart(expected: &[String], got: &[String]) -> u64 {
    let mut left: BTreeMap<&str, i64> = BTreeMap::new();
    for frame in expected {
        *left.entry(frame).or_default() += 1;
    }
    for frame in got {
        *left.entry(frame).or_default() -= 1;
    }
    let missing: i64 = left.values().filter(|n| **n > 0).sum();
    let more: i64 = left.values().filter(|n| **n < 0).sum();
    missing.unsigned_abs().max(more.unsigned_abs())
}

/// Looks at the output of a job that a client says is done, and at what was decided about it. `read` tells the frames of the
/// output, and is asked where its bytes differ only.
pub fn judge(
    expected: &Expected,
    got: &[u8],
    told: &Told,
    strangers: &BTreeSet<String>,
    read: impl FnOnce() -> Result<Vec<String>>,
) -> Verdict {
    let mut verdict = Verdict::default();
    if got != expected.bytes {
        let words = match read() {
            Ok(got) => {
                verdict.frames = apart(&expected.frames, &got);
                format!("other bytes than run: {} frames lost or differing", verdict.frames)
            }
            Err(error) => {
                verdict.frames = expected.frames.len() as u64;
                format!("other bytes than run, and no video: {error}")
            }
        };
        verdict.troubles.push(words);
    }
    let counted = expected.frames.len() as u64;
    if told.frames != counted {
        let words = format!("its segments count {} frames, not {counted}", told.frames);
        verdict.troubles.push(words);
        verdict.frames = verdict.frames.max(told.frames.abs_diff(counted));
    }
    for (task, times) in told.accepted.iter().filter(|(_, times)| **times > 1) {
        verdict.troubles.push(format!("{task} was accepted {times} times"));
    }
    // What a plug does is no task's fault. A slot that was killed looks so; a full disk is noted, and does not count.
    let looks_so = |error: &Error| {
        error.message().contains("signal 9") || error.kind() == ErrorKind::Exhausted
    };
    for (task, error) in told.failed.iter().filter(|(_, error)| !looks_so(error)) {
        verdict.troubles.push(format!("a fault of a plug was counted as {task}'s: {error}"));
    }
    for slot in &told.slots {
        if strangers.iter().any(|node| slot.starts_with(node)) {
            verdict.troubles.push(format!("slot {slot} of another engine took part"));
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use frameloom_core::wire::Task;

    fn list(frames: &[&str]) -> Vec<String> {
        frames.iter().map(ToString::to_string).collect()
    }

    fn expected() -> Expected {
        Expected { bytes: vec![1, 2, 3], frames: list(&["0,a", "1,b", "2,b"]) }
    }

    fn good() -> Told {
        let accepted = [(Task::Plan, 1), (Task::Segment(0), 1), (Task::Concat, 1)];
        Told { frames: 3, accepted: accepted.into(), ..Told::default() }
    }

    fn of(got: &[u8], told: &Told, frames: &[&str]) -> Verdict {
        judge(&expected(), got, told, &["f00".to_owned()].into(), || Ok(list(frames)))
    }

    #[test]
    fn the_same_bytes_are_good_and_nobody_decodes_them() {
        let read = || panic!("nobody should look");
        assert_eq!(
            judge(&expected(), &[1, 2, 3], &good(), &BTreeSet::new(), read),
            Verdict::default()
        );
    }

    #[test]
    fn other_bytes_are_told_with_the_frames_that_differ() {
        let all = ["0,a", "1,b", "2,b"];
        assert_eq!(of(&[1, 2], &good(), &all).frames, 0);
        assert_eq!(of(&[1, 2], &good(), &all).troubles.len(), 1);
        assert_eq!(of(&[1, 2], &good(), &["0,a", "1,x", "2,b"]).frames, 1);
        assert_eq!(of(&[1, 2], &good(), &["0,a"]).frames, 2);
        assert_eq!(of(&[1, 2], &good(), &["0,a", "1,b", "2,b", "2,b"]).frames, 1);
        let broken =
            judge(&expected(), &[], &good(), &BTreeSet::new(), || Err(Error::corrupt("no video")));
        assert_eq!(broken.frames, 3);
    }

    #[test]
    fn frames_that_were_not_counted_and_results_that_count_twice_are_told() {
        let told = Told { frames: 2, ..good() };
        assert_eq!(of(&[1, 2, 3], &told, &[]).frames, 1);
        let mut told = good();
        told.accepted.insert(Task::Segment(0), 2);
        let verdict = of(&[1, 2, 3], &told, &[]);
        assert_eq!(verdict.troubles, ["segment 0 was accepted 2 times"]);
    }

    #[test]
    fn only_a_slot_that_was_killed_may_count_and_no_other_engine_takes_part() {
        let mut told = good();
        told.failed.push((Task::Segment(0), Error::unavailable("the slot died by signal 9")));
        told.failed.push((Task::Segment(0), Error::exhausted("no room")));
        assert_eq!(of(&[1, 2, 3], &told, &[]), Verdict::default());
        told.failed.push((Task::Segment(0), Error::timeout("silent for 60 s")));
        assert_eq!(of(&[1, 2, 3], &told, &[]).troubles.len(), 1);
        let mut told = good();
        told.slots.insert("f00/0".into());
        assert_eq!(of(&[1, 2, 3], &told, &[]).troubles.len(), 1);
    }
}
