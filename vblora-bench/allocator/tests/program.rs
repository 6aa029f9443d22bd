//! A test program that starts itself once more with its own environment.

#![allow(missing_docs)]

use std::process::Command;

use vblora_allocator::{Keeping, purge_delay};

#[global_allocator]
static ALLOCATOR: Keeping = Keeping;

/// mimalloc's variable.
const VARIABLE: &str = "MIMALLOC_PURGE_DELAY";

/// Starts this program for one of its parts only.
fn start(part: &str, delay: Option<&str>) {
    let mut program = Command::new(std::env::current_exe().expect("a program"));
    program.args(["--exact", part, "--ignored", "--nocapture"]);
    program.env_remove(VARIABLE);
    program.envs(delay.map(|delay| (VARIABLE, delay)));
    let output = program.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{part}: {said}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("1 passed"), "{part}: {said}");
}

#[test]
fn a_program_keeps_what_it_frees_without_any_variable() {
    start("keeps_by_setting", None);
}

#[test]
fn a_variable_of_the_environment_wins() {
    start("follows_the_variable", Some("123"));
}

#[test]
#[cfg(target_os = "linux")]
fn memory_that_was_freed_is_taken_again_without_page_faults() {
    start("faults::are_few", None);
    start("faults::are_many", Some("0"));
}

#[test]
#[ignore = "a part of another test"]
fn keeps_by_setting() {
    assert_eq!(purge_delay(), -1);
}

#[test]
#[ignore = "a part of another test"]
fn follows_the_variable() {
    assert_eq!(purge_delay(), 123);
}

/// 64 MiB have fewer faults if pages are larger than 4,096 bytes, so the limits are far apart.
#[cfg(target_os = "linux")]
mod faults {
    const LEN: usize = 64 << 20;

    /// Minor page faults of this process so far. It is the tenth field of the line, and the eighth after the program's name.
    fn so_far() -> u64 {
        let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
        let (_, rest) = stat.rsplit_once(')').expect("a name");
        let field = rest.split_whitespace().nth(7).expect("a field");
        field.parse().expect("a number")
    }

    /// Allocates some memory, writes and frees it, ten times. Returns the page faults of all rounds but the first.
    fn of_taking_again() -> u64 {
        let mut first = 0;
        for _ in 0..10 {
            let mut memory: Vec<Vec<u8>> = (0..16).map(|_| vec![1; LEN / 16]).collect();
            std::hint::black_box(&mut memory);
            drop(memory);
            if first == 0 {
                first = so_far();
            }
        }
        so_far() - first
    }

    #[test]
    #[ignore = "a part of another test"]
    fn are_few() {
        let found = of_taking_again();
        assert!(found < 1_000, "{found} page faults");
    }

    /// Shows that the count above would detect them.
    #[test]
    #[ignore = "a part of another test"]
    fn are_many() {
        let found = of_taking_again();
        assert!(found > 2_000, "{found} page faults");
    }
}
