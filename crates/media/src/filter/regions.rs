//! Boxes from a detections file that a user gave: made by another job, and perhaps corrected by hand.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Seek};
use std::sync::{Arc, Mutex, PoisonError};

use frameloom_core::catalogue::Params;
use frameloom_core::detection::{
    BoxSource, DETECTIONS_VERSION, DetectionsHeader, Rect, TrackedBox,
};
use frameloom_core::pipeline::FilterSpec;
use frameloom_core::plan::{Fingerprint, PlannedDetector};
use frameloom_core::time::{Rounding, TimeBase};
use frameloom_core::{Error, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::catalogue;
use super::files::Files;
use crate::seg_file::hex;

/// The filter that paints what a file tells.
pub(crate) const REGIONS: &str = "regions";

/// Longest line of the file, in bytes.
const LONGEST: u64 = 16 << 20;

/// Most boxes of a file: they are held in memory.
const MOST: usize = 20_000_000;

/// A line of the file, as far as it is needed: what else a person's tool has written does no harm.
#[derive(Deserialize)]
struct Line {
    pts: i64,
    boxes: Vec<Given>,
}

#[derive(Deserialize)]
struct Given {
    #[serde(flatten)]
    rect: Rect,
    #[serde(default = "sure")]
    score: f32,
    #[serde(default)]
    class: String,
    #[serde(default)]
    track: Option<u32>,
    #[serde(default)]
    source: Option<BoxSource>,
}

/// The score of a box that a person drew.
fn sure() -> f32 {
    1.0
}

/// Checks the files of the filters `regions` before any work begins; answers what the plan holds of each.
///
/// # Errors
/// As [`Regions::read`].
pub(crate) fn plan_regions(
    filters: &[FilterSpec],
    files: &Files,
    source: &Fingerprint,
    time_base: TimeBase,
) -> Result<Vec<PlannedDetector>> {
    let asked = filters.iter().enumerate().filter(|(_, spec)| spec.name == REGIONS);
    let planned = asked.map(|(at, spec)| {
        let params = catalogue().check(spec)?;
        let regions = Regions::read(&params, files, source, time_base)
            .map_err(|e| e.at(format!("filter '{spec}'")))?;
        Ok(PlannedDetector {
            filter: u32::try_from(at).unwrap_or(u32::MAX),
            name: REGIONS.into(),
            sha256: regions.sha256,
            classes: regions.classes,
            action: params.text("action")?.to_owned(),
            tracking: None,
        })
    });
    planned.collect()
}

/// The files of a job's filters, read once for all segments of a slot.
#[derive(Clone, Default)]
pub(crate) struct RegionsKept(Arc<Mutex<HashMap<u32, Arc<Regions>>>>);

impl RegionsKept {
    /// The boxes of the filter of this number, read by `read` where they are not known.
    ///
    /// # Errors
    /// Of reading.
    pub(super) fn get(
        &self,
        filter: u32,
        read: impl FnOnce() -> Result<Regions>,
    ) -> Result<Arc<Regions>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.get(&filter) {
            return Ok(known.clone());
        }
        let regions = Arc::new(read()?);
        kept.insert(filter, regions.clone());
        Ok(regions)
    }
}

/// The boxes of a file, by frame.
pub(super) struct Regions {
    /// What the file is called.
    name: String,
    /// The digest of its bytes.
    sha256: String,
    /// The classes that it names, in order of their first boxes.
    pub(super) classes: Vec<String>,
    /// By line, in order of pts: where its boxes begin, and how many they are.
    lines: Vec<(i64, u32, u32)>,
    boxes: Vec<TrackedBox>,
}

/// What is gathered while a file is read.
#[derive(Default)]
struct Gathered {
    numbers: BTreeMap<String, u16>,
    classes: Vec<String>,
    lines: Vec<(i64, u32, u32)>,
    boxes: Vec<TrackedBox>,
}

impl Gathered {
    fn line(&mut self, line: Line, base: TimeBase, time_base: TimeBase) -> Result<(), String> {
        let pts = base.rescale(line.pts, time_base, Rounding::Nearest);
        let pts = pts.ok_or_else(|| format!("pts {} is past any time", line.pts))?;
        let first = u32::try_from(self.boxes.len()).unwrap_or(u32::MAX);
        let count = u32::try_from(line.boxes.len()).unwrap_or(u32::MAX);
        if self.boxes.len() + line.boxes.len() > MOST {
            return Err(format!("more than {MOST} boxes"));
        }
        for given in line.boxes {
            if !given.rect.is_sound() {
                return Err("a box has no size, or a number that is none".into());
            }
            if !given.score.is_finite() {
                return Err("a score is no number".into());
            }
            let class = self.class(given.class)?;
            self.boxes.push(TrackedBox {
                rect: given.rect,
                score: given.score,
                class,
                track: given.track.unwrap_or(0),
                source: given.source.unwrap_or(BoxSource::Detected),
            });
        }
        self.lines.push((pts, first, count));
        Ok(())
    }

    fn class(&mut self, class: String) -> Result<u16, String> {
        if let Some(number) = self.numbers.get(&class) {
            return Ok(*number);
        }
        let number = u16::try_from(self.classes.len());
        let number = number.map_err(|_| "more than 65536 classes".to_owned())?;
        self.classes.push(class.clone());
        self.numbers.insert(class, number);
        Ok(number)
    }
}

impl Regions {
    /// Reads the file that `params` name for a source of this fingerprint and time base.
    ///
    /// # Errors
    /// Invalid, with the line's number, where it is no detections file, or is one of another video.
    pub(super) fn read(
        params: &Params,
        files: &Files,
        source: &Fingerprint,
        time_base: TimeBase,
    ) -> Result<Self> {
        let (trust, name) = (params.boolean("trust")?, params.text("file")?);
        let file = files.get(name)?;
        // The position is shared with whoever else holds the file.
        let mut from = &file;
        from.rewind().map_err(|e| Error::io(format!("cannot read '{name}'"), &e))?;
        let mut file = BufReader::new(file);
        let (mut all, mut base) = (Gathered::default(), time_base);
        let (mut number, mut hash) = (0u64, Sha256::new());
        let mut text = Vec::new();
        loop {
            text.clear();
            let read = (&mut file).take(LONGEST).read_until(b'\n', &mut text);
            read.map_err(|e| Error::io(format!("cannot read '{name}'"), &e))?;
            if text.is_empty() {
                break;
            }
            hash.update(&text);
            number += 1;
            let wrong = |why: String| {
                Error::invalid(format!("detections file '{name}', line {number}: {why}"))
            };
            if text.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            if number == 1 {
                match serde_json::from_slice::<DetectionsHeader>(&text) {
                    Ok(header) => {
                        check(&header, source, trust).map_err(&wrong)?;
                        base = header.time_base;
                        continue;
                    }
                    Err(_) if trust => {}
                    Err(e) => {
                        return Err(wrong(format!(
                            "it is not the header of a detections file ({e}); trust=true takes a file without one"
                        )));
                    }
                }
            }
            let line: Line = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
            all.line(line, base, time_base).map_err(wrong)?;
        }
        if number == 0 {
            return Err(Error::invalid(format!("detections file '{name}' is empty")));
        }
        let Gathered { classes, mut lines, boxes, .. } = all;
        // Lines that a person added may stand anywhere.
        lines.sort_by_key(|(pts, ..)| *pts);
        let sha256 = hex(&hash.finalize());
        Ok(Self { name: name.to_owned(), sha256, classes, lines, boxes })
    }

    /// The boxes of a frame.
    ///
    /// # Errors
    /// Invalid where the file does not tell of the frame: what should be hidden there is not known.
    pub(super) fn at(&self, pts: i64) -> Result<Vec<TrackedBox>> {
        let first = self.lines.partition_point(|(other, ..)| *other < pts);
        let lines: Vec<_> =
            self.lines[first..].iter().take_while(|(other, ..)| *other == pts).collect();
        if lines.is_empty() {
            return Err(Error::invalid(format!(
                "detections file '{}' tells nothing of the frame at pts {pts}: each frame needs a line, with no boxes where there is nothing",
                self.name
            )));
        }
        let boxes = lines.into_iter().flat_map(|(_, first, count)| {
            let first = *first as usize;
            self.boxes[first..first + *count as usize].iter().copied()
        });
        Ok(boxes.collect())
    }
}

fn check(header: &DetectionsHeader, source: &Fingerprint, trust: bool) -> Result<(), String> {
    if header.frameloom_detections != DETECTIONS_VERSION {
        return Err(format!(
            "version {} of detections files; this is for version {DETECTIONS_VERSION}",
            header.frameloom_detections
        ));
    }
    // When it was changed is no part of its content.
    let same = |a: &Fingerprint| a.size == source.size && a.sha256 == source.sha256;
    if trust || same(&header.source) {
        return Ok(());
    }
    Err("it was made from another video (its fingerprint differs); trust=true takes it all the same".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn source() -> Fingerprint {
        Fingerprint { size: 5, modified_ns: 7, sha256: "ab".into(), whole: false }
    }

    fn read(text: &str, trust: bool) -> Result<Regions> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        let spec = format!("regions:file=x.jsonl:trust={trust}").parse().unwrap();
        let params = super::super::catalogue().check(&spec).unwrap();
        let files = [("x.jsonl".to_owned(), file)].into_iter().collect();
        Regions::read(&params, &files, &source(), TimeBase::new(1, 1000).unwrap())
    }

    fn header(sha256: &str) -> String {
        let header = DetectionsHeader {
            frameloom_detections: DETECTIONS_VERSION,
            source: Fingerprint { sha256: sha256.into(), modified_ns: 9, ..source() },
            time_base: TimeBase::new(1, 25).unwrap(),
            size: [64, 48],
        };
        serde_json::to_string(&header).unwrap()
    }

    #[test]
    fn boxes_are_found_by_time_in_any_time_base() {
        let text = format!(
            "{}\n{{\"pts\":2,\"boxes\":[{{\"x\":1,\"y\":2,\"w\":3,\"h\":4,\"class\":\"face\",\"track\":5}}]}}\n",
            header("ab")
        );
        let regions = read(&text, false).unwrap();
        let spots = regions.at(80).unwrap();
        assert_eq!(spots[0].rect, Rect { x: 1.0, y: 2.0, w: 3.0, h: 4.0 });
        assert_eq!((spots[0].track, spots[0].score), (5, 1.0));
        assert_eq!(regions.classes, ["face"]);
        assert!(regions.at(40).unwrap_err().message().contains("pts 40"));
    }

    #[test]
    fn lines_may_stand_in_any_order_and_add_to_each_other() {
        let line = |pts: i64, class: &str| {
            format!(
                "{{\"pts\":{pts},\"boxes\":[{{\"x\":1,\"y\":2,\"w\":3,\"h\":4,\"class\":\"{class}\"}}]}}\n"
            )
        };
        let text = [header("ab") + "\n", line(2, "a"), line(0, "b"), line(2, "b")].concat();
        let regions = read(&text, false).unwrap();
        let classes = |pts| -> Vec<&str> {
            let boxes = regions.at(pts).unwrap().into_iter();
            boxes.map(|found| regions.classes[usize::from(found.class)].as_str()).collect()
        };
        assert_eq!(classes(80), ["a", "b"]);
        assert_eq!(classes(0), ["b"]);
        assert!(regions.at(40).is_err());
    }

    #[test]
    fn a_file_of_another_video_needs_trust() {
        let line = "{\"pts\":0,\"boxes\":[]}\n";
        let other = format!("{}\n{line}", header("cd"));
        assert!(read(&other, false).err().unwrap().message().contains("another video"));
        read(&other, true).unwrap();
        assert!(read(line, false).err().unwrap().message().contains("trust=true"));
        assert!(read(line, true).unwrap().at(0).unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let head = header("ab");
        for bad in [
            "{\"pts\":0}",
            "{\"pts\":0,\"boxes\":[{\"x\":0,\"y\":0,\"w\":0,\"h\":4}]}",
            "{\"pts\":0,\"boxes\":[{\"x\":0,\"y\":0,\"w\":1e99,\"h\":4}]}",
            "pts",
        ] {
            let error = read(&format!("{head}\n{bad}\n"), false).err().unwrap();
            assert!(error.message().contains("line 2"), "{error}");
        }
        assert!(read("", true).is_err());
    }
}
