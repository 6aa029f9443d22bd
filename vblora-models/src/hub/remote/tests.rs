//! A hub of one thread on the loopback address stands in for the real one; nothing leaves the machine.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves (name, contents) at any revision, and 404 for other names; gives its address.
fn serve(files: &'static [(&'static str, &'static str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, files);
        }
    });
    address
}

fn answer(mut stream: TcpStream, files: &[(&str, &str)]) {
    let mut lines = BufReader::new(stream.try_clone().unwrap())
        .lines()
        .map_while(|l| l.ok());
    let request = lines.next().unwrap_or_default();
    let ranged = lines
        .take_while(|line| !line.is_empty())
        .any(|line| line.eq_ignore_ascii_case("range: bytes=0-0"));
    let path = request.split(' ').nth(1).unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    let Some((_, contents)) = files.iter().find(|(known, _)| *known == name) else {
        let _ = stream
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    };
    let body = if ranged { &contents[..1] } else { contents };
    let _ = write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nConnection: close\r\nETag: \"{name}-tag\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes 0-{}/{}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len() - 1,
        contents.len(),
        body.len(),
    );
}

fn builder(endpoint: &str, cache: &Path) -> ApiBuilder {
    ApiBuilder::new()
        .with_endpoint(endpoint.to_owned())
        .with_cache_dir(cache.to_path_buf())
        .with_token(None)
        .with_progress(false)
}

/// An address where nothing listens.
fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn a_missing_network_is_one_error_with_id_and_cause() {
    let cache = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let error = download_with(builder(&closed(), cache.path()), "owner/model", Some("v1"))
        .unwrap_err()
        .to_string();
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(error.contains("\"owner/model\" (revision v1)"), "{error}");
    assert!(
        error.contains("config.json") && error.contains("refused"),
        "{error}"
    );
}

#[test]
fn a_whole_model_is_downloaded_once_and_then_needs_no_network() {
    let hub = serve(&[
        ("config.json", "{\"a\": 1}"),
        ("vocab.json", "{}"),
        ("merges.txt", "a b"),
        ("tokenizer_config.json", "{}"),
        (
            "model.safetensors.index.json",
            r#"{"weight_map":{"a":"x.safetensors","b":"y.safetensors"}}"#,
        ),
        ("x.safetensors", "xxxx"),
        ("y.safetensors", "yy"),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let files = download_with(builder(&hub, cache.path()), "owner/model", None).unwrap();
    assert!(files.place().ends_with(COMMIT));
    assert_eq!(&*files.read("config.json").unwrap(), b"{\"a\": 1}");
    assert_eq!(&*files.read("x.safetensors").unwrap(), b"xxxx");
    assert!(files.contains("merges.txt") && files.contains("y.safetensors"));
    // What a hub has of the rest, and what it has not.
    assert!(files.contains("tokenizer_config.json") && !files.contains("chat_template.jinja"));
    download_with(builder(&closed(), cache.path()), "owner/model", None).unwrap();
    download_with(
        builder(&closed(), cache.path()),
        "owner/model",
        Some(COMMIT),
    )
    .unwrap();
}

#[test]
fn absent_models_and_files_are_named() {
    let cache = tempfile::tempdir().unwrap();
    let error = download_with(builder(&serve(&[]), cache.path()), "no/model", None);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("no/model") && error.contains("404"),
        "{error}"
    );
    let hub = serve(&[("config.json", "{}"), ("tokenizer.json", "{}")]);
    let error = download_with(builder(&hub, cache.path()), "no/weights", None);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("model.safetensors: ") && error.contains("404"),
        "{error}"
    );
}

#[test]
fn an_index_that_leaves_the_directory_is_refused() {
    let hub = serve(&[
        ("config.json", "{}"),
        ("tokenizer.json", "{}"),
        (
            "model.safetensors.index.json",
            r#"{"weight_map":{"a":"../../x.safetensors"}}"#,
        ),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let error = download_with(builder(&hub, cache.path()), "bad/index", None).unwrap_err();
    assert!(matches!(error, Error::NotAFileName { .. }), "{error}");
}
