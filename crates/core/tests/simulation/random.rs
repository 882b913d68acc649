//! Chance from a seed: SplitMix64, so that a run is the same on every machine.

use frameloom_core::id::AttemptId;

/// Milliseconds of virtual time since the run began.
pub(crate) type Time = u64;

/// A sequence of numbers that follows from its seed.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A time from `least` to `most`.
    pub(crate) fn time(&mut self, least: Time, most: Time) -> Time {
        least + self.next() % (most - least + 1)
    }

    /// An index below `count`, which is not 0.
    pub(crate) fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % count as u64).expect("it is below a usize")
    }

    /// A rate of a thousand, up to `most`.
    pub(crate) fn rate(&mut self, most: u32) -> u32 {
        u32::try_from(self.next() % u64::from(most + 1)).expect("it is below a u32")
    }

    /// True so many times of a thousand.
    pub(crate) fn chance(&mut self, of_thousand: u32) -> bool {
        self.next() % 1000 < u64::from(of_thousand)
    }

    /// A new attempt id.
    pub(crate) fn attempt(&mut self) -> AttemptId {
        AttemptId::from_bits(u128::from(self.next()) << 64 | u128::from(self.next()))
    }
}
