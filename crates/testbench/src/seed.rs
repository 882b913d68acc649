//! Numbers that follow from a seed (splitmix64): the same ones on every machine and in every version.

use std::time::Duration;

/// A sequence of numbers.
#[derive(Debug, Clone)]
pub struct Seed(u64);

impl Seed {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `most`, which is not 0.
    pub fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.draw() % most as u64).unwrap_or_default()
    }

    /// Whether something is so that is so `percent` times of a hundred.
    pub fn chance(&mut self, percent: u8) -> bool {
        self.draw() % 100 < u64::from(percent)
    }

    /// A time between two, in milliseconds.
    pub fn time(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.draw() % (to - from + 1))
    }

    /// Puts things into an order.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for i in (1..things.len()).rev() {
            things.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_that_splitmix_gives_everywhere() {
        let mut seed = Seed::new(1_234_567);
        let drawn: Vec<u64> = (0..3).map(|_| seed.draw()).collect();
        assert_eq!(
            drawn,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn an_order_keeps_all_things() {
        let mut things: Vec<u32> = (0..50).collect();
        Seed::new(3).shuffle(&mut things);
        assert_ne!(things, (0..50).collect::<Vec<_>>());
        things.sort_unstable();
        assert_eq!(things, (0..50).collect::<Vec<_>>());
    }
}
