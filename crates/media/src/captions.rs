//! What a stream says beside its pictures, within them: captions, times of day, words of devices. Encoders pass some of it on.

use ffmpeg_next::ffi::{self, AVFrameSideDataType as F};
use frameloom_core::plan::Message;
use frameloom_core::spec::KeptMetadata;

use crate::frame::Frame;

/// The kinds, and as what they are kept.
const KINDS: [(F, KeptMetadata); 3] = [
    (F::AV_FRAME_DATA_A53_CC, KeptMetadata::Subtitles),
    (F::AV_FRAME_DATA_S12M_TIMECODE, KeptMetadata::Data),
    (F::AV_FRAME_DATA_SEI_UNREGISTERED, KeptMetadata::Data),
];

/// Takes out of a frame what is `left_out`.
pub(crate) fn leave_out(frame: &mut Frame, left_out: &[KeptMetadata]) {
    for (kind, _) in KINDS.iter().filter(|(_, kept)| left_out.contains(kept)) {
        // SAFETY: the frame is valid; it is no matter whether it has such data.
        unsafe { ffi::av_frame_remove_side_data(frame.as_mut_ptr(), *kind) };
    }
}

/// What a user should know of the first frame: that captions go.
pub(crate) fn told(frame: &Frame, left_out: &[KeptMetadata]) -> Option<Message> {
    // SAFETY: the frame is valid.
    let has =
        unsafe { !ffi::av_frame_get_side_data(frame.as_ptr(), F::AV_FRAME_DATA_A53_CC).is_null() };
    (has && left_out.contains(&KeptMetadata::Subtitles)).then(|| {
        Message::new(
            "captions_dropped",
            "closed captions within the pictures are left out, since a filter hides what it finds; \
             --keep-metadata subtitles keeps them",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::PixelFormat;

    #[test]
    fn what_is_said_within_pictures_goes_but_where_it_is_kept() {
        let with = || {
            let mut frame = Frame::new(PixelFormat::Yuv420p, 32, 32).unwrap();
            for (kind, _) in KINDS {
                // SAFETY: the frame is valid.
                let data = unsafe { ffi::av_frame_new_side_data(frame.as_mut_ptr(), kind, 3) };
                assert!(!data.is_null());
            }
            frame
        };
        let has = |frame: &Frame| {
            // SAFETY: the frame is valid.
            KINDS.map(|(kind, _)| unsafe {
                !ffi::av_frame_get_side_data(frame.as_ptr(), kind).is_null()
            })
        };
        let (mut frame, left_out) = (with(), KeptMetadata::ALL);
        assert!(told(&frame, &left_out).unwrap().text.contains("captions"));
        leave_out(&mut frame, &left_out);
        assert_eq!(has(&frame), [false; 3]);
        assert_eq!(told(&frame, &left_out), None);
        let mut frame = with();
        leave_out(&mut frame, &[KeptMetadata::Data]);
        assert_eq!(has(&frame), [true, false, false]);
        assert_eq!(told(&frame, &[KeptMetadata::Data]), None);
        leave_out(&mut frame, &[]);
        assert_eq!(has(&frame), [true, false, false]);
    }
}
