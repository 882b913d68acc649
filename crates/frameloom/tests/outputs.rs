//! The files that a run writes beside the video: none replaces what it must not, and none costs the work that is done.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use support::{Place, Watched, run, run_ok, segment_is};

const CORRECTED: &str = "corrected by hand\n";

impl Place {
    /// The arguments of a run to `out.mp4` that looks for motion.
    fn args<'a>(&'a self, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["run", &self.source, "-o", out, "--segment", "1", "-f", "motion"];
        args.extend(more);
        args
    }

    fn work(&self) -> bool {
        self.dir.path().join(".out.mp4.frameloom").exists()
    }
}

#[test]
fn detections_that_are_there_are_not_replaced_unasked() {
    let place = Place::new(1);
    let (out, hand) = (place.at("out.mp4"), place.at("hand.jsonl"));
    fs::write(&hand, CORRECTED).unwrap();
    let args = place.args(&out, &["--detections", &hand]);
    let (code, said) = run(&args);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("hand.jsonl' exists already; give --overwrite"), "{said}");
    assert_eq!(fs::read_to_string(&hand).unwrap(), CORRECTED);
    assert!(!Path::new(&out).exists() && !place.work());
    run_ok(&[&args[..], &["--overwrite"]].concat());
    assert!(fs::read_to_string(&hand).unwrap().contains("frameloom_detections"));
}

#[test]
fn a_link_that_leads_nowhere_is_found_before_any_work() {
    let place = Place::new(1);
    let (out, link) = (place.at("out.mp4"), place.at("link.jsonl"));
    symlink("nowhere.jsonl", &link).unwrap();
    let (code, said, events) = Watched::start(&place.args(&out, &["--detections", &link])).end();
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("link.jsonl' exists already"), "{said}");
    assert!(events.is_empty() && !place.work(), "{events:?}");
}

#[test]
fn a_crash_while_detections_are_published_is_mended_by_the_same_command() {
    let place = Place::new(2);
    let (out, found) = (place.at("out.mp4"), place.at("found.jsonl"));
    let args = place.args(&out, &["--detections", &found]);
    run_ok(&args);
    let expected = (fs::read(&out).unwrap(), fs::read(&found).unwrap());
    for (step, there) in [
        ("before publish", [false, false]),
        ("after detections", [false, true]),
        ("after publish", [true, true]),
        ("while removing", [true, true]),
    ] {
        fs::remove_file(&out).unwrap();
        fs::remove_file(&found).unwrap();
        let (code, said) = run(&[&args[..], &["--fault", step]].concat());
        assert_eq!(code, -1, "{step}: {said}");
        assert_eq!([Path::new(&out).exists(), Path::new(&found).exists()], there, "{step}");
        run_ok(&args);
        assert!((fs::read(&out).unwrap(), fs::read(&found).unwrap()) == expected, "{step}");
        assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 3, "{step}: something is left");
    }
}

#[test]
fn detections_that_somebody_else_has_put_there_meanwhile_cost_no_work() {
    let place = Place::new(2);
    let (out, found) = (place.at("out.mp4"), place.at("found.jsonl"));
    let args = place.args(&out, &["--detections", &found]);
    run(&[&args[..], &["--fault", "after detections"]].concat());
    fs::write(&found, CORRECTED).unwrap();
    let (code, said) = run(&args);
    assert_eq!(code, 4, "{said}");
    assert_eq!(fs::read_to_string(&found).unwrap(), CORRECTED);
    fs::remove_file(&found).unwrap();
    let (code, said, events) = Watched::start(&args).end();
    assert_eq!(code, 0, "{said}");
    assert!(!events.iter().any(|event| segment_is(event, "started")), "work was done twice");
}

#[test]
fn one_file_for_two_things_is_refused_before_any_work() {
    let place = Place::new(1);
    let at = |name: &str| place.at(name);
    fs::create_dir(at("deep")).unwrap();
    symlink(at("deep"), at("linked")).unwrap();
    symlink(&place.source, at("in.jsonl")).unwrap();
    fs::write(at("own.jsonl"), CORRECTED).unwrap();
    symlink(at("own.jsonl"), at("own-link.jsonl")).unwrap();
    let own = format!("regions:file={}", at("own.jsonl"));
    let out = at("out.mp4");
    let cases: &[(&[&str], &str)] = &[
        (&["--metrics", &at("m"), "--frame-metrics", &at("m")], "--metrics and --frame-metrics"),
        (
            &["--metrics", &at("deep/m.jsonl"), "--detections", &at("linked/m.jsonl")],
            "--metrics and --detections name one file",
        ),
        (&["--metrics", &out], "-o and --metrics name one file"),
        (&["--frame-metrics", &place.source], "--frame-metrics '"),
        (&["--detections", &at("in.jsonl")], "in.jsonl' is the source itself"),
        (
            &["-f", &own, "--detections", &at("own.jsonl"), "--overwrite"],
            "own.jsonl' is a file that a filter takes",
        ),
        (
            &["-f", &own, "--detections", &at("own-link.jsonl"), "--overwrite"],
            "own-link.jsonl' is a file that a filter takes",
        ),
        (&["--metrics", "/dev/null"], "not a regular file"),
    ];
    for (more, words) in cases {
        let (code, said) = run(&place.args(&out, more));
        assert_eq!(code, 2, "{more:?}: {said}");
        assert!(said.contains(words), "{more:?}: {said}");
        assert!(!Path::new(&out).exists() && !place.work(), "{more:?}");
    }
    assert_eq!(fs::read_to_string(at("own.jsonl")).unwrap(), CORRECTED);
}

#[test]
fn a_place_that_takes_no_file_is_told_before_any_work() {
    let place = Place::new(1);
    let out = place.at("out.mp4");
    for option in ["--metrics", "--frame-metrics", "--detections"] {
        let more = [option, "/proc/x.jsonl"];
        let (code, said, events) = Watched::start(&place.args(&out, &more)).end();
        assert_eq!(code, 3, "{option}: {said}");
        assert!(said.contains("cannot write '/proc/x.jsonl'"), "{option}: {said}");
        assert!(events.is_empty() && !place.work(), "{option}: {events:?}");
    }
}

#[test]
fn a_place_that_is_gone_at_the_end_costs_no_work() {
    let place = Place::new(3);
    let out = place.at("out.mp4");
    let (deep, found) = (place.at("deep"), place.at("deep/found.jsonl"));
    let args = place.args(&out, &["-f", "test-fault:kind=slow", "--detections", &found]);
    fs::create_dir(&deep).unwrap();
    let mut run = Watched::start(&args);
    run.until(|event| segment_is(event, "accepted")).unwrap();
    fs::remove_dir(&deep).unwrap();
    let (code, said, _) = run.end();
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("the work done so far is kept"), "{said}");
    assert!(!Path::new(&out).exists() && place.work());
    fs::create_dir(&deep).unwrap();
    let (code, said, events) = Watched::start(&args).end();
    assert_eq!(code, 0, "{said}");
    assert!(!events.iter().any(|event| segment_is(event, "started")), "work was done twice");
    assert!(Path::new(&found).exists() && Path::new(&out).exists() && !place.work());
}
