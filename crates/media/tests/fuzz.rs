//! Mutated files and filter texts, in process: whatever comes, an error or a result, no crash.
//!
//! `make fuzz` makes 100,000 runs; without `FRAMELOOM_FUZZ_RUNS` there are a few hundred.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use frameloom_core::pipeline::FilterSpec;
use frameloom_media::catalogue;
use support::{ffmpeg, lossless, run};

/// A generator that needs no crate and repeats itself: the same seed, the same runs.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % most.max(1)
    }
}

fn runs() -> usize {
    std::env::var("FRAMELOOM_FUZZ_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(300)
}

fn seeds(dir: &Path) -> Vec<PathBuf> {
    let clips: &[(&str, &[&str])] = &[
        ("a.mp4", &["-c:v", "libx264", "-g", "5"]),
        ("b.mkv", &["-c:v", "libx264", "-g", "5", "-x264-params", "open-gop=1"]),
        ("c.ts", &["-c:v", "mpeg2video", "-g", "5"]),
        ("d.avi", &["-c:v", "mpeg4", "-g", "5", "-bf", "2"]),
        ("e.webm", &["-c:v", "libvpx", "-g", "5", "-deadline", "realtime"]),
    ];
    clips
        .iter()
        .map(|(name, args)| {
            let path = dir.join(name);
            let source = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=2", "-pix_fmt", "yuv420p"];
            ffmpeg(&[&source[..], args, &[path.to_str().unwrap()]].concat());
            path
        })
        .collect()
}

#[test]
fn mutated_files_end_in_a_result_or_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let seeds = seeds(dir.path());
    let mut random = Random(0x5eed_f00d);
    let (mut done, mut refused) = (0, 0);
    for round in 0..runs() {
        let seed = &seeds[round % seeds.len()];
        let mut bytes = fs::read(seed).unwrap();
        for _ in 0..=random.below(12) {
            let at = random.below(bytes.len());
            match random.below(5) {
                0 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes.truncate(at.max(16)),
                3 => {
                    let end = (at + random.below(64)).min(bytes.len());
                    bytes[at..end].fill(u8::try_from(random.below(256)).unwrap());
                }
                _ => {
                    let end = (at + random.below(64)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    let to = random.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
            }
        }
        let path = dir.path().join("mutated").with_extension(seed.extension().unwrap());
        fs::write(&path, &bytes).unwrap();
        let kept = dir.path().join("last-input");
        fs::write(&kept, &bytes).unwrap();
        let spec = lossless(&["denoise", "blur"], Some(500_000));
        match run(&path, &spec, dir.path(), 2) {
            Ok(_) => done += 1,
            Err(error) => {
                assert!(!error.message().is_empty());
                refused += 1;
            }
        }
    }
    // Both happen, or the mutations are too weak or too strong to find anything.
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused");
}

#[test]
fn mutated_filter_texts_end_in_parameters_or_an_error() {
    let mut random = Random(0xf117e5);
    let seeds: Vec<&str> = catalogue().0.iter().map(|info| info.example).collect();
    let pieces =
        ["=", ":", "'", "\\", ",", "%", "-1", "9e99", "NaN", "[a]", ";", "@", "é", "\0", " "];
    for _ in 0..runs() * 20 {
        let mut text: Vec<char> = seeds[random.below(seeds.len())].chars().collect();
        for _ in 0..=random.below(4) {
            let at = random.below(text.len() + 1);
            match random.below(3) {
                0 if at < text.len() => drop(text.remove(at)),
                _ => {
                    let piece = pieces[random.below(pieces.len())];
                    text.splice(at..at, piece.chars());
                }
            }
        }
        let text: String = text.into_iter().collect();
        let checked = text.parse::<FilterSpec>().and_then(|spec| catalogue().check(&spec));
        if let Err(error) = checked {
            assert!(!error.message().is_empty());
        }
    }
}
