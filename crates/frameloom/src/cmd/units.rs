//! Sizes, times and pairs as command lines have them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use frameloom_core::{Error, Result};

/// A time from 10 ms to 10 s: a number with ms or s.
pub(crate) fn poll_time(text: &str) -> std::result::Result<Duration, String> {
    let millis = text.strip_suffix("ms").map(str::parse::<u64>).or_else(|| {
        text.strip_suffix('s').map(|s| s.parse::<u64>().map(|s| s.saturating_mul(1000)))
    });
    match millis {
        Some(Ok(millis @ 10..=10_000)) => Ok(Duration::from_millis(millis)),
        _ => Err("a number with ms or s, from 10ms to 10s".into()),
    }
}

/// `2G` as bytes.
pub(crate) fn bytes(text: &str, what: &str) -> Result<u64> {
    let wrong = || Error::invalid(format!("--{what} '{text}' is not a size like 500M or 2G"));
    let (digits, factor) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 1u64 << 10),
        Some((at, 'M' | 'm')) => (&text[..at], 1 << 20),
        Some((at, 'G' | 'g')) => (&text[..at], 1 << 30),
        Some((at, 'T' | 't')) => (&text[..at], 1 << 40),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(wrong)
}

/// `7d` as a duration; `None` for ever.
pub(crate) fn kept(text: &str, flag: &str) -> Result<Option<Duration>> {
    if text == "forever" {
        return Ok(None);
    }
    let wrong =
        || Error::invalid(format!("--{flag} '{text}' is not a time like 12h or 7d, nor 'forever'"));
    let at = text.len().saturating_sub(1);
    let (digits, unit) = text.split_at_checked(at).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1u64,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let count = digits.parse::<u64>().map_err(|_| wrong())?;
    count.checked_mul(seconds).map(|s| Some(Duration::from_secs(s))).ok_or_else(wrong)
}

/// A time that is not for ever: a number with s, m, h or d.
pub(crate) fn time(text: &str) -> std::result::Result<Duration, String> {
    let wrong = "a number with s, m or h, like 60s".to_owned();
    kept(text, "time").ok().flatten().ok_or(wrong)
}

/// A time of ten seconds or more: who works on a message must have begun to do so.
pub(crate) fn visibility(text: &str) -> std::result::Result<Duration, String> {
    time(text).and_then(|time| match time.as_secs() {
        10.. => Ok(time),
        _ => Err("10s or more: else frames go to a second node while the first has them".into()),
    })
}

/// `media=/mnt/media` pairs; the directories must exist.
///
/// # Errors
/// Invalid, quoting what is none; NotFound.
pub(crate) fn roots(pairs: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    let mut roots = BTreeMap::new();
    for pair in pairs {
        let wrong =
            || Error::invalid(format!("--root '{pair}' is not NAME=DIR, like media=/mnt/media"));
        let (name, dir) = pair.split_once('=').ok_or_else(wrong)?;
        if name.is_empty()
            || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            return Err(wrong());
        }
        let dir = std::fs::canonicalize(dir).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::not_found(format!("--root '{pair}': there is no such directory"))
            }
            _ => Error::io(format!("--root '{pair}'"), &e),
        })?;
        roots.insert(name.to_owned(), dir);
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        assert_eq!(bytes("2G", "x").unwrap(), 2 << 30);
        assert_eq!(bytes("17", "x").unwrap(), 17);
        assert_eq!(kept("7d", "keep").unwrap(), Some(Duration::from_secs(7 * 86_400)));
        assert_eq!(kept("forever", "keep").unwrap(), None);
        for bad in ["", "G", "-1", "1.5G", "99999999999999T"] {
            assert!(bytes(bad, "x").is_err(), "{bad}");
        }
        for bad in ["", "d", "7", "-1d", "7w", "é"] {
            assert!(kept(bad, "keep").is_err(), "{bad}");
        }
        assert_eq!(visibility("10s").unwrap(), Duration::from_secs(10));
        for bad in ["0s", "9s", "0h", "10"] {
            assert!(visibility(bad).is_err(), "{bad}");
        }
        assert_eq!(roots(&["tmp=/".into()]).unwrap()["tmp"], PathBuf::from("/"));
        for bad in ["", "tmp", "=/", "a/b=/", "tmp=/nowhere-at-all"] {
            assert!(roots(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
