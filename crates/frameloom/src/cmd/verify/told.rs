//! What detections files tell a verification: the one that was given, and those that were written for it.

use std::io::{BufRead, BufReader};
use std::path::Path;

use frameloom_core::detection::{DetectionsHeader, DetectionsLine, Rect};
use frameloom_core::edited::DetectionsReader;
use frameloom_core::{Error, Result};

use crate::cmd::{open_source, shown};

/// Most boxes of a detections file that are taken: they are held in memory, 16 bytes each.
const MOST_BOXES: usize = 20_000_000;

/// What a detections file tells.
pub(super) struct Told {
    pub(super) header: Option<DetectionsHeader>,
    /// Its lines in order of time: pts, and where their boxes begin and end.
    lines: Vec<(i64, u32, u32)>,
    /// The boxes that hide; one that a person drew does.
    boxes: Vec<Rect>,
    /// Of each frame its first line: what a person added to it may stand in a line of its own.
    frames: Vec<usize>,
}

impl Told {
    /// Reads a file, which a person may have edited: as `regions` takes it.
    pub(super) fn read(path: &Path, trust: bool) -> Result<Self> {
        let file = BufReader::new(open_source(path)?);
        Self::parse(DetectionsReader::new(file, &shown(path), trust)?, &shown(path), MOST_BOXES)
    }

    fn parse(mut reader: DetectionsReader<impl BufRead>, name: &str, most: usize) -> Result<Self> {
        let header = reader.header().cloned();
        let (mut lines, mut boxes) = (Vec::new(), Vec::new());
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        while let Some(line) = reader.next_line()? {
            let first = number(boxes.len());
            let hides = |action: &Option<String>| {
                action.as_ref().is_none_or(|action| frameloom_media::action_hides(action))
            };
            boxes.extend(line.boxes.iter().filter(|b| hides(&b.action)).map(|found| found.rect));
            if boxes.len() > most {
                return Err(reader.wrong(format!(
                    "more than {most} boxes; verify a part of the video, made with --from and --to, at a time"
                )));
            }
            lines.push((line.pts, first, number(boxes.len())));
        }
        lines.sort_by_key(|(pts, ..)| *pts);
        if lines.is_empty() {
            return Err(Error::invalid(format!("detections file '{name}' tells of no frame")));
        }
        let begins = |at: &usize| *at == 0 || lines[at - 1].0 != lines[*at].0;
        let frames = (0..lines.len()).filter(begins).collect();
        Ok(Self { header, lines, boxes, frames })
    }

    /// How many frames it tells of.
    pub(super) fn frames(&self) -> usize {
        self.frames.len()
    }

    /// The time of a frame, by its number.
    pub(super) fn pts(&self, frame: usize) -> Option<i64> {
        self.frames.get(frame).map(|line| self.lines[*line].0)
    }

    /// The boxes that hide in a frame, by its number.
    pub(super) fn boxes(&self, frame: usize) -> Vec<Rect> {
        let Some(from) = self.frames.get(frame) else { return Vec::new() };
        let to = self.frames.get(frame + 1).copied().unwrap_or(self.lines.len());
        let lines = self.lines[*from..to].iter();
        lines
            .flat_map(|(_, first, end)| &self.boxes[*first as usize..*end as usize])
            .copied()
            .collect()
    }
}

/// Hands on the lines of a detections file that was written by a run of this command, one after the other.
pub(super) fn each(path: &Path, mut take: impl FnMut(DetectionsLine) -> Result<()>) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("cannot read what was found", &e);
    // The first line is the header.
    for line in BufReader::new(open_source(path)?).lines().skip(1) {
        let line = serde_json::from_str(&line.map_err(failed)?)
            .map_err(|e| Error::internal("cannot read what was found").with_source(e))?;
        take(line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, most: usize) -> Result<Told> {
        Told::parse(DetectionsReader::new(text.as_bytes(), "x.jsonl", true)?, "x.jsonl", most)
    }

    fn line(pts: i64, boxes: &[(u8, &str)]) -> String {
        let boxes: Vec<String> = boxes
            .iter()
            .map(|(x, action)| format!("{{\"x\":{x},\"y\":0,\"w\":1,\"h\":1{action}}}"))
            .collect();
        format!("{{\"pts\":{pts},\"boxes\":[{}]}}\n", boxes.join(","))
    }

    #[test]
    fn lines_of_a_frame_count_together_in_any_order() {
        let drawn = ",\"action\":\"boxes\"";
        let text = [
            line(80, &[(1, ",\"action\":\"blur\""), (2, drawn)]),
            line(0, &[]),
            line(80, &[(3, "")]),
            line(40, &[(4, "")]),
        ]
        .concat();
        let told = told(&text, 100).unwrap();
        assert_eq!(told.frames(), 3);
        let places = |frame| told.boxes(frame).iter().map(|rect| rect.x).collect::<Vec<_>>();
        assert_eq!([0, 1, 2, 3].map(|frame| told.pts(frame)), [Some(0), Some(40), Some(80), None]);
        assert_eq!([0, 1, 2, 3].map(places), [vec![], vec![4.0], vec![1.0, 3.0], vec![]]);
    }

    #[test]
    fn more_boxes_than_memory_is_for_are_refused() {
        let text = line(0, &[(1, ""), (2, "")]) + &line(1, &[(3, "")]);
        assert_eq!(told(&text, 3).unwrap().frames(), 2);
        let error = told(&text, 2).map(|told| told.frames()).unwrap_err();
        assert!(error.message().contains("line 2: more than 2 boxes"), "{error}");
        assert!(told("", 3).is_err());
    }
}
