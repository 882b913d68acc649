//! Which detections are believed: the sure ones, and others that bear each other out.

use super::TrackConfig;
use super::associate::Track;
use super::scene::Scene;

/// In this many looks, by how many must agree, they agree.
const SPAN: usize = 2;

/// What covers more of the picture than this is sure if it is there at all, so that others do not count for it.
const LARGE: f64 = 0.1;

/// Leaves out of tracks with a sure detection what is fainter than low, and out of the others everything, but for
/// stretches of `agree` detections within twice as many looks. Tracks of which nothing is left go. With `agree` 0 none do.
pub(super) fn believe(scene: &Scene, tracks: &mut Vec<Track>, config: &TrackConfig) {
    let agree = usize::try_from(config.agree).unwrap_or(usize::MAX);
    let large = LARGE * f64::from(config.size.0) * f64::from(config.size.1);
    if agree == 0 {
        return;
    }
    for track in tracks.iter_mut() {
        let sure = track.anchors.iter().any(|anchor| anchor.sure);
        let small = track.anchors.iter().all(|anchor| anchor.shape.w * anchor.shape.h <= large);
        let looks = track.anchors.iter().map(|anchor| scene.look_of(anchor.frame));
        let mut borne_out = stretches(&looks.collect::<Vec<_>>(), agree).into_iter();
        track.anchors.retain(|anchor| {
            let borne_out = borne_out.next().unwrap_or(false);
            if sure { borne_out || anchor.score >= scene.low } else { borne_out && small }
        });
    }
    tracks.retain(|track| !track.anchors.is_empty());
}

/// Which of some looks, in order, lie in a stretch of `agree` of them that is not too long.
fn stretches(looks: &[usize], agree: usize) -> Vec<bool> {
    let mut inside = vec![false; looks.len()];
    for (first, stretch) in looks.windows(agree).enumerate() {
        if stretch[agree - 1] - stretch[0] < agree.saturating_mul(SPAN) {
            inside[first..first + agree].fill(true);
        }
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detection::{Found, FrameFound, Rect};
    use crate::time::TimeBase;
    use crate::track::track;

    fn config() -> TrackConfig {
        let base = TimeBase::new(1, 25).unwrap();
        let usual = TrackConfig::new(base, (1280, 720));
        TrackConfig { threshold: 0.5, low: 0.3, faint: 0.1, agree: 3, lead_us: 0, ..usual }
    }

    /// The frames with a box, of 60 in which a slow thing is found with these scores.
    fn covered(scores: &[(usize, f32)], config: &TrackConfig) -> Vec<usize> {
        covered_by(60.0, scores, config)
    }

    /// The same for one that is so wide.
    fn covered_by(w: f32, scores: &[(usize, f32)], config: &TrackConfig) -> Vec<usize> {
        let frame = |at: u16| {
            let rect = Rect { x: 100.0 + 2.0 * f32::from(at), y: 100.0, w, h: 80.0 + w / 3.0 };
            let scores = scores.iter().filter(|(frame, _)| *frame == usize::from(at));
            let found = scores.map(|(_, score)| Found { rect, score: *score, class: 0 }).collect();
            FrameFound { pts: i64::from(at), looked: true, found }
        };
        let frames: Vec<FrameFound> = (0..60).map(frame).collect();
        let boxes = track(&frames, config);
        (0..60).filter(|frame| !boxes[*frame].is_empty()).collect()
    }

    #[test]
    fn several_that_are_not_sure_make_a_track() {
        let none: Vec<usize> = Vec::new();
        let low = [(10, 0.4), (12, 0.3), (14, 0.4)];
        assert_eq!(covered(&low, &config()), (10..15).collect::<Vec<_>>());
        assert_eq!(covered(&low[..2], &config()), none);
        assert_eq!(covered(&[(10, 0.4), (13, 0.4), (16, 0.4)], &config()), none);
        assert_eq!(covered(&[(10, 0.2), (12, 0.2), (14, 0.2)], &config()), none);
        assert_eq!(covered(&low, &TrackConfig { agree: 0, ..config() }), none);
        // What is large has to be sure.
        assert_eq!(covered_by(600.0, &low, &config()), none);
        let sure = [(10, 0.4), (12, 0.6), (14, 0.4)];
        assert_eq!(covered_by(600.0, &sure, &config()), (10..15).collect::<Vec<_>>());
    }

    #[test]
    fn faint_ones_continue_a_track_where_they_agree() {
        let faint = [(10, 0.6), (11, 0.2), (12, 0.2), (13, 0.2)];
        assert_eq!(covered(&faint, &config()), [10, 11, 12, 13]);
        assert_eq!(covered(&faint[..2], &config()), [10]);
        // Low ones count alone, as ever.
        assert_eq!(covered(&[(10, 0.6), (11, 0.3)], &config()), [10, 11]);
        assert_eq!(covered(&faint, &TrackConfig { faint: 0.3, ..config() }), [10]);
        assert_eq!(covered(&faint, &TrackConfig { agree: 0, ..config() }), [10]);
        // From before it began, too.
        let before = [(7, 0.2), (8, 0.2), (9, 0.2), (10, 0.6)];
        assert_eq!(covered(&before, &config()), [7, 8, 9, 10]);
    }

    #[test]
    fn what_lies_close_together_is_borne_out() {
        let inside = |looks: &[usize]| {
            let inside = stretches(looks, 3);
            looks
                .iter()
                .zip(inside)
                .filter(|(_, inside)| *inside)
                .map(|(look, _)| *look)
                .collect::<Vec<usize>>()
        };
        let none: Vec<usize> = Vec::new();
        assert_eq!(inside(&[]), none);
        assert_eq!(inside(&[1, 2]), none);
        assert_eq!(inside(&[0, 3, 6, 9]), none);
        assert_eq!(inside(&[0, 2, 5, 9, 20, 21, 22, 30]), [0, 2, 5, 20, 21, 22]);
        assert_eq!(inside(&[0, 2, 4, 6, 8]), [0, 2, 4, 6, 8]);
    }
}
