//! The launches that a step asks a GPU for. A launch costs the host some 10 us whatever it computes, so that the host limits small models.

use std::{collections::BTreeMap, process::Command, thread::sleep, time::Duration};

/// Between these lines the process wrote the launches of one step.
const MARK: &str = "vblora: a step begins or ends";
/// CubeCL's words before the name of a kernel that it launches.
const LAUNCH: &str = "Executing ";

/// Says that the step to be counted begins, or has ended. CubeCL writes launches from a thread of its own, so this waits for it.
pub fn mark() {
    sleep(Duration::from_secs(1));
    eprintln!("{MARK}");
}

/// Runs the test of this name in a process of its own, whose folder tells CubeCL to write launches, and counts those of a step by kernel.
fn counted(test: &str) -> BTreeMap<String, usize> {
    let folder = tempfile::tempdir().unwrap();
    let settings = "[profiling.logger]\nlevel = \"minimal\"\nstderr = true\n";
    std::fs::write(folder.path().join("cubecl.toml"), settings).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let parts: Vec<_> = text.split(MARK).collect();
    assert_eq!(parts.len(), 3, "one step between two marks: {text}");
    let mut counts = BTreeMap::new();
    for kernel in parts[1]
        .lines()
        .filter_map(|line| line.strip_prefix(LAUNCH))
    {
        *counts.entry(kernel.to_owned()).or_default() += 1;
    }
    counts
}

/// Fails if the launches of a step, all of them and those of Burn's own kernels, are more than these. Each of the latter copies shapes and
/// strides to the device beside its launch.
pub fn are_at_most(test: &str, all: usize, of_burn: usize) {
    let counts = counted(test);
    for (kernel, count) in &counts {
        println!("{count:4} {kernel}");
    }
    let found: usize = counts.values().sum();
    let own = [
        "RowNorm",
        "InvertibleNorm",
        "NarrowOfEach",
        "SumsOfEach",
        "NarrowProduct",
        "RowSums",
        "RankUpdate",
        "Gelu",
        "Gated",
        "RowSoftmax",
        "CausalRowSoftmax",
        "Turn",
        "DropOut",
        "Join",
        "TopKOfRows",
        "MixOfEach",
        "WeightsOfRows",
        "AdamwOfEach",
        "MapsOfRows",
        "NarrowOfRows",
        "AttentionOfRows",
    ];
    let is_own = |kernel: &str| own.iter().any(|name| kernel.starts_with(name));
    let burn: usize = counts
        .iter()
        .filter(|(kernel, _)| !is_own(kernel))
        .map(|(_, n)| n)
        .sum();
    println!("{found} launches, {burn} of Burn's own kernels");
    assert!(found > 0, "CubeCL wrote no launches");
    assert!(
        found <= all && burn <= of_burn,
        "{found} launches, {burn} of Burn's: {counts:?}"
    );
}
