//! Which libavfilter graphs are taken, and what they need. Decided on the graph's text, before
//! FFmpeg sees it: some of its filters open files as soon as they are made.

use std::ffi::c_void;

use ffmpeg_next::ffi;
use frameloom_core::catalogue::{Footprint, did_you_mean};
use frameloom_core::{Error, Result};

use crate::ff;

/// Filters whose output frame needs one input frame only.
pub(super) const PER_FRAME: &[&str] = &[
    "avgblur",
    "bilateral",
    "boxblur",
    "chromakey",
    "chromanr",
    "chromashift",
    "colorbalance",
    "colorchannelmixer",
    "colorcontrast",
    "colorcorrect",
    "colorhold",
    "colorize",
    "colorkey",
    "colorlevels",
    "colorspace",
    "colortemperature",
    "convolution",
    "copy",
    "crop",
    "curves",
    "datascope",
    "dblur",
    "deflate",
    "despill",
    "dilation",
    "drawbox",
    "drawgrid",
    "edgedetect",
    "epx",
    "eq",
    "erosion",
    "estdif",
    "exposure",
    "fftfilt",
    "fillborders",
    "format",
    "gblur",
    "geq",
    "gradfun",
    "grayworld",
    "greyedge",
    "hflip",
    "histeq",
    "hqx",
    "hsvhold",
    "hsvkey",
    "hue",
    "huesaturation",
    "il",
    "inflate",
    "lenscorrection",
    "limiter",
    "lumakey",
    "lut",
    "lutrgb",
    "lutyuv",
    "monochrome",
    "negate",
    "nlmeans",
    "noformat",
    "null",
    "pad",
    "perspective",
    "prewitt",
    "pseudocolor",
    "roberts",
    "rotate",
    "sab",
    "scale",
    "scharr",
    "scroll",
    "selectivecolor",
    "setdar",
    "setfield",
    "setparams",
    "setrange",
    "setsar",
    "shear",
    "shuffleplanes",
    "smartblur",
    "sobel",
    "swaprect",
    "swapuv",
    "tonemap",
    "transpose",
    "unsharp",
    "v360",
    "vflip",
    "vibrance",
    "xbr",
    "yaepblur",
    "zscale",
    "kirsch",
    "median",
    "deband",
];

/// Filters whose output frame needs a fixed number of input frames around it.
pub(super) const WINDOW: &[(&str, u32, u32)] = &[("yadif", 1, 1), ("bwdif", 1, 1)];

/// Filters that change how many frames there are, or when they are shown.
const RETIMING: &[&str] = &[
    "alphamerge",
    "cue",
    "decimate",
    "dejudder",
    "detelecine",
    "fieldmatch",
    "fps",
    "framepack",
    "framerate",
    "framestep",
    "freezeframes",
    "fieldorder_",
    "interlace",
    "loop",
    "minterpolate",
    "mpdecimate",
    "photosensitivity_",
    "pullup",
    "random",
    "realtime",
    "repeatfields",
    "reverse",
    "select",
    "separatefields",
    "setpts",
    "showcqt",
    "shuffleframes",
    "telecine",
    "thumbnail",
    "tile",
    "tinterlace",
    "tblend",
    "tpad",
    "trim",
    "untile",
    "weave",
    "doubleweave_",
    "zoompan",
    "settb",
    "w3fdif",
    "nnedi_",
    "segment",
    "concat",
    "interleave",
    "mestimate_",
    "vfrdet_",
    "hysteresis_",
];

/// Filters that reach files, devices, programs or the network.
const REACHING: &[&str] = &[
    "movie",
    "amovie",
    "frei0r",
    "frei0r_src",
    "ladspa",
    "lv2",
    "zmq",
    "azmq",
    "sendcmd",
    "asendcmd",
    "subtitles",
    "ass",
    "lut3d",
    "lut1d",
    "haldclut",
    "removelogo",
    "ocr",
    "dnn_processing",
    "dnn_classify",
    "dnn_detect",
    "derain",
    "sr",
    "vidstabdetect",
    "vidstabtransform",
    "libplacebo",
    "signature",
    "find_rect",
    "cover_rect",
    "openclsrc",
    "program_opencl",
    "coreimage",
    "metadata",
    "ametadata",
    "psnr",
    "ssim",
    "libvmaf",
    "vmafmotion",
    "xpsnr",
    "deshake",
    "mptestsrc",
    "qp",
    "hwupload",
    "hwdownload",
    "hwmap",
    "hwupload_cuda",
    "cropdetect_",
    "addroi_",
];

/// Words in an option's name that say that its value names a file or the like.
const FILE_WORDS: &[&str] =
    &["file", "path", "url", "model", "plugin", "device", "stats", "dnn_", "fontconfig", "address"];

/// Words in an expression that count frames, remember, or are chosen at random.
const STATEFUL_WORDS: &[&str] =
    &["n", "N", "in", "on", "frame_num", "random", "st", "ld", "localtime", "gmtime", "prev_pts"];

/// A filter of a graph as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) name: String,
    /// Options as written, keys where given.
    pub(super) options: Vec<(Option<String>, String)>,
}

/// Reads a graph's text as libavfilter does: labels, quotes, escapes, options.
///
/// # Errors
/// Invalid where a quote or a bracket is not closed or a filter has no name.
pub(super) fn read(graph: &str) -> Result<Vec<Written>> {
    let wrong = |why: &str| Error::invalid(format!("graph '{graph}': {why}"));
    // One level of quotes separates filters; a second one, options.
    let mut filters = Vec::new();
    let mut current = String::new();
    let mut chars = graph.chars();
    let (mut quoted, mut label) = (false, false);
    while let Some(c) = chars.next() {
        match c {
            '\\' if !quoted => {
                current.push(c);
                current.extend(chars.next());
            }
            '\'' => {
                quoted = !quoted;
                current.push(c);
            }
            '[' if !quoted => label = true,
            ']' if !quoted && label => label = false,
            _ if label && !quoted => {}
            ',' | ';' if !quoted => filters.push(std::mem::take(&mut current)),
            _ => current.push(c),
        }
    }
    if quoted {
        return Err(wrong("a quote (') is not closed"));
    }
    if label {
        return Err(wrong("a label ([) is not closed"));
    }
    filters.push(current);
    filters
        .iter()
        .map(|text| text.trim())
        .filter(|text| !text.is_empty())
        .map(|text| {
            let (name, options) = text.split_once('=').unwrap_or((text, ""));
            // A filter may have an instance name: name@id.
            let name = name.split('@').next().unwrap_or(name).trim();
            if name.is_empty() {
                return Err(wrong("a filter has no name"));
            }
            Ok(Written { name: name.to_owned(), options: read_options(options) })
        })
        .collect()
}

fn read_options(text: &str) -> Vec<(Option<String>, String)> {
    let mut options = Vec::new();
    let (mut key, mut word) = (None, String::new());
    let mut quoted = false;
    let mut chars = text.chars();
    let mut some = false;
    while let Some(c) = chars.next() {
        some = true;
        match c {
            '\\' if !quoted => word.extend(chars.next()),
            '\'' => quoted = !quoted,
            ':' if !quoted => options.push((key.take(), std::mem::take(&mut word))),
            '=' if !quoted && key.is_none() => {
                key = Some(std::mem::take(&mut word).trim().to_owned())
            }
            _ => word.push(c),
        }
    }
    if some {
        options.push((key, word));
    }
    options
}

/// What a graph needs.
///
/// # Errors
/// Invalid for a graph that is not taken, with a word on why.
pub(super) fn footprint(graph: &str) -> Result<Footprint> {
    let filters = read(graph)?;
    let mut footprint = Footprint::PerFrame;
    for filter in &filters {
        footprint = footprint.then(check(graph, filter)?);
    }
    Ok(footprint)
}

fn check(graph: &str, filter: &Written) -> Result<Footprint> {
    let name = filter.name.as_str();
    let refused = |why: &str| Error::invalid(format!("graph '{graph}': '{name}' {why}"));
    if RETIMING.contains(&name) {
        return Err(refused(
            "changes how many frames there are or when they are shown; a job keeps each frame once, at its time",
        ));
    }
    if REACHING.contains(&name) {
        return Err(refused("reaches files, devices or programs, which a slot must not"));
    }
    let known = options_of(name).ok_or_else(|| {
        refused(&format!("is no filter of the installed FFmpeg{}", nearest(name)))
    })?;
    let is_file = |option: &str| FILE_WORDS.iter().any(|word| option.contains(word));
    let positional = filter.options.iter().filter(|(key, _)| key.is_none()).count();
    let named = filter.options.iter().filter_map(|(key, _)| key.as_deref());
    // Values without keys take the options in their order.
    let touched = known.iter().take(positional).map(String::as_str).chain(named);
    for option in touched {
        let psfile = name == "curves" && matches!(option, "psfile" | "plot");
        if is_file(option) || psfile {
            return Err(refused(&format!(
                "may not be given '{option}', which names a file or a device"
            )));
        }
    }
    if matches!(name, "drawtext") {
        let font = filter.options.iter().any(|(key, _)| key.as_deref() == Some("text"));
        if !font {
            return Err(refused("needs text=…, by its key"));
        }
    }
    let mode = |wanted: &[&str]| {
        filter.options.iter().enumerate().any(|(i, (key, value))| {
            (key.as_deref() == Some("mode") || (key.is_none() && i == 0))
                && wanted.contains(&value.trim())
        })
    };
    if matches!(name, "yadif" | "bwdif" | "estdif")
        && mode(&["1", "3", "send_field", "send_field_nospatial", "field"])
        || (matches!(name, "bwdif" | "estdif") && !mode(&["0", "2", "send_frame", "frame"]))
    {
        return Err(refused(
            "makes two frames of one in this mode; give mode=0 (send_frame), which keeps their number",
        ));
    }
    if filter.options.iter().any(|(_, value)| is_stateful(value)) {
        return Ok(Footprint::Sequential);
    }
    let window = WINDOW.iter().find(|(known, ..)| *known == name);
    Ok(match window {
        Some((_, before, after)) => Footprint::Window { before: *before, after: *after },
        None if PER_FRAME.contains(&name) => Footprint::PerFrame,
        None => Footprint::Sequential,
    })
}

/// Whether an option's value counts frames, remembers, or is random.
fn is_stateful(value: &str) -> bool {
    value
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .any(|word| STATEFUL_WORDS.contains(&word))
}

/// The options of a filter, in their order; `None` for no filter.
fn options_of(name: &str) -> Option<Vec<String>> {
    let c_name = ff::c_string(name).ok()?;
    let mut names: Vec<String> = Vec::new();
    // SAFETY: a C string; null or a static description, whose class is null or static; av_opt_next
    // takes a pointer to a pointer to it. Aliases share an offset and are listed once.
    unsafe {
        let filter = ffi::avfilter_get_by_name(c_name.as_ptr()).as_ref()?;
        let class = filter.priv_class;
        if !class.is_null() {
            let object: *const c_void = (&raw const class).cast();
            let mut last = None;
            let mut option = ffi::av_opt_next(object, std::ptr::null());
            while let Some(found) = option.as_ref() {
                let constant = found.type_ == ffi::AVOptionType::AV_OPT_TYPE_CONST;
                if !constant && last != Some(found.offset) {
                    names.push(ff::text(found.name));
                    last = Some(found.offset);
                }
                option = ffi::av_opt_next(object, option);
            }
        }
    }
    Some(names)
}

fn nearest(name: &str) -> String {
    did_you_mean(name, PER_FRAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use frameloom_core::ErrorKind;
    use proptest::prelude::*;

    #[test]
    fn graphs_are_read_as_libavfilter_reads_them() {
        let graph =
            r"[in]split[a][b];[a]hflip[c];[b][c]overlay=x='10,5':y=3,eq@me=1.5:brightness=0.1";
        let names: Vec<String> = read(graph).unwrap().into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["split", "hflip", "overlay", "eq"]);
        assert!(read("drawtext=text='a").is_err());
        assert!(read("[a").is_err());
    }

    #[test]
    fn footprints_follow_the_table() {
        let of = |graph: &str| footprint(graph).unwrap();
        assert_eq!(of("hflip,eq=contrast=1.2"), Footprint::PerFrame);
        assert_eq!(of("yadif"), Footprint::Window { before: 1, after: 1 });
        assert_eq!(of("hqdn3d"), Footprint::Sequential);
        assert_eq!(of("hue=H=n/10"), Footprint::Sequential);
        assert_eq!(of("negate=enable='between(n,2,5)'"), Footprint::Sequential);
        assert_eq!(of("noise=alls=10"), Footprint::Sequential);
    }

    #[test]
    fn what_reaches_a_file_or_changes_the_number_of_frames_is_refused() {
        for graph in [
            "movie=/etc/passwd",
            "movie@x=/etc/passwd[m];[in][m]overlay",
            "[in]null[a];movie=x[b];[a][b]overlay",
            "drawtext=textfile=/etc/passwd",
            "drawtext=text=x:fontfile=/etc/x",
            "drawtext=fontfile=/x:text=a",
            "drawtext=/etc/font.ttf",
            "metadata=print:file=/tmp/x",
            "curves=psfile=/etc/passwd",
            "lut3d=/x.cube",
            "subtitles=x.srt",
            "frei0r=x",
            "fps=5",
            "select='eq(n,1)'",
            "setpts=2*PTS",
            "yadif=1",
            "yadif=mode=send_field",
            "bwdif",
            "nosuchfilter",
        ] {
            let error = footprint(graph).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{graph}");
            assert!(error.message().contains(graph), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}") {
            if let Ok(filters) = read(&text) {
                prop_assert!(filters.iter().all(|f| !f.name.is_empty()));
            }
        }
    }
}
