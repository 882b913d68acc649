//! Boxes from a detections file that a user gave: made by another job, and perhaps corrected by hand.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Seek};
use std::sync::{Arc, Mutex, PoisonError};

use frameloom_core::catalogue::Params;
use frameloom_core::detection::{BoxSource, DetectionsHeader, Rect, TrackedBox};
use frameloom_core::edited::{DetectionsReader, EditedLine};
use frameloom_core::pipeline::FilterSpec;
use frameloom_core::plan::{Fingerprint, Message, PlannedDetector};
use frameloom_core::time::{Rounding, TimeBase};
use frameloom_core::track::MAX_TOLD;
use frameloom_core::{Error, Result};

use super::catalogue;
use super::files::Files;
use crate::planning::fingerprint_of;

/// The filter that paints what a file tells.
pub(crate) const REGIONS: &str = "regions";

/// Most boxes of a file: they are held in memory.
const MOST: usize = 20_000_000;

/// The source that boxes are for.
pub(crate) struct Pictured<'a> {
    /// What identifies it.
    pub(crate) source: &'a Fingerprint,
    /// The source, where another kind of fingerprint can be taken of it; else it was compared when the job was planned.
    pub(crate) file: Option<&'a File>,
    /// Seconds a tick.
    pub(crate) time_base: TimeBase,
    /// Width and height as displayed, in pixels.
    pub(crate) size: (u32, u32),
}

/// A detections file as it is planned for.
pub(crate) struct PlannedRegions {
    /// What the plan holds of it.
    pub(crate) detector: PlannedDetector,
    /// The filter as written, and what the file is called.
    filter: String,
    name: String,
    trust: bool,
    /// The times of its lines, in order.
    lines: Vec<i64>,
}

impl PlannedRegions {
    /// Looks whether there is a line for each of some frames, whose times are in order.
    ///
    /// # Errors
    /// Invalid, with the first frame that has none; with `trust` that is a message.
    pub(crate) fn tells_of(
        &self,
        frames: impl Iterator<Item = i64>,
        time_base: TimeBase,
    ) -> Result<Option<Message>> {
        let (mut all, mut missing, mut first) = (0u64, 0u64, None);
        let mut lines = self.lines.iter().copied().peekable();
        for pts in frames {
            all += 1;
            while lines.next_if(|line| *line < pts).is_some() {}
            if lines.peek() != Some(&pts) {
                missing += 1;
                first.get_or_insert(pts);
            }
        }
        let Some(first) = first else { return Ok(None) };
        let text = format!(
            "filter '{}': detections file '{}' tells nothing of {missing} of {all} frames, the first at pts {first} ({:.3} s): each \
             frame needs a line, with no boxes where there is nothing",
            self.filter,
            self.name,
            time_base.seconds(first)
        );
        if self.trust {
            return Ok(Some(Message::new("regions_missing", text)));
        }
        Err(Error::invalid(format!(
            "{text}; where those cannot be decoded anyway, trust=true goes on"
        )))
    }
}

/// Checks the files of the filters `regions` before any work begins.
///
/// # Errors
/// As [`Regions::read`].
pub(crate) fn plan_regions(
    filters: &[FilterSpec],
    files: &Files,
    of: &Pictured<'_>,
) -> Result<Vec<PlannedRegions>> {
    let asked = filters.iter().enumerate().filter(|(_, spec)| spec.name == REGIONS);
    let planned = asked.map(|(at, spec)| {
        let params = catalogue().check(spec)?;
        let regions =
            Regions::read(&params, files, of).map_err(|e| e.at(format!("filter '{spec}'")))?;
        Ok(PlannedRegions {
            detector: PlannedDetector {
                filter: u32::try_from(at).unwrap_or(u32::MAX),
                name: REGIONS.into(),
                sha256: regions.sha256,
                classes: regions.classes,
                action: params.text("action")?.to_owned(),
                tracking: None,
            },
            filter: spec.to_string(),
            name: regions.name,
            trust: params.boolean("trust")?,
            lines: regions.lines.iter().map(|(pts, ..)| *pts).collect(),
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
    /// Takes in a line, its times in `base`, its boxes so many times as wide and as high.
    fn line(
        &mut self,
        line: EditedLine,
        (base, time_base): (TimeBase, TimeBase),
        (wide, high): (f32, f32),
    ) -> Result<(), String> {
        let pts = base.rescale(line.pts, time_base, Rounding::Nearest);
        let pts = pts.ok_or_else(|| format!("pts {} is past any time", line.pts))?;
        let first = u32::try_from(self.boxes.len()).unwrap_or(u32::MAX);
        let count = u32::try_from(line.boxes.len()).unwrap_or(u32::MAX);
        if self.boxes.len() + line.boxes.len() > MOST {
            return Err(format!("more than {MOST} boxes"));
        }
        for given in line.boxes {
            let Rect { x, y, w, h } = given.rect;
            let class = self.class(given.class)?;
            self.boxes.push(TrackedBox {
                rect: Rect { x: x * wide, y: y * high, w: w * wide, h: h * high },
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
    /// Reads the file that `params` name for a source. Boxes of a picture of another size, which only `trust` takes, are
    /// scaled to this one.
    ///
    /// # Errors
    /// Invalid, with the line's number, where it is no detections file, or is one of another video.
    pub(super) fn read(params: &Params, files: &Files, of: &Pictured<'_>) -> Result<Self> {
        let (trust, name) = (params.boolean("trust")?, params.text("file")?);
        let file = files.get(name)?;
        // The position is shared with whoever else holds the file.
        let mut from = &file;
        from.rewind().map_err(|e| Error::io(format!("cannot read '{name}'"), &e))?;
        let mut reader = DetectionsReader::new(BufReader::new(file), name, trust)?;
        let (mut base, mut scale) = (of.time_base, (1.0, 1.0));
        if let Some(header) = reader.header() {
            if !trust && !is_of(header, of)? {
                return Err(reader.wrong(
                    "it was made from another video (its fingerprint differs); trust=true takes it all the same",
                ));
            }
            base = header.time_base;
            #[expect(clippy::cast_precision_loss, reason = "sides of pictures")]
            let ratio = |is: u32, told: u32| is as f32 / told as f32;
            scale = (ratio(of.size.0, header.size[0]), ratio(of.size.1, header.size[1]));
        }
        let mut all = Gathered::default();
        while let Some(line) = reader.next_line()? {
            all.line(line, (base, of.time_base), scale).map_err(|why| reader.wrong(why))?;
        }
        let Gathered { classes, mut lines, boxes, .. } = all;
        // Lines that a person added may stand anywhere.
        lines.sort_by_key(|(pts, ..)| *pts);
        for frame in lines.chunk_by(|a, b| a.0 == b.0) {
            let count: usize = frame.iter().map(|(.., count)| *count as usize).sum();
            if count > MAX_TOLD {
                return Err(Error::invalid(format!(
                    "detections file '{name}', pts {}: {count} boxes in a frame; {MAX_TOLD} are allowed",
                    frame[0].0
                )));
            }
        }
        Ok(Self { name: name.to_owned(), sha256: reader.sha256(), classes, lines, boxes })
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

/// Whether a file with this header was made from this source. When that was changed is no part of its content.
///
/// # Errors
/// Of reading the source.
fn is_of(header: &DetectionsHeader, of: &Pictured<'_>) -> Result<bool> {
    let told = &header.source;
    if told.size != of.source.size || told.sha256 == of.source.sha256 {
        return Ok(told.size == of.source.size);
    }
    // --verify-source hashes all of a file, and else samples are taken of large ones.
    match of.file {
        _ if told.whole == of.source.whole => Ok(false),
        Some(file) => Ok(fingerprint_of(file, told.whole)?.sha256 == told.sha256),
        None => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use frameloom_core::detection::DETECTIONS_VERSION;

    use super::*;

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
        let of = Pictured {
            source: &source(),
            file: None,
            time_base: TimeBase::new(1, 1000).unwrap(),
            size: (128, 48),
        };
        Regions::read(&params, &files, &of)
    }

    fn header(sha256: &str) -> String {
        let header = DetectionsHeader {
            frameloom_detections: DETECTIONS_VERSION,
            source: Fingerprint { sha256: sha256.into(), modified_ns: 9, ..source() },
            time_base: TimeBase::new(1, 25).unwrap(),
            size: [128, 48],
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
    fn frames_without_a_line_are_told_before_any_work() {
        let base = TimeBase::new(1, 1000).unwrap();
        let told = |lines: &[i64], frames: &[i64], trust| {
            let planned = PlannedRegions {
                detector: PlannedDetector {
                    filter: 0,
                    name: REGIONS.into(),
                    sha256: String::new(),
                    classes: Vec::new(),
                    action: "blur".into(),
                    tracking: None,
                },
                filter: "regions:file=x.jsonl".into(),
                name: "x.jsonl".into(),
                trust,
                lines: lines.to_vec(),
            };
            planned.tells_of(frames.iter().copied(), base)
        };
        assert_eq!(told(&[0, 40, 80], &[0, 40, 80], false).unwrap(), None);
        // Lines may stand twice, and for frames that are not there.
        assert_eq!(told(&[0, 20, 40, 40, 80, 99], &[40, 80], false).unwrap(), None);
        for lines in [&[0, 120][..], &[0, 20, 120], &[0, 90, 120, 130]] {
            let error = told(lines, &[0, 40, 80, 120], false).unwrap_err();
            for word in ["'x.jsonl'", "2 of 4 frames", "pts 40 (0.040 s)", "trust=true"] {
                assert!(error.message().contains(word), "{error}");
            }
        }
        let message = told(&[0], &[0, 40], true).unwrap().unwrap();
        assert!(message.text.contains("1 of 2 frames"), "{}", message.text);
    }

    #[test]
    fn a_file_of_another_video_needs_trust() {
        let line = "{\"pts\":0,\"boxes\":[]}\n";
        let other = format!("{}\n{line}", header("cd"));
        assert!(read(&other, false).err().unwrap().message().contains("another video"));
        read(&other, true).unwrap();
        assert!(read(line, false).err().unwrap().message().contains("with trust"));
        assert!(read(line, true).unwrap().at(0).unwrap().is_empty());
    }

    #[test]
    fn boxes_of_a_picture_of_another_size_are_scaled() {
        let line = "{\"pts\":2,\"boxes\":[{\"x\":1,\"y\":2,\"w\":3,\"h\":4}]}\n";
        let smaller = header("cd").replace("[128,48]", "[64,24]");
        let regions = read(&format!("{smaller}\n{line}"), true).unwrap();
        assert_eq!(regions.at(80).unwrap()[0].rect, Rect { x: 2.0, y: 4.0, w: 6.0, h: 8.0 });
    }
}
