//! The jobs that go through a cluster while it is disturbed, sent by the program's own client as a user would.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use frameloom_core::id::JobId;
use frameloom_core::{Error, Result};

use crate::call;
use crate::disk::make_dir;
use crate::journals::Journals;
use crate::net::program;
use crate::part::last_words;
use crate::seed::Seed;
use crate::verdict::{Expected, Verdict, frames, judge};

/// Jobs at a time.
const AT_ONCE: usize = 3;

/// How long after a job's end its client may take to hear of it and to fetch the output.
const HEARS_WITHIN: Duration = Duration::from_secs(60);

/// How long after a refusal the next job is sent.
const SENT_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A clip and what is done with it.
struct Piece {
    name: &'static str,
    clip: PathBuf,
    args: &'static [&'static str],
    expected: Expected,
}

/// Names of pieces, their clips, and what is done with them: all phases of a job, both granularities, sound, and filters that
/// need nothing, neighbours or a warm-up. A clip without a name is made.
const PIECES: [(&str, &str, &[&str]); 5] = [
    ("slow", "", &["-f", "test-fault:kind=slow", "--segment", "1"]),
    (
        "edges",
        "vtest.avi",
        &["-f", "denoise", "-f", "edges:overlay=true", "--segment", "1", "--to", "16"],
    ),
    ("faces", "carphone_pristine.mp4", &["-f", "faces:action=blur", "--segment", "1"]),
    ("frames", "bikes.mp4", &["-f", "blur:sigma=2", "--segment", "2", "--granularity", "frame"]),
    ("motion", "tree.avi", &["-f", "motion:action=boxes", "--segment", "4", "--to", "12"]),
];

/// Where a job is in its client's hands.
enum Stage {
    /// Being sent and followed, or fetched.
    Client(Child),
    /// Its client gave up; it is fetched when it is over.
    LeftAlone,
}

/// A job.
struct Job {
    piece: usize,
    number: u32,
    id: Option<JobId>,
    stage: Stage,
    /// When it was seen to be over.
    over: Option<Instant>,
    out: PathBuf,
    log: PathBuf,
}

/// A job that is over.
#[derive(Debug)]
pub struct Finished {
    /// What it was.
    pub name: &'static str,
    /// Frames that it should have.
    pub frames: u64,
    /// Attempts beside the one that each task needs.
    pub retries: u64,
    /// What is wrong.
    pub verdict: Verdict,
}

/// What clients met that is no loss.
#[derive(Debug, Default, Clone, Copy)]
pub struct Met {
    /// Jobs that a server did not take, in words: it was away or its store full.
    pub refused: u32,
    /// Clients that gave up waiting; the job was fetched later.
    pub gave_up: u32,
    /// Clients that went on waiting for a job that was over; it was fetched later.
    pub deaf: u32,
}

/// All jobs.
pub struct Work {
    binary: PathBuf,
    place: PathBuf,
    url: String,
    pieces: Vec<Piece>,
    order: Vec<usize>,
    seed: Seed,
    jobs: Vec<Job>,
    sent: u32,
    refused: Option<Instant>,
    old: Vec<JobId>,
    removing: Option<(JobId, Child)>,
    /// Pieces to be done once more, at the end.
    last: Vec<usize>,
    /// What clients met.
    pub met: Met,
    /// Nodes of other engines that were there at any time.
    strangers: BTreeSet<String>,
}

impl Work {
    /// Has each piece done once, undisturbed.
    ///
    /// # Errors
    /// Unavailable where that fails.
    pub fn prepare(
        binary: &Path,
        clips: &Path,
        place: &Path,
        url: String,
        seed: u64,
    ) -> Result<Self> {
        make_dir(&place.join("out"))?;
        let mut pieces = Vec::new();
        for (name, clip, args) in PIECES {
            let clip = if clip.is_empty() { made_clip(place)? } else { clips.join(clip) };
            if !clip.exists() {
                let shown = clip.display();
                return Err(Error::not_found(format!("'{shown}' is not there: run 'make clips'")));
            }
            let out = place.join(format!("expected-{name}.mp4"));
            let mut run = Command::new(binary);
            run.env("FRAMELOOM_TEST_FAULTS", "1").arg("run").arg(&clip).arg("-o").arg(&out);
            call(run.args(["-q"]).args(args))?;
            let bytes = fs::read(&out).map_err(|e| Error::io("cannot read an output", &e))?;
            let frames = frames(&out)?;
            if !args.contains(&"--to") {
                let of_source = self::frames(&clip)?.len();
                if frames.len() != of_source {
                    let counted = frames.len();
                    return Err(Error::internal(format!(
                        "'run' makes {counted} frames of {of_source} in '{}'",
                        clip.display()
                    )));
                }
            }
            pieces.push(Piece { name, clip, args, expected: Expected { bytes, frames } });
        }
        Ok(Self {
            binary: binary.to_owned(),
            place: place.to_owned(),
            url,
            pieces,
            order: Vec::new(),
            seed: Seed::new(seed),
            jobs: Vec::new(),
            sent: 0,
            refused: None,
            old: Vec::new(),
            removing: None,
            last: Vec::new(),
            met: Met::default(),
            strangers: BTreeSet::new(),
        })
    }

    /// The jobs that a server knows of and that are not over.
    pub fn open(&self) -> Vec<JobId> {
        self.jobs.iter().filter_map(|job| job.id).collect()
    }

    /// Keeps the journals of jobs that are not over, to be looked at.
    pub fn keep_journals(&self, journals: &Journals) {
        for id in self.open() {
            let to = self.place.join(format!("out/{id}.journal"));
            drop(fs::copy(journals.path(id), to));
        }
    }

    /// Jobs that are not over, in words.
    pub fn left(&self) -> Vec<String> {
        let told = |job: &Job| {
            let id = job.id.map_or("without an id".to_owned(), |id| id.to_string());
            let frames = self.pieces[job.piece].expected.frames.len();
            let words = last_words(&job.log);
            format!(
                "job {} ({id}), {frames} frames, does not end: {words}",
                self.pieces[job.piece].name
            )
        };
        let untaken = self.last.iter().map(|piece| {
            format!("the server does not take job {} any more", self.pieces[*piece].name)
        });
        let kept = (!self.old.is_empty()).then(|| {
            let words = last_words(&self.place.join("out/rm.log"));
            format!("{} jobs cannot be deleted: {words}", self.old.len())
        });
        self.jobs.iter().map(told).chain(untaken).chain(kept).collect()
    }

    /// Has each piece done once more: whoever takes no job any more has lost nothing, and everything.
    pub fn once_more(&mut self) {
        self.last = (0..self.pieces.len()).collect();
    }

    /// Whether there are jobs that are not over, or old ones that are not deleted.
    pub fn has_more(&self) -> bool {
        !self.jobs.is_empty() || !self.last.is_empty() || !self.old.is_empty()
    }

    /// Frames of jobs that are not over.
    pub fn frames_left(&self) -> u64 {
        self.jobs.iter().map(|job| self.pieces[job.piece].expected.frames.len() as u64).sum()
    }

    /// Sends jobs where there are few and `more` are wanted, and looks at those that are over.
    ///
    /// # Errors
    /// Unavailable where no client can be started.
    pub fn tend(&mut self, more: bool, journals: &Journals) -> Result<Vec<Finished>> {
        let refused = self.refused.is_some_and(|at| at.elapsed() < SENT_AGAIN_AFTER);
        while (more || !self.last.is_empty()) && !refused && self.jobs.len() < AT_ONCE {
            let job = self.send()?;
            self.jobs.push(job);
        }
        self.strangers.extend(journals.strangers());
        let mut finished = Vec::new();
        for mut job in std::mem::take(&mut self.jobs) {
            job.id = job.id.or_else(|| id_in(&job.log));
            match self.look(&mut job, journals)? {
                Look::Goes => self.jobs.push(job),
                Look::Refused => {
                    if !more {
                        // Nothing is done to the server any more: it has to take it in the end.
                        self.last.push(job.piece);
                    }
                    self.met.refused += 1;
                    self.refused = Some(Instant::now());
                }
                Look::Over(over) => {
                    self.old.extend(job.id);
                    drop(fs::remove_file(&job.out));
                    finished.push(over);
                }
            }
        }
        self.remove_old()?;
        Ok(finished)
    }

    fn client(&self, args: &[&str], log: &Path) -> Result<Child> {
        let failed = |e: std::io::Error| Error::io("cannot start a client", &e);
        let to = File::options().create(true).append(true).open(log).map_err(failed)?;
        let mut command = program(&self.binary);
        command.args(args).args(["--server", &self.url]).env("FRAMELOOM_TEST_FAULTS", "1");
        let out = to.try_clone().map_err(failed)?;
        command.stdout(out).stderr(to).spawn().map_err(failed)
    }

    fn send(&mut self) -> Result<Job> {
        if self.order.is_empty() {
            self.order = (0..self.pieces.len()).collect();
            self.seed.shuffle(&mut self.order);
        }
        let piece = self.last.pop().or_else(|| self.order.pop()).unwrap_or(0);
        self.sent += 1;
        let number = self.sent;
        let out = self.place.join(format!("out/{number}.mp4"));
        let log = self.place.join(format!("out/{number}.log"));
        let Piece { clip, args, .. } = &self.pieces[piece];
        let (clip, to) = (clip.to_string_lossy(), out.to_string_lossy());
        let child = self.client(&[&["submit", &clip, "-o", &to], *args].concat(), &log)?;
        Ok(Job { piece, number, id: None, stage: Stage::Client(child), over: None, out, log })
    }

    fn look(&mut self, job: &mut Job, journals: &Journals) -> Result<Look> {
        let told = job.id.map(|id| journals.of(id)).transpose()?;
        let Stage::Client(child) = &mut job.stage else {
            let over = told.is_some_and(|told| told.over);
            if let Some(id) = job.id.filter(|_| over) {
                let (id, to) = (id.to_string(), job.out.to_string_lossy());
                let fetch = ["fetch", &id, "-o", &to, "--overwrite"];
                job.stage = Stage::Client(self.client(&fetch, &job.log)?);
            }
            return Ok(Look::Goes);
        };
        let status = child.try_wait().map_err(|e| Error::io("cannot wait for a client", &e))?;
        let Some(status) = status else {
            let over = told.is_some_and(|told| told.over);
            let since = *job.over.get_or_insert_with(Instant::now);
            if !over {
                job.over = None;
            } else if since.elapsed() > HEARS_WITHIN {
                self.met.deaf += 1;
                drop(child.kill());
                drop(child.wait());
                job.stage = Stage::LeftAlone;
                job.over = None;
            }
            return Ok(Look::Goes);
        };
        let piece = &self.pieces[job.piece];
        let counted = piece.expected.frames.len() as u64;
        let mut over =
            Finished { name: piece.name, frames: counted, retries: 0, verdict: Verdict::default() };
        let told = match (status.code(), told) {
            (Some(0), Some(told)) => told,
            (Some(6), None) => return Ok(Look::Refused),
            (Some(6), Some(told)) if !told.over || fs::metadata(&job.out).is_err() => {
                self.met.gave_up += 1;
                job.stage = Stage::LeftAlone;
                return Ok(Look::Goes);
            }
            (_, told) => {
                let words = last_words(&job.log);
                let reasons = told.map(|told| told.failed).unwrap_or_default();
                over.verdict.frames = counted;
                over.verdict.troubles.push(format!("ends with {status}: {words} {reasons:?}"));
                return Ok(Look::Over(over.of(job)));
            }
        };
        over.retries = (told.sent.len() as u64).saturating_sub(told.accepted.len() as u64);
        let got = fs::read(&job.out).unwrap_or_default();
        over.verdict = judge(&piece.expected, &got, &told, &self.strangers, || frames(&job.out));
        if !over.verdict.troubles.is_empty() {
            // Kept beside the logs, to be looked at.
            drop(fs::rename(&job.out, job.out.with_extension("wrong.mp4")));
        }
        Ok(Look::Over(over.of(job)))
    }

    /// Has the server delete what is done with, one at a time; what fails is tried again.
    fn remove_old(&mut self) -> Result<()> {
        if let Some((id, child)) = &mut self.removing {
            match child.try_wait().map_err(|e| Error::io("cannot wait for a client", &e))? {
                None => return Ok(()),
                Some(status) => {
                    if status.success() || status.code() == Some(3) {
                        self.old.retain(|old| old != id);
                    }
                    self.removing = None;
                }
            }
        }
        if let Some(id) = self.old.last().copied() {
            let child = self.client(&["rm", &id.to_string()], &self.place.join("out/rm.log"))?;
            self.removing = Some((id, child));
        }
        Ok(())
    }
}

impl Finished {
    /// Names the job in what is wrong with it.
    fn of(mut self, job: &Job) -> Self {
        let id = job.id.map_or("without an id".to_owned(), |id| id.to_string());
        let Job { number, .. } = job;
        for words in &mut self.verdict.troubles {
            *words = format!("job {number} ({}, {id}): {words}", self.name);
        }
        self
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let clients = self.jobs.iter_mut().filter_map(|job| match &mut job.stage {
            Stage::Client(child) => Some(child),
            Stage::LeftAlone => None,
        });
        for child in clients.chain(self.removing.as_mut().map(|(_, child)| child)) {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// What becomes of a job that is looked at.
enum Look {
    Goes,
    Refused,
    Over(Finished),
}

/// The id that a client tells when its job is made.
fn id_in(log: &Path) -> Option<JobId> {
    let text = fs::read_to_string(log).ok()?;
    let told = text.lines().find_map(|line| line.strip_prefix("job "))?;
    told.split(' ').next()?.parse().ok()
}

/// A clip of 12 s with sound, a keyframe each second.
fn made_clip(place: &Path) -> Result<PathBuf> {
    let path = place.join("made.mp4");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg
        .args([
            "-v",
            "error",
            "-y",
            "-nostdin",
            "-f",
            "lavfi",
            "-i",
            "testsrc2=s=320x180:r=25:d=12",
        ])
        .args(["-f", "lavfi", "-i", "sine=f=440:d=12", "-c:v", "libx264", "-preset", "ultrafast"])
        .args(["-pix_fmt", "yuv420p", "-g", "25", "-c:a", "aac", "-shortest"])
        .arg(&path);
    call(&mut ffmpeg)?;
    Ok(path)
}
