//! The versions of the libraries at hand, which shape bytes.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use ffmpeg_next::ffi;
use frameloom_core::plan::Engine;

use crate::{decode, detect};

/// Makes the libraries ready: FFmpeg tells errors only, OpenCV keeps to one thread, and freed memory is kept.
pub fn init() {
    // SAFETY: sets a number.
    unsafe { ffi::av_log_set_level(ffi::AV_LOG_ERROR) };
    decode::count_complaints();
    keep_freed_memory();
}

/// Lets the allocator keep what one segment's decoder and encoder free for those of the next, instead of giving it back
/// to the kernel, which would clear each page anew: 1.5 % of the time of a job. The parent watches over how much it is.
fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets numbers of the allocator; it refuses what it does not take, and nothing depends on that.
    unsafe {
        // The most that glibc takes for what is allocated from the heap; planes of a 4K picture are below it.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// The versions that shape bytes.
pub fn engine() -> Engine {
    let version = |number: u32| format!("{}.{}.{}", number >> 16, number >> 8 & 255, number & 255);
    // SAFETY: these answer constants.
    let (codec, format, filter, scale) = unsafe {
        (
            ffi::avcodec_version(),
            ffi::avformat_version(),
            ffi::avfilter_version(),
            ffi::swscale_version(),
        )
    };
    Engine {
        frameloom: env!("CARGO_PKG_VERSION").into(),
        ffmpeg: format!(
            "libavcodec {}, libavformat {}, libavfilter {}, libswscale {}",
            version(codec),
            version(format),
            version(filter),
            version(scale)
        ),
        encoders: encoders(),
        opencv: format!(
            "{}.{}.{}",
            opencv::core::CV_VERSION_MAJOR,
            opencv::core::CV_VERSION_MINOR,
            opencv::core::CV_VERSION_REVISION
        ),
        onnxruntime: detect::runtime().map(detect::RuntimeInfo::words).unwrap_or_default(),
        models: detect::digest(),
        cpu: cpu(),
    }
}

/// Words in the names of libraries that encode video.
const ENCODERS: [&str; 7] = ["x264", "x265", "vpx", "SvtAv1Enc", "libaom", "rav1e", "openh264"];

/// The encoders' libraries that this process has loaded.
fn encoders() -> String {
    static FOUND: OnceLock<String> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let names: BTreeSet<&str> = maps
            .lines()
            .filter_map(|line| line.rsplit_once('/'))
            .map(|(_, name)| name)
            .filter(|name| name.contains(".so") && ENCODERS.iter().any(|e| name.contains(e)))
            .collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    });
    found.clone()
}

/// The instruction set class that vectorised filters choose by.
fn cpu() -> String {
    let level = level();
    format!("{}{level}", std::env::consts::ARCH)
}

#[cfg(target_arch = "x86_64")]
fn level() -> &'static str {
    if std::arch::is_x86_feature_detected!("avx512bw") {
        "-avx512"
    } else if std::arch::is_x86_feature_detected!("avx2") {
        "-avx2"
    } else {
        ""
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn level() -> &'static str {
    ""
}
