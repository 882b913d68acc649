//! Frames that go through filters in other slots, and come back in order.

use std::collections::VecDeque;

use frameloom_core::frame_task::Stretch;
use frameloom_core::plan::PictureInfo;
use frameloom_core::slot::FrameNumber;
use frameloom_core::spec::OnError;
use frameloom_core::{Error, Result};

use super::celery::{Exchange, Kept, lock};
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
        let frame = if self.kept.needs_frames() { frame } else { frame.without_planes()? };
        self.away.push_back((number, frame));
        Ok(())
    }

    /// Waits for the frame that has been away longest.
    fn receive(&mut self, out: &mut Vec<Frame>) -> Result<()> {
        let Some((number, frame)) = self.away.pop_front() else { return Ok(()) };
        let came = lock(&self.exchange).back(number);
        let mut worked = 0.0;
        let made = came.and_then(|file| {
            let head = frame_file::read_head(&file)?;
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
            worked = head.worked_ms;
            frame_file::read(&head, &file, Some(&frame))
        });
        if self.kept.keep(made, frame, out)? {
            self.worked.push_back(worked);
        }
        Ok(())
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
        Ok(())
    }

    fn worked(&mut self) -> Option<f32> {
        self.worked.pop_front()
    }

    fn lost(&mut self) -> Lost {
        self.kept.lost()
    }
}
