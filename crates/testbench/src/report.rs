//! What a bench has found.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::fault::Kind;

/// In so much time all kinds are done, and a node is killed alone; in this a third of them, on a machine that does much else.
const LONG: Duration = Duration::from_secs(15 * 60);
const SHORT: Duration = Duration::from_secs(100);

/// How often a kind of fault was done, and how long it took until the tasks that it concerned were done.
#[derive(Debug, Default, Serialize)]
pub struct Row {
    /// How often it was done.
    pub count: usize,
    /// How often it concerned tasks.
    pub measured: usize,
    /// The median, in seconds.
    pub median_seconds: Option<f64>,
    /// The longest, in seconds.
    pub most_seconds: Option<f64>,
}

impl Row {
    fn of(times: &[Option<Duration>]) -> Self {
        let mut known: Vec<Duration> = times.iter().copied().flatten().collect();
        known.sort_unstable();
        let seconds = |time: &Duration| (time.as_secs_f64() * 100.0).round() / 100.0;
        Self {
            count: times.len(),
            measured: known.len(),
            median_seconds: known.get(known.len() / 2).map(seconds),
            most_seconds: known.last().map(seconds),
        }
    }
}

/// Jobs that have ended well, or not.
#[derive(Debug, Default, Serialize)]
pub struct Jobs {
    /// Those that ended, by what they were.
    pub ended: BTreeMap<&'static str, u32>,
    /// Jobs that the server did not take, in words: it was away, or its store full.
    pub refused: u32,
    /// Clients that gave up waiting; their jobs were fetched later.
    pub gave_up: u32,
}

/// All of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The seeds that the faults follow from.
    pub seeds: Vec<u64>,
    /// How long faults were done.
    pub seconds: f64,
    /// What made the network slow and lossy: the kernel's netem, or relays.
    pub network: &'static str,
    /// Jobs.
    pub jobs: Jobs,
    /// Frames of the jobs that ended.
    pub frames: u64,
    /// Attempts beside the one that each task needs.
    pub retries: u64,
    /// Frames that were lost or differ, those of jobs that did not end among them.
    pub lost_or_differing_frames: u64,
    /// Processes that ended by themselves and were started again, with how often.
    pub fallen: BTreeMap<String, u32>,
    /// Kills of a node alone, which were held to the lease and a segment.
    pub held_to_bound: usize,
    /// Faults for which there was nobody when they were due.
    pub missed: usize,
    /// What else is wrong.
    pub troubles: Vec<String>,
    /// The faults, by kind.
    pub faults: BTreeMap<Kind, Row>,
    #[serde(skip)]
    times: BTreeMap<Kind, Vec<Option<Duration>>>,
}

impl Report {
    /// An empty one.
    pub fn new(seeds: Vec<u64>, network: &'static str) -> Self {
        Self { seeds, network, ..Self::default() }
    }

    /// Adds a fault, with how long it took to recover where it concerned tasks.
    pub fn fault(&mut self, kind: Kind, took: Option<Duration>) {
        let times = self.times.entry(kind).or_default();
        times.push(took);
        self.faults.insert(kind, Row::of(times));
    }

    /// What was not tried that so much time is enough for, in words.
    pub fn too_little(&self, time: Duration) -> Option<String> {
        let kinds = self.faults.len();
        let wanted = if time >= LONG {
            Kind::ALL.len()
        } else if time >= SHORT {
            Kind::ALL.len() / 3
        } else {
            1
        };
        if kinds < wanted {
            let all = Kind::ALL.len();
            return Some(format!("only {kinds} of {all} kinds of faults were done, not {wanted}"));
        }
        (time >= LONG && self.held_to_bound == 0)
            .then(|| "no node was killed alone: nothing was held to the bound".into())
    }

    /// Whether nothing was lost, nothing else is wrong, and jobs have ended at all.
    pub fn is_good(&self) -> bool {
        self.lost_or_differing_frames == 0
            && self.troubles.is_empty()
            && !self.jobs.ended.is_empty()
            && !self.faults.is_empty()
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |words: std::fmt::Arguments<'_>| text.push_str(&format!("{words}\n"));
        let (times, of) = ("times", "recovered");
        line(format_args!("{:<22} {times:>5} {of:>9} {:>9} {:>9}", "fault", "median s", "most s"));
        let shown = |seconds: Option<f64>| seconds.map_or("-".to_owned(), |s| format!("{s:.1}"));
        for (kind, row) in &self.faults {
            let (median, most) = (shown(row.median_seconds), shown(row.most_seconds));
            let (count, of) = (row.count, row.measured);
            line(format_args!("{kind:<22} {count:>5} {of:>9} {median:>9} {most:>9}"));
        }
        let ended: u32 = self.jobs.ended.values().sum();
        let times: usize = self.faults.values().map(|row| row.count).sum();
        line(format_args!(
            "{times} faults of {} kinds in {:.0} s ({} more found nobody), seeds {:?}; network disturbed by {}",
            self.faults.len(),
            self.seconds,
            self.missed,
            self.seeds,
            self.network
        ));
        line(format_args!(
            "{ended} jobs {:?}, {} not taken at first, {} fetched after their client gave up",
            self.jobs.ended, self.jobs.refused, self.jobs.gave_up
        ));
        line(format_args!("{} frames, {} attempts again", self.frames, self.retries));
        let held = self.held_to_bound;
        line(format_args!("kills of a node alone, held to the lease and a segment: {held}"));
        if !self.fallen.is_empty() {
            line(format_args!("ended by themselves and were started again: {:?}", self.fallen));
        }
        self.troubles.iter().for_each(|trouble| line(format_args!("WRONG: {trouble}")));
        line(format_args!("lost or differing frames: {}", self.lost_or_differing_frames));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        let mut report = Report::new(vec![1], "relays");
        report.jobs.ended.insert("slow", 3);
        for seconds in [3, 1, 2] {
            report.fault(Kind::NodeKilled, Some(Duration::from_secs(seconds)));
        }
        report.fault(Kind::NodeKilled, None);
        report
    }

    #[test]
    fn a_report_tells_how_often_and_how_long() {
        let report = good();
        assert!(report.is_good());
        let row = &report.faults[&Kind::NodeKilled];
        assert_eq!((row.count, row.measured), (4, 3));
        assert_eq!((row.median_seconds, row.most_seconds), (Some(2.0), Some(3.0)));
        let text = report.text();
        assert!(text.contains("node_killed"), "{text}");
        assert!(text.ends_with("lost or differing frames: 0\n"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["faults"]["node_killed"]["count"], 4);
    }

    #[test]
    fn a_bench_that_did_next_to_nothing_says_so() {
        let (mut report, minutes) = (good(), |n: u64| Duration::from_secs(60 * n));
        assert_eq!(report.too_little(minutes(1)), None);
        assert!(report.too_little(minutes(2)).unwrap().contains("1 of 25 kinds"));
        Kind::ALL.into_iter().for_each(|kind| report.fault(kind, None));
        assert_eq!(report.too_little(minutes(2)), None);
        assert!(report.too_little(minutes(30)).unwrap().contains("killed alone"));
        report.held_to_bound = 1;
        assert_eq!(report.too_little(minutes(30)), None);
    }

    #[test]
    fn what_is_lost_or_wrong_or_was_not_tried_at_all_is_not_good() {
        let lost = Report { lost_or_differing_frames: 1, ..good() };
        let wrong = Report { troubles: vec!["x".into()], ..good() };
        let idle = Report { jobs: Jobs::default(), ..good() };
        for report in [lost, wrong, idle, Report::default()] {
            assert!(!report.is_good(), "{report:?}");
        }
    }
}
