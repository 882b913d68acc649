//! What identifies a source: size, modification time, and a hash of samples or of all of it.

use sha2::{Digest, Sha256};

use crate::Result;
use crate::plan::Fingerprint;

/// Bytes of a sample.
const SAMPLE: u64 = 1 << 20;

/// Samples spread over the file, beside its first and last.
const SPREAD: u64 = 16;

/// The `(offset, length)` parts of a file of `size` bytes that are hashed, in ascending order
/// without overlap.
pub fn samples(size: u64, whole: bool) -> Vec<(u64, u64)> {
    if whole || size <= SAMPLE * (SPREAD + 2) {
        return vec![(0, size)];
    }
    let last = size - SAMPLE;
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for i in 0..SPREAD + 2 {
        let offset = u64::try_from(u128::from(last) * u128::from(i) / u128::from(SPREAD + 1));
        parts.push((offset.unwrap_or(last), SAMPLE));
    }
    parts
}

/// The fingerprint of a file of `size` bytes, modified `modified_ns` after 1970; `read_at` fills a
/// buffer from an offset.
///
/// # Errors
/// Those of `read_at`.
pub fn fingerprint(
    size: u64,
    modified_ns: i64,
    whole: bool,
    read_at: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<Fingerprint> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; usize::try_from(SAMPLE.min(size)).unwrap_or(0)];
    for (offset, length) in samples(size, whole) {
        let mut at = offset;
        while at < offset + length {
            let piece = usize::try_from((offset + length - at).min(SAMPLE)).unwrap_or(0);
            read_at(at, &mut buffer[..piece])?;
            hash.update(&buffer[..piece]);
            at += piece as u64;
        }
    }
    let sha256 = hex(&hash.finalize());
    Ok(Fingerprint { size, modified_ns, sha256, whole })
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_cover_both_ends_and_never_overlap() {
        assert_eq!(samples(0, false), [(0, 0)]);
        assert_eq!(samples(5, false), [(0, 5)]);
        let size = 100 << 30;
        let parts = samples(size, false);
        assert_eq!(parts.len(), 18);
        assert_eq!(parts[0], (0, SAMPLE));
        assert_eq!(parts[17], (size - SAMPLE, SAMPLE));
        assert!(parts.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0));
        assert_eq!(samples(size, true), [(0, size)]);
    }

    #[test]
    fn a_changed_byte_within_a_sample_changes_it() {
        let of = |data: &[u8]| {
            fingerprint(data.len() as u64, 7, false, &mut |at, bytes| {
                let at = usize::try_from(at).unwrap();
                bytes.copy_from_slice(&data[at..at + bytes.len()]);
                Ok(())
            })
            .unwrap()
        };
        assert_eq!(of(b"abc"), of(b"abc"));
        assert_ne!(of(b"abc"), of(b"abd"));
    }
}
