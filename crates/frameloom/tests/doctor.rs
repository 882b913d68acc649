//! `frameloom doctor`: what is there, and what to do where it is not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;

use serde_json::Value;
use support::frameloom;

/// What the doctor says as JSON, and the exit code, with this library named.
fn report(library: Option<&str>) -> (Value, Option<i32>) {
    let mut command = frameloom();
    match library {
        Some(library) => command.env("FRAMELOOM_ONNXRUNTIME", library),
        None => command.env_remove("FRAMELOOM_ONNXRUNTIME"),
    };
    // From a directory that has nothing to do with it.
    let output = command.args(["doctor", "--json"]).current_dir("/").output().unwrap();
    (serde_json::from_slice(&output.stdout).unwrap(), output.status.code())
}

#[test]
fn a_machine_that_is_set_up_is_well() {
    let (report, code) = report(None);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["problems"], Value::Array(Vec::new()));
    assert!(report["ffmpeg"].as_str().unwrap().starts_with("libavcodec "));
    assert!(!report["onnxruntime"]["version"].as_str().unwrap().is_empty());
    let models = report["models"].as_array().unwrap();
    let names: Vec<&str> = models.iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["centerface", "centerface-int8", "blazeface-front", "blazeface-back", "ssdlite"]
    );
    assert!(models.iter().all(|model| model["sha256"].as_str().unwrap().len() == 64));
}

#[test]
fn a_library_elsewhere_is_loaded_by_a_process_that_is_shut_off() {
    let (usual, _) = report(None);
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().canonicalize().unwrap().join("libonnxruntime.so.9.9.9");
    fs::copy(usual["onnxruntime"]["path"].as_str().unwrap(), &elsewhere).unwrap();
    let (report, code) = report(elsewhere.to_str());
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["onnxruntime"]["path"], elsewhere.to_str().unwrap());
    assert_eq!(report["onnxruntime"]["version"], "9.9.9");
    // It shapes bytes, so it makes another engine.
    assert_ne!(report["engine"], usual["engine"]);
}

#[test]
fn without_onnx_runtime_the_doctor_says_what_to_do() {
    let (missing, code) = report(Some("/nowhere/libonnxruntime.so"));
    assert_eq!((code, &missing["onnxruntime"]), (Some(6), &Value::Null));
    assert!(missing["problems"][0].as_str().unwrap().contains("'/nowhere/libonnxruntime.so'"));
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("libonnxruntime.so.1.0.0");
    fs::write(&broken, "no library").unwrap();
    let (broken, code) = report(broken.to_str());
    assert_eq!(code, Some(6));
    assert!(broken["problems"][0].as_str().unwrap().contains("make setup"), "{broken}");
}
