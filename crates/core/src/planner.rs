//! Cutting a timeline into segments: a pure function of where decoding may begin.

use crate::plan::Segment;
use crate::time::{Interval, TimeBase};

/// Shortest segment that is made where a longer one is possible, in microseconds.
pub const SHORTEST_US: i64 = 2_000_000;

/// Longest segment that is made where a shorter one is possible, in microseconds.
pub const LONGEST_US: i64 = 8_000_000;

/// How many times as long as what is learnt before it a segment is at least, where it can be, and at most: 50 frames of learning
/// before each 250 cost a fifth.
const LEARNT_LOW: i64 = 4;
const LEARNT_HIGH: i64 = 8;

/// Segments that the rest of a timeline is thought to be cut into: this is what makes the last
/// ones shorter, so that slots end together.
const REST: i64 = 8;

/// Where a timeline may be cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cuts {
    /// Seconds a tick.
    pub time_base: TimeBase,
    /// First tick of the timeline.
    pub start: i64,
    /// The tick behind the last one.
    pub end: i64,
    /// Longest segment asked for, in microseconds; `None` for 2 to 8 s, shorter towards the end.
    pub longest_us: Option<i64>,
    /// What a filter learns from before each segment, in microseconds: segments are long beside it where no length is asked for.
    pub learns_us: i64,
}

impl Cuts {
    fn ticks(&self, micros: i64) -> i64 {
        self.time_base.ticks_of_micros(micros).unwrap_or(i64::MAX / 4).max(1)
    }

    /// How long the segment that begins at `at` should be, and how long it may become.
    fn lengths(&self, at: i64) -> (i64, i64) {
        let rest = self.end.saturating_sub(at);
        match self.longest_us {
            Some(longest) => (self.ticks(longest), self.ticks(longest)),
            None => {
                let beside =
                    |us: i64, times| self.ticks(us.max(self.learns_us.saturating_mul(times)));
                let (low, high) =
                    (beside(SHORTEST_US, LEARNT_LOW), beside(LONGEST_US, LEARNT_HIGH));
                ((rest / REST).clamp(low, high), high)
            }
        }
    }

    /// The borders within the timeline, ascending, taken from `candidates` (ascending).
    ///
    /// `accept` is asked only of candidates that are wanted as a border, in ascending order of
    /// borders, and may refuse; then the next best one is asked.
    ///
    /// # Errors
    /// Those of `accept`.
    pub fn borders<E>(
        &self,
        candidates: &[i64],
        mut accept: impl FnMut(i64) -> Result<bool, E>,
    ) -> Result<Vec<i64>, E> {
        let shortest = self
            .longest_us
            .map_or_else(|| self.lengths(self.end).0, |us| self.ticks(us.min(SHORTEST_US)));
        let mut borders = Vec::new();
        let mut at = self.start;
        loop {
            let (wanted, longest) = self.lengths(at);
            let ideal = at.saturating_add(wanted);
            // What is left behind a border should be worth a segment, too.
            let last = match self.longest_us {
                Some(_) => self.end.saturating_sub(1),
                None => self.end.saturating_sub(shortest / 2),
            };
            if self.end.saturating_sub(at) <= wanted {
                return Ok(borders);
            }
            let first = candidates.partition_point(|c| *c <= at);
            let mut open: Vec<i64> = candidates[first..]
                .iter()
                .copied()
                .take_while(|c| *c <= last && *c <= at.saturating_add(longest.saturating_mul(4)))
                .collect();
            if open.is_empty() {
                // A long way without one: whatever comes next.
                open.extend(
                    candidates[first..].iter().copied().take_while(|c| *c <= last).take(64),
                );
            }
            // Nearest to the wanted length, but neither too short nor, where avoidable, too long.
            open.sort_by_key(|c| {
                let short = self.longest_us.is_none() && *c - at < shortest;
                let long = *c - at > longest;
                (u8::from(short) * 2 + u8::from(long), (*c - ideal).abs(), *c)
            });
            let mut next = None;
            for candidate in open {
                if accept(candidate)? {
                    next = Some(candidate);
                    break;
                }
            }
            match next {
                Some(border) => {
                    borders.push(border);
                    at = border;
                }
                None => {
                    // None of those near would do: go on behind them.
                    let far = at.saturating_add(longest.saturating_mul(4));
                    let mut found = None;
                    for candidate in candidates.iter().copied().filter(|c| *c > far && *c <= last) {
                        if accept(candidate)? {
                            found = Some(candidate);
                            break;
                        }
                    }
                    let Some(border) = found else { return Ok(borders) };
                    borders.push(border);
                    at = border;
                }
            }
        }
    }
}

/// The segments between `borders`; the first has no start and the last no end.
pub fn segments(borders: &[i64]) -> Vec<Segment> {
    let count = borders.len();
    (0..=count)
        .map(|i| Segment {
            index: u32::try_from(i).unwrap_or(u32::MAX),
            interval: Interval {
                start: i.checked_sub(1).map(|before| borders[before]),
                end: borders.get(i).copied(),
            },
            entry: 0,
            reason: None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cuts(seconds: i64, longest_us: Option<i64>) -> Cuts {
        let time_base = TimeBase::new(1, 1000).unwrap();
        Cuts { time_base, start: 0, end: seconds * 1000, longest_us, learns_us: 0 }
    }

    fn borders(cuts: &Cuts, candidates: &[i64]) -> Vec<i64> {
        cuts.borders(candidates, |_| Ok::<_, ()>(true)).unwrap()
    }

    #[test]
    fn eight_seconds_of_short_gops_make_four_segments() {
        let candidates: Vec<i64> = (0..16).map(|i| i * 500).collect();
        assert_eq!(borders(&cuts(8, None), &candidates), [2000, 4000, 6000]);
    }

    #[test]
    fn a_long_video_has_segments_of_eight_seconds_and_smaller_ones_last() {
        let candidates: Vec<i64> = (0..3600).map(|i| i * 1000).collect();
        let borders = borders(&cuts(3600, None), &candidates);
        assert_eq!(borders[0], 8000);
        let last = borders[borders.len() - 1] - borders[borders.len() - 2];
        assert_eq!(last, 2000);
    }

    #[test]
    fn long_gops_stay_whole_and_refused_candidates_are_passed_over() {
        let candidates: Vec<i64> = (0..6).map(|i| i * 10_000).collect();
        assert_eq!(borders(&cuts(60, None), &candidates).len(), 5);
        let cuts = cuts(60, None);
        let only = cuts.borders(&candidates, |c| Ok::<_, ()>(c == 30_000)).unwrap();
        assert_eq!(only, [30_000]);
    }

    #[test]
    fn where_a_filter_learns_before_each_segment_they_are_longer() {
        let candidates: Vec<i64> = (0..600).map(|i| i * 1000).collect();
        let cuts = Cuts { learns_us: 2_000_000, ..cuts(600, None) };
        let borders = borders(&cuts, &candidates);
        assert_eq!(borders[0], 16_000);
        let last = borders[borders.len() - 1] - borders[borders.len() - 2];
        assert_eq!(last, 8_000);
    }

    #[test]
    fn a_length_asked_for_is_kept_to() {
        let candidates: Vec<i64> = (0..100).map(|i| i * 100).collect();
        let borders = borders(&cuts(10, Some(500_000)), &candidates);
        assert_eq!(borders, (1..20).map(|i| i * 500).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn borders_ascend_and_are_accepted_candidates(
            mut candidates in proptest::collection::vec(-5_000i64..100_000, 0..80),
            longest in proptest::option::of(1i64..20_000_000),
            refuse in any::<u64>(),
        ) {
            candidates.sort_unstable();
            candidates.dedup();
            let cuts = Cuts { start: -5_000, ..cuts(100, longest) };
            let ok = |c: i64| refuse >> (c.rem_euclid(64)) & 1 == 0;
            let borders = cuts.borders(&candidates, |c| Ok::<_, ()>(ok(c))).unwrap();
            prop_assert!(borders.windows(2).all(|w| w[0] < w[1]));
            prop_assert!(borders.iter().all(|b| candidates.contains(b) && ok(*b)));
            prop_assert!(borders.iter().all(|b| *b > cuts.start && *b < cuts.end));
        }

        #[test]
        fn segments_partition_the_timeline(mut borders in proptest::collection::vec(any::<i32>(), 0..20), pts in any::<i32>()) {
            borders.sort_unstable();
            borders.dedup();
            let borders: Vec<i64> = borders.into_iter().map(i64::from).collect();
            let holds = segments(&borders).iter().filter(|s| s.interval.contains(i64::from(pts))).count();
            prop_assert_eq!(holds, 1);
        }
    }
}
