//! The bench's own command line.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

fn testbench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_testbench")).args(args).output().unwrap()
}

#[test]
fn a_seed_tells_the_same_steps_each_time() {
    let list = |seed: &str| {
        let output = testbench(&["--seed", seed, "--list", "30"]);
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let steps = list("7");
    assert_eq!(steps.lines().count(), 30);
    assert!(steps.contains("node_killed") && steps.contains("redis_emptied"), "{steps}");
    assert_eq!(list("7"), steps);
    assert_ne!(list("8"), steps);
}

#[test]
fn the_seeds_that_are_kept_have_reasons() {
    let output = testbench(&["--kept", "--list", "1"]);
    let shown = String::from_utf8(output.stdout).unwrap();
    let kept = include_str!("../seeds.txt");
    assert_eq!(shown.lines().count(), kept.lines().count(), "{shown}");
    for line in kept.lines() {
        let (seed, why) = line.split_once(' ').unwrap();
        assert!(seed.parse::<u64>().is_ok() && why.len() > 10, "{line}");
    }
}

#[test]
fn a_program_that_is_not_there_is_told_and_is_no_success() {
    let output = testbench(&["--binary", "/nowhere", "--minutes", "0"]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(words.contains("'/nowhere'") || words.contains("unshare"), "{words}");
}
