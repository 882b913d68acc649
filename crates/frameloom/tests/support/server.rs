//! A server that a test has started, and plain requests to it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::support::{frameloom, kill};

pub struct Server {
    child: Child,
    data: PathBuf,
    pub urls: Vec<String>,
}

impl Server {
    /// Starts a server on its store at `data`, on a free port of both loopback addresses.
    pub fn start(data: &Path, args: &[&str]) -> Self {
        Self::start_with(data, args, &[])
    }

    /// The same with variables in its environment.
    pub fn start_with(data: &Path, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = frameloom();
        command.envs(variables.iter().copied());
        Self::start_by(command, data, args)
    }

    /// The same by a command that ends in the program's arguments.
    pub fn start_by(mut command: Command, data: &Path, args: &[&str]) -> Self {
        let room: &[&str] = if args.contains(&"--min-free") { &[] } else { &["--min-free", "1M"] };
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--listen", "[::1]:0"])
            .args(room)
            .arg("--data")
            .arg(data)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let urls: Vec<String> = lines
            .take(2)
            .map(|line| line.unwrap().strip_prefix("listening on ").unwrap().to_owned())
            .collect();
        assert_eq!(urls.len(), 2, "the server does not listen");
        Self { child, data: data.to_owned(), urls }
    }

    pub fn url(&self) -> &str {
        &self.urls[0]
    }

    /// Kills it at once; answers where its store lies.
    pub fn kill(mut self) -> PathBuf {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.data.clone()
    }

    /// Has it end by itself; answers the exit code.
    pub fn terminate(self) -> Option<i32> {
        self.signal("-TERM");
        self.ended()
    }

    /// Waits until it ends by itself; answers the exit code.
    pub fn ended(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        kill(self.child.id(), signal);
    }

    /// Whether it has ended.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        answer(agent().get(format!("{}{path}", self.url())).call())
    }

    pub fn post(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> (u16, Value) {
        let mut request = agent().post(format!("{}{path}", self.url()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request.send_json(body))
    }

    /// Appends to an upload.
    pub fn patch(&self, path: &str, offset: usize, part: &[u8]) -> (u16, Value) {
        let request = agent()
            .patch(format!("{}{path}", self.url()))
            .header("content-type", "application/offset+octet-stream")
            .header("upload-offset", offset.to_string());
        answer(request.send(part))
    }

    /// Sends a file to `/v1/process` and writes what comes back to `to`.
    pub fn process(&self, query: &str, source: &str, to: &Path) -> (u16, String) {
        process(self.url(), query, source, to)
    }

    /// Makes a job and sends its source; answers its id.
    pub fn submit(&self, source: &str, request: &Value) -> String {
        let (status, made) = self.post("/v1/jobs", request, &[]);
        assert_eq!(status, 201, "{made}");
        let url = format!("{}{}", self.url(), made["upload_url"].as_str().unwrap());
        let (status, said) = answer(agent().put(url).send(File::open(source).unwrap()));
        assert_eq!(status, 204, "{said}");
        made["id"].as_str().unwrap().to_owned()
    }

    /// Waits until a job is over.
    pub fn wait(&self, id: &str) -> Value {
        self.until_event(id, |name, _| name == "end");
        let (status, job) = self.get(&format!("/v1/jobs/{id}"));
        assert_eq!(status, 200, "{job}");
        job
    }

    /// Reads a job's events until one that `wanted` wants.
    pub fn until_event(&self, id: &str, wanted: impl Fn(&str, &Value) -> bool) {
        let url = format!("{}/v1/jobs/{id}/events", self.url());
        let stream = agent().get(url).call().unwrap().into_body().into_reader();
        let mut name = String::new();
        for line in BufReader::new(stream).lines() {
            let line = line.unwrap();
            if let Some(event) = line.strip_prefix("event: ") {
                event.clone_into(&mut name);
            } else if let Some(data) = line.strip_prefix("data: ")
                && wanted(&name, &serde_json::from_str(data).unwrap())
            {
                return;
            }
        }
        panic!("the events of {id} end before");
    }

    pub fn output(&self, id: &str) -> Vec<u8> {
        let response = agent().get(format!("{}/v1/jobs/{id}/output", self.url())).call().unwrap();
        assert_eq!(response.status().as_u16(), 200);
        response.into_body().with_config().limit(1 << 30).read_to_vec().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub fn agent() -> Agent {
    Agent::config_builder().http_status_as_error(false).build().new_agent()
}

pub fn answer(sent: Result<Response<Body>, ureq::Error>) -> (u16, Value) {
    let response = sent.unwrap();
    let status = response.status().as_u16();
    let text = response.into_body().read_to_string().unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

pub fn process(url: &str, query: &str, source: &str, to: &Path) -> (u16, String) {
    let file = File::open(source).unwrap();
    let response = agent().put(format!("{url}/v1/process?{query}")).send(file).unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().with_config().limit(1 << 30).read_to_vec().unwrap();
    File::create(to).unwrap().write_all(&bytes).unwrap();
    (status, String::from_utf8_lossy(&bytes[..bytes.len().min(500)]).into_owned())
}
