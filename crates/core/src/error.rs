//! The one error type: a kind that decides retry, HTTP status and exit code, and a message that
//! says where, quotes what the user gave and tells what to do.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Characters of a stranger's message that are kept.
const MOST_SAID: usize = 4000;

/// Short for a result with Frameloom's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is. Everything a caller decides follows from the kind alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request or a parameter is wrong.
    Invalid,
    /// Nobody has said who is asking.
    Unauthorized,
    /// Who is asking may not.
    Forbidden,
    /// What was named does not exist.
    NotFound,
    /// What was asked for contradicts what is there: an output that exists, a work directory in use.
    Conflict,
    /// The media is well formed, but this cannot be done with it.
    Unsupported,
    /// The media is not what it claims to be.
    Corrupt,
    /// More was given than is taken.
    TooLarge,
    /// Memory, disk or a quota is used up; it passes when there is room.
    Exhausted,
    /// A part that is needed does not answer: a broker, a store, a slot that died.
    Unavailable,
    /// A part that is needed did not answer in time.
    Timeout,
    /// Somebody asked for it to stop.
    Cancelled,
    /// A bug of Frameloom's.
    Internal,
}

impl ErrorKind {
    /// All kinds, in the order of the table in `docs/errors.md`.
    pub const ALL: [ErrorKind; 13] = [
        ErrorKind::Invalid,
        ErrorKind::Unauthorized,
        ErrorKind::Forbidden,
        ErrorKind::NotFound,
        ErrorKind::Conflict,
        ErrorKind::Unsupported,
        ErrorKind::Corrupt,
        ErrorKind::TooLarge,
        ErrorKind::Exhausted,
        ErrorKind::Unavailable,
        ErrorKind::Timeout,
        ErrorKind::Cancelled,
        ErrorKind::Internal,
    ];

    /// The process exit code for a command that ends with this kind.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Invalid | Self::Unauthorized | Self::Forbidden | Self::TooLarge => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Unsupported | Self::Corrupt => 5,
            Self::Exhausted | Self::Unavailable | Self::Timeout => 6,
            Self::Cancelled => 130,
            Self::Internal => 70,
        }
    }

    /// Whether another attempt at the same task may end otherwise.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Exhausted | Self::Unavailable | Self::Timeout | Self::Internal)
    }

    /// The kind's name as it stands in JSON, e.g. `not_found`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Unsupported => "unsupported",
            Self::Corrupt => "corrupt",
            Self::TooLarge => "too_large",
            Self::Exhausted => "exhausted",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

/// A failure: its kind, a message for a person, and the foreign error it came from, as text.
///
/// It travels as JSON between slots, nodes and the server without losing anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

impl Error {
    /// An error of `kind`; `message` in lower case, quoting the user's input, saying what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Keeps the foreign error that caused this one, as text.
    #[must_use]
    pub fn with_source(mut self, source: impl fmt::Display) -> Self {
        self.source = Some(source.to_string());
        self
    }

    /// Adds *where* it happened in front of the message, on the way up: `segment 3: …`.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// What somebody says who may say anything: control characters are escaped, so that they do nothing to a terminal,
    /// and what is long is cut.
    #[must_use]
    pub fn tamed(self) -> Self {
        let tame = |text: &str| -> String {
            let mut tamed = String::new();
            for (count, c) in text.chars().enumerate() {
                if count == MOST_SAID {
                    tamed.push('…');
                    break;
                }
                if c.is_control() && c != '\n' {
                    tamed.extend(c.escape_default());
                } else {
                    tamed.push(c);
                }
            }
            tamed
        };
        let source = self.source.as_deref().map(tame);
        Self { kind: self.kind, message: tame(&self.message), source }
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message without its source.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The foreign error's text, if there was one.
    pub fn source_text(&self) -> Option<&str> {
        self.source.as_deref()
    }

    /// The request or a parameter is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// What was named does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// What was asked for contradicts what is there.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// The media is well formed, but this cannot be done with it.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// The media is not what it claims to be.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// Memory, disk or a quota is used up.
    pub fn exhausted(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Exhausted, message)
    }

    /// A part that is needed does not answer.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// A part that is needed did not answer in time.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Timeout, message)
    }

    /// Somebody asked for it to stop.
    pub fn cancelled(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Cancelled, message)
    }

    /// A bug of Frameloom's.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Classifies an operating-system error once, where it enters; `what` says what was tried on
    /// which path, e.g. `cannot open 'in.mp4'`.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let (kind, advice) = match error.kind() {
            Io::NotFound => (ErrorKind::NotFound, ""),
            Io::AlreadyExists | Io::DirectoryNotEmpty => (ErrorKind::Conflict, ""),
            Io::PermissionDenied | Io::ReadOnlyFilesystem => (ErrorKind::Forbidden, ""),
            Io::IsADirectory | Io::NotADirectory | Io::InvalidInput | Io::InvalidFilename => {
                (ErrorKind::Invalid, "")
            }
            Io::StorageFull | Io::QuotaExceeded => {
                (ErrorKind::Exhausted, "; make room, then run the same command again: it resumes")
            }
            Io::FileTooLarge => (ErrorKind::Exhausted, "; the file system's size limit is reached"),
            Io::OutOfMemory => (ErrorKind::Exhausted, ""),
            Io::TimedOut => (ErrorKind::Timeout, ""),
            _ => (ErrorKind::Unavailable, ""),
        };
        Self::new(kind, format!("{what}: {}{advice}", describe_io(error))).with_source(error)
    }
}

/// The error's words without Rust's `(os error N)`.
fn describe_io(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_lowercase(),
        None => text,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_json_whole() {
        let error = Error::corrupt("no moov atom").at("segment 3").with_source("EINVAL");
        let text = serde_json::to_string(&error).unwrap();
        assert_eq!(serde_json::from_str::<Error>(&text).unwrap(), error);
        assert_eq!(error.message(), "segment 3: no moov atom");
    }

    #[test]
    fn what_a_stranger_says_is_short_and_does_nothing_to_a_terminal() {
        let said = Error::corrupt(format!("\u{1b}]0;x\u{7}é\n{}", "y".repeat(1 << 20)));
        let tamed = said.with_source("\u{9b}2J").tamed();
        assert!(tamed.message().starts_with("\\u{1b}]0;x\\u{7}é\nyy"), "{tamed}");
        assert_eq!(tamed.message().chars().filter(|c| *c == 'y').count(), MOST_SAID - 8);
        assert_eq!(tamed.source_text(), Some("\\u{9b}2J"));
        assert_eq!(tamed.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn exit_codes_follow_the_table() {
        let codes: Vec<u8> = ErrorKind::ALL.iter().map(|kind| kind.exit_code()).collect();
        assert_eq!(codes, [2, 2, 2, 3, 4, 5, 5, 2, 6, 6, 6, 130, 70]);
    }

    #[test]
    fn names_in_code_and_in_json_agree() {
        for kind in ErrorKind::ALL {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{}\"", kind.name()));
        }
    }

    #[test]
    fn a_full_disk_says_what_to_do() {
        let error = Error::io("cannot write 'x'", &std::io::ErrorKind::StorageFull.into());
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert!(error.message().contains("make room"), "{error}");
    }
}
