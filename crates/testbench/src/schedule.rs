//! What is done when: a pure function of a seed.

use std::time::Duration;

use crate::fault::{About, Fault, Kind, NODES};
use crate::seed::Seed;

/// Faults that go together; the next ones begin when these are mended and their tasks are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// How long all is left alone before.
    pub gap: Duration,
    /// The faults, each with how long it begins after the gap.
    pub faults: Vec<(Duration, Fault)>,
}

/// The steps of a seed, without an end: all kinds are dealt like cards, so that each comes once before any comes again.
#[derive(Debug, Clone)]
pub struct Schedule {
    seed: Seed,
    deck: Vec<Kind>,
}

impl Schedule {
    /// Of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed: Seed::new(seed), deck: Vec::new() }
    }

    fn deal(&mut self) -> Kind {
        if self.deck.is_empty() {
            self.deck = Kind::ALL.to_vec();
            self.seed.shuffle(&mut self.deck);
        }
        self.deck.pop().unwrap_or(Kind::NodeKilled)
    }

    fn fault(&mut self, kind: Kind) -> Fault {
        let seed = &mut self.seed;
        let (node, way, long) = (seed.below(NODES), seed.draw(), seed.chance(40));
        let lasts = match kind {
            Kind::SlotKilled | Kind::RedisEmptied => Duration::ZERO,
            Kind::ServerKilled | Kind::ServerStopped | Kind::AllKilled => seed.time(0, 3_000),
            Kind::RedisKilled | Kind::RedisLost => seed.time(500, 5_000),
            // Beyond the lease, or well within.
            Kind::NodeKilled
            | Kind::NodeFrozen
            | Kind::NodeCut
            | Kind::NodeStoreCut
            | Kind::ServerFrozen
            | Kind::ServerStoreCut => {
                if long {
                    seed.time(11_000, 14_000)
                } else {
                    seed.time(500, 5_000)
                }
            }
            Kind::RedisFrozen
            | Kind::ServerCut
            | Kind::ServerFromRedisCut
            | Kind::RedisCut
            | Kind::ClientsCut => seed.time(2_000, 9_000),
            Kind::NetSlow | Kind::NetLossy | Kind::DiskFull | Kind::StoreSlow => {
                seed.time(4_000, 8_000)
            }
            Kind::ClockJumped | Kind::OtherVersion | Kind::Scaled => seed.time(4_000, 8_000),
        };
        Fault { kind, node, lasts, way }
    }
}

impl Iterator for Schedule {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let gap = self.seed.time(500, 2_000);
        let first = self.deal();
        let mut faults = vec![(Duration::ZERO, self.fault(first))];
        let apart = |kind: &Kind| {
            let (a, b) = (first.about(), kind.about());
            a != b && a != About::All && b != About::All
        };
        let second = self.deck.iter().rposition(apart);
        if let Some(second) = second.filter(|_| self.seed.chance(60)) {
            let second = self.deck.remove(second);
            let after = self.seed.time(0, 2_500);
            faults.push((after, self.fault(second)));
        }
        Some(Step { gap, faults })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(steps: &[Step]) -> Vec<Kind> {
        steps.iter().flat_map(|step| step.faults.iter().map(|(_, fault)| fault.kind)).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_steps_and_another_seed_others() {
        let of = |seed| Schedule::new(seed).take(100).collect::<Vec<_>>();
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn each_kind_comes_once_before_any_comes_again() {
        for seed in 0..50 {
            let steps: Vec<_> = Schedule::new(seed).take(3 * Kind::ALL.len()).collect();
            for round in kinds(&steps).chunks_exact(Kind::ALL.len()).take(2) {
                let mut round = round.to_vec();
                round.sort_unstable();
                assert_eq!(round, Kind::ALL, "seed {seed}");
            }
        }
    }

    #[test]
    fn faults_at_once_are_about_different_parts_and_each_ends() {
        let mut doubles = 0;
        for step in Schedule::new(1).take(1000) {
            assert!((1..=2).contains(&step.faults.len()));
            if let [(_, a), (_, b)] = &step.faults[..] {
                doubles += 1;
                assert_ne!(a.kind.about(), b.kind.about());
                assert!(a.kind != Kind::AllKilled && b.kind != Kind::AllKilled);
            }
            for (after, fault) in &step.faults {
                assert!(fault.node < NODES);
                assert!(*after + fault.lasts < Duration::from_secs(17), "{fault}");
            }
        }
        assert!(doubles > 100, "{doubles}");
    }
}
