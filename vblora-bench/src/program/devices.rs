//! The end of a program whose GPU has failed.
//!
//! CubeCL does its work on threads of its own and drops a task that panics there, for example because the GPU's memory is full. The values
//! that the task would have made stay as they were, so everything computed from them is wrong. The program therefore ends at once, as if it
//! were killed: what it has written stays whole, and a run continues from its last checkpoint.

use std::{panic, process};

use super::complain;

/// How the names of CubeCL's threads begin: operations wait on `DSU`, and run on `DSD`.
const THREADS: [&str; 2] = ["DSU-", "DSD-"];

/// Ends the program with an error if a thread of a GPU panics. Other panics stay as they are.
pub(super) fn watch() {
    let others = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        match failure(thread.name().unwrap_or_default(), info.payload_as_str()) {
            Some(failure) => {
                complain(format!("error: {failure}"));
                process::exit(1);
            }
            None => others(info),
        }
    }));
}

/// The failure of a GPU that the panic of its thread tells. `None` for a thread that belongs to no GPU.
fn failure(thread: &str, panic: Option<&str>) -> Option<String> {
    THREADS.iter().find(|start| thread.starts_with(**start))?;
    let text = panic.unwrap_or("a panic without a message");
    let text = text.rsplit("value: ").next().unwrap_or(text);
    Some(match text.contains("allocate") {
        true => format!(
            "the GPU's memory is full ({text}): take a smaller batch, or run fewer programs on this GPU"
        ),
        false => format!("the GPU failed: {text}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(thread: &str, text: &str) -> Option<String> {
        failure(thread, Some(text))
    }

    #[test]
    fn a_full_gpu_is_named() {
        // As seen on an H200 with ten programs.
        let text =
            "called `Result::unwrap()` on an `Err` value: can't allocate buffer of size: 146591744";
        let found = said("DSD-0-0", text).unwrap();
        assert!(
            found
                .starts_with("the GPU's memory is full (can't allocate buffer of size: 146591744)")
        );
        let found = said("DSU-0-1", "no such page").unwrap();
        assert_eq!(found, "the GPU failed: no such page");
        assert!(
            failure("DSD-0-0", None)
                .unwrap()
                .contains("without a message")
        );
    }

    #[test]
    fn other_threads_are_left_alone() {
        for thread in ["main", "", "signals", "DS"] {
            assert_eq!(said(thread, "can't allocate buffer"), None, "{thread}");
        }
    }
}
