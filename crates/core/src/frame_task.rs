//! Frames as tasks of their own: what a `celery` filter asks for, and which tasks may be asked for.

use serde_json::{Map, Value};

use crate::catalogue::Params;
use crate::{Error, Result};

/// The name of the filter whose frames are processed by Celery workers.
pub const FILTER: &str = "celery";

/// Bytes of frames under way that one slot has at most.
const MOST_BYTES: u64 = 256 << 20;

/// What becomes of a frame whose task has failed three times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The job fails.
    Fail,
    /// The frame that came out before is shown once more; the first stays as it is.
    Hold,
    /// The frame stays as it is.
    Original,
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
                "hold" => OnError::Hold,
                "original" => OnError::Original,
                _ => OnError::Fail,
            },
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
            params: Map::new(),
        };
        assert_eq!(spec.window(1920 * 1080 * 3), 32);
        assert_eq!(spec.window(3840 * 2160 * 3), 10);
        assert_eq!(spec.window(1 << 40), 1);
        assert!(spec.is_allowed(&["x@y".into(), "t@*".into()]));
        assert!(!spec.is_allowed(&["t@other".into()]) && !spec.is_allowed(&[]));
    }
}
