//! What users and programs read, word for word: help texts, errors, a plan.
//!
//! `INSTA_UPDATE=always cargo test --test golden` takes over a change that is meant.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;

use serde_json::Value;
use support::{clip, frameloom, real_clip, run, text};

fn printed(args: &[&str]) -> String {
    let output = frameloom().env("COLUMNS", "100").args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_texts() {
    for command in ["", "run", "serve", "submit", "status", "plan", "verify", "probe", "filters"] {
        let args: Vec<&str> =
            [command, "--help"].into_iter().filter(|arg| !arg.is_empty()).collect();
        insta::assert_snapshot!(format!("help_{command}"), printed(&args));
    }
}

#[test]
fn a_filter_told_in_words() {
    insta::assert_snapshot!(printed(&["filters", "blur"]));
}

#[test]
fn error_texts() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&dir.path().join(name));
    let source = clip(dir.path(), "in.mp4", 1);
    let out = at("out.mp4");
    fs::write(at("empty.mp4"), "").unwrap();
    fs::write(at("text.mp4"), "this is no video\n".repeat(100)).unwrap();
    fs::write(at("there.mp4"), "precious").unwrap();
    let cases: &[&[&str]] = &[
        &["none.mp4", "-o", &out],
        &[&at("empty.mp4"), "-o", &out],
        &[&at("text.mp4"), "-o", &out],
        &[&source, "-o", &at("out.avi")],
        &[&source, "-o", &at("there.mp4")],
        &[&source, "-o", &out, "-f", "blurr"],
        &[&source, "-o", &out, "-f", "blur:sgma=1"],
        &[&source, "-o", &out, "-f", "blur:sigma=-3"],
        &[&source, "-o", &out, "-f", "blur:roi=300,0,100,10"],
        &[&source, "-o", &out, "-f", "ffmpeg:fps=5"],
        &[&source, "-o", &out, "-f", "ffmpeg:movie=/etc/passwd"],
        &[&source, "-o", &out, "-f", "ffmpeg:nosuch=1"],
        &[&source, "-o", &at("out.webm"), "--codec", "h264"],
        &[&source, "-o", &out, "--encoder", "libx265x"],
        &[&source, "-o", &out, "--crf", "77"],
        &[&source, "-o", &out, "--encoder-opt", "x264-params=dump-yuv=x"],
        &[&source, "-o", &out, "--stream", "7"],
    ];
    let mut all = String::new();
    for case in cases {
        let args: Vec<&str> = ["run"].iter().chain(case.iter()).copied().collect();
        let (code, said) = run(&args);
        let shown: Vec<String> = case.iter().map(|arg| arg.replace(&at(""), "")).collect();
        let said = said.replace(&at(""), "");
        all += &format!("$ frameloom run {}\n{said}exit code {code}\n\n", shown.join(" "));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn a_plan() {
    let clip = text(&real_clip("bikes.mp4"));
    let plan = printed(&["plan", &clip, "-f", "denoise", "-f", "ffmpeg:hflip", "--json"]);
    let mut plan: Value = serde_json::from_str(&plan).unwrap();
    // What differs from machine to machine.
    plan["engine"] = "…".into();
    plan["source"]["fingerprint"]["modified_ns"] = "…".into();
    insta::assert_snapshot!(serde_json::to_string_pretty(&plan).unwrap());
}
