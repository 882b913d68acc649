//! The versions of the libraries at hand, which shape bytes.

use ffmpeg_next::ffi;
use frameloom_core::plan::Engine;

/// Makes the libraries ready: FFmpeg tells errors only, OpenCV keeps to one thread.
pub fn init() {
    // SAFETY: sets a number.
    unsafe { ffi::av_log_set_level(ffi::AV_LOG_ERROR) };
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
        opencv: format!(
            "{}.{}.{}",
            opencv::core::CV_VERSION_MAJOR,
            opencv::core::CV_VERSION_MINOR,
            opencv::core::CV_VERSION_REVISION
        ),
        cpu: cpu(),
    }
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
