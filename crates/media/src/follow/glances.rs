//! The ways in which a frame is looked at: each finds what the others miss, and each costs. What is seen of a
//! thing now and then is enough to follow it, so most ways take turns.

use frameloom_core::detection::Found;

use super::sight::Sight;
use crate::detect::Zoom;

/// How far a picture is turned, in degrees.
const TURNED_BY: f64 = 50.0;

/// In so many looks all ways had their turns.
const ROUND: i64 = 12;

/// The same where sight is poor.
const POOR_ROUND: i64 = 3;

/// In a cascade one of so many looks sees all there is, the others what is seen cheaply.
const CASCADE: i64 = 6;

/// Boxes that overlap so much are the same thing.
const SAME: f32 = 0.3;

/// One way to look at a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Glance {
    /// As it stands, larger or smaller.
    Upright(Zoom),
    /// Counter-clockwise by so many degrees, larger or smaller.
    Turned(f64, Zoom),
}

/// Which ways a detector may use.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Ways {
    /// Pictures enlarged and at half their size.
    pub(super) zoomed: bool,
    /// Pictures turned.
    pub(super) turned: bool,
    /// Five of six looks at half the size only, in good sight.
    pub(super) cascade: bool,
}

impl Ways {
    /// Whether they go by how well a frame can be seen.
    pub(super) fn need_sight(self) -> bool {
        self != Self::default()
    }
}

/// The ways to look at the frame of a turn. All follow from the turn and the frame, so that they are the same
/// wherever the video is cut.
///
/// In good sight they cost, in all, 1.4 times what looking once does, 0.6 times in a cascade; in poor sight 2.5 times, in
/// the dark 2.75.
pub(super) fn glances(turn: i64, sight: Sight, ways: Ways) -> Vec<Glance> {
    let [quarter, half, own, close] = Zoom::ALL.map(Glance::Upright);
    let cascade = ways.cascade && sight == Sight::Good;
    let aslant = if cascade { Zoom::Half } else { Zoom::Own };
    let (left, right) = (Glance::Turned(TURNED_BY, aslant), Glance::Turned(-TURNED_BY, aslant));
    let more: &[Glance] = if sight == Sight::Good {
        match turn.rem_euclid(ROUND) {
            0 => &[left],
            1 | 7 => &[half],
            3 => &[close],
            6 => &[right],
            _ => &[],
        }
    } else {
        // Noise looks like faces in a small picture, so that only the dark is looked at so each time. At a quarter of the size
        // nothing is left of it, and of large faces enough.
        match (turn.rem_euclid(POOR_ROUND), sight) {
            (0, Sight::Dark) => &[half, quarter, left],
            (1, Sight::Dark) => &[half, quarter, close],
            (_, Sight::Dark) => &[half, quarter, right],
            (0, _) => &[left],
            (1, _) => &[half, close],
            _ => &[right],
        }
    };
    let first = if cascade && turn.rem_euclid(CASCADE) != 0 { half } else { own };
    let wanted = |glance: &Glance| match glance {
        Glance::Upright(_) => ways.zoomed && *glance != first,
        Glance::Turned(..) => ways.turned,
    };
    std::iter::once(first).chain(more.iter().copied().filter(wanted)).collect()
}

/// Adds what a glance found to what others did: of those that are the same thing the surest. What is the same as several is
/// added, and they stay: it is one thing that they are parts of, or a mistake for two.
pub(super) fn merge(more: impl IntoIterator<Item = Found>, found: &mut Vec<Found>) {
    let known = found.len();
    let mut more: Vec<Found> = more.into_iter().collect();
    let same = |a: &Found, b: &Found| a.class == b.class && a.rect.iou(&b.rect) > SAME;
    more.retain(|one| found.iter().all(|other| !same(one, other) || other.score < one.score));
    let is_one = |one: &Found| found[..known].iter().filter(|other| same(one, other)).count() == 1;
    let alone: Vec<bool> = more.iter().map(is_one).collect();
    let mut at = 0;
    found.retain(|other| {
        at += 1;
        at > known || !more.iter().zip(&alone).any(|(one, alone)| *alone && same(one, other))
    });
    found.append(&mut more);
}

#[cfg(test)]
mod tests {
    use frameloom_core::detection::Rect;

    use super::*;

    const ALL: Ways = Ways { zoomed: true, turned: true, cascade: false };

    /// How often, in 60 looks, a frame is looked at so.
    fn count(sight: Sight, ways: Ways, glance: Glance) -> usize {
        (-12..48).flat_map(|turn| glances(turn, sight, ways)).filter(|g| *g == glance).count()
    }

    #[test]
    fn all_ways_get_their_turns_and_poor_sight_gets_more() {
        let counts = |sight, ways| {
            [
                Glance::Upright(Zoom::Quarter),
                Glance::Upright(Zoom::Own),
                Glance::Upright(Zoom::Half),
                Glance::Upright(Zoom::Close),
                Glance::Turned(TURNED_BY, Zoom::Own),
                Glance::Turned(-TURNED_BY, Zoom::Own),
                Glance::Turned(TURNED_BY, Zoom::Half),
                Glance::Turned(-TURNED_BY, Zoom::Half),
            ]
            .map(|glance| count(sight, ways, glance))
        };
        assert_eq!(counts(Sight::Good, ALL), [0, 60, 10, 5, 5, 5, 0, 0]);
        assert_eq!(counts(Sight::Dark, ALL), [60, 60, 60, 20, 20, 20, 0, 0]);
        assert_eq!(counts(Sight::Noisy, ALL), [0, 60, 20, 20, 20, 20, 0, 0]);
        let cascade = Ways { cascade: true, ..ALL };
        assert_eq!(counts(Sight::Good, cascade), [0, 10, 50, 5, 0, 0, 5, 5]);
        assert_eq!(counts(Sight::Dark, cascade), counts(Sight::Dark, ALL));
        assert_eq!(counts(Sight::Noisy, cascade), counts(Sight::Noisy, ALL));
    }

    #[test]
    fn what_is_not_asked_for_is_left_out() {
        for turn in 0..12 {
            for sight in [Sight::Good, Sight::Dark, Sight::Noisy] {
                let own = Glance::Upright(Zoom::Own);
                assert_eq!(glances(turn, sight, Ways::default()), [own]);
                let turned = glances(turn, sight, Ways { turned: true, ..Ways::default() });
                assert!(turned.iter().all(|g| *g == own || matches!(g, Glance::Turned(..))));
                let zoomed = glances(turn, sight, Ways { zoomed: true, ..Ways::default() });
                assert!(zoomed.iter().all(|g| matches!(g, Glance::Upright(_))));
            }
        }
    }

    #[test]
    fn the_surest_of_two_that_are_the_same_is_kept() {
        let face = |x: f32, score: f32| Found {
            rect: Rect { x, y: 0.0, w: 10.0, h: 10.0 },
            score,
            class: 0,
        };
        let mut found = vec![face(0.0, 0.5), face(100.0, 0.5), face(200.0, 0.5)];
        merge([face(1.0, 0.4), face(101.0, 0.6), face(300.0, 0.1)], &mut found);
        assert_eq!(found, [face(0.0, 0.5), face(200.0, 0.5), face(101.0, 0.6), face(300.0, 0.1)]);
        let other = Found { class: 1, ..face(0.0, 0.1) };
        merge([other], &mut found);
        assert_eq!(found.len(), 5);
        // Two that touch each other are not lost to one that takes them for one.
        let mut two = vec![face(0.0, 0.5), face(8.0, 0.5)];
        let both = Found { rect: Rect { w: 18.0, ..face(0.0, 0.9).rect }, ..face(0.0, 0.9) };
        merge([both], &mut two);
        assert_eq!(two, [face(0.0, 0.5), face(8.0, 0.5), both]);
    }
}
