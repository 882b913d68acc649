//! Frames as tasks of their own: what a `celery` filter asks for, which tasks may be asked for, and
//! which filters of a plan can be tasks of nodes.

use serde_json::{Map, Value};

use crate::catalogue::{Footprint, Params};
use crate::plan::{PictureInfo, PlannedFilter};
use crate::spec::{JobSpec, OnError};
use crate::{Error, Result};

/// The name of the filter whose frames are processed by Celery workers.
pub const FILTER: &str = "celery";

/// Whether a filter has to do with things that are found: it goes by what was found in the whole video or
/// stands in a file, or notes what it finds. It must know where its frames lie in the source, and runs where
/// a segment is decoded.
pub fn is_about_things(name: &str) -> bool {
    matches!(name, "faces" | "motion" | "objects" | "regions")
}

/// Whether a job sends frames away: to nodes, or to functions.
pub fn sends_frames(spec: &JobSpec) -> bool {
    !spec.granularity.is_segment() || spec.filters.iter().any(|filter| filter.name == FILTER)
}

/// Bytes of frames under way that one slot has at most.
const MOST_BYTES: u64 = 256 << 20;

/// Frames that a stretch has away at most, however small they are.
const MOST_AWAY: u64 = 64;

/// Neighbours that a task may name; filters that need more work in order.
const MOST_NEIGHBOURS: u32 = 32;

/// Filters in a row that one frame task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The first one's number in the plan.
    pub first: u32,
    /// The number behind the last one.
    pub end: u32,
    /// Frames before it that a frame needs.
    pub before: u32,
    /// Frames after it that a frame needs.
    pub after: u32,
    /// Bytes of a frame on its way out.
    pub input: u64,
    /// Bytes of a frame on its way back.
    pub output: u64,
}

impl Stretch {
    /// Bytes of frames that it cannot do with less of.
    pub fn least(&self) -> u64 {
        let away = u64::from(self.after) + 2;
        (away + u64::from(self.before)) * self.input + away * self.output
    }

    /// Frames that are away at most where all their files may take so many bytes.
    pub fn window(&self, bytes: u64) -> u64 {
        let kept = u64::from(self.before) * self.input;
        let fits = bytes.saturating_sub(kept) / (self.input + self.output).max(1);
        fits.clamp(u64::from(self.after) + 2, MOST_AWAY)
    }
}

/// The stretches of a pipeline whose pictures come in as `working`. Filters that keep state, need
/// frames too far away, or have to do with things that are found are in none. A stretch begins anew at each filter that needs neighbours: they
/// are the frames that came out of the filters before.
pub fn stretches(filters: &[PlannedFilter], working: &PictureInfo) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = Vec::new();
    let mut open = false;
    let mut input = working.bytes();
    for (at, filter) in (0u32..).zip(filters) {
        let output = filter.output.bytes();
        let (before, after) = match filter.footprint {
            Footprint::PerFrame => (0, 0),
            Footprint::Window { before, after } => (before, after),
            Footprint::Warmup { .. } | Footprint::Sequential => (u32::MAX, u32::MAX),
        };
        let name = filter.spec.name.as_str();
        let spread =
            name != FILTER && !is_about_things(name) && before.max(after) <= MOST_NEIGHBOURS;
        let alone = before == 0 && after == 0;
        match all.last_mut().filter(|_| open && alone) {
            Some(last) if spread => (last.end, last.output) = (at + 1, output),
            _ if spread => {
                all.push(Stretch { first: at, end: at + 1, before, after, input, output });
            }
            _ => {}
        }
        (open, input) = (spread, output);
    }
    all
}

/// What a `celery` filter asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameTaskSpec {
    /// The Celery task's name.
    pub task: String,
    /// The queue that its workers consume.
    pub queue: String,
    /// Frames under way at most, of one slot.
    pub window: u32,
    /// Frames a task.
    pub batch: u32,
    /// Seconds that a worker may take for a task from when it has begun; `None` for what its own code
    /// says.
    pub timeout: Option<u32>,
    /// What becomes of frames that cannot be done.
    pub on_error: OnError,
    /// Whether its function hides what must not be seen.
    pub hides: bool,
    /// What the function gets as `params`.
    pub params: Map<String, Value>,
}

impl FrameTaskSpec {
    /// Of a filter's parameters.
    ///
    /// # Errors
    /// Invalid for names that no task or queue of a user's may have, and params that are no JSON object.
    pub fn of(params: &Params) -> Result<Self> {
        let number = |name: &str| -> Result<u32> {
            u32::try_from(params.integer(name)?)
                .map_err(|_| Error::invalid(format!("{name} is out of range")))
        };
        let text = params.text("params")?;
        let object = serde_json::from_str(text).map_err(|e| {
            Error::invalid(format!(
                "params '{text}' are not a JSON object, like {{\"sigma\":5}} ({e})"
            ))
        })?;
        Ok(Self {
            task: name("task", params.text("task")?, &["celery.", "frameloom."])?,
            queue: name("queue", params.text("queue")?, &["_kombu", "unacked", "frameloom."])?,
            window: number("window")?,
            batch: number("batch")?,
            timeout: params.optional_integer("timeout").and_then(|t| u32::try_from(t).ok()),
            on_error: match params.text("on_error")? {
                "skip" => OnError::Skip,
                "hold" => OnError::Hold,
                "original" => OnError::Original,
                _ => OnError::Fail,
            },
            hides: params.boolean("hides")?,
            params: object,
        })
    }

    /// Frames of `bytes` each that a slot has under way at most, and at least one. Where a task would
    /// have more it has so many.
    pub fn window(&self, bytes: u64) -> u64 {
        let fits = (MOST_BYTES / bytes.max(1)).min(u64::from(self.window));
        fits.max(1)
    }

    /// Whether one of an operator's patterns, `NAME@QUEUE` with `*` and `?`, allows it.
    pub fn is_allowed(&self, patterns: &[String]) -> bool {
        let asked = format!("{}@{}", self.task, self.queue);
        patterns.iter().any(|pattern| glob(pattern, &asked))
    }
}

/// A name as Celery's users have them, and none that Celery, kombu or we use ourselves.
fn name(what: &str, name: &str, reserved: &[&str]) -> Result<String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if !(1..=128).contains(&name.len()) || !name.bytes().all(fits) {
        return Err(Error::invalid(format!(
            "{what} '{}' is not 1 to 128 letters, digits, '_', '.' and '-'",
            name.chars().take(140).collect::<String>()
        )));
    }
    if let Some(prefix) = reserved.iter().find(|prefix| name.starts_with(**prefix)) {
        return Err(Error::invalid(format!("{what} '{name}': names with '{prefix}' are reserved")));
    }
    Ok(name.to_owned())
}

/// Whether a name fits a pattern of `*`, any characters, and `?`, any one.
pub fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name) in [("*", "x"), ("frameloom@*", "frameloom@a"), ("f?o*m", "froom")] {
            assert!(glob(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("", "x"), ("celery@*", "frameloom@a"), ("a*b", "abc")] {
            assert!(!glob(pattern, name), "{pattern} {name}");
        }
    }

    fn filter(text: &str, footprint: Footprint, pixel_format: &str) -> PlannedFilter {
        PlannedFilter { spec: text.parse().unwrap(), footprint, output: picture(pixel_format) }
    }

    fn picture(pixel_format: &str) -> PictureInfo {
        let unknown = || "unknown".to_owned();
        PictureInfo {
            width: 1921,
            height: 1081,
            pixel_format: pixel_format.into(),
            sample_aspect_ratio: crate::time::Rational::new(0, 1),
            field_order: unknown(),
            color: crate::plan::ColorTags {
                range: unknown(),
                primaries: unknown(),
                transfer: unknown(),
                matrix: unknown(),
                chroma_location: unknown(),
            },
        }
    }

    #[test]
    fn stretches_begin_at_windows_and_leave_state_out() {
        use Footprint::{PerFrame, Sequential, Window};
        let window = Window { before: 1, after: 2 };
        let filters = [
            filter("a", PerFrame, "yuv420p"),
            filter("b", PerFrame, "gray"),
            filter("c", window, "gray"),
            filter("d", PerFrame, "gray"),
            filter("e", Sequential, "gray"),
            filter("celery", PerFrame, "gray"),
            filter("f", PerFrame, "yuv444p"),
            filter("g", Window { before: 99, after: 0 }, "yuv444p"),
            filter("h", PerFrame, "gray"),
            filter("faces", PerFrame, "gray"),
            filter("motion", PerFrame, "gray"),
            filter("i", PerFrame, "gray"),
            filter("objects", PerFrame, "gray"),
            filter("regions", PerFrame, "gray"),
        ];
        let found = stretches(&filters, &picture("yuv420p"));
        let of = |s: &Stretch| (s.first, s.end, s.before, s.after);
        let ranges: Vec<_> = found.iter().map(of).collect();
        assert_eq!(
            ranges,
            [(0, 2, 0, 0), (2, 4, 1, 2), (6, 7, 0, 0), (8, 9, 0, 0), (11, 12, 0, 0)]
        );
        let (luma, chroma) = (1921 * 1081, 961 * 541);
        assert_eq!((found[0].input, found[0].output), (luma + 2 * chroma, luma));
        assert_eq!((found[2].input, found[2].output), (luma, 3 * luma));
    }

    #[test]
    fn a_window_of_frames_keeps_to_its_bytes() {
        let stretch = Stretch { first: 0, end: 1, before: 2, after: 2, input: 10, output: 20 };
        assert_eq!(stretch.least(), 6 * 10 + 4 * 20);
        for bytes in [stretch.least(), 500, 1000] {
            let away = stretch.window(bytes);
            assert!((away + 2) * 10 + away * 20 <= bytes, "{away} frames in {bytes} bytes");
        }
        assert_eq!((stretch.window(0), stretch.window(1 << 40)), (4, MOST_AWAY));
    }

    #[test]
    fn names_of_others_are_refused() {
        assert_eq!(name("task", "mytasks.anonymise", &["celery."]).unwrap(), "mytasks.anonymise");
        for bad in ["", "a b", "../x", "celery.backend_cleanup", "é", &"x".repeat(129)] {
            let error = name("task", bad, &["celery."]).unwrap_err();
            assert!(error.message().contains(bad), "{error}");
        }
    }

    #[test]
    fn a_window_is_bounded_in_bytes() {
        let spec = FrameTaskSpec {
            task: "t".into(),
            queue: "q".into(),
            window: 32,
            batch: 1,
            timeout: None,
            on_error: OnError::Fail,
            hides: false,
            params: Map::new(),
        };
        assert_eq!(spec.window(1920 * 1080 * 3), 32);
        assert_eq!(spec.window(3840 * 2160 * 3), 10);
        assert_eq!(spec.window(1 << 40), 1);
        assert!(spec.is_allowed(&["x@y".into(), "t@*".into()]));
        assert!(!spec.is_allowed(&["t@other".into()]) && !spec.is_allowed(&[]));
    }
}
