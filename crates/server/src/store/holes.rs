//! Files that are mostly holes: a terabyte of nothing costs whoever makes it no room, and whoever copies, hashes or
//! fetches it a day.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

/// Files of at most so many bytes may be anything.
const SMALL: u64 = 64 << 20;

/// File systems that give a file a block for each of its bytes that was written, by the numbers that Linux has for them: ext,
/// XFS, tmpfs. Others compress, or do not tell.
const PLAIN: [u32; 3] = [0xef53, 0x5846_5342, 0x0102_1994];

/// Whether less than half of a large file was ever written, where its file system tells.
pub(crate) fn is_mostly_holes(file: &File) -> bool {
    let Ok(meta) = file.metadata() else { return false };
    if meta.len() <= SMALL || meta.blocks().saturating_mul(512) >= meta.len() / 2 {
        return false;
    }
    is_plain(file)
}

/// Whether a file lies on one of [`PLAIN`].
fn is_plain(file: &File) -> bool {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the numbers have 32 bits"
    )]
    rustix::fs::fstatfs(file).is_ok_and(|system| PLAIN.contains(&(system.f_type as u32)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_terabyte_of_nothing_is_known_by_its_blocks() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(1 << 40).unwrap();
        assert_eq!(is_mostly_holes(&file), is_plain(&file));
        file.set_len(SMALL).unwrap();
        assert!(!is_mostly_holes(&file));
        let piece = vec![7; 1 << 20];
        file.set_len(0).unwrap();
        for _ in 0..70 {
            file.write_all(&piece).unwrap();
        }
        assert!(!is_mostly_holes(&file));
    }
}
