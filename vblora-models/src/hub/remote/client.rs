//! Requests to the hub over HTTP, and checks of its answers.

use std::fmt;
use std::io::Read;
use std::time::{Duration, Instant};

use ureq::{Agent, AgentBuilder, Response};
use url::Url;

use super::cache::is_commit;

pub(super) const ENDPOINT: &str = "https://huggingface.co";
const MAX_REDIRECTS: usize = 5;
/// The largest answer about a revision, in bytes.
const MAX_ANSWER: u64 = 16 << 20;
const NOT_FOUND: u16 = 404;

/// How long the hub may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) connect: Duration,
    /// Until the next bytes come.
    pub(super) read: Duration,
    /// Over so long, a body comes at this rate at least.
    pub(super) window: Duration,
    pub(super) least_bytes: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            read: Duration::from_secs(30),
            window: Duration::from_secs(60),
            least_bytes: 16 << 10,
        }
    }
}

/// Why a file did not come.
#[derive(Debug)]
pub(super) struct Failure {
    /// The hub answered that it does not have it.
    pub(super) absent: bool,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            absent: false,
            text,
        }
    }
}

/// The hash of a file's contents, by which the hub names it: SHA-256 of large files, git's of others. Nothing but hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256(String),
    Git(String),
}

impl Hash {
    fn parse(tag: &str) -> Option<Self> {
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        let tag = tag.trim_matches('"').to_owned();
        let digits = tag.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match tag.len() {
            64 if digits => Some(Self::Sha256(tag)),
            40 if digits => Some(Self::Git(tag)),
            _ => None,
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Sha256(digits) | Self::Git(digits)) = self;
        f.write_str(digits)
    }
}

pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    patience: Patience,
}

impl Client {
    pub(super) fn new(endpoint: &str, token: Option<String>, patience: Patience) -> Self {
        let agent = AgentBuilder::new()
            .try_proxy_from_env(true)
            .redirects(0)
            .timeout_connect(patience.connect)
            .timeout_read(patience.read)
            .timeout_write(patience.read)
            .user_agent(concat!("vblora/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            patience,
        }
    }

    /// The commit that a revision stands for.
    pub(super) fn commit(&self, model: &str, revision: &str) -> Result<String, Failure> {
        let what = format!("revision {revision}");
        let address = format!(
            "{}/api/models/{model}/revision/{}",
            self.endpoint,
            encoded(revision)
        );
        let (answer, _) = self.follow(&what, &address, None, |_| true)?;
        let mut text = String::new();
        let read = answer
            .into_reader()
            .take(MAX_ANSWER)
            .read_to_string(&mut text);
        let failed = |problem: String| Failure::new(format!("{what}: {problem}"));
        read.map_err(|cause| failed(cause.to_string()))?;
        let said: serde_json::Value =
            serde_json::from_str(&text).map_err(|cause| failed(format!("no JSON: {cause}")))?;
        match said["sha"].as_str() {
            Some(commit) if is_commit(commit) => Ok(commit.to_owned()),
            found => Err(failed(format!(
                "expected the commit as \"sha\", found {found:?}"
            ))),
        }
    }

    /// The size and hash of a commit's file, and its address.
    pub(super) fn find(&self, model: &str, commit: &str, file: &str) -> Result<Found<'_>, Failure> {
        let address = format!(
            "{}/{model}/resolve/{commit}/{}",
            self.endpoint,
            encoded(file)
        );
        // Large files lie with another host, and what they are is said before one is sent there.
        let known = |answer: &Response| answer.header("x-linked-etag").is_none();
        let (answer, place) = self.follow(file, &address, None, known)?;
        let failed = |problem: String| Failure::new(format!("{file}: {problem}"));
        let header = |name: &str| answer.header(name);
        if let Some(found) = header("x-repo-commit").filter(|found| *found != commit) {
            return Err(failed(format!("expected commit {commit}, found {found:?}")));
        }
        let tag = header("x-linked-etag").or(header("etag"));
        let hash = tag.and_then(Hash::parse);
        let hash = hash.ok_or_else(|| failed(format!("expected a hash as ETag, found {tag:?}")))?;
        let size = header("x-linked-size").or(match answer.status() {
            200 => header("content-length"),
            _ => None,
        });
        let number = size.and_then(|size| size.trim().parse().ok());
        let size = number.ok_or_else(|| failed(format!("expected the size, found {size:?}")))?;
        Ok(Found {
            client: self,
            file: file.to_owned(),
            hash,
            size,
            place,
        })
    }

    /// Asks, and goes where the answer sends to while `onward` says so of it. Gives the answer and its address.
    fn follow(
        &self,
        what: &str,
        address: &str,
        from: Option<u64>,
        onward: impl Fn(&Response) -> bool,
    ) -> Result<(Response, Url), Failure> {
        let failed = |problem: String| Failure::new(format!("{what}: {problem}"));
        let parse =
            |text: &str| Url::parse(text).map_err(|cause| failed(format!("{text}: {cause}")));
        let home = parse(&self.endpoint)?;
        let mut place = parse(address)?;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self
                .agent
                .request_url("GET", &place)
                .set("Accept-Encoding", "identity");
            // The token is for the hub alone.
            if let Some(token) = self
                .token
                .as_ref()
                .filter(|_| place.origin() == home.origin())
            {
                request = request.set("Authorization", &format!("Bearer {token}"));
            }
            if let Some(from) = from {
                request = request.set("Range", &format!("bytes={from}-"));
            }
            let answer = request.call().map_err(|error| match error {
                ureq::Error::Status(status, _) => Failure {
                    absent: status == NOT_FOUND,
                    text: format!("{what}: {place}: status {status}"),
                },
                ureq::Error::Transport(cause) => failed(cause.to_string()),
            })?;
            if !(300..400).contains(&answer.status()) || !onward(&answer) {
                return Ok((answer, place));
            }
            let to = answer.header("location").unwrap_or_default();
            let next = place
                .join(to)
                .map_err(|cause| failed(format!("sent to {to:?}: {cause}")))?;
            if !matches!(next.scheme(), "http" | "https")
                || place.scheme() == "https" && next.scheme() != "https"
            {
                return Err(failed(format!("sent to {next}, which is not safe")));
            }
            place = next;
        }
        Err(failed(format!("sent on more than {MAX_REDIRECTS} times")))
    }
}

/// A path's letters that mean nothing in an address stay.
fn encoded(text: &str) -> String {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    let bytes = text.bytes();
    bytes
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

/// A file that the hub has.
pub(super) struct Found<'a> {
    client: &'a Client,
    file: String,
    pub(super) hash: Hash,
    pub(super) size: u64,
    place: Url,
}

impl Found<'_> {
    /// Its contents from a byte on, or from the first one if the server has it so.
    pub(super) fn body(&self, from: u64) -> Result<Body, Failure> {
        let range = Some(from).filter(|from| *from > 0);
        let followed = self
            .client
            .follow(&self.file, self.place.as_str(), range, |_| true);
        let (answer, _) = followed?;
        let begins = format!("bytes {from}-");
        let partial = answer
            .header("content-range")
            .is_some_and(|range| range.starts_with(&begins));
        let start = match answer.status() {
            200 => 0,
            206 if range.is_some() && partial => from,
            status => return Err(Failure::new(format!("{}: status {status}", self.file))),
        };
        Ok(Body {
            reader: answer.into_reader(),
            start,
            patience: self.client.patience,
            since: Instant::now(),
            came: 0,
        })
    }
}

/// Contents on their way.
pub(super) struct Body {
    reader: Box<dyn Read + Send + Sync + 'static>,
    /// The byte that they begin with.
    pub(super) start: u64,
    patience: Patience,
    /// When the present window began, and what came in it.
    since: Instant,
    came: u64,
}

impl Body {
    /// The next bytes; none at the end.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Result<usize, String> {
        let length = self.reader.read(into).map_err(|cause| cause.to_string())?;
        self.came += length as u64;
        if self.since.elapsed() > self.patience.window {
            if self.came < self.patience.least_bytes && length > 0 {
                return Err(format!(
                    "only {} bytes came in {} s",
                    self.came,
                    self.since.elapsed().as_secs()
                ));
            }
            (self.since, self.came) = (Instant::now(), 0);
        }
        Ok(length)
    }
}
