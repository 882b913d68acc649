//! Disturbs a cluster for a while, and tells what became of its jobs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use frameloom_core::Result;

use crate::cluster::Cluster;
use crate::fault::{Concerned, Fault, Kind, LEASE, NODES};
use crate::journals::{Journals, TaskOf};
use crate::part::Fallen;
use crate::pause;
use crate::report::Report;
use crate::schedule::{Schedule, Step};
use crate::work::{Finished, Work};

/// How often all is looked at.
const TICK: Duration = Duration::from_millis(20);

/// How long after its end a fault may keep tasks from being done.
const RECOVERS_WITHIN: Duration = Duration::from_secs(90);

/// How long jobs may take when nothing is done to them any more.
const ENDS_WITHIN: Duration = Duration::from_secs(180);

/// What a kill of a node may cost beside the lease and the segment: signs of life come and are looked at each second.
const SLACK: Duration = Duration::from_millis(2_500);

/// The exit statuses of what was asked to end by SIGTERM: 0 where it could end its work before.
const ASKED: [Option<i32>; 2] = [Some(0), Some(143)];

/// What to do.
#[derive(Debug)]
pub struct Config {
    /// The program.
    pub binary: PathBuf,
    /// Where the clips are.
    pub clips: PathBuf,
    /// The seeds, which share the time.
    pub seeds: Vec<u64>,
    /// How long faults are done.
    pub time: Duration,
    /// Where all of it lies.
    pub place: PathBuf,
}

/// A fault on its way.
struct Course {
    fault: Fault,
    due: Instant,
    begun: Option<Instant>,
    mended: Option<Instant>,
    /// What has to be done before it is over.
    concerned: BTreeSet<TaskOf>,
    /// When that was.
    done: Option<Instant>,
    /// Whether it did anything: there may have been nobody to do it to.
    struck: bool,
    /// How long it took to recover, where it concerned tasks.
    took: Option<Duration>,
    over: bool,
}

/// A bench at work.
struct Bench<'a> {
    cluster: Cluster,
    journals: Journals,
    work: Work,
    report: Report,
    /// The longest segment of the calm cluster.
    longest: Duration,
    calm: bool,
    say: &'a mut dyn FnMut(&str),
}

/// Runs a bench; `say` hears what is done. It has to be alone in its namespaces of network and mounts.
///
/// # Errors
/// Unavailable where the bench itself cannot do its work; what the cluster does wrong stands in the report.
pub fn run(config: &Config, say: &mut dyn FnMut(&str)) -> Result<Report> {
    let seed = config.seeds.first().copied().unwrap_or_default();
    let cluster = Cluster::start(&config.binary, &config.place, seed)?;
    say("the cluster is up; each piece is done once, undisturbed");
    let (binary, clips) = (&config.binary, &config.clips);
    let work = Work::prepare(binary, clips, &config.place, cluster.url(), seed)?;
    let journals = Journals::on(cluster.store())?;
    let network = if cluster.netem { "netem" } else { "relays" };
    let report = Report::new(config.seeds.clone(), network);
    let mut bench =
        Bench { cluster, journals, work, report, longest: Duration::ZERO, calm: true, say };
    bench.all_once()?;
    bench.calm = false;
    bench.report.troubles.extend(bench.work.left());
    let begun = Instant::now();
    let share = config.time / u32::try_from(config.seeds.len()).unwrap_or(1).max(1);
    for (seed, i) in config.seeds.iter().zip(1..) {
        let end = begun + share * i;
        for (step, done) in Schedule::new(*seed).zip(0..) {
            // Each is done a step of, or it would be kept for nothing.
            if done > 0 && Instant::now() + step.gap >= end {
                break;
            }
            bench.step(step)?;
        }
    }
    bench.report.seconds = begun.elapsed().as_secs_f64();
    bench.report.troubles.extend(bench.report.too_little(config.time));
    bench.finish()?;
    bench.look_at_logs(&config.place);
    Ok(bench.report)
}

impl Bench<'_> {
    fn step(&mut self, step: Step) -> Result<()> {
        let from = Instant::now() + step.gap;
        let alone = step.faults.len() == 1;
        let mut courses: Vec<Course> = Vec::new();
        for (after, fault) in step.faults {
            courses.push(Course {
                fault,
                due: from + after,
                begun: None,
                mended: None,
                concerned: BTreeSet::new(),
                done: None,
                struck: false,
                took: None,
                over: false,
            });
        }
        while courses.iter().any(|course| !course.over) {
            self.tick(true)?;
            for course in &mut courses {
                self.go_on(course, alone)?;
            }
        }
        for course in courses {
            if course.struck {
                self.report.fault(course.fault.kind, course.took);
            } else {
                self.report.missed += 1;
            }
        }
        Ok(())
    }

    /// Takes a fault to where it should be by now.
    fn go_on(&mut self, course: &mut Course, alone: bool) -> Result<()> {
        let now = Instant::now();
        let Some(begun) = course.begun else {
            if now >= course.due {
                self.choose(&mut course.fault)?;
                (self.say)(&course.fault.to_string());
                course.concerned = self.concerned(&course.fault)?;
                course.struck = self.cluster.begin(&course.fault, &self.journals)?;
                course.begun = Some(Instant::now());
            }
            return Ok(());
        };
        self.settle(course)?;
        let Some(mended) = course.mended else {
            if now < begun + course.fault.lasts {
                return self.cluster.keep_up(&course.fault);
            }
            self.cluster.mend(&course.fault)?;
            course.mended = Some(Instant::now());
            return Ok(());
        };
        if course.over {
            return Ok(());
        }
        let since = if course.fault.kind.counts_at_once() { begun } else { mended };
        if let Some(done) = course.done {
            course.over = true;
            // What was done while it lasted had nothing to recover from.
            course.took = course.took.and_then(|_| done.checked_duration_since(since));
            if let Some(took) = course.took {
                self.hold_against(&course.fault, took, alone);
            }
        } else if now > mended + RECOVERS_WITHIN {
            course.over = true;
            course.took = Some(now.saturating_duration_since(since));
            let words = format!("{} keeps {:?} from being done", course.fault, course.concerned);
            (self.say)(&words);
            self.report.troubles.push(words);
            self.work.keep_journals(&self.journals);
        }
        Ok(())
    }

    /// Strikes out what is done; notes that there was something to do, and when it was done.
    fn settle(&self, course: &mut Course) -> Result<()> {
        if course.done.is_some() {
            return Ok(());
        }
        if !course.concerned.is_empty() {
            course.took = Some(Duration::ZERO);
        }
        let mut open = BTreeSet::new();
        for (job, task) in &course.concerned {
            let told = self.journals.of(*job)?;
            // A job that was deleted has no journal any more.
            if !told.over && !told.accepted.contains_key(task) && !told.sent.is_empty() {
                open.insert((*job, *task));
            }
        }
        course.concerned = open;
        course.done = course.concerned.is_empty().then(Instant::now);
        Ok(())
    }

    /// A node that dies costs the lease and a segment.
    fn hold_against(&mut self, fault: &Fault, took: Duration, alone: bool) {
        let most = LEASE + self.longest + SLACK;
        if !alone || fault.kind != Kind::NodeKilled {
            return;
        }
        self.report.held_to_bound += 1;
        if took > most {
            let (took, most) = (took.as_secs_f64(), most.as_secs_f64());
            let words = format!("{fault}: its tasks were done after {took:.1} s, not {most:.1}");
            self.report.troubles.push(words);
        }
    }

    /// Of nodes that have something in hand the one that is meant, or the next one: else the fault would be none.
    fn choose(&self, fault: &mut Fault) -> Result<()> {
        let from = fault.node;
        for node in (0..NODES).map(|i| (from + i) % NODES) {
            if !self.in_hand(node)?.is_empty() {
                fault.node = node;
                break;
            }
        }
        Ok(())
    }

    /// What a node works on.
    fn in_hand(&self, node: usize) -> Result<BTreeSet<TaskOf>> {
        let pid = self.cluster.nodes[node].part.pid();
        pid.map_or(Ok(BTreeSet::new()), |pid| self.journals.held_by(pid, &self.work.open()))
    }

    fn concerned(&self, fault: &Fault) -> Result<BTreeSet<TaskOf>> {
        match fault.concerns() {
            Concerned::All => self.journals.under_way(&self.work.open()),
            Concerned::Node(node) => self.in_hand(node),
            Concerned::Nobody => Ok(BTreeSet::new()),
        }
    }

    /// Looks at processes and jobs once.
    fn tick(&mut self, more: bool) -> Result<()> {
        for fallen in self.cluster.tend()? {
            self.fell(fallen);
        }
        if self.calm {
            for job in self.work.open() {
                self.longest = self.longest.max(self.journals.of(job)?.longest);
            }
        }
        for finished in self.work.tend(more, &self.journals)? {
            self.ended(finished);
        }
        pause(TICK);
        Ok(())
    }

    fn fell(&mut self, fallen: Fallen) {
        let Fallen { name, asked, status, words } = fallen;
        if asked {
            if !ASKED.contains(&status.code()) {
                let words = format!("{name} is asked to end, and does with {status}: {words}");
                (self.say)(&words);
                self.report.troubles.push(words);
            }
            return;
        }
        (self.say)(&format!("{name} ends by itself with {status}: {words}"));
        // What is not there when one starts is told and waited for, and units start it anew; a bug and a wrong argument are not.
        if !matches!(status.code(), Some(3 | 4 | 6)) {
            self.report.troubles.push(format!("{name} ends by itself with {status}: {words}"));
        }
        *self.report.fallen.entry(name).or_default() += 1;
    }

    fn ended(&mut self, finished: Finished) {
        let Finished { name, frames, retries, verdict } = finished;
        *self.report.jobs.ended.entry(name).or_default() += 1;
        self.report.frames += frames;
        self.report.retries += retries;
        self.report.lost_or_differing_frames += verdict.frames;
        for words in verdict.troubles {
            (self.say)(&words);
            self.report.troubles.push(words);
        }
    }

    /// Has each piece done once, with nothing done to the cluster, and all jobs end.
    fn all_once(&mut self) -> Result<()> {
        self.work.once_more();
        let end = Instant::now() + ENDS_WITHIN;
        while self.work.has_more() && Instant::now() < end {
            self.tick(false)?;
        }
        Ok(())
    }

    /// Lets all jobs end, and the cluster be what it was.
    fn finish(&mut self) -> Result<()> {
        (self.say)("all is mended; the last jobs end, and each piece is done once more");
        let end = Instant::now() + ENDS_WITHIN;
        self.all_once()?;
        self.report.lost_or_differing_frames += self.work.frames_left();
        self.report.troubles.extend(self.work.left());
        self.work.keep_journals(&self.journals);
        let met = self.work.met;
        (self.report.jobs.refused, self.report.jobs.gave_up) = (met.refused, met.gave_up);
        if met.deaf > 0 {
            let words = format!("{} clients do not hear that their job is over", met.deaf);
            self.report.troubles.push(words);
        }
        let there = |cluster: &Cluster| {
            let pids = cluster.nodes[..NODES].iter().filter_map(|node| node.part.pid());
            pids.count()
        };
        while there(&self.cluster) < NODES && Instant::now() < end {
            self.tick(false)?;
        }
        if there(&self.cluster) < NODES {
            self.report.troubles.push("nodes do not come back".into());
        }
        Ok(())
    }

    /// A panic is a bug even where nothing was lost by it.
    fn look_at_logs(&mut self, place: &Path) {
        let logs = std::fs::read_dir(place.join("logs")).into_iter().flatten().flatten();
        for log in logs {
            let text = std::fs::read(log.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            if let Some(words) = text.lines().find(|line| line.contains("panicked")) {
                let name = log.file_name().to_string_lossy().into_owned();
                self.report.troubles.push(format!("{name}: {words}"));
            }
        }
    }
}
