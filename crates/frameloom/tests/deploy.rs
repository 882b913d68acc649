//! What is in `deploy/` fits the program: its command lines parse, and the secrets that it makes open a server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/server.rs"]
mod server;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use server::Server;
use support::{frameloom, run, said, text};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

/// A text with variables by their defaults, `${NAME:-default}`, and those of Kubernetes by a word.
fn filled(text: &str) -> String {
    let mut parts = text.split("${");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (variable, rest) = part.split_once('}').unwrap();
        out += variable.split_once(":-").map_or("", |(_, default)| default);
        out += rest;
    }
    out.replace("$(POD)", "pod-1")
}

/// The command lines of the program in a file of Compose or Kubernetes: lists that begin with a command's name.
fn command_lines(yaml: &str) -> Vec<Vec<String>> {
    let mut all: Vec<Vec<String>> = Vec::new();
    let mut open = false;
    for line in yaml.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        match line.strip_prefix("- ") {
            Some(command @ ("serve" | "worker")) => {
                all.push(vec![command.to_owned()]);
                open = true;
            }
            Some(argument) if open && argument.starts_with("--") => {
                all.last_mut().unwrap().push(filled(argument));
            }
            _ => open = false,
        }
    }
    all
}

/// The program takes a command line; with `--help` behind it, it only reads it.
fn parses(line: &[String], from: &str) {
    let output = frameloom().args(line).arg("--help").output().unwrap();
    let (code, said) = said(&output);
    assert_eq!(code, 0, "{from}: {line:?}: {said}");
    assert!(!output.stdout.is_empty(), "{from}: {line:?}");
}

#[test]
fn command_lines_of_containers_are_those_of_the_program() {
    let mut seen = 0;
    for (file, wanted) in
        [("compose.yaml", 2), ("kubernetes/server.yaml", 1), ("kubernetes/worker.yaml", 1)]
    {
        let lines = command_lines(&fs::read_to_string(deploy().join(file)).unwrap());
        assert_eq!(lines.len(), wanted, "{file}");
        for line in &lines {
            assert!(line.len() > 5, "{file}: {line:?}");
            parses(line, file);
            seen += 1;
        }
    }
    assert_eq!(seen, 4);
}

#[test]
fn command_lines_of_units_are_those_of_the_program() {
    let examples = fs::read_to_string(deploy().join("systemd/frameloom.default")).unwrap();
    for (unit, variable) in [("server", "FRAMELOOM_SERVE"), ("worker", "FRAMELOOM_WORKER")] {
        let file = format!("systemd/frameloom-{unit}.service");
        let service = fs::read_to_string(deploy().join(&file)).unwrap();
        let line = service.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let example = format!("# {variable}=\"");
        let more = examples.lines().find_map(|line| line.strip_prefix(&example)).unwrap();
        let line = line.replace("%S", "/var/lib").replace(&format!("${variable}"), "");
        let words = line.strip_prefix("/usr/bin/frameloom ").unwrap().split_whitespace();
        let more = more.trim_end_matches('"').split_whitespace();
        parses(&words.chain(more).map(str::to_owned).collect::<Vec<_>>(), &file);
    }
}

fn make_secrets(dir: &Path, host: &str) {
    let output = Command::new(deploy().join("secrets.sh"))
        .arg(dir)
        .env("FRAMELOOM_HOST", host)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn secrets_are_made_once_kept_from_others_and_open_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    make_secrets(&one, "localhost");
    make_secrets(&two, "video.example");
    let read = |dir: &Path, name: &str| fs::read_to_string(dir.join(name)).unwrap();
    let names =
        ["redis-password", "token", "prometheus-token", "grafana-password", "flower-password"];
    for name in names {
        assert!(read(&one, name).trim().len() >= 40, "{name}");
        assert_ne!(read(&one, name), read(&two, name), "{name} is the same for everybody");
    }
    assert_eq!((mode(&one), mode(&one.join("token"))), (0o700, 0o600));
    let before = names.map(|name| read(&one, name));
    make_secrets(&one, "localhost");
    assert_eq!(names.map(|name| read(&one, name)), before, "they were made anew");

    let at = |name: &str| text(&one.join(name));
    let tls =
        ["--tokens", &at("tokens"), "--tls-cert", &at("cert.pem"), "--tls-key", &at("key.pem")];
    let server = Server::start(&dir.path().join("data"), &tls);
    let known = ["--cacert", &at("ca.pem")];
    for url in &server.urls {
        assert!(url.starts_with("https://"), "{url}");
        let (code, said) = run(&[&["health", "--server", url][..], &known].concat());
        assert_eq!(code, 0, "{url}: {said}");
    }
    let jobs =
        |more: &[&str]| run(&[&["jobs", "--server", server.url()][..], &known, more].concat());
    assert_eq!(jobs(&["--token", &at("token")]).0, 0);
    let (code, said) = jobs(&["--token", &at("prometheus-token")]);
    assert!(code == 2 && said.contains("/metrics and /v1/scale only"), "{said}");
    assert_eq!(jobs(&["--token", &at("redis-password")]).0, 2, "any secret opens it");
}
