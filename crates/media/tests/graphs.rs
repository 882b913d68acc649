//! `-f ffmpeg:GRAPH` gives the frames of the `ffmpeg` command line, however the job is cut.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::{ffmpeg, ffprobe, frames, hashes, lossless, run};

const GRAPHS: &[&str] = &[
    "hflip",
    "vflip,negate",
    "eq=contrast=1.2:brightness=0.05",
    "gblur=sigma=2",
    "scale=80:60",
    "transpose=1",
    "crop=100:80:10:10,hue=h=40:s=1.2",
    "yadif",
    "split[a][b];[a]hflip[c];[b][c]overlay=x=W/2",
    "drawbox=x=10:y=10:w=50:h=30:color=red@0.5",
    "format=yuv444p,unsharp",
    "hue=H=n/10",
    "hqdn3d",
    "noise=alls=10:allf=t",
    "tmix=frames=3",
    "lagfun",
    "fade=in:0:20",
    "negate=enable='between(n,10,20)'",
];

#[test]
fn frames_are_those_of_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("in.mp4");
    let video = ["-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=4", "-pix_fmt", "yuv420p"];
    let codec = ["-c:v", "libx264", "-g", "25", "-bf", "2", source.to_str().unwrap()];
    ffmpeg(&[&video[..], &codec].concat());
    for graph in GRAPHS {
        let expected = frames(
            &source,
            &[],
            &["-filter_threads", "1", "-filter_complex_threads", "1", "-vf", graph],
        );
        let filter = format!("ffmpeg:{graph}");
        let made = run(&source, &lossless(&[&filter], Some(1_000_000)), dir.path(), 1).unwrap();
        assert_eq!(expected.len(), 100, "{graph}");
        let same = hashes(&frames(&made.output, &[], &[])) == hashes(&expected);
        assert!(same, "{graph}: not ffmpeg's frames in {} segments", made.plan.segments.len());
        assert_eq!(made.plan.segments.len() == 1, made.plan.reason.is_some(), "{graph}");
    }
}

#[test]
fn colour_tags_and_fields_are_those_that_come_out_of_the_graph() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("in.mp4");
    let video = ["-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=1", "-pix_fmt", "yuv420p"];
    let codec = ["-vf", "setfield=tff", "-flags", "+ildct+ilme", "-colorspace", "smpte170m"];
    ffmpeg(&[&video[..], &codec, &["-c:v", "libx264", source.to_str().unwrap()]].concat());
    let tags = |filters: &[&str]| {
        let made = run(&source, &lossless(filters, None), dir.path(), 1).unwrap();
        let shown = ffprobe(
            &made.output,
            &["-show_entries", "frame=interlaced_frame,top_field_first,color_space", "-of", "csv"],
        );
        let first = shown.lines().next().unwrap();
        first.split(',').take(4).collect::<Vec<_>>().join(",")
    };
    assert_eq!(tags(&[]), "frame,1,1,smpte170m");
    assert_eq!(tags(&["ffmpeg:setparams=colorspace=bt709"]), "frame,1,1,bt709");
    assert_eq!(tags(&["ffmpeg:colorspace=all=bt709:iall=bt601-6-625"]), "frame,1,1,bt709");
    assert_eq!(tags(&["ffmpeg:yadif"]), "frame,0,0,smpte170m");
    assert_eq!(tags(&["ffmpeg:fieldorder=bff"]), "frame,1,0,smpte170m");
    assert_eq!(tags(&["ffmpeg:scale=160:60"]), "frame,0,0,smpte170m");
    assert_eq!(tags(&["scale:h=60"]), "frame,0,0,smpte170m");
    assert_eq!(tags(&["scale:w=80:h=120"]), "frame,1,1,smpte170m");
    assert_eq!(tags(&["crop:h=116:y=2"]), "frame,1,1,smpte170m");
}
