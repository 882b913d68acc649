//! Finding things and following them: what detectors say of each frame of a segment, tracks over the whole
//! video, and the file that tells of both.
//!
//! *detect* writes a [`look_file`] a piece of the video, *track* reads all of them and writes one [`tracks_file`],
//! *render* paints by it, and the join writes the detections file.

mod glances;
mod look;
mod look_file;
mod report;
mod sight;
mod spec;
mod track;
mod tracks_file;
mod turned;

pub(crate) use look::Looker;
pub(crate) use look_file::{LookHeader, LookLine, LookRecord, LookWriter};
pub(crate) use report::{Reporter, WHOLE_FRAME, put as put_detections, write as write_detections};
pub(crate) use spec::{
    Action, Shape, hides_by_time, looks_first, looks_often_enough, plan_detection,
};
pub use spec::{action_hides, hides_things, is_detector, tells_of_things};
pub use track::track;
pub(crate) use tracks_file::{Tracks, TracksLine, TracksReader, check_tracks};

use frameloom_core::detection::{Found, TrackedBox};
use serde::{Deserialize, Serialize};

/// What one detector says of one frame.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Look {
    /// Whether it looked: with `every=N` it skips frames.
    pub(crate) looked: bool,
    /// Whether it failed: what is there is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) failed: bool,
    /// What it found, with low scores as well.
    pub(crate) found: Vec<Found>,
}

/// What a filter found in a frame while it was processed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Noted {
    /// The detector's number in the plan.
    pub(crate) detector: u32,
    /// What it found, in pixels of the source as displayed.
    pub(crate) found: Vec<TrackedBox>,
}
