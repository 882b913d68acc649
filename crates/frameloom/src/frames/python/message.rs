//! How a task's message names its frames: each with its two files, or, where they are many, all of them by a few
//! numbers, so that a message stays below 4 KB.

use frameloom_core::id::{AttemptId, JobId};
use serde::Serialize;
use serde_json::{Value, json};

use super::group::{Going, input, output};

/// The version of messages that write the names of files out: any function's worker can read them.
pub(super) const LONG: u32 = 1;

/// The version of messages that tell how files are named: the package `frameloom` reads them.
pub(super) const SHORT: u32 = 2;

/// Frames whose names are written out at most: with more a message exceeds 4 KB.
const MOST_WRITTEN_OUT: usize = 6;

/// Frames in a row, in a message: `frames/JOB/GROUP.N.in.npy` and `frames/JOB/ATTEMPT.N.out.npy` are their files, N from 0.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Run {
    group: AttemptId,
    /// The number of the first in its filter; the others follow.
    index: u64,
    /// The pts of the first, then how much later each of the others is than the one before.
    pts: Vec<i64>,
}

impl Run {
    /// Frames of a group that are many and follow each other; `None` for others.
    pub(super) fn of(group: AttemptId, frames: &[Going]) -> Option<Self> {
        let first = frames.first().filter(|_| frames.len() > MOST_WRITTEN_OUT)?;
        let (index, mut before) = (first.frame.number, 0);
        let mut pts = Vec::with_capacity(frames.len());
        for (n, going) in frames.iter().enumerate() {
            let follows = going.number == n
                && going.frame.number == index + n as u64
                && going.input == input(group, n);
            if !follows {
                return None;
            }
            pts.push(going.frame.pts.checked_sub(before)?);
            before = going.frame.pts;
        }
        Some(Self { group, index, pts })
    }
}

/// Frames with the names of their files.
pub(super) fn written_out(job: JobId, attempt: AttemptId, frames: &[Going]) -> Value {
    let named = |Going { frame, number, input }: &Going| {
        json!({
            "index": frame.number,
            "pts": frame.pts,
            "input": format!("frames/{job}/{input}"),
            "output": format!("frames/{job}/{}", output(attempt, *number)),
        })
    };
    frames.iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use frameloom_core::slot::FrameNumber;

    use super::*;

    const GROUP: u128 = 5;

    fn going(frames: usize) -> Vec<Going> {
        let one = |number| Going {
            frame: FrameNumber {
                filter: 0,
                number: 100_000 + number as u64,
                pts: 1_000_000_000_000 + 3003 * i64::try_from(number).unwrap(),
            },
            number,
            input: input(AttemptId::from_bits(GROUP), number),
        };
        (0..frames).map(one).collect()
    }

    #[test]
    fn many_frames_in_a_row_are_told_by_a_few_numbers() {
        let group = AttemptId::from_bits(GROUP);
        assert_eq!(Run::of(group, &going(6)), None, "few are written out for whoever reads them");
        let run = Run::of(group, &going(64)).unwrap();
        assert_eq!((run.index, run.pts.len(), run.pts[1]), (100_000, 64, 3003));
        // As base64, with the rest of the message, below 4 KB.
        assert!(json!(run).to_string().len() < 500, "{}", json!(run));
        // Those that do not follow each other are written out.
        let mut gap = going(8);
        gap.remove(3);
        assert_eq!(Run::of(group, &gap), None);
        assert_eq!(Run::of(AttemptId::from_bits(6), &going(8)), None);
        let mut far = going(8);
        (far[0].frame.pts, far[1].frame.pts) = (i64::MIN, i64::MAX);
        assert_eq!(Run::of(group, &far), None);
        let text = written_out(JobId::from_bits(1), AttemptId::from_bits(2), &going(1));
        let expected =
            format!("frames/{}/{}.0.out.npy", JobId::from_bits(1), AttemptId::from_bits(2));
        assert_eq!(text[0]["output"], expected);
    }
}
