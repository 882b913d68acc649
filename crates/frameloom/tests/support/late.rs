//! A view of a directory that remembers for half a minute what was not there, and what was: as NFS clients do.
#![allow(unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// It goes with the test.
pub struct LateView(PathBuf);

impl LateView {
    /// Shows `directory` at `place`, which is made.
    pub fn of(directory: &Path, place: &Path) -> Self {
        std::fs::create_dir(place).unwrap();
        let kept = "negative_timeout=30,entry_timeout=30,attr_timeout=30";
        let shown = Command::new("bindfs")
            .args(["--no-allow-other", "-o", kept])
            .args([directory, place])
            .status()
            .expect("bindfs is needed: scripts/setup.sh test");
        assert!(shown.success(), "bindfs cannot show {}", directory.display());
        let view = Self(place.to_owned());
        // That it is late is what it is for.
        let early = place.join("early");
        assert!(!early.exists());
        std::fs::write(directory.join("early"), "").unwrap();
        assert!(!early.exists(), "it sees at once what is new");
        std::fs::remove_file(directory.join("early")).unwrap();
        view
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LateView {
    fn drop(&mut self) {
        // Lazily: what is still open in it stays so.
        drop(Command::new("fusermount3").args(["-uz"]).arg(&self.0).status());
    }
}
