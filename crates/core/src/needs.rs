//! What a job's tasks need of the machine that does them, beside its engine.

use crate::pipeline::FilterSpec;
use crate::spec::JobSpec;

/// Marks in the names of FFmpeg's encoders that work on a GPU, or on what else a machine may lack.
const HARDWARE: [&str; 8] =
    ["nvenc", "qsv", "vaapi", "v4l2", "omx", "amf", "mediacodec", "videotoolbox"];

/// Which of a job's tasks need a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GpuNeeds {
    /// Looking for things, where a filter says `device=cuda`.
    pub detect: bool,
    /// Making the segments: the encoder is one of hardware.
    pub encode: bool,
}

impl GpuNeeds {
    /// Of a job.
    pub fn of(spec: &JobSpec) -> Self {
        let encoder = spec.encoder.encoder.as_deref();
        Self {
            detect: spec.filters.iter().any(asks_for_cuda),
            encode: encoder.is_some_and(is_hardware) && spec.detections_only.is_none(),
        }
    }

    /// Whether making the plan does: it tries model and encoder once.
    pub fn plan(self) -> bool {
        self.detect || self.encode
    }
}

/// Whether an encoder of FFmpeg is one of hardware, by its name.
pub fn is_hardware(encoder: &str) -> bool {
    HARDWARE.iter().any(|kind| encoder.contains(kind))
}

fn asks_for_cuda(filter: &FilterSpec) -> bool {
    filter.params.iter().any(|(key, value)| key == "device" && value == "cuda")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(filters: &[&str], encoder: Option<&str>) -> (bool, bool) {
        let filters = filters.iter().map(|filter| filter.parse().unwrap()).collect();
        let mut spec = JobSpec { filters, ..JobSpec::default() };
        spec.encoder.encoder = encoder.map(str::to_owned);
        let GpuNeeds { detect, encode } = GpuNeeds::of(&spec);
        (detect, encode)
    }

    #[test]
    fn a_device_and_an_encoder_of_hardware_need_a_gpu() {
        assert_eq!(needs(&["blur", "faces:action=blur"], Some("libx264")), (false, false));
        assert_eq!(needs(&["faces:device=auto"], None), (false, false));
        assert_eq!(needs(&["blur", "faces:device=cuda"], None), (true, false));
        assert_eq!(needs(&["objects:device=cuda:track=true"], Some("hevc_nvenc")), (true, true));
        assert_eq!(needs(&["edges"], Some("h264_vaapi")), (false, true));
    }
}
