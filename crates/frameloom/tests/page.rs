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

    /// Types a text into an element, or has it take a file.
    fn choose(&self, id: &str, text: &str) {
        let found = self.post("/element", &json!({ "using": "css selector", "value": id }));
        let element = found.as_object().unwrap().values().next().unwrap().as_str().unwrap();
        self.post(&format!("/element/{element}/value"), &json!({ "text": text }));
    }

    /// Clicks into the middle of an element, as a person does.
    fn click(&self, id: &str) {
        let script =
            format!("document.querySelector('{id}').scrollIntoView({{ block: 'center' }})");
        self.script(&script);
        let found = self.post("/element", &json!({ "using": "css selector", "value": id }));
        let steps = json!([
            { "type": "pointerMove", "duration": 0, "x": 0, "y": 0, "origin": found },
            { "type": "pointerDown", "button": 0 }, { "type": "pointerUp", "button": 0 },
        ]);
        let mouse = json!({ "type": "pointer", "id": "mouse", "actions": steps });
        self.post("/actions", &json!({ "actions": [mouse] }));
    }

    /// Keeps what the page looks like, where somebody wants to see it.
    fn screenshot(&self, name: &str) {
        let Some(to) = std::env::var_os("FRAMELOOM_SCREENSHOTS") else { return };
        let (_, shot) = answer(agent().get(format!("{}/screenshot", self.base)).call());
        let base64 = shot["value"].as_str().unwrap().to_owned();
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, base64);
        fs::write(Path::new(&to).join(name), bytes.unwrap()).unwrap();
    }

    /// Has the page shown in light or dark.
    fn scheme(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        let params = json!({ "features": features });
        self.post(
            "/goog/cdp/execute",
            &json!({ "cmd": "Emulation.setEmulatedMedia", "params": params }),
        );
    }

    /// What the browser has complained of.
    fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", &json!({ "type": "browser" }));
        let severe = log.as_array().unwrap().iter().filter(|line| line["level"] == "SEVERE");
        let severe = severe.map(|line| line["message"].as_str().unwrap().to_owned());
        // A picture that is not there yet is asked for again.
        severe.filter(|text| !(text.contains("latest.jpg") && text.contains("404"))).collect()
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

    assert_eq!(browser.complaints(), Vec::<String>::new());
    browser.screenshot("page.png");
}

#[test]
fn what_was_found_is_a_strip_under_the_video_that_seeks() {
    let dir = tempfile::tempdir().unwrap();
    let clip = text(&dir.path().join("people.mp4"));
    let source = text(&real_clip("vtest.avi"));
    let cut =
        ["-v", "error", "-nostdin", "-i", &source, "-t", "4", "-g", "10", "-preset", "veryfast"];
    assert!(Command::new("ffmpeg").args(cut).arg(&clip).status().unwrap().success());
    let data = dir.path().join("data");
    fs::create_dir_all(data.join("catalogue")).unwrap();
    fs::write(data.join("catalogue/night.onnx"), "a model").unwrap();
    let server = Server::start(&data, &[]);
    let browser = Browser::start();
    browser.post("/url", &json!({ "url": server.url() }));
    browser.until("document.querySelectorAll('#add option').length > 10");
    browser.choose("#file", &clip);
    browser.script(
        "const add = document.getElementById('add'); for (const name of ['motion', 'objects', 'celery']) { \
         add.value = name; add.dispatchEvent(new Event('change')); }",
    );
    // A file is a word, or a name of the catalogue; parameters of a Python function may have many lines.
    let names = browser.script(
        "const model = document.querySelector('[data-filter=objects] [data-name=model]'); \
         return [...model.list.options].map((o) => o.value)",
    );
    assert_eq!(names, json!(["ssdlite", "night.onnx"]));
    let kind = browser
        .script("return document.querySelector('[data-filter=celery] [data-name=params]').tagName");
    assert_eq!(kind, "TEXTAREA");
    browser.script(
        "document.querySelector('[data-filter=celery]').remove(); \
         document.querySelector('[data-filter=objects] [data-name=action]').value = 'pixelate'; \
         window.stages = new Set(); window.states = new Set(); \
         new MutationObserver(() => stages.add(document.getElementById('stage').textContent.split(',')[0])) \
           .observe(document.getElementById('stage'), { childList: true }); \
         new MutationObserver((all) => all.forEach((m) => states.add(m.target.className))) \
           .observe(document.getElementById('timeline'), { subtree: true, attributes: true, attributeFilter: ['class'] }); \
         document.getElementById('submit').click()",
    );
    browser.until("!document.getElementById('strip').hidden && document.getElementById('result').readyState >= 1");
    let seen = browser.script("return [[...stages], [...states]]").to_string();
    assert!(seen.contains("detecting") && seen.contains("\"detected\""), "{seen}");
    // Something is hidden: the page neither shows the source nor asks for it.
    let before = browser.script(
        "return [document.getElementById('before').src, document.getElementById('split').hidden]",
    );
    assert_eq!(before, json!(["", true]));

    let told = browser.script("return document.getElementById('strip-legend').textContent");
    let told = told.as_str().unwrap();
    assert!(told.contains("person") && told.contains("motion"), "{told}");
    let drawn = "(() => { const c = document.getElementById('strip-canvas'); \
         const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; \
         let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n / (c.width * c.height); })()";
    let share = browser.script(&format!("return {drawn}")).as_f64().unwrap();
    assert!(share > 0.1, "hardly anything is drawn: {share}");
    let now = || {
        let at = browser.script(
            "const v = document.getElementById('result'); return [v.currentTime, v.duration]",
        );
        (at[0].as_f64().unwrap(), at[1].as_f64().unwrap())
    };
    assert_eq!(now().0, 0.0);
    browser.click("#strip-view");
    let (time, length) = now();
    assert!((time - length / 2.0).abs() < 0.1, "{time} of {length}");
    browser.choose("#strip-view", "\u{e014}");
    assert!((now().0 - time - 1.0).abs() < 0.01, "the right arrow: {time} to {}", now().0);
    browser.choose("#strip-view", "\u{e012}");
    browser.choose("#strip-view", "\u{e012}");
    assert!((now().0 - time + 1.0).abs() < 0.01, "the left arrow: {time} to {}", now().0);
    browser.until("!document.getElementById('result').seeking");
    let words = browser.script(
        "const s = document.getElementById('strip-view'); \
         return [s.getAttribute('role'), s.getAttribute('aria-label'), s.getAttribute('aria-valuetext')]",
    );
    assert_eq!(words[0], "slider");
    assert!(words[1].as_str().unwrap().contains("arrow keys seek"), "{words}");
    assert!(words[2].as_str().unwrap().contains("person"), "{words}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    for scheme in ["light", "dark"] {
        browser.scheme(scheme);
        let color = browser.script(
            "return getComputedStyle(document.documentElement).getPropertyValue('--class-0')",
        );
        assert_eq!(color, if scheme == "dark" { "#6cb2ff" } else { "#0b66c3" });
        browser.until("new Promise((done) => requestAnimationFrame(() => done(true)))");
        browser.screenshot(&format!("strip-{scheme}.png"));
    }
}
