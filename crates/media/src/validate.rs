//! What can be said of a job before its source is there.

use frameloom_core::frame_task::{FILTER, FrameTaskSpec, is_about_things, stretches};
use frameloom_core::plan::{PictureInfo, PlannedFilter};
use frameloom_core::spec::{JobSpec, OnError};
use frameloom_core::{Error, Result};

use crate::follow::{hides_by_time, hides_things};
use crate::{encode, filter};

/// Checks filters, graphs, and encoder with its options, as far as no source is needed for it:
/// sizes and formats are looked at when the plan is made.
///
/// # Errors
/// Invalid for what no source could mend.
pub fn validate(spec: &JobSpec) -> Result<()> {
    filter::validate(&spec.filters)?;
    hidden_stays_hidden(spec)?;
    encode::validate(&spec.encoder, spec.container)
}

/// Refuses that frames which fail show what a filter hides: those that stay as they are, and pictures that are
/// shown once more where what is hidden goes by their time.
///
/// # Errors
/// Invalid with what to take.
pub(crate) fn hidden_stays_hidden(spec: &JobSpec) -> Result<()> {
    let hider = spec.filters.iter().rfind(|filter| hides_things(filter));
    let by_time = spec.filters.iter().rposition(hides_by_time);
    let check = |on_error, at: usize| match (on_error, hider, by_time) {
        (OnError::Original, Some(hider), _) => Err(Error::invalid(format!(
            "frames that fail must not stay as they are (on_error 'original') with filter '{hider}', which hides \
             things: take 'fail' or 'skip'"
        ))),
        (OnError::Hold, _, Some(last)) if at < last => {
            let hider = &spec.filters[last];
            Err(Error::invalid(format!(
                "a picture must not be shown once more (on_error 'hold') before filter '{hider}', which would hide what \
                 is in the frame that fails: take 'fail' or 'skip', or put '{hider}' first"
            )))
        }
        _ => Ok(()),
    };
    let first = spec.filters.iter().position(|f| f.name != FILTER && !is_about_things(&f.name));
    check(spec.on_error, first.unwrap_or(usize::MAX))?;
    for (at, filter) in spec.filters.iter().enumerate().filter(|(_, f)| f.name == FILTER) {
        let asked = FrameTaskSpec::of(&filter::catalogue().check(filter)?)?;
        check(asked.on_error, at).map_err(|e| e.at(format!("filter '{filter}'")))?;
    }
    Ok(())
}

/// Refuses that frames which fail stay as they are where the others change in size or form.
///
/// # Errors
/// Invalid with what to take.
pub(crate) fn originals_fit(
    spec: &JobSpec,
    filters: &[PlannedFilter],
    working: &PictureInfo,
) -> Result<()> {
    if spec.granularity.is_segment() || spec.on_error != OnError::Original {
        return Ok(());
    }
    for stretch in stretches(filters, working) {
        let names = &filters[stretch.first as usize..stretch.end as usize];
        let before = (stretch.first as usize).checked_sub(1).map(|at| &filters[at].output);
        let before = before.unwrap_or(working);
        let Some(behind) = names.last().map(|filter| &filter.output) else { continue };
        let same = |a: &PictureInfo, b: &PictureInfo| {
            (a.width, a.height, &a.pixel_format, &a.color)
                == (b.width, b.height, &b.pixel_format, &b.color)
        };
        if !same(before, behind) {
            let names: Vec<String> = names.iter().map(|f| format!("'{}'", f.spec)).collect();
            let names = names.join(", ");
            return Err(Error::invalid(format!(
                "frames that fail cannot stay as they are (on_error 'original'): {names} makes {}x{} of {} out of {}x{} \
                 of {}; take 'fail', 'skip' or 'hold'",
                behind.width,
                behind.height,
                behind.pixel_format,
                before.width,
                before.height,
                before.pixel_format
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use frameloom_core::spec::EncoderSpec;

    fn job(filters: &[&str], encoder: EncoderSpec) -> Result<()> {
        let filters = filters.iter().map(|text| text.parse().unwrap()).collect();
        validate(&JobSpec { filters, encoder, ..Default::default() })
    }

    #[test]
    fn what_no_source_could_mend_is_told_without_one() {
        let plain = EncoderSpec::default();
        // Whether it fits depends on the source.
        job(&["ffmpeg:crop=1920:1080,hflip", "crop:w=4000"], plain.clone()).unwrap();
        for filter in
            ["ffmpeg:hflip=x", "ffmpeg:eq=contrast=much", "ffmpeg:split", "ffmpeg:fps=5", "blurr"]
        {
            let error = job(&[filter], plain.clone()).unwrap_err();
            assert_eq!(error.kind(), frameloom_core::ErrorKind::Invalid, "{filter}: {error}");
        }
        let encoder = |name: &str| EncoderSpec { encoder: Some(name.into()), ..plain.clone() };
        assert!(job(&[], encoder("libx265x")).is_err());
        let options = vec![("stats".to_owned(), "x".to_owned())];
        assert!(job(&[], EncoderSpec { options, ..plain.clone() }).is_err());
        assert!(job(&[], EncoderSpec { preset: Some("speedy".into()), ..plain }).is_err());
    }

    #[test]
    fn frames_that_fail_show_nothing_that_is_hidden() {
        let job = |filters: &[&str], on_error| {
            let filters = filters.iter().map(|text| text.parse().unwrap()).collect();
            let granularity = frameloom_core::spec::Granularity::Frame;
            validate(&JobSpec { filters, granularity, on_error, ..Default::default() })
        };
        let celery = |on_error: &str| format!("celery:task=t:queue=q:on_error={on_error}");
        let (original, hold) = (celery("original"), celery("hold"));
        let hiding = |on_error: &str| format!("{}:hides=true", celery(on_error));
        let (hides, open) = ("faces:action=blur", "faces:action=boxes");
        use OnError::{Fail, Hold, Original, Skip};
        for (filters, on_error) in [
            (&[hides, "blur"][..], Hold),
            (&["blur", hides], Skip),
            (&["blur", open], Original),
            (&["blur", open], Hold),
            (&[hides, &hold], Fail),
            (&[open, &original], Fail),
            (&[&celery("skip"), hides], Fail),
            // What a function hides it finds in the picture that it gets.
            (&["blur", &hiding("hold")], Hold),
        ] {
            job(filters, on_error).unwrap();
        }
        for (filters, on_error, words, hides) in [
            (&["blur", hides][..], Original, "on_error 'original'", hides),
            (&[hides, "blur"], Original, "on_error 'original'", hides),
            (&["blur", hides], Hold, "on_error 'hold'", hides),
            (&[hides, &original], Fail, "on_error 'original'", hides),
            (&[&original, hides], Fail, "on_error 'original'", hides),
            (&[&hold, hides], Fail, "on_error 'hold'", hides),
            (&[&hiding("original")], Fail, "on_error 'original'", "hides=true"),
            (&["blur", &hiding("fail")], Original, "on_error 'original'", "hides=true"),
        ] {
            let error = job(filters, on_error).unwrap_err();
            assert_eq!(error.kind(), frameloom_core::ErrorKind::Invalid, "{filters:?}: {error}");
            let said = error.message();
            assert!(said.contains(words) && said.contains(hides), "{filters:?}: {said}");
        }
    }
}
