//! What filters find while they process frames, by the frames' pts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use frameloom_core::detection::TrackedBox;

use crate::follow::Noted;

/// Shared by the filters of a chain and whoever reads what they note.
#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<BTreeMap<i64, Vec<Noted>>>>);

impl Notes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, Vec<Noted>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a detector found in the frame of this pts.
    pub(super) fn note(&self, pts: i64, detector: u32, found: Vec<TrackedBox>) {
        if !found.is_empty() {
            self.lock().entry(pts).or_default().push(Noted { detector, found });
        }
    }

    /// Takes what was noted of the frame of this pts; what was noted of frames before is dropped.
    pub(crate) fn take(&self, pts: i64) -> Vec<Noted> {
        let mut notes = self.lock();
        let later = notes.split_off(&pts);
        *notes = later;
        notes.remove(&pts).unwrap_or_default()
    }
}
