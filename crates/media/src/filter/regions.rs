//! Boxes from a detections file that a user gave: made by another job, and perhaps corrected by hand.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};

use frameloom_core::catalogue::Params;
use frameloom_core::detection::{DETECTIONS_VERSION, DetectionsHeader, Rect};
use frameloom_core::pipeline::FilterSpec;
use frameloom_core::plan::Fingerprint;
use frameloom_core::time::{Rounding, TimeBase};
use frameloom_core::{Error, Result};
use serde::Deserialize;

use super::files::Files;
use super::paint::Spot;
use crate::follow::WHOLE_FRAME;

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
    #[serde(default)]
    class: String,
    #[serde(default)]
    track: Option<u32>,
}

/// Checks the files of the filters `regions` before any work begins.
///
/// # Errors
/// As [`Regions::read`].
pub(crate) fn check_regions(
    filters: &[FilterSpec],
    files: &Files,
    source: &Fingerprint,
    time_base: TimeBase,
) -> Result<()> {
    for spec in filters.iter().filter(|spec| spec.name == "regions") {
        let params = super::catalogue().check(spec)?;
        let name = params.text("file")?;
        Regions::read(&params, name, files.get(name)?, source, time_base)
            .map_err(|e| e.at(format!("filter '{spec}'")))?;
    }
    Ok(())
}

/// The boxes of a file, by frame.
pub(super) struct Regions {
    /// What the file is called.
    name: String,
    frames: BTreeMap<i64, Vec<Spot>>,
}

impl Regions {
    /// Reads a file for a source of this fingerprint, time base and size.
    ///
    /// # Errors
    /// Invalid, with the line's number, where it is no detections file, or is one of another video.
    pub(super) fn read(
        params: &Params,
        name: &str,
        file: File,
        source: &Fingerprint,
        time_base: TimeBase,
    ) -> Result<Self> {
        let trust = params.boolean("trust")?;
        // The position is shared with whoever else holds the file.
        let mut from = &file;
        from.rewind().map_err(|e| Error::io(format!("cannot read '{name}'"), &e))?;
        let mut file = BufReader::new(file);
        let (mut frames, mut base) = (BTreeMap::new(), time_base);
        let (mut number, mut count) = (0u64, 0usize);
        loop {
            let mut text = Vec::new();
            let read = (&mut file).take(LONGEST).read_until(b'\n', &mut text);
            read.map_err(|e| Error::io(format!("cannot read '{name}'"), &e))?;
            if text.is_empty() {
                break;
            }
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
            count += line.boxes.len();
            if count > MOST {
                return Err(wrong(format!("more than {MOST} boxes")));
            }
            let spots = line.boxes.into_iter().map(|given| {
                if !given.rect.is_sound() {
                    return Err(wrong("a box has no size, or a number that is none".into()));
                }
                let track = given.track.unwrap_or(0);
                let is_frame = given.class == WHOLE_FRAME;
                let label = match given.track {
                    Some(track) => format!("{} {track}", given.class),
                    None => given.class,
                };
                Ok(Spot { rect: given.rect, label, color: track, is_frame })
            });
            let spots = spots.collect::<Result<Vec<_>>>()?;
            let pts = base.rescale(line.pts, time_base, Rounding::Nearest);
            let pts = pts.ok_or_else(|| wrong(format!("pts {} is past any time", line.pts)))?;
            frames.entry(pts).or_insert_with(Vec::new).extend(spots);
        }
        if number == 0 {
            return Err(Error::invalid(format!("detections file '{name}' is empty")));
        }
        Ok(Self { name: name.to_owned(), frames })
    }

    /// The boxes of a frame.
    ///
    /// # Errors
    /// Invalid where the file does not tell of the frame: what should be hidden there is not known.
    pub(super) fn at(&self, pts: i64) -> Result<Vec<Spot>> {
        self.frames.get(&pts).cloned().ok_or_else(|| {
            Error::invalid(format!(
                "detections file '{}' tells nothing of the frame at pts {pts}: each frame needs a line, with no boxes where there is nothing",
                self.name
            ))
        })
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
        Regions::read(&params, "x.jsonl", file, &source(), TimeBase::new(1, 1000).unwrap())
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
        assert_eq!(spots[0].label, "face 5");
        assert!(regions.at(40).unwrap_err().message().contains("pts 40"));
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
