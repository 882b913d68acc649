//! A user's model file, looked at before ONNX Runtime gets it.

use frameloom_core::fingerprint::hex;
use frameloom_core::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};

/// Largest file that is taken.
const LARGEST: u64 = 1 << 30;

/// Fields of ONNX's `ModelProto` that every model has.
const IR_VERSION: u64 = 1;
const GRAPH: u64 = 7;

/// Highest number of a field of it.
const LAST_FIELD: u64 = 64;

fn too_large(name: &str, size: u64) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!("model '{name}' has {} MiB; 1024 are taken at most", size >> 20),
    )
}

/// Whether a file looks like an ONNX model, and a whole one.
///
/// # Errors
/// Corrupt with what is wrong; TooLarge above 1 GiB.
pub(super) fn check(name: &str, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Err(Error::corrupt(format!("model '{name}' is an empty file")));
    }
    if bytes.len() as u64 > LARGEST {
        return Err(too_large(name, bytes.len() as u64));
    }
    let none = || Error::corrupt(format!("model '{name}' is no ONNX file; export it as ONNX"));
    let cut_off = || {
        Error::corrupt(format!(
            "model '{name}' is cut off: more is announced than its {} bytes",
            bytes.len()
        ))
    };
    let mut rest = bytes;
    let (mut version, mut graph) = (false, false);
    while !rest.is_empty() {
        let Some(key) = varint(&mut rest) else { return Err(none()) };
        let (field, kind) = (key >> 3, key & 7);
        if field == 0 || field > LAST_FIELD {
            return Err(none());
        }
        let length = match kind {
            0 => {
                version |= field == IR_VERSION;
                if varint(&mut rest).is_none() {
                    return Err(if version { cut_off() } else { none() });
                }
                continue;
            }
            1 => 8,
            5 => 4,
            2 => match varint(&mut rest) {
                Some(length) => length,
                None if version => return Err(cut_off()),
                None => return Err(none()),
            },
            _ => return Err(none()),
        };
        graph |= field == GRAPH && kind == 2;
        match usize::try_from(length).ok().and_then(|length| rest.get(length..)) {
            Some(after) => rest = after,
            None if version => return Err(cut_off()),
            None => return Err(none()),
        }
    }
    if version && graph { Ok(()) } else { Err(none()) }
}

/// A number of protobuf's, taken off the front.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 127) << shift;
        if first & 128 == 0 {
            return Some(value);
        }
    }
    None
}

/// SHA-256, hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &[u8] = include_bytes!("../../../../models/blazeface_front_128.onnx");

    fn complaint(bytes: &[u8]) -> Error {
        check("m.onnx", bytes).unwrap_err()
    }

    #[test]
    fn a_whole_model_passes() {
        check("m.onnx", MODEL).unwrap();
    }

    #[test]
    fn what_is_no_model_is_told_in_words() {
        assert!(complaint(b"").message().contains("empty file"));
        for text in [&b"hello, world"[..], b"\x89PNG\r\n\x1a\n", b"ftyp", b"\x7fELF\x02", &[0; 64]]
        {
            let error = complaint(text);
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.message().contains("no ONNX file"), "{error}");
        }
    }

    #[test]
    fn a_model_that_is_cut_off_anywhere_is_refused() {
        for size in [MODEL.len() - 1, MODEL.len() / 2, 1000] {
            let error = complaint(&MODEL[..size]);
            assert!(error.message().contains("cut off"), "{size}: {error}");
        }
        for size in 1..200 {
            complaint(&MODEL[..size]);
        }
    }
}
