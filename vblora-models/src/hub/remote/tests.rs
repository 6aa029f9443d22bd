//! A hub of one thread on the loopback address stands in for the real one; nothing leaves the machine.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::client::Patience;
use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the hub gives one file.
#[derive(Clone)]
struct File {
    name: &'static str,
    body: &'static str,
    /// In place of git's hash of the body.
    etag: Option<String>,
    /// In place of the body's length.
    length: Option<usize>,
    /// Large files: their SHA-256 is said, and one is sent to another path for them.
    large: bool,
}

fn file(name: &'static str, body: &'static str) -> File {
    File {
        name,
        body,
        etag: None,
        length: None,
        large: false,
    }
}

fn git_hash(body: &str) -> String {
    use sha1::Digest;
    let hash = sha1::Sha1::digest(format!("blob {}\0{body}", body.len()));
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(body: &str) -> String {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(body);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hub; what it was asked for, and its address.
struct Served {
    asked: Arc<Mutex<Vec<String>>>,
    address: String,
}

fn serve(files: Vec<File>) -> Served {
    serve_at(COMMIT, files)
}

fn serve_at(commit: &'static str, files: Vec<File>) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // One whose reader leaves is its own affair.
            let _ = answer(stream, commit, &files, &log);
        }
    });
    Served { asked, address }
}

fn answer(
    mut stream: TcpStream,
    commit: &str,
    files: &[File],
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let lines = BufReader::new(stream.try_clone()?).lines();
    let head: Vec<String> = lines
        .map_while(Result::ok)
        .take_while(|l| !l.is_empty())
        .collect();
    log.lock().unwrap().push(head.join("\n"));
    let path = head
        .first()
        .and_then(|line| line.split(' ').nth(1))
        .unwrap_or_default();
    if let Some(revision) = path.strip_prefix("/api/models/owner/model/revision/") {
        let body = match revision {
            "main" | "v1" => format!(r#"{{"id": "owner/model", "sha": "{commit}"}}"#),
            _ => {
                return write!(
                    stream,
                    "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
                );
            }
        };
        return write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    let Some(file) = files.iter().find(|file| file.name == name) else {
        return write!(
            stream,
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    };
    let length = file.length.unwrap_or(file.body.len());
    // More than was said comes from another place.
    let sent = match path.starts_with("/far/") {
        true => length.max(file.body.len()),
        false => length,
    };
    if file.large && !path.starts_with("/far/") {
        let etag = file.etag.clone().unwrap_or_else(|| sha256(file.body));
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nX-Repo-Commit: {commit}\r\nX-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: {length}\r\n\
             Location: /far/{name}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let from = head.iter().find_map(|line| {
        let (name, range) = line.split_once(": bytes=")?;
        name.eq_ignore_ascii_case("range")
            .then(|| range.trim_end_matches('-').parse().ok())?
    });
    let etag = file.etag.clone().unwrap_or_else(|| git_hash(file.body));
    let (status, from) = match from {
        Some(from) => (
            format!(
                "206 Partial Content\r\nContent-Range: bytes {from}-{}/{length}",
                length - 1
            ),
            from,
        ),
        None => ("200 OK".to_owned(), 0),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nConnection: close\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {commit}\r\nContent-Length: {}\r\n\r\n{}",
        sent - from,
        &file.body[from.min(file.body.len())..],
    )
}

fn model() -> Vec<File> {
    vec![
        file("config.json", "{\"a\": 1}"),
        file("tokenizer.json", "{}"),
        File {
            large: true,
            ..file("model.safetensors", "the weights")
        },
    ]
}

/// A model with one file given otherwise.
fn model_with(change: File) -> Vec<File> {
    let mut files = model();
    files.retain(|file| file.name != change.name);
    files.push(change);
    files
}

fn hub(endpoint: &str, cache: &Path) -> Hub {
    let patience = Patience {
        connect: Duration::from_secs(2),
        read: Duration::from_millis(500),
        ..Patience::default()
    };
    Hub {
        cache: Cache::at(cache),
        client: Client::new(endpoint, Some("secret".to_owned()), patience),
        offline: false,
    }
}

/// An address where nothing listens.
fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn blobs(cache: &Path) -> Vec<String> {
    let blobs = std::fs::read_dir(cache.join("models--owner--model/blobs"));
    let names = blobs.into_iter().flatten().flatten().map(|e| e.file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_missing_network_is_one_error_with_id_and_cause() {
    let cache = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let error = hub(&closed(), cache.path()).download("owner/model", Some("v1"));
    let error = error.unwrap_err().to_string();
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(error.contains("\"owner/model\" (revision v1)"), "{error}");
    assert!(error.contains("refused"), "{error}");
}

#[test]
fn a_whole_model_is_downloaded_once_and_then_needs_no_network() {
    let served = serve(vec![
        file("config.json", "{\"a\": 1}"),
        file("vocab.json", "{}"),
        file("merges.txt", "a b"),
        file("tokenizer_config.json", "{}"),
        file(
            "model.safetensors.index.json",
            r#"{"weight_map":{"a":"x.safetensors","b":"y.safetensors"}}"#,
        ),
        File {
            large: true,
            ..file("x.safetensors", "xxxx")
        },
        file("y.safetensors", "yy"),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let files = hub(&served.address, cache.path())
        .download("owner/model", None)
        .unwrap();
    assert!(files.place().ends_with(COMMIT));
    // The commit is written down.
    assert_eq!(files.name(), format!("owner/model@{COMMIT}"));
    assert_eq!(&*files.read("config.json").unwrap(), b"{\"a\": 1}");
    assert_eq!(&*files.read("x.safetensors").unwrap(), b"xxxx");
    assert!(files.contains("merges.txt") && files.contains("y.safetensors"));
    // Optional files come if the hub has them.
    assert!(files.contains("tokenizer_config.json") && !files.contains("chat_template.jinja"));
    // Every file was asked of the one commit.
    for asked in served.asked.lock().unwrap().iter().skip(1) {
        assert!(asked.contains(COMMIT) || asked.contains("/far/"), "{asked}");
    }
    let repository = cache.path().join("models--owner--model");
    let reference = std::fs::read_to_string(repository.join("refs/main")).unwrap();
    assert_eq!(reference, COMMIT);
    #[cfg(unix)]
    {
        let link = repository
            .join("snapshots")
            .join(COMMIT)
            .join("x.safetensors");
        let blob = format!("../../blobs/{}", sha256("xxxx"));
        assert_eq!(std::fs::read_link(link).unwrap(), Path::new(&blob));
    }
    let again = hub(&closed(), cache.path());
    again.download("owner/model", None).unwrap();
    again.download("owner/model", Some(COMMIT)).unwrap();
    let offline = Hub {
        offline: true,
        ..hub(&served.address, cache.path())
    };
    offline.download("owner/model", None).unwrap();
    let error = offline.download("owner/model", Some("v1")).unwrap_err();
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
}

#[test]
fn a_configuration_is_downloaded_alone_and_counts_for_the_whole_model() {
    let served = serve(model());
    let cache = tempfile::tempdir().unwrap();
    let hub = hub(&served.address, cache.path());
    let files = hub.download_config("owner/model", None).unwrap();
    assert_eq!(files.name(), format!("owner/model@{COMMIT}"));
    assert_eq!(&*files.read("config.json").unwrap(), b"{\"a\": 1}");
    assert!(!files.contains("model.safetensors") && !files.contains("tokenizer.json"));
    let asked = || served.asked.lock().unwrap().clone();
    let configs = || {
        let asked = asked().into_iter();
        asked.filter(|path| path.contains("/config.json ")).count()
    };
    let before = configs();
    assert!(!asked().iter().any(|path| path.contains("safetensors")));
    let whole = hub.download("owner/model", None).unwrap();
    assert!(whole.contains("model.safetensors"));
    assert_eq!(configs(), before);
}

#[test]
fn absent_models_and_files_are_named() {
    let cache = tempfile::tempdir().unwrap();
    let error = hub(&serve(vec![]).address, cache.path()).download("no/model", None);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("no/model") && error.contains("404"),
        "{error}"
    );
    let served = serve(vec![
        file("config.json", "{}"),
        file("tokenizer.json", "{}"),
    ]);
    let error = hub(&served.address, cache.path()).download("owner/model", None);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("model.safetensors: ") && error.contains("404"),
        "{error}"
    );
}

#[test]
fn an_index_that_leaves_the_directory_is_refused() {
    let served = serve(vec![
        file("config.json", "{}"),
        file("tokenizer.json", "{}"),
        file(
            "model.safetensors.index.json",
            r#"{"weight_map":{"a":"../../x.safetensors"}}"#,
        ),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let error = hub(&served.address, cache.path()).download("owner/model", None);
    let error = error.unwrap_err();
    assert!(matches!(error, Error::NotAFileName { .. }), "{error}");
}

/// Whatever a server calls a file, its commit or its place, nothing is written outside the cache's own folders.
#[test]
fn names_that_a_server_chooses_never_leave_the_cache() {
    let outer = tempfile::tempdir().unwrap();
    let cache = outer.path().join("a/b/cache");
    for etag in [
        "../../x",
        "../../../../x",
        "/tmp/x",
        "",
        "main",
        "..",
        "0123456789ABCDEF0123456789ABCDEF01234567",
    ] {
        let bad = File {
            etag: Some(etag.to_owned()),
            ..file("config.json", "{}")
        };
        let large = File {
            large: true,
            ..bad.clone()
        };
        for bad in [bad, large] {
            let served = serve(model_with(bad));
            let error = hub(&served.address, &cache).download("owner/model", None);
            let error = error.unwrap_err().to_string();
            assert!(
                error.contains("config.json") && error.contains("hash"),
                "{etag}: {error}"
            );
        }
    }
    for commit in ["../../../x", "main", ""] {
        let error = hub(&serve_at(commit, model()).address, &cache).download("owner/model", None);
        assert!(
            error.unwrap_err().to_string().contains("commit"),
            "{commit}"
        );
    }
    for revision in ["../../x", "a/../../../x", "/x", "a//b", "", ".", "a\\b"] {
        let error = hub(&serve(model()).address, &cache).download("owner/model", Some(revision));
        assert!(
            error.unwrap_err().to_string().contains("no branch"),
            "{revision}"
        );
    }
    let others: Vec<_> = std::fs::read_dir(outer.path())
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert!(others.is_empty() || others == ["a"], "{others:?}");
    assert!(blobs(&cache).is_empty());
}

#[test]
fn what_is_downloaded_has_the_size_and_the_hash_that_were_said() {
    let wrong = |body| File {
        etag: Some(git_hash("another")),
        ..file("config.json", body)
    };
    let short = |large| File {
        large,
        length: Some(50),
        ..file("config.json", "{}")
    };
    let long = File {
        large: true,
        length: Some(1),
        ..file("config.json", "{}      ")
    };
    let forged = File {
        large: true,
        etag: Some(sha256("x")),
        ..file("config.json", "{}")
    };
    for (bad, says) in [
        (wrong("{}"), "expected the hash"),
        (forged, "expected the hash"),
        (short(false), "config.json: "),
        (short(true), "config.json: "),
        (long, "found more"),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let served = serve(model_with(bad));
        let error = hub(&served.address, cache.path()).download("owner/model", None);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        let whole = |name: &String| !name.ends_with(".incomplete");
        assert!(!blobs(cache.path()).iter().any(whole), "{says}");
    }
}

#[test]
fn a_download_that_broke_off_goes_on_where_it_ended() {
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--owner--model/blobs");
    std::fs::create_dir_all(&repository).unwrap();
    let partial = repository.join(format!("{}.incomplete", sha256("the weights")));
    std::fs::write(&partial, "the wei").unwrap();
    let served = serve(model());
    let files = hub(&served.address, cache.path())
        .download("owner/model", None)
        .unwrap();
    assert_eq!(&*files.read("model.safetensors").unwrap(), b"the weights");
    assert!(
        served
            .asked
            .lock()
            .unwrap()
            .iter()
            .any(|head| head.contains("bytes=7-"))
    );
    assert!(!partial.exists());
    // One whose beginning is wrong is noticed, and the next attempt starts anew.
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--owner--model/blobs");
    std::fs::create_dir_all(&repository).unwrap();
    std::fs::write(
        repository.join(format!("{}.incomplete", sha256("the weights"))),
        "abc",
    )
    .unwrap();
    let first = hub(&served.address, cache.path()).download("owner/model", None);
    assert!(first.unwrap_err().to_string().contains("expected the hash"));
    hub(&served.address, cache.path())
        .download("owner/model", None)
        .unwrap();
}

#[test]
fn a_server_that_stalls_ends_in_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        // Takes every question and never answers.
        let held: Vec<_> = listener.incoming().collect();
        drop(held);
    });
    let cache = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let error = hub(&address, cache.path())
        .download("owner/model", None)
        .unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(20), "{error}");
    // A body that comes too slowly.
    let slow = Patience {
        window: Duration::ZERO,
        least_bytes: 1 << 20,
        ..Patience::default()
    };
    let mut hub = hub(&serve(model()).address, cache.path());
    hub.client = Client::new(&serve(model()).address, None, slow);
    let error = hub.download("owner/model", None).unwrap_err().to_string();
    assert!(error.contains("bytes came in"), "{error}");
}

#[test]
fn redirects_end_and_the_token_stays_with_the_hub() {
    let other = serve(model());
    let moved = |place: String| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                lines
                    .map_while(Result::ok)
                    .take_while(|l| !l.is_empty())
                    .for_each(drop);
                let _ = write!(
                    stream,
                    "HTTP/1.1 307 Moved\r\nLocation: {place}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
            }
        });
        address
    };
    let cache = tempfile::tempdir().unwrap();
    for (place, says) in [
        ("/again", "more than 5"),
        ("file:///etc/passwd", "not safe"),
        ("http://[", "sent to"),
    ] {
        let error = hub(&moved(place.to_owned()), cache.path()).download("owner/model", None);
        assert!(error.unwrap_err().to_string().contains(says), "{place}");
    }
    let there = format!("{}/api/models/owner/model/revision/main", other.address);
    let _ = hub(&moved(there), cache.path()).download("owner/model", None);
    let asked = other.asked.lock().unwrap();
    assert!(
        !asked.is_empty() && !asked.iter().any(|head| head.contains("secret")),
        "{asked:?}"
    );
}
