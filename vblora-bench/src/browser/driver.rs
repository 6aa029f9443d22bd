//! The few WebDriver calls (a W3C recommendation, JSON over HTTP) that the tests need.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

/// A browser with one page. Dropping this value ends the browser.
pub(super) struct Browser {
    process: Child,
    /// Kept open because the driver writes to it.
    _output: BufReader<ChildStdout>,
    session: String,
}

impl Browser {
    /// Starts a browser. Returns `None` and prints a line if `chromedriver` is not installed.
    #[allow(clippy::print_stdout)]
    pub(super) fn start() -> Option<Self> {
        let mut driver = Command::new("chromedriver");
        driver
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let Ok(mut process) = driver.spawn() else {
            println!("skipped: no chromedriver (Debian: chromium, chromium-driver)");
            return None;
        };
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let port = port(&mut output);
        let mut browser = Self {
            process,
            _output: output,
            session: format!("http://127.0.0.1:{port}/session"),
        };
        // Root, as in CI, has no sandbox. Small shared memory, as in containers, would end the browser.
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ];
        let made = browser.post(
            "",
            json!({ "capabilities": { "alwaysMatch": {
                "goog:chromeOptions": { "args": arguments },
                "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
            }}}),
        );
        browser.session += &format!("/{}", made["sessionId"].as_str().unwrap());
        Some(browser)
    }

    /// Loads a file in a window of this width, in CSS pixels.
    pub(super) fn open(&self, page: &Path, width: u32) {
        self.resize(width);
        self.post(
            "/url",
            json!({ "url": format!("file://{}", page.display()) }),
        );
    }

    /// Sets the width of the page's window. The minimum width of real windows is too large.
    pub(super) fn resize(&self, width: u32) {
        let metrics =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        let command = "Emulation.setDeviceMetricsOverride";
        self.post(
            "/goog/cdp/execute",
            json!({ "cmd": command, "params": metrics }),
        );
    }

    /// Runs a function body in the page and returns its value.
    pub(super) fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({ "script": script, "args": [] }))
    }

    /// The text of an element.
    pub(super) fn text(&self, id: &str) -> String {
        let text = self.run(&format!(
            "return document.getElementById('{id}').textContent"
        ));
        text.as_str().unwrap().to_owned()
    }

    /// Presses and releases a key in the focused element: a character, or one of WebDriver's codes.
    pub(super) fn press(&self, key: char) {
        let key = key.to_string();
        let actions =
            json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        let source = json!({ "type": "key", "id": "keyboard", "actions": actions });
        self.post("/actions", json!({ "actions": [source] }));
    }

    /// Clicks on a point of an element, measured from its upper left corner.
    pub(super) fn click(&self, id: &str, [x, y]: [i64; 2]) {
        let script = format!(
            "const element = document.getElementById('{id}'); element.scrollIntoView(); \
             const box = element.getBoundingClientRect(); return [Math.round(box.left), Math.round(box.top)]"
        );
        let corner = self.run(&script);
        let at = |i: usize, by: i64| corner[i].as_i64().unwrap() + by;
        let actions = json!([
            { "type": "pointerMove", "duration": 0, "x": at(0, x), "y": at(1, y) },
            { "type": "pointerDown", "button": 0 },
            { "type": "pointerUp", "button": 0 },
        ]);
        let source = json!({ "type": "pointer", "id": "mouse", "actions": actions });
        self.post("/actions", json!({ "actions": [source] }));
    }

    /// The lines that the page has written to its console so far, including script and loading errors. Each call returns only new lines.
    pub(super) fn console(&self) -> Vec<String> {
        let lines = self.log("browser");
        lines
            .iter()
            .map(|line| line["message"].to_string())
            .collect()
    }

    /// The addresses that the page has requested so far. Each call returns only new ones.
    pub(super) fn requests(&self) -> Vec<String> {
        let events = self.log("performance");
        let events = events.iter().map(|event| {
            let text = event["message"].as_str().unwrap();
            serde_json::from_str::<Value>(text).unwrap()["message"].take()
        });
        let requests = events.filter(|event| event["method"] == "Network.requestWillBeSent");
        requests
            .map(|event| {
                event["params"]["request"]["url"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    }

    fn log(&self, kind: &str) -> Vec<Value> {
        self.post("/se/log", json!({ "type": kind }))
            .as_array()
            .unwrap()
            .clone()
    }

    fn post(&self, path: &str, body: Value) -> Value {
        let request =
            ureq::post(&format!("{}{path}", self.session)).timeout(Duration::from_secs(60));
        let answer = match request.send_string(&body.to_string()) {
            Ok(answer) | Err(ureq::Error::Status(_, answer)) => answer.into_string().unwrap(),
            Err(error) => panic!("{path}: {error}"),
        };
        let mut answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["value"]["error"].is_null(), "{path}: {answer}");
        answer["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Deleting the session ends the browser. Ending the driver alone does not.
        let _ = ureq::delete(&self.session)
            .timeout(Duration::from_secs(10))
            .call();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads the port that the driver listens on from its first lines.
fn port(output: &mut impl BufRead) -> u16 {
    for line in output.lines().map_while(Result::ok) {
        if let Some((_, port)) = line
            .trim_end_matches('.')
            .rsplit_once("started successfully on port ")
        {
            return port.parse().unwrap();
        }
    }
    panic!("chromedriver ended before it was ready");
}
