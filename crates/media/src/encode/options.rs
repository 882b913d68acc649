//! From a user's settings to the options of an encoder, by an allow list: an option that names a
//! file, a device or a socket is refused, and so is one that would keep segments from being joined.

use std::ffi::c_void;

use ffmpeg_next::ffi;
use frameloom_core::catalogue::did_you_mean;
use frameloom_core::plan::Hdr;
use frameloom_core::spec::EncoderSpec;
use frameloom_core::{Error, Result};

use super::preset_of;
use super::table::Row;
use crate::{ff, hdr};

/// Options that users may set, of any encoder.
const ALLOWED: &[&str] = &[
    "8x8dct",
    "a53cc",
    "aq-mode",
    "aq-strength",
    "arnr-maxframes",
    "arnr-strength",
    "arnr-type",
    "auto-alt-ref",
    "b",
    "b-bias",
    "b-pyramid",
    "b_qfactor",
    "b_strategy",
    "bf",
    "bluray-compat",
    "bufsize",
    "chromaoffset",
    "coder",
    "compression_level",
    "context",
    "cplxblur",
    "cq",
    "crf_max",
    "deblock",
    "direct-pred",
    "dia_size",
    "error-resilience",
    "fast-pskip",
    "frame-parallel",
    "g",
    "global_quality",
    "i_qfactor",
    "intra_vlc",
    "la_depth",
    "lag-in-frames",
    "level",
    "maxrate",
    "mbd",
    "mbtree",
    "me_method",
    "me_range",
    "minrate",
    "mixed-refs",
    "motion-est",
    "multipass",
    "nr",
    "partitions",
    "pred",
    "profile",
    "psy",
    "psy-rd",
    "q",
    "qcomp",
    "qdiff",
    "qmax",
    "qmin",
    "qp",
    "qscale",
    "rc",
    "rc-lookahead",
    "refs",
    "sc_threshold",
    "sharpness",
    "slicecrc",
    "slices",
    "spatial-aq",
    "ssim-rd",
    "static-thresh",
    "strict",
    "subq",
    "temporal-aq",
    "tier",
    "tile-columns",
    "tile-rows",
    "trellis",
    "tune",
    "tune-content",
    "udu_sei",
    "undershoot-pct",
    "overshoot-pct",
    "weightb",
    "weightp",
    "wpredp",
];

/// Parameters that users may set within `x264-params`, `x265-params` and `svtav1-params`.
const ALLOWED_PARAMS: &[&str] = &[
    "8x8dct",
    "amp",
    "analyse",
    "aq-mode",
    "aq-motion",
    "aq-strength",
    "b-adapt",
    "b-bias",
    "b-intra",
    "b-pyramid",
    "bframes",
    "bframe-bias",
    "bitrate",
    "cabac",
    "cbqpoffs",
    "chroma-qp-offset",
    "cll",
    "content-light",
    "chromaloc",
    "colormatrix",
    "colorprim",
    "cplxblur",
    "crf",
    "crf-max",
    "crf-min",
    "crqpoffs",
    "ctu",
    "cutree",
    "dct-decimate",
    "deadzone-inter",
    "deadzone-intra",
    "deblock",
    "direct",
    "early-skip",
    "enable-cdef",
    "enable-overlays",
    "enable-qm",
    "enable-restoration",
    "enable-tf",
    "fast-decode",
    "fast-intra",
    "fast-pskip",
    "film-grain",
    "film-grain-denoise",
    "fullrange",
    "hierarchical-levels",
    "hist-threshold",
    "ipratio",
    "keyint",
    "level",
    "level-idc",
    "limit-modes",
    "limit-refs",
    "limit-tu",
    "lookahead",
    "lookahead-slices",
    "mastering-display",
    "max-cll",
    "max-merge",
    "master-display",
    "mbtree",
    "me",
    "merange",
    "min-keyint",
    "mixed-refs",
    "mvrange",
    "no-cabac",
    "no-deblock",
    "no-mbtree",
    "no-mixed-refs",
    "no-psy",
    "no-sao",
    "no-scenecut",
    "no-weightb",
    "nr",
    "nr-inter",
    "nr-intra",
    "partitions",
    "pbratio",
    "profile",
    "psy",
    "psy-rd",
    "psy-rdoq",
    "qblur",
    "qcomp",
    "qg-size",
    "qpmax",
    "qpmin",
    "qpstep",
    "range",
    "ratetol",
    "rc-lookahead",
    "rd",
    "rdoq",
    "rdoq-level",
    "rdpenalty",
    "rect",
    "ref",
    "rskip",
    "sao",
    "sar",
    "scd",
    "scenecut",
    "scm",
    "sharpness",
    "signhide",
    "slices",
    "ssim-rd",
    "strong-intra-smoothing",
    "subme",
    "tile-columns",
    "tile-rows",
    "transfer",
    "transform-8x8",
    "trellis",
    "tu-inter-depth",
    "tu-intra-depth",
    "tune",
    "vbv-bufsize",
    "vbv-init",
    "vbv-maxrate",
    "videoformat",
    "weightb",
    "weightp",
];

/// Parameters that keep segments from standing alone or from being joined.
const UNJOINABLE: &[&str] = &[
    "annexb",
    "bluray-compat",
    "force-cfr",
    "frame-threads",
    "interlaced",
    "intra-refresh",
    "irefresh-type",
    "lookahead-threads",
    "lp",
    "nal-hrd",
    "numa-pools",
    "open-gop",
    "pic-struct",
    "pools",
    "repeat-headers",
    "sliced-threads",
    "stitchable",
    "sync-lookahead",
    "threads",
    "forced-idr",
    "rc-init-occupancy",
];

/// The options of an encoder, in order.
///
/// # Errors
/// Invalid with what is wrong and what fits.
pub(super) fn resolve(
    spec: &EncoderSpec,
    name: &str,
    row: Option<&'static Row>,
    threads: u32,
    hdr: &Hdr,
) -> Result<Vec<(String, String)>> {
    let mut options: Vec<(String, String)> = Vec::new();
    let mut set = |key: &str, value: &str| {
        options.retain(|(known, _)| known != key);
        options.push((key.to_owned(), value.to_owned()));
    };
    let mut params: Vec<String> = Vec::new();
    if let Some(row) = row {
        row.fixed.iter().for_each(|(key, value)| set(key, value));
        params.extend(row.params.map(|(_, fixed)| fixed.to_owned()));
        if name == "libx265" {
            let pools = if threads == 1 { "none".to_owned() } else { threads.to_string() };
            params.push(format!("pools={pools}"));
        }
        params.extend(hdr::encoder_parameters(name, hdr));
    }
    if let Some(preset) = preset_of(spec, row) {
        match row.map(|row| &row.preset) {
            Some(Some(known)) if !known.values.contains(&preset) => {
                return Err(Error::invalid(format!(
                    "'{preset}' is no preset of '{name}': its presets are {}",
                    known.values.join(", ")
                )));
            }
            Some(None) => {
                return Err(Error::invalid(format!("encoder '{name}' has no presets")));
            }
            Some(Some(known)) => set(known.option, preset),
            None => set("preset", preset),
        }
    }
    if spec.lossless {
        let Some(lossless) = row.and_then(|row| row.lossless) else {
            return Err(Error::invalid(format!(
                "encoder '{name}' cannot be lossless: choose --codec h264, hevc, vp9 or ffv1"
            )));
        };
        if spec.crf_hundredths.is_some() {
            return Err(Error::invalid("--crf and --lossless exclude each other"));
        }
        lossless.iter().for_each(|(key, value)| set(key, value));
        if name == "libx265" {
            params.push("lossless=1".into());
        }
    } else {
        let crf = row.and_then(|row| row.crf.as_ref());
        match (spec.crf_hundredths, crf) {
            (Some(given), Some(crf)) if given > crf.most * 100 => {
                return Err(Error::invalid(format!(
                    "--crf {} is outside 0..={}, the range of '{name}'",
                    hundredths(given),
                    crf.most
                )));
            }
            (Some(given), Some(_)) => set("crf", &hundredths(given)),
            (Some(_), None) if row.is_some() => {
                return Err(Error::invalid(format!("encoder '{name}' has no --crf")));
            }
            (Some(given), None) => set("crf", &hundredths(given)),
            (None, Some(crf)) => set("crf", &crf.default.to_string()),
            (None, None) => {}
        }
    }
    let params_key = row.and_then(|row| row.params).map(|(key, _)| key);
    for (key, value) in &spec.options {
        let refused = |why: &str| Error::invalid(format!("--encoder-opt '{key}={value}': {why}"));
        if Some(key.as_str()) == params_key || key == "x264opts" {
            if params_key.is_none() {
                return Err(refused(&format!("encoder '{name}' has no such option")));
            }
            for part in value.split(':').filter(|part| !part.is_empty()) {
                check_param(name, part, &refused)?;
                // A parameter alone switches something on, as x264 and x265 read it themselves.
                let alone = if part.contains('=') { "" } else { "=1" };
                params.push(format!("{part}{alone}"));
            }
        } else if UNJOINABLE.contains(&key.as_str()) {
            return Err(refused(NOT_JOINED));
        } else if ALLOWED.contains(&key.as_str()) {
            set(key, value);
        } else {
            return Err(refused(&format!(
                "is not among the options that may be set{}; those that name files, devices or threads are left out",
                did_you_mean(key, ALLOWED)
            )));
        }
    }
    if let Some(key) = params_key {
        set(key, &params.join(":"));
    }
    Ok(options)
}

const NOT_JOINED: &str =
    "would keep segments from standing alone or from being joined, so it cannot be set";

fn check_param(encoder: &str, part: &str, refused: &dyn Fn(&str) -> Error) -> Result<()> {
    let key = part.split('=').next().unwrap_or(part).replace('_', "-");
    if UNJOINABLE.contains(&key.as_str()) {
        return Err(refused(&format!("'{key}' {NOT_JOINED}")));
    }
    // Newer versions of x265 read a table of it from a file of that name.
    let file = encoder == "libx265" && key == "film-grain";
    if file || !ALLOWED_PARAMS.contains(&key.as_str()) {
        return Err(refused(&format!(
            "'{key}' is not among the parameters that may be set{}; those that name files, devices or threads are left out",
            did_you_mean(&key, ALLOWED_PARAMS)
        )));
    }
    Ok(())
}

/// `2050` as `20.5`.
fn hundredths(value: u32) -> String {
    let text = format!("{}.{:02}", value / 100, value % 100);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The error of an option that the encoder does not know.
///
/// # Safety
/// `codec` is one of FFmpeg's static descriptions.
#[expect(unsafe_code, reason = "reads FFmpeg's table of options")]
pub(super) unsafe fn unknown(
    name: &str,
    codec: *const ffi::AVCodec,
    key: &str,
    value: &str,
) -> Error {
    let mut names = Vec::new();
    // SAFETY: by contract; a codec's class is null or static, and av_opt_next takes a pointer to a
    // pointer to it.
    unsafe {
        let class = (*codec).priv_class;
        if !class.is_null() {
            let object: *const c_void = (&raw const class).cast();
            let mut option = ffi::av_opt_next(object, std::ptr::null());
            while let Some(found) = option.as_ref() {
                names.push(ff::text(found.name));
                option = ffi::av_opt_next(object, option);
            }
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Error::invalid(format!(
        "encoder '{name}' has no option '{key}' (given '{key}={value}'){}; 'ffmpeg -h encoder={name}' lists them",
        did_you_mean(key, &names)
    ))
}

#[cfg(test)]
mod tests {
    use super::super::table;
    use super::*;

    fn options(spec: &EncoderSpec, name: &str) -> Result<Vec<(String, String)>> {
        resolve(spec, name, table::row(name), 1, &Hdr::default())
    }

    fn with(key: &str, value: &str) -> EncoderSpec {
        EncoderSpec { options: vec![(key.into(), value.into())], ..Default::default() }
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let found = options(&EncoderSpec::default(), "libx264").unwrap();
        let expect = [
            ("preset", "veryfast"),
            ("crf", "20"),
            ("x264-params", "cpu-independent=1:open-gop=0"),
        ];
        assert_eq!(found, expect.map(|(k, v)| (k.to_owned(), v.to_owned())));
        let spec = EncoderSpec { lossless: true, ..Default::default() };
        assert!(options(&spec, "libx264").unwrap().contains(&("qp".into(), "0".into())));
        assert!(options(&spec, "libsvtav1").is_err());
    }

    #[test]
    fn what_names_a_file_or_breaks_the_join_is_refused_and_quoted() {
        for (key, value) in [
            ("x264-params", "dump-yuv=/tmp/x"),
            ("x264-params", "stats=/tmp/x"),
            ("x264-params", "qpfile=/etc/passwd"),
            ("x264opts", "opencl-clbin=x"),
            ("x264-params", "open-gop=1"),
            ("x264-params", "open_gop=1"),
            ("x264-params", "threads=8"),
            ("x264-params", "bframes=3:dump_yuv=a"),
            ("stats", "x"),
            ("passlogfile", "x"),
            ("threads", "4"),
            ("flags", "-global_header"),
        ] {
            let error = options(&with(key, value), "libx264").unwrap_err();
            assert_eq!(error.kind(), frameloom_core::ErrorKind::Invalid);
            assert!(error.message().contains(&format!("'{key}={value}'")), "{error}");
        }
        assert!(options(&with("x265-params", "csv=x"), "libx265").is_err());
        assert!(options(&with("x264-params", "bframes=2:ref=4"), "libx264").is_ok());
        assert!(options(&with("tune", "film"), "libx264").is_ok());
    }

    #[test]
    fn crf_and_preset_are_checked_against_the_encoder() {
        let crf = |value| EncoderSpec { crf_hundredths: Some(value), ..Default::default() };
        assert!(options(&crf(5100), "libx264").unwrap().contains(&("crf".into(), "51".into())));
        assert!(options(&crf(1850), "libx264").unwrap().contains(&("crf".into(), "18.5".into())));
        assert!(options(&crf(5101), "libx264").unwrap_err().message().contains("51.01"));
        assert!(options(&crf(6300), "libvpx-vp9").is_ok());
        assert!(options(&crf(100), "ffv1").is_err());
        let spec = EncoderSpec { preset: Some("speedy".into()), ..Default::default() };
        assert!(options(&spec, "libx264").unwrap_err().message().contains("ultrafast"));
    }
}
