//! The encoders that Frameloom has defaults for, one row each.

use frameloom_core::spec::Codec;

/// An encoder with its defaults.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) codec: Codec,
    /// Range and default of the constant rate factor.
    pub(super) crf: Option<Crf>,
    pub(super) preset: Option<Preset>,
    /// What makes it lossless, where it can be.
    pub(super) lossless: Option<&'static [(&'static str, &'static str)]>,
    /// Options that are always set, with and without loss.
    pub(super) fixed: &'static [(&'static str, &'static str)],
    /// The option that holds the encoder's own parameters, `k=v:k=v`, and those that are always set.
    pub(super) params: Option<(&'static str, &'static str)>,
    /// Frames from one keyframe to the next, where they are not counted by time.
    pub(super) keyframe_interval: Option<u32>,
}

pub(super) struct Crf {
    pub(super) most: u32,
    pub(super) default: u32,
}

pub(super) struct Preset {
    pub(super) option: &'static str,
    pub(super) default: &'static str,
    pub(super) values: &'static [&'static str],
}

const X26X_PRESETS: &[&str] = &[
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
];

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "libx264",
        codec: Codec::H264,
        crf: Some(Crf { most: 51, default: 20 }),
        preset: Some(Preset { option: "preset", default: "veryfast", values: X26X_PRESETS }),
        lossless: Some(&[("qp", "0")]),
        fixed: &[],
        params: Some(("x264-params", "cpu-independent=1:open-gop=0")),
        keyframe_interval: None,
    },
    Row {
        name: "libx265",
        codec: Codec::Hevc,
        crf: Some(Crf { most: 51, default: 24 }),
        preset: Some(Preset { option: "preset", default: "medium", values: X26X_PRESETS }),
        lossless: Some(&[]),
        fixed: &[],
        params: Some(("x265-params", "open-gop=0:frame-threads=1:info=0:log-level=error")),
        keyframe_interval: None,
    },
    Row {
        name: "libvpx-vp9",
        codec: Codec::Vp9,
        crf: Some(Crf { most: 63, default: 32 }),
        preset: Some(Preset {
            option: "cpu-used",
            default: "4",
            values: &["0", "1", "2", "3", "4", "5", "6", "7", "8"],
        }),
        lossless: Some(&[("lossless", "1")]),
        fixed: &[("b", "0"), ("deadline", "good"), ("row-mt", "0")],
        params: None,
        keyframe_interval: None,
    },
    Row {
        name: "libsvtav1",
        codec: Codec::Av1,
        crf: Some(Crf { most: 63, default: 32 }),
        preset: Some(Preset {
            option: "preset",
            default: "8",
            values: &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13"],
        }),
        lossless: None,
        fixed: &[],
        params: Some(("svtav1-params", "lp=1:irefresh-type=2")),
        keyframe_interval: None,
    },
    Row {
        name: "ffv1",
        codec: Codec::Ffv1,
        crf: None,
        preset: None,
        lossless: Some(&[]),
        fixed: &[("level", "3"), ("slicecrc", "1")],
        params: None,
        keyframe_interval: Some(1),
    },
];

/// The row of an encoder, if it has one.
pub(super) fn row(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

/// The encoder of a codec.
pub(super) fn of_codec(codec: Codec) -> &'static Row {
    ROWS.iter().find(|row| row.codec == codec).unwrap_or(&ROWS[0])
}
