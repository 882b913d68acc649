//! Frames that go through filters in other slots, and come back in order.

use std::collections::VecDeque;
use std::fs::File;

use frameloom_core::frame_task::Stretch;
use frameloom_core::plan::PictureInfo;
use frameloom_core::slot::FrameNumber;
use frameloom_core::spec::OnError;
use frameloom_core::{Error, Result};

use super::celery::{Back, Exchange, lock};
use super::kept::Kept;
use super::{Filter, Lost};
use crate::frame::Frame;
use crate::frame_file;

/// What a stretch of filters gives away, in place of these filters.
pub(super) struct Away {
    exchange: Exchange,
    first: u32,
    output: PictureInfo,
    window: u64,
    next: u64,
    away: VecDeque<(FrameNumber, Frame)>,
    kept: Kept,
    /// Milliseconds that others worked on the frames that have come back.
    worked: VecDeque<f32>,
}

impl Away {
    /// For a stretch whose frames' files may take so many bytes, with pictures like `output` coming
    /// back.
    pub(super) fn new(
        stretch: &Stretch,
        bytes: u64,
        output: &PictureInfo,
        on_error: OnError,
        exchange: &Exchange,
    ) -> Self {
        Self {
            exchange: exchange.clone(),
            first: stretch.first,
            output: output.clone(),
            window: stretch.window(bytes),
            next: 0,
            away: VecDeque::new(),
            kept: Kept::new(on_error),
            worked: VecDeque::new(),
        }
    }

    fn send(&mut self, frame: Frame) -> Result<()> {
        let number = FrameNumber { filter: self.first, number: self.next, pts: frame.pts() };
        self.next += 1;
        let mut exchange = lock(&self.exchange);
        let file = exchange.away(number)?;
        frame_file::write(&frame, 0.0, &file)?;
        drop(file);
        exchange.gone(number)?;
        drop(exchange);
        // Its planes are needed again only where it may have to stay as it is.
        let frame = if self.kept.needs_planes() { frame } else { frame.without_planes()? };
        self.away.push_back((number, frame));
        Ok(())
    }

    /// Waits for the frame that has been away longest.
    fn receive(&mut self, out: &mut Vec<Frame>) -> Result<()> {
        let Some((number, frame)) = self.away.pop_front() else { return Ok(()) };
        let came = lock(&self.exchange).back(number)?;
        let (made, worked) = match came {
            Back::Done(file) => {
                // Nodes write whole frames: where this is none the store is to blame.
                let unread = |e: Error| match e.kind().is_retryable() {
                    true => e,
                    false => Error::unavailable(e.message().to_owned()),
                };
                let (made, worked) = self.read(number, &frame, &file).map_err(unread)?;
                (Ok(made), worked)
            }
            Back::Failed(error) => (Err(error), 0.0),
        };
        let shown = self.kept.keep(made, frame, out)?;
        self.worked.extend((0..shown).map(|at| if at + 1 == shown { worked } else { 0.0 }));
        Ok(())
    }

    /// Reads a frame that came back, and how long others worked on it.
    fn read(&self, number: FrameNumber, frame: &Frame, file: &File) -> Result<(Frame, f32)> {
        let head = frame_file::read_head(file)?;
        let expected = &self.output;
        let picture = (head.width, head.height, head.pixel_format.as_str());
        if picture != (expected.width, expected.height, expected.pixel_format.as_str())
            || head.pts != number.pts
        {
            return Err(Error::internal(format!(
                "the frame at pts {} came back as {}x{} of {} at pts {}; {}x{} of {} is awaited",
                number.pts,
                head.width,
                head.height,
                head.pixel_format,
                head.pts,
                expected.width,
                expected.height,
                expected.pixel_format
            )));
        }
        Ok((frame_file::read(&head, file, Some(frame))?, head.worked_ms))
    }
}

impl Filter for Away {
    fn push(&mut self, frame: Frame, out: &mut Vec<Frame>) -> Result<()> {
        while self.away.len() as u64 >= self.window {
            self.receive(out)?;
        }
        self.send(frame)
    }

    fn finish(&mut self, out: &mut Vec<Frame>) -> Result<()> {
        while !self.away.is_empty() {
            self.receive(out)?;
        }
        self.kept.end()
    }

    fn worked(&mut self) -> Option<f32> {
        self.worked.pop_front()
    }

    fn lost(&mut self) -> Lost {
        self.kept.lost()
    }
}
