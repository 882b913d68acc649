//! Cutting a timeline to look for things in it: finer than into segments where there are few.
//!
//! What is found in a frame depends on that frame alone, so pieces may begin anywhere. A detector costs many times what decoding
//! does; two slots that share three segments would leave a quarter of their time unused.

use frameloom_core::plan::Segment;
use frameloom_core::time::{Interval, TimeBase};

/// Pieces that a timeline is cut into at least, where that makes none too short.
const WANTED: usize = 12;

/// Parts of a segment at most: of what a part decodes, all before it is dropped.
const PARTS: i64 = 4;

/// A part is not shorter than this, in seconds.
const SHORTEST: f64 = 0.5;

/// The pieces, each with the segment that it is of: `segments` cut in equal parts, from `first` to `end`.
pub(crate) fn cut(
    segments: &[Segment],
    base: TimeBase,
    first: i64,
    end: i64,
) -> Vec<(&Segment, Interval)> {
    let wanted = i64::try_from(WANTED.div_ceil(segments.len().max(1))).unwrap_or(1).min(PARTS);
    segments
        .iter()
        .flat_map(|segment| {
            let Interval { start, end: stop } = segment.interval;
            let (from, to) = (start.unwrap_or(first), stop.unwrap_or(end));
            let ticks = to.saturating_sub(from).max(0);
            let parts = (1..=wanted)
                .rev()
                .find(|parts| *parts == 1 || base.seconds(ticks / parts) >= SHORTEST)
                .unwrap_or(1);
            let border = move |part: i64| from.saturating_add(ticks / parts * part);
            (0..parts).map(move |part| {
                let start = if part == 0 { start } else { Some(border(part)) };
                let end = if part + 1 == parts { stop } else { Some(border(part + 1)) };
                (segment, Interval { start, end })
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use frameloom_core::planner;
    use proptest::prelude::*;

    const MS: i64 = 1000;

    fn of(borders: &[i64], end: i64) -> Vec<Interval> {
        let base = TimeBase::new(1, 1000).unwrap();
        let segments = planner::segments(borders);
        cut(&segments, base, 0, end).into_iter().map(|(_, interval)| interval).collect()
    }

    #[test]
    fn few_segments_are_cut_finer_and_many_are_not() {
        assert_eq!(of(&[5 * MS, 10 * MS], 14 * MS).len(), 12);
        let many: Vec<i64> = (1..12).map(|i| i * 8 * MS).collect();
        assert_eq!(of(&many, 96 * MS).len(), 12);
    }

    #[test]
    fn no_part_is_shorter_than_half_a_second() {
        assert_eq!(of(&[], 1200).len(), 2);
        assert_eq!(of(&[], 0).len(), 1);
    }

    proptest! {
        #[test]
        fn pieces_partition_the_timeline(
            mut borders in proptest::collection::vec(1i64..100_000, 0..20),
            end in 1i64..120_000,
            pts in any::<i32>(),
        ) {
            borders.sort_unstable();
            borders.dedup();
            let pieces = of(&borders, end);
            prop_assert_eq!(pieces.iter().filter(|p| p.contains(i64::from(pts))).count(), 1);
            prop_assert!(pieces.windows(2).all(|w| w[0].end.is_some() && w[0].end == w[1].start));
        }
    }
}
