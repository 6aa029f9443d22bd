//! The memory of this process, as Linux tells it.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::print_stdout)]

/// Bytes that are resident now.
pub fn resident() -> usize {
    status("VmRSS:")
}

/// The most bytes that were resident at once since [`reset_peak`].
pub fn peak() -> usize {
    status("VmHWM:")
}

/// Lets the peak count from here; false, with a printed reason, where the system does not allow it.
pub fn reset_peak() -> bool {
    let done = std::fs::write("/proc/self/clear_refs", "5");
    if let Err(cause) = &done {
        println!("skipped: the peak cannot be reset ({cause})");
    }
    done.is_ok()
}

fn status(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<usize>().unwrap() * 1024
}
