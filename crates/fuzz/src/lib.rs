//! Fuzzing in process, on a stable compiler: inputs that are kept with the code are run as they are, and then changed again
//! and again, by a seed, for so many runs or for so long. What a run says of its input guides it: an input of which
//! something new is said is changed further.
//!
//! A panic fails, a run that takes too much processor time, one that does not end, and memory beyond a bound. The input is
//! left beside the build's files, and its path told; it becomes a test, and is kept in the target's folder. Inputs of
//! which something new is said in a run of so many seconds are kept beside the build's files: the next such run goes on from there.
//!
//! | variable | means |
//! |---|---|
//! | `FRAMELOOM_FUZZ_RUNS` | so many runs |
//! | `FRAMELOOM_FUZZ_SECONDS` | for so long, with a seed that differs each time |
//! | `FRAMELOOM_FUZZ_SEED` | with this seed |
//! | `FRAMELOOM_FUZZ_INPUT` | the file of one input, which is run alone |
//!
//! It is a part of tests only, and panics where a test fails.

mod mutate;
mod watch;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use mutate::Random;
use watch::{Watchdog, cpu_time, is_alone, peak_memory};

/// Inputs that are changed further, at most, beside those that there are.
const MOST_KEPT: usize = 4096;

/// Bytes of them at most: they are memory that a target does not take.
const MOST_BYTES: usize = 32 << 20;

/// Things said that are remembered; then nothing is new any more.
const MOST_SAID: usize = 1 << 18;

/// Something that takes inputs from whoever likes to send them.
#[derive(Debug)]
pub struct Target<'a> {
    /// Its name.
    pub name: &'a str,
    /// The folder in which the folder with its inputs lies; the latter has its name.
    pub corpus: &'a str,
    /// Further inputs to begin with.
    pub seeds: Vec<Vec<u8>>,
    /// Words that mean something to it.
    pub words: &'a [&'a str],
    /// Runs where nobody says how many.
    pub runs: u64,
    /// Longest input, in bytes.
    pub longest: usize,
    /// Most processor time of a run.
    pub time: Duration,
    /// Most memory beyond what there was at the beginning, in bytes.
    pub memory: u64,
}

impl<'a> Target<'a> {
    /// A target with the bounds of what is small: a second and 256 MiB.
    pub fn new(name: &'a str, corpus: &'a str, runs: u64) -> Self {
        Self {
            name,
            corpus,
            seeds: Vec::new(),
            words: &[],
            runs,
            longest: 64 << 10,
            time: Duration::from_secs(1),
            memory: 256 << 20,
        }
    }

    /// Runs it. `run` says what came of an input, such as the words of an error.
    ///
    /// # Panics
    /// Where a run fails, with the path of its input; where there is no input to begin with.
    pub fn fuzz(self, mut run: impl FnMut(&[u8]) -> String) {
        let place = place();
        let last = place.join(format!("{}.last", self.name));
        // It may be the last input itself, which is written anew with each run.
        let given = std::env::var_os("FRAMELOOM_FUZZ_INPUT")
            .map(|path| fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
        let mut running = Running {
            file: File::create(&last).unwrap_or_else(|e| panic!("{}: {e}", last.display())),
            before: peak_memory(),
            target: &self,
            last,
        };
        if let Some(input) = given {
            running.run(&input, "the input that is given", &mut run);
            return;
        }
        let seconds = number("FRAMELOOM_FUZZ_SECONDS").map(Duration::from_secs);
        let seed = number("FRAMELOOM_FUZZ_SEED").unwrap_or_else(|| match seconds {
            Some(_) => watch::any_seed(),
            None => 0x5eed_f00d,
        });
        let runs = match (number("FRAMELOOM_FUZZ_RUNS"), seconds) {
            (Some(runs), _) => runs,
            (None, Some(_)) => u64::MAX,
            (None, None) => self.runs,
        };
        let grown = seconds.is_some().then(|| place.join(self.name));
        let mut inputs = self.inputs(grown.as_deref());
        assert!(!inputs.is_empty(), "{} has nothing to begin with", self.name);
        let (begun, given) = (Instant::now(), inputs.len());
        let (mut said, mut random) = (BTreeSet::new(), Random::new(seed));
        for (number, input) in inputs.iter().enumerate() {
            said.insert(gist(&running.run(input, &format!("kept input {number}"), &mut run)));
        }
        let (mut done, mut kept) = (0, 0);
        while done < runs && seconds.is_none_or(|seconds| begun.elapsed() < seconds) {
            let mut input = inputs[random.below(inputs.len())].clone();
            mutate::change(&mut random, &mut input, self.words, &inputs, self.longest);
            let what = format!("run {done} of FRAMELOOM_FUZZ_SEED={seed}");
            let gist = gist(&running.run(&input, &what, &mut run));
            let is_new = said.len() < MOST_SAID && said.insert(gist);
            if is_new && inputs.len() < given + MOST_KEPT && kept + input.len() < MOST_BYTES {
                kept += input.len();
                if let Some(grown) = &grown {
                    keep(grown, &input);
                }
                inputs.push(input);
            }
            done += 1;
        }
        let took = begun.elapsed().as_secs();
        eprintln!(
            "{}: {done} runs in {took} s, {} things said, seed {seed}",
            self.name,
            said.len()
        );
    }

    /// The inputs of its folder in order of their names, its seeds, and what earlier runs have found.
    fn inputs(&self, grown: Option<&Path>) -> Vec<Vec<u8>> {
        let kept = read_all(&Path::new(self.corpus).join(self.name));
        let grown = grown.map(read_all).unwrap_or_default();
        kept.into_iter().chain(self.seeds.iter().cloned()).chain(grown).collect()
    }
}

/// The files of a folder in order of their names.
fn read_all(folder: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    paths.truncate(MOST_KEPT);
    paths.iter().filter_map(|path| fs::read(path).ok()).collect()
}

fn keep(folder: &Path, input: &[u8]) {
    let kept = fs::create_dir_all(folder)
        .and_then(|()| fs::write(folder.join(format!("{:016x}", fingerprint(input))), input));
    kept.unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
}

/// A target at work.
struct Running<'a> {
    target: &'a Target<'a>,
    /// Where the input of the run at work lies, should the process die.
    last: PathBuf,
    file: File,
    /// The most memory that the process had before.
    before: u64,
}

impl Running<'_> {
    fn run(&mut self, input: &[u8], what: &str, run: &mut impl FnMut(&[u8]) -> String) -> String {
        let name = self.target.name;
        let written = self.file.set_len(input.len() as u64);
        written
            .and_then(|()| self.file.write_all_at(input, 0))
            .unwrap_or_else(|e| panic!("{}: {e}", self.last.display()));
        let begun = cpu_time();
        let watchdog = Watchdog::over(name, &self.last);
        let said = catch_unwind(AssertUnwindSafe(|| run(input)));
        drop(watchdog);
        let took = cpu_time().saturating_sub(begun);
        // Tests are built without all optimisations, and others may run beside.
        let slow = if cfg!(debug_assertions) { 4 } else { 1 };
        let more = peak_memory().saturating_sub(self.before);
        let failed = match &said {
            Err(_) => Some("it panicked".to_owned()),
            Ok(_) if took > self.target.time * slow => Some(format!("it took {took:?}")),
            Ok(_) if is_alone() && more > self.target.memory => {
                Some(format!("it took {} MiB", more >> 20))
            }
            Ok(_) => None,
        };
        match (said, failed) {
            (Ok(said), None) => said,
            (_, failed) => {
                let path = self.last.with_extension(format!("{:016x}", fingerprint(input)));
                let kept = fs::write(&path, input).map(|()| path.display().to_string());
                panic!(
                    "{name}: {what}: {}; its input: FRAMELOOM_FUZZ_INPUT={}",
                    failed.unwrap_or_default(),
                    kept.unwrap_or_else(|e| e.to_string())
                );
            }
        }
    }
}

/// Beside the build's other files.
fn place() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let build = program.ancestors().find(|dir| dir.file_name().is_some_and(|n| n == "deps"));
    let place = build.and_then(Path::parent).map_or_else(std::env::temp_dir, Path::to_owned);
    let place = place.join("fuzz");
    fs::create_dir_all(&place).unwrap_or_else(|e| panic!("{}: {e}", place.display()));
    place
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// A digest of what was said, without what it quotes and counts: of each error once.
fn gist(said: &str) -> u64 {
    let (mut gist, mut quoted) = (String::new(), false);
    for c in said.chars().take(400) {
        match c {
            '\'' | '"' | '`' => quoted = !quoted,
            _ if quoted || !(c.is_ascii_alphabetic() || c == ' ') => {}
            _ => gist.push(c),
        }
    }
    fingerprint(gist.as_bytes())
}

/// FNV-1a.
fn fingerprint(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of the panic with which a target fails.
    fn failure(name: &str, run: impl FnMut(&[u8]) -> String) -> String {
        let mut target = Target::new(name, "none", 20_000);
        target.seeds = vec![br#"{"depth":[1,2],"name":"abc"}"#.to_vec()];
        target.words = &["magic"];
        (target.time, target.longest) = (Duration::from_millis(100), 4096);
        let failed = catch_unwind(AssertUnwindSafe(|| target.fuzz(run))).unwrap_err();
        failed.downcast_ref::<String>().unwrap().clone()
    }

    #[test]
    fn a_panic_deep_inside_is_found_with_its_input() {
        let found = |input: &[u8]| {
            let text = String::from_utf8_lossy(input);
            assert!(!(text.contains("magic") && text.contains("18446744073709551615")), "found");
            // What is said leads there step by step.
            if text.contains("magic") { "near".to_owned() } else { "far".to_owned() }
        };
        let said = failure("finds-a-panic", found);
        assert!(said.contains("it panicked"), "{said}");
        let input = fs::read(said.rsplit_once('=').unwrap().1).unwrap();
        assert!(String::from_utf8_lossy(&input).contains("magic"));
    }

    #[test]
    fn what_takes_too_long_is_found() {
        let slow = |input: &[u8]| {
            let end = cpu_time() + Duration::from_millis(600);
            while input.starts_with(b"[") && cpu_time() < end {}
            String::new()
        };
        let said = failure("finds-slowness", slow);
        assert!(said.contains("it took"), "{said}");
    }

    #[test]
    fn a_seed_makes_the_same_runs() {
        let inputs = || {
            let mut target = Target::new("repeats", "none", 200);
            (target.seeds, target.words) = (vec![b"seed 12 [x]".to_vec()], &["word"]);
            let mut seen = Vec::new();
            target.fuzz(|input| {
                seen.push(input.to_vec());
                String::from_utf8_lossy(input).into_owned()
            });
            seen
        };
        let seen = inputs();
        assert!(seen == inputs() && seen.len() == 201);
    }
}
