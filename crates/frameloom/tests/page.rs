//! The dashboard in a real browser, by WebDriver: a video goes in, pictures and the result come out.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/server.rs"]
mod server;
mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use server::{Server, agent, answer};
use support::{frames, real_clip, text};

/// A headless Chromium with one page.
struct Browser {
    driver: Child,
    base: String,
}

impl Browser {
    fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .spawn()
            .expect("chromedriver is there: 'make test' installs it");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines
            .by_ref()
            .find_map(|line| {
                let line = line.unwrap();
                let (_, port) = line.split_once("started successfully on port ")?;
                Some(port.trim_end_matches('.').to_owned())
            })
            .unwrap();
        // The pipe is read on, so that the driver never waits for it.
        std::thread::spawn(move || lines.for_each(drop));
        let root = format!("http://127.0.0.1:{port}");
        let options =
            json!({ "args": ["--headless=new", "--no-sandbox", "--window-size=1100,1600"] });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
            "timeouts": { "script": 60_000 },
        } } });
        let (status, made) = answer(agent().post(format!("{root}/session")).send_json(wanted));
        assert_eq!(status, 200, "{made}");
        let id = made["value"]["sessionId"].as_str().unwrap();
        Self { driver, base: format!("{root}/session/{id}") }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let (status, said) = answer(agent().post(format!("{}{path}", self.base)).send_json(body));
        assert_eq!(status, 200, "{path}: {said}");
        said["value"].clone()
    }

    /// Runs a script in the page.
    fn script(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits in the page until an expression is true, and answers it.
    fn until(&self, expression: &str) -> Value {
        let script = format!(
            "const done = arguments[0]; const look = () => {{ const v = {expression}; \
             if (v) done(v); else setTimeout(look, 20); }}; look();"
        );
        self.post("/execute/async", &json!({ "script": script, "args": [] }))
    }

    fn choose(&self, id: &str, path: &str) {
        let found = self.post("/element", &json!({ "using": "css selector", "value": id }));
        let element = found.as_object().unwrap().values().next().unwrap().as_str().unwrap();
        self.post(&format!("/element/{element}/value"), &json!({ "text": path }));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(agent().delete(&self.base).call());
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}

#[test]
fn a_video_goes_in_by_the_page_and_comes_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let browser = Browser::start();
    browser.post("/url", &json!({ "url": server.url() }));
    browser.until("document.querySelectorAll('#add option').length > 10");

    // Nothing chosen: a word, and no job.
    browser.script("document.getElementById('submit').click()");
    browser.until("document.getElementById('new-error').textContent.includes('choose a video')");

    let clip = text(&fs::canonicalize(real_clip("vtest.avi")).unwrap());
    browser.choose("#file", &clip);
    browser.script(
        "const add = document.getElementById('add'); add.value = 'invert'; \
         add.dispatchEvent(new Event('change')); \
         document.getElementById('submit').click()",
    );
    let first = browser.until("document.getElementById('job-progress').value > 0 && document.getElementById('job-progress').value");
    let more = format!("document.getElementById('job-progress').value > {first}");
    browser.until(&more);
    let sides = browser.until(
        "(() => { const [a, b] = ['before', 'after'].map((id) => document.getElementById(id)); \
         return a.naturalWidth > 0 && b.naturalWidth > 0 && [a.naturalWidth, b.naturalWidth]; })()",
    );
    assert_eq!(sides, json!([640, 640]));
    browser.until("!document.getElementById('download').hidden");
    browser.until("document.querySelectorAll('#steps-list dt').length >= 4");
    browser.until("document.getElementById('result').readyState >= 1");
    let done = browser.script("return document.querySelectorAll('#timeline i:not(.done)').length");
    assert_eq!(done, 0);

    let path = browser.script("return new URL(document.getElementById('download').href).pathname");
    let id = path.as_str().unwrap().split('/').nth(3).unwrap().to_owned();
    let out = dir.path().join("out.mp4");
    fs::write(&out, server.output(&id)).unwrap();
    assert_eq!(frames(&text(&out)).len(), frames(&clip).len());

    let (status, log) = answer(
        agent().post(format!("{}/se/log", browser.base)).send_json(json!({ "type": "browser" })),
    );
    assert_eq!(status, 200);
    let errors: Vec<&Value> =
        log["value"].as_array().unwrap().iter().filter(|line| line["level"] == "SEVERE").collect();
    // A picture that is not there yet is asked for again.
    let real = errors.iter().filter(|e| !e["message"].as_str().unwrap().contains("latest.jpg"));
    assert_eq!(real.count(), 0, "{errors:?}");

    if let Some(to) = std::env::var_os("FRAMELOOM_SCREENSHOTS") {
        let (_, shot) = answer(agent().get(format!("{}/screenshot", browser.base)).call());
        let base64 = shot["value"].as_str().unwrap().to_owned();
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, base64);
        fs::write(Path::new(&to).join("page.png"), bytes.unwrap()).unwrap();
    }
}
