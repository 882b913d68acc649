//! What can be said of a job before its source is there.

use frameloom_core::Result;
use frameloom_core::spec::JobSpec;

use crate::{encode, filter};

/// Checks filters, graphs, and encoder with its options, as far as no source is needed for it:
/// sizes and formats are looked at when the plan is made.
///
/// # Errors
/// Invalid for what no source could mend.
pub fn validate(spec: &JobSpec) -> Result<()> {
    filter::validate(&spec.filters)?;
    encode::validate(&spec.encoder, spec.container)
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
}
