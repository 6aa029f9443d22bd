//! The program as a shell user sees it.
#![allow(missing_docs, unreachable_pub)]

use std::process::Output;

/// Exit status, standard output, standard error.
pub fn seen(done: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        done.status.code().unwrap(),
        text(done.stdout),
        text(done.stderr),
    )
}
