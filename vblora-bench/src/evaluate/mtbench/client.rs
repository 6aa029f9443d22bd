//! The judge's endpoint: chat completions over HTTP, asked again where that can help.

use std::{
    fmt,
    io::Read,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use jiff::{Timestamp, fmt::rfc2822};
use serde_json::Value;
use ureq::{Agent, AgentBuilder, ErrorKind, Request as Call, Response, Transport};

use super::{Body, python::json_line};
use crate::{Error, Result};

/// The endpoint of OpenAI.
pub const OPENAI: &str = "https://api.openai.com/v1";

/// The most bytes of an answer that are read, and of its text in a message.
const MAX_ANSWER: u64 = 16 << 20;
const SHOWN: usize = 200;

/// The path below the base address.
const PATH: &str = "/chat/completions";

/// The unit of time in which a wait is given up after a signal.
const PULSE: Duration = Duration::from_millis(50);

/// How many of our longest waits an endpoint can ask for.
pub const GRACE: u32 = 10;

/// How long an endpoint may take, and how often it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The time for one answer.
    pub timeout: Duration,
    /// The number of times that a judgment is asked for.
    pub tries: usize,
    /// The wait before the second try. It doubles with each further one.
    pub first_wait: Duration,
    /// The longest wait. Where the endpoint asks for a longer one, it gets up to [`GRACE`] times as much.
    pub longest_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(300),
            tries: 8,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(60),
        }
    }
}

impl Patience {
    /// The wait after a number of failed tries. A wait that the endpoint asks for counts where it is longer than ours.
    fn wait(&self, failed: usize, asked: Option<Duration>) -> Duration {
        let doublings = failed.saturating_sub(1).min(16) as u32;
        let ours = self
            .first_wait
            .saturating_mul(1 << doublings)
            .min(self.longest_wait);
        let most = self.longest_wait.saturating_mul(GRACE);
        asked.map_or(ours, |asked| asked.min(most).max(ours))
    }
}

/// A key for an endpoint. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// Reads the key from an environment variable.
    ///
    /// # Errors
    /// The variable is not set, or its value cannot be a key. The value is not shown.
    pub fn from_env(variable: &str) -> Result<Self> {
        let wrong = |found: &str| Error::Setting {
            setting: "api-key-env".into(),
            expected: format!(
                "the name of an environment variable with a key, as {variable} should be"
            ),
            found: found.into(),
        };
        let value = std::env::var(variable).map_err(|_| wrong("a variable that is not set"))?;
        let key = value.trim();
        match !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic()) {
            true => Ok(Self(key.to_owned())),
            false => Err(wrong(
                "a value that is empty or has blanks or other characters than ASCII",
            )),
        }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// Why there is no judgment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Another judgment may succeed.
    This(String),
    /// No judgment would succeed: a wrong key, a wrong address.
    All(String),
    /// A signal came while this one was asked for.
    Interrupted,
}

/// Why one try failed.
enum Trouble {
    /// The same may succeed later; perhaps the endpoint says when.
    Passing(String, Option<Duration>),
    Lasting(Failure),
}

/// An endpoint that speaks OpenAI's chat completions.
#[derive(Debug)]
pub struct Endpoint {
    agent: Agent,
    address: String,
    key: Option<ApiKey>,
    patience: Patience,
    /// It has been reached once.
    was_there: AtomicBool,
}

impl Endpoint {
    /// The endpoint below an address such as [`OPENAI`].
    ///
    /// # Errors
    /// The address is not one of HTTP, or has a name, a query or a fragment.
    pub fn new(base: &str, key: Option<ApiKey>, patience: Patience) -> Result<Self> {
        let rest = ["https://", "http://"]
            .iter()
            .find_map(|scheme| base.strip_prefix(scheme));
        if rest.is_none_or(|rest| rest.is_empty() || rest.contains(['@', '?', '#'])) {
            return Err(Error::Setting {
                setting: "base-url".into(),
                expected: format!("an address like {OPENAI}, without a name, a key or a query"),
                // The rest may hold a key, which is not to be shown.
                found: match rest {
                    None => base.into(),
                    Some("") => "no host".into(),
                    Some(_) => "one with \"@\", \"?\" or \"#\"".into(),
                },
            });
        }
        let agent = AgentBuilder::new()
            .try_proxy_from_env(!is_local(base))
            // A key must not follow a redirection to another host.
            .redirects(0)
            .timeout_connect(Duration::from_secs(10).min(patience.timeout))
            .timeout(patience.timeout)
            .user_agent(concat!("vblora/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent,
            address: format!("{}{PATH}", base.trim_end_matches('/')),
            key,
            patience,
            was_there: AtomicBool::new(false),
        })
    }

    /// The address that requests are sent to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Asks until there is a judgment, as often as patience allows.
    ///
    /// # Errors
    /// The reason of the last try, without the key.
    pub fn ask(
        &self,
        body: &Body<'_>,
        is_interrupted: &dyn Fn() -> bool,
    ) -> std::result::Result<String, Failure> {
        let body = json_line(body).map_err(|e| Failure::All(e.to_string()))?;
        let mut failed = 0;
        loop {
            if is_interrupted() {
                return Err(Failure::Interrupted);
            }
            let (reason, asked) = match self.attempt(&body) {
                Ok(judgment) => return Ok(self.clean(judgment)),
                Err(Trouble::Lasting(failure)) => return Err(self.without_key(failure)),
                Err(Trouble::Passing(reason, asked)) => (self.clean(reason), asked),
            };
            failed += 1;
            if failed >= self.patience.tries.max(1) {
                return Err(Failure::This(format!("{reason} ({failed} tries)")));
            }
            let wait = self.patience.wait(failed, asked);
            tracing::warn!("{}: {reason}; next try in {wait:.1?}", self.address);
            sleep(wait, is_interrupted);
        }
    }

    fn attempt(&self, body: &str) -> std::result::Result<String, Trouble> {
        let call = self.agent.post(&self.address);
        let call = call.set("Content-Type", "application/json");
        let answer = self.with_key(call).send_string(body);
        let was_there = match &answer {
            Err(ureq::Error::Transport(_)) => self.was_there.load(Ordering::Relaxed),
            Ok(_) | Err(ureq::Error::Status(..)) => true,
        };
        self.was_there.store(was_there, Ordering::Relaxed);
        match answer {
            Ok(answer) if (200..300).contains(&answer.status()) => self.read(answer),
            Ok(answer) | Err(ureq::Error::Status(_, answer)) => Err(self.refused(answer)),
            Err(ureq::Error::Transport(cause)) => Err(unreached(&cause, was_there)),
        }
    }

    fn with_key(&self, call: Call) -> Call {
        match &self.key {
            Some(ApiKey(key)) => call.set("Authorization", &format!("Bearer {key}")),
            None => call,
        }
    }

    fn without_key(&self, failure: Failure) -> Failure {
        match failure {
            Failure::This(reason) => Failure::This(self.clean(reason)),
            Failure::All(reason) => Failure::All(self.clean(reason)),
            Failure::Interrupted => Failure::Interrupted,
        }
    }

    /// A text without the key, which some endpoints repeat, also in the forms that it has in JSON.
    fn clean(&self, text: String) -> String {
        let Some(ApiKey(key)) = &self.key else {
            return text;
        };
        let quoted = Value::from(key.as_str()).to_string();
        let quoted = &quoted[1..quoted.len() - 1];
        let forms = [quoted.replace('/', "\\/"), quoted.into(), key.clone()];
        forms
            .iter()
            .fold(text, |text, form| match text.contains(form) {
                true => text.replace(form, "[key]"),
                false => text,
            })
    }

    /// A text in one line of bounded length. The key is taken out before a cut could leave a part of it.
    fn shortened(&self, text: &str) -> String {
        let text = self.clean(text.to_owned());
        let words: Vec<_> = text.split_whitespace().collect();
        let line = words.join(" ");
        match line.char_indices().nth(SHOWN) {
            Some((at, _)) => format!("{}..", &line[..at]),
            None => line,
        }
    }

    /// The start of an answer, for a message.
    fn start(&self, bytes: &[u8]) -> String {
        match bytes {
            [] => "nothing".into(),
            bytes => self.shortened(&String::from_utf8_lossy(bytes)),
        }
    }

    /// The judgment in a successful answer.
    fn read(&self, answer: Response) -> std::result::Result<String, Trouble> {
        let passing = |reason: String| Trouble::Passing(reason, None);
        let mut bytes = Vec::new();
        let read = answer
            .into_reader()
            .take(MAX_ANSWER + 1)
            .read_to_end(&mut bytes);
        read.map_err(|e| passing(format!("the answer was cut off: {e}")))?;
        if bytes.len() as u64 > MAX_ANSWER {
            let most = MAX_ANSWER >> 20;
            return Err(passing(format!("the answer is longer than {most} MiB")));
        }
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| {
            passing(format!(
                "the answer is not JSON: {e}: {}",
                self.start(&bytes)
            ))
        })?;
        let choice = &value["choices"][0];
        let message = &choice["message"];
        let texts = [&message["content"], &message["refusal"]].map(Value::as_str);
        let text = texts
            .into_iter()
            .flatten()
            .find(|text| !text.trim().is_empty());
        match (text, choice["finish_reason"].as_str()) {
            (Some(text), _) => Ok(text.to_owned()),
            (None, Some("content_filter")) => {
                let reason = "the endpoint refused the content (content_filter)";
                Err(Trouble::Lasting(Failure::This(reason.into())))
            }
            (None, _) => {
                let start = self.start(&bytes);
                Err(passing(format!("no judgment in the answer: {start}")))
            }
        }
    }

    /// The trouble that a status says.
    fn refused(&self, answer: Response) -> Trouble {
        let status = answer.status();
        let asked = answer.header("Retry-After").and_then(retry_after);
        if let (300..=399, Some(place)) = (status, answer.header("Location")) {
            let place = self.shortened(&base_of(place, &self.address));
            let reason = format!("status {status}: moved to {place}; give that as --base-url");
            return Trouble::Lasting(Failure::All(reason));
        }
        let mut bytes = Vec::new();
        // A message that is cut off is still one.
        let _ = answer
            .into_reader()
            .take(MAX_ANSWER)
            .read_to_end(&mut bytes);
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let error = &value["error"];
        let message = error["message"]
            .as_str()
            .map_or_else(|| self.start(&bytes), |text| self.shortened(text));
        let reason = format!("status {status}: {message}");
        let is_out_of_money = error["code"] == "insufficient_quota";
        match status {
            429 if is_out_of_money => Trouble::Lasting(Failure::All(reason)),
            408 | 409 | 425 | 429 | 500.. => Trouble::Passing(reason, asked),
            300..=399 | 401..=405 => Trouble::Lasting(Failure::All(reason)),
            _ => Trouble::Lasting(Failure::This(reason)),
        }
    }
}

/// The base address that leads to the place of a redirection from `address`.
fn base_of(place: &str, address: &str) -> String {
    let place = place.strip_suffix(PATH).unwrap_or(place);
    // A path alone is one on the same host.
    let is_path = place.starts_with('/') && !place.starts_with("//");
    let host = address.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    match is_path {
        true => host + place,
        false => place.to_owned(),
    }
}

/// Returns true if an address is on this machine.
pub fn is_local(address: &str) -> bool {
    let host = address.strip_prefix("http://").unwrap_or(address);
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|local| {
        let rest = host.strip_prefix(local);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
    })
}

/// The trouble of an endpoint that did not answer. One that was never there is most likely not running, or has another address.
fn unreached(cause: &Transport, was_there: bool) -> Trouble {
    let text = cause.to_string();
    // The message of the whole names the address.
    let address = cause.url().map_or(String::new(), |url| format!("{url}: "));
    let reason = text.strip_prefix(&address).unwrap_or(&text).to_owned();
    match cause.kind() {
        ErrorKind::Dns | ErrorKind::ConnectionFailed if !was_there => {
            Trouble::Lasting(Failure::All(reason))
        }
        ErrorKind::InvalidUrl
        | ErrorKind::UnknownScheme
        | ErrorKind::InsecureRequestHttpsOnly
        | ErrorKind::InvalidProxyUrl
        | ErrorKind::ProxyUnauthorized => Trouble::Lasting(Failure::All(reason)),
        ErrorKind::Dns
        | ErrorKind::ConnectionFailed
        | ErrorKind::TooManyRedirects
        | ErrorKind::BadStatus
        | ErrorKind::BadHeader
        | ErrorKind::Io
        | ErrorKind::ProxyConnect
        | ErrorKind::HTTP => Trouble::Passing(reason, None),
    }
}

/// The wait of a header `Retry-After`: seconds, or a date.
fn retry_after(header: &str) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = rfc2822::parse(header).ok()?.timestamp();
    date.duration_since(Timestamp::now()).try_into().ok()
}

fn sleep(wait: Duration, is_interrupted: &dyn Fn() -> bool) {
    let start = Instant::now();
    while !is_interrupted() {
        let left = wait.saturating_sub(start.elapsed());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(PULSE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_heed_the_endpoint_up_to_a_limit() {
        let patience = Patience::default();
        let seconds = |failed, asked: Option<u64>| {
            patience
                .wait(failed, asked.map(Duration::from_secs))
                .as_secs()
        };
        let ours: Vec<_> = (1..9).map(|failed| seconds(failed, None)).collect();
        assert_eq!(ours, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(seconds(1, Some(20)), 20);
        assert_eq!(seconds(3, Some(1)), 4);
        assert_eq!(seconds(1, Some(7200)), 600);
        assert_eq!(seconds(usize::MAX, None), 60);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after("2"), Some(Duration::from_secs(2)));
        assert_eq!(retry_after(" 0.5 "), Some(Duration::from_millis(500)));
        let far = retry_after("Fri, 31 Dec 2100 23:59:59 GMT").unwrap();
        assert!(far > Duration::from_secs(1 << 30), "{far:?}");
        for nothing in ["", "soon", "-3", "NaN", "Fri, 31 Dec 1999 23:59:59 GMT"] {
            assert_eq!(retry_after(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn an_address_with_a_secret_is_refused_without_showing_it() {
        for base in [
            "https://me:secret@host/v1",
            "http://host/v1?key=secret",
            "https://",
        ] {
            let error = Endpoint::new(base, None, Patience::default()).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let error = Endpoint::new("host/v1", None, Patience::default()).unwrap_err();
        assert!(error.to_string().ends_with("found host/v1"), "{error}");
        let endpoint = Endpoint::new("http://host/v1/", None, Patience::default()).unwrap();
        assert_eq!(endpoint.address(), "http://host/v1/chat/completions");
    }

    #[test]
    fn a_key_is_never_shown() {
        let error = ApiKey::from_env("VBLORA_NO_SUCH_VARIABLE")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("VBLORA_NO_SUCH_VARIABLE") && error.contains("not set"),
            "{error}"
        );
        let key = ApiKey("sk-secret".into());
        let endpoint = Endpoint::new(OPENAI, Some(key), Patience::default()).unwrap();
        assert!(!format!("{endpoint:?}").contains("sk-secret"));
        let failure = endpoint.without_key(Failure::All("wrong key sk-secret".into()));
        assert_eq!(failure, Failure::All("wrong key [key]".into()));
        let odd = Endpoint {
            key: Some(ApiKey(r#"sk-a/b"c"#.into())),
            ..endpoint
        };
        for form in [r#"sk-a/b"c"#, r#"sk-a/b\"c"#, r#"sk-a\/b\"c"#] {
            assert_eq!(odd.clean(format!("<{form}>")), "<[key]>");
        }
        // A cut in the middle of the key would leave its start.
        let text = format!("{}sk-a/b\"c", " x".repeat(98));
        assert!(!odd.shortened(&text).contains("sk-"), "{text}");
    }

    #[test]
    fn a_redirection_names_the_base_address() {
        let address = "http://host:1/v1/chat/completions";
        for (place, base) in [
            ("https://other/v2/chat/completions", "https://other/v2"),
            ("/v2/chat/completions", "http://host:1/v2"),
            ("https://other/login", "https://other/login"),
        ] {
            assert_eq!(base_of(place, address), base);
        }
    }
}
