//! An endpoint that answers from a list, over a socket of the standard library.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

/// What the endpoint does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A judgment.
    Text(&'static str),
    /// A status with headers and a body.
    Status(u16, &'static str, String),
    /// Success with this body.
    Body(String),
    /// Half of a body, and the end of the connection.
    Cut,
    /// The end of the connection at once.
    Nothing,
    /// A judgment after a while.
    Slow(Duration),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) path: String,
    pub(crate) headers: Vec<String>,
    pub(crate) body: Value,
}

#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) base: String,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Endpoint {
    /// Answers the first requests from a list and all others with the last of it.
    pub(crate) fn new(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}/v1", listener.local_addr().unwrap());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (there, replies) = (Arc::clone(&heard), Arc::new(replies));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (there, replies) = (Arc::clone(&there), Arc::clone(&replies));
                thread::spawn(move || serve(stream.unwrap(), &there, &replies));
            }
        });
        Self { base, heard }
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }
}

/// Reads one request and answers it.
fn serve(mut stream: TcpStream, heard: &Mutex<Vec<Heard>>, replies: &[Reply]) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        match line.trim() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let length = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().unwrap())
    });
    let mut body = vec![0; length.unwrap()];
    reader.read_exact(&mut body).unwrap();
    let path = lines[0].split(' ').nth(1).unwrap().to_owned();
    let number = {
        let mut heard = heard.lock().unwrap();
        heard.push(Heard {
            path,
            headers: lines.split_off(1),
            body: serde_json::from_slice(&body).unwrap(),
        });
        heard.len() - 1
    };
    let reply = replies.get(number).or(replies.last()).unwrap();
    // The client may have gone.
    let _ = write(&mut stream, reply);
}

fn write(stream: &mut TcpStream, reply: &Reply) -> std::io::Result<()> {
    let (status, headers, body) = match reply {
        Reply::Text(text) => (200, "", judgment(text)),
        Reply::Status(status, headers, body) => (*status, *headers, body.clone()),
        Reply::Body(body) => (200, "", body.clone()),
        Reply::Cut => {
            let body = judgment("Rating: [[9]]");
            let half = &body[..body.len() / 2];
            return write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{half}",
                body.len()
            );
        }
        Reply::Nothing => return Ok(()),
        Reply::Slow(wait) => {
            thread::sleep(*wait);
            (200, "", judgment("late [[9]]"))
        }
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}"
    )
}

pub(crate) fn judgment(text: &str) -> String {
    json!({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]})
        .to_string()
}
