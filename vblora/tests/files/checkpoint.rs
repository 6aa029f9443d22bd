//! Checkpoints made to do harm, or cut off: reading one ends in the set that was written or in an error that names the file.

use std::path::{Path, PathBuf};

use vblora::storage::checkpoint::{
    Checkpoints, FileSet, MAX_MANIFEST_BYTES, MAX_SET_BYTES, MAX_SET_FILES, ParameterState,
    parameters_from_bytes, parameters_to_bytes,
};

use crate::hostile::{CASES, corrupt};

fn initial(_: &str) -> Option<Vec<f32>> {
    Some(vec![0.25; 500])
}

fn tensors() -> Vec<u8> {
    let mut value = vec![0.25; 500];
    (value[7], value[300]) = (1.0, -1.0);
    let moments = Some([vec![0.0; 500], vec![0.0; 500]]);
    let state = ParameterState { value, moments };
    parameters_to_bytes([("logits", &state)], initial)
        .unwrap()
        .0
}

/// A set of two files on disk, and its manifest.
fn written(folder: &Path) -> (FileSet, PathBuf, String) {
    let mut set = FileSet::default();
    set.insert("state.json", b"{\"step\": 12}".to_vec())
        .unwrap();
    set.insert("tensors.safetensors", tensors()).unwrap();
    let dir = folder.join("step-00000012");
    set.write(&dir).unwrap();
    let manifest = std::fs::read_to_string(dir.join("manifest.json")).unwrap();
    (set, dir, manifest)
}

/// The error of a set whose manifest has this text.
fn error(dir: &Path, manifest: &str) -> String {
    std::fs::write(dir.join("manifest.json"), manifest).unwrap();
    FileSet::read(dir).unwrap_err().to_string()
}

#[test]
fn a_manifest_of_arbitrary_bytes_gives_an_error_or_the_set_that_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let (set, dir, manifest) = written(folder.path());
    let mut survived = 0;
    for case in 0..CASES {
        let bytes = corrupt(manifest.as_bytes(), case, "manifest");
        std::fs::write(dir.join("manifest.json"), bytes).unwrap();
        match FileSet::read(&dir) {
            // A damaged manifest may list less, but nothing that was not written.
            Ok(mut found) => {
                survived += 1;
                for name in ["state.json", "tensors.safetensors"] {
                    let found = found.take(name);
                    assert!(
                        found.is_none_or(|found| set.get(name) == Some(&found)),
                        "{case}"
                    );
                }
                assert_eq!(found, FileSet::default(), "case {case}");
            }
            Err(error) => {
                let dir = dir.to_str().unwrap();
                assert!(error.to_string().starts_with(dir), "case {case}: {error}");
            }
        }
    }
    println!("manifest: {survived} of {CASES} were still right");
    assert!((1..CASES / 2).contains(&survived));
}

#[test]
fn parameters_of_arbitrary_bytes_give_an_error_or_as_many_values_as_were_asked_for() {
    let whole = tensors();
    let expected = [("logits".to_owned(), 500)];
    let file = Path::new("tensors.safetensors");
    let mut survived = 0;
    for case in 0..CASES {
        let bytes = corrupt(&whole, case, "parameters");
        match parameters_from_bytes(file, bytes, &expected, initial) {
            Ok(found) => {
                survived += 1;
                let moments = found[0].moments.iter().flatten();
                assert!(
                    moments
                        .chain([&found[0].value])
                        .all(|values| values.len() == 500)
                );
            }
            Err(error) => assert!(error.to_string().starts_with("tensors.safetensors: ")),
        }
    }
    println!("parameters: {survived} of {CASES} were still right");
    assert!((1..CASES / 2).contains(&survived));
}

#[test]
fn a_flipped_bit_anywhere_in_a_set_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (set, dir, _) = written(folder.path());
    for name in ["state.json", "tensors.safetensors"] {
        let whole = set.get(name).unwrap();
        for at in 0..8 * whole.len() {
            let mut bytes = whole.to_vec();
            bytes[at / 8] ^= 1 << (at % 8);
            std::fs::write(dir.join(name), bytes).unwrap();
            let message = FileSet::read(&dir).unwrap_err().to_string();
            assert!(
                message.contains(name) && message.contains("damaged"),
                "{message}"
            );
        }
        std::fs::write(dir.join(name), whole).unwrap();
    }
    assert_eq!(FileSet::read(&dir).unwrap(), set);
}

#[test]
fn a_truncated_or_missing_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (set, dir, manifest) = written(folder.path());
    for name in ["state.json", "tensors.safetensors"] {
        let whole = set.get(name).unwrap();
        for length in 0..whole.len() {
            std::fs::write(dir.join(name), &whole[..length]).unwrap();
            let message = FileSet::read(&dir).unwrap_err().to_string();
            assert!(
                message.contains(name) && message.contains("truncated"),
                "{message}"
            );
        }
        std::fs::remove_file(dir.join(name)).unwrap();
        let message = FileSet::read(&dir).unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
        std::fs::write(dir.join(name), whole).unwrap();
    }
    for length in 0..manifest.len() {
        let message = error(&dir, &manifest[..length]);
        assert!(message.contains("manifest.json"), "{message}");
    }
    std::fs::remove_file(dir.join("manifest.json")).unwrap();
    let message = FileSet::read(&dir).unwrap_err().to_string();
    assert!(message.contains("manifest.json"), "{message}");
    let message = FileSet::read(&folder.path().join("none"))
        .unwrap_err()
        .to_string();
    assert!(message.contains("none"), "{message}");
}

#[test]
fn a_file_larger_than_listed_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (_, dir, _) = written(folder.path());
    // A terabyte that takes no space on the disk, and would not fit the memory.
    let file = std::fs::File::options()
        .write(true)
        .open(dir.join("state.json"))
        .unwrap();
    file.set_len(1 << 40).unwrap();
    let message = FileSet::read(&dir).unwrap_err().to_string();
    assert!(
        message.contains("state.json") && message.contains("over the limit"),
        "{message}"
    );
}

#[test]
fn sizes_beyond_measure_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_, dir, manifest) = written(folder.path());
    for size in [u64::MAX, MAX_SET_BYTES + 1, MAX_SET_BYTES - 11] {
        let message = error(
            &dir,
            &manifest.replace("\"bytes\": 12", &format!("\"bytes\": {size}")),
        );
        assert!(
            message.contains("manifest.json") && message.contains("add up"),
            "{message}"
        );
    }
    for size in ["-1", "1e3", "12.0", "null", "99999999999999999999"] {
        let message = error(
            &dir,
            &manifest.replace("\"bytes\": 12", &format!("\"bytes\": {size}")),
        );
        assert!(message.contains("manifest.json"), "{message}");
    }
    let message = error(&dir, &" ".repeat(MAX_MANIFEST_BYTES as usize + 1));
    assert!(message.contains("over the limit"), "{message}");
    let entry = |i: usize| format!("\"f{i}\": {{\"bytes\": 0, \"sha256\": \"\"}}");
    let entries: Vec<_> = (0..=MAX_SET_FILES).map(entry).collect();
    let message = error(
        &dir,
        &format!("{{\"format\": 1, \"files\": {{{}}}}}", entries.join(",")),
    );
    assert!(
        message.contains("17 files, over the limit of 16"),
        "{message}"
    );
}

#[test]
fn names_that_lead_out_of_the_directory_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_, dir, manifest) = written(folder.path());
    std::fs::write(folder.path().join("x"), b"{\"step\": 12}").unwrap();
    for name in [
        "../x",
        "..",
        ".",
        "",
        "/etc/passwd",
        "a/../../x",
        "state.json/../../x",
        "..\\\\x",
        "C:x",
        "state.json\\u0000",
        "manifest.json",
    ] {
        let message = error(&dir, &manifest.replacen("state.json", name, 1));
        assert!(
            message.contains("manifest.json") && message.contains("file name"),
            "{name}: {message}"
        );
    }
    assert!(
        error(&dir, &manifest.replacen("state.json", &"x".repeat(65), 1)).contains("at most 64")
    );
}

#[test]
fn a_manifest_that_is_none_or_of_another_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_, dir, manifest) = written(folder.path());
    for text in [
        "",
        "{}",
        "[]",
        "null",
        "{\"format\": 1}",
        "\u{feff}{}",
        &"[".repeat(10_000),
    ] {
        assert!(error(&dir, text).contains("manifest.json"), "{text}");
    }
    let message = error(&dir, &manifest.replace("\"format\": 1", "\"format\": 2"));
    assert!(
        message.contains("format 2, but this version reads 1"),
        "{message}"
    );
    let message = error(
        &dir,
        &manifest.replace("\"format\"", "\"more\": 0, \"format\""),
    );
    assert!(message.contains("more"), "{message}");
}

#[cfg(unix)]
#[test]
fn symbolic_links_are_followed_neither_in_reading_nor_in_writing() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let (set, dir, _) = written(folder.path());
    let at = |name: &str| folder.path().join(name);
    // The right bytes, but elsewhere.
    std::fs::rename(dir.join("state.json"), at("elsewhere.json")).unwrap();
    symlink(at("elsewhere.json"), dir.join("state.json")).unwrap();
    let message = FileSet::read(&dir).unwrap_err().to_string();
    assert!(
        message.contains("state.json: not a plain file"),
        "{message}"
    );
    std::fs::create_dir(at("victim")).unwrap();
    std::fs::write(at("victim/manifest.json"), "mine").unwrap();
    symlink(at("victim"), at("link")).unwrap();
    // As a set, as the place of one, and as the folder of many.
    assert!(FileSet::read(&at("link")).is_err());
    assert!(set.write(&at("link")).is_err());
    let message = set.write(&at("link/step")).unwrap_err().to_string();
    assert!(message.contains("symbolic link"), "{message}");
    let message = Checkpoints::open(&at("link")).unwrap_err().to_string();
    assert!(message.contains("symbolic link"), "{message}");
    let checkpoints = Checkpoints::open(&at("many")).unwrap();
    symlink(at("victim"), checkpoints.place(3)).unwrap();
    assert!(checkpoints.save(3, &set).is_err() && checkpoints.load(3).is_err());
    checkpoints.keep(0, None).unwrap();
    assert_eq!(std::fs::read(at("victim/manifest.json")).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(at("victim")).unwrap().count(), 1);
}

/// What a process that was killed in the middle of writing or removing leaves: nothing that is taken for a set.
#[test]
fn what_a_killed_writer_leaves_is_not_taken_for_a_set() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path()).unwrap();
    let (set, dir, _) = written(folder.path());
    let unfinished = folder.path().join(".unfinished-1");
    std::fs::create_dir(&unfinished).unwrap();
    for name in ["state.json", "manifest.json"] {
        std::fs::copy(dir.join(name), unfinished.join(name)).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [12]);
    }
    assert_eq!(
        Checkpoints::open(folder.path()).unwrap().load(12).unwrap(),
        set
    );
    assert!(!unfinished.exists());
}
