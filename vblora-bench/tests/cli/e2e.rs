//! `vblora evaluate e2e`: tables, segments, and files that do not fit.

use std::fs;

use serde_json::Value;

use super::vblora;

/// A folder with references of two instances, and two files of outputs.
fn files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let references =
        "The Mill serves cheap food.\nA cheap pub: The Mill.\n\nCotto is a pub by the river.\n";
    for (name, text) in [
        ("refs.txt", references),
        (
            "same.txt",
            "The Mill serves cheap food.\nCotto is a pub by the river.\n",
        ),
        ("short.txt", "\nCotto\n"),
        ("sys.tsv", "MR\toutput\nb[1]\tx y z v w\n"),
        ("refs.csv", "mr,ref\nb[1],\"x y z v, w\"\n"),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

#[test]
fn a_table_has_a_line_for_each_file() {
    let dir = files();
    let command = "evaluate e2e --refs refs.txt --outputs same.txt short.txt";
    let (status, out, error) = vblora(dir.path(), command);
    assert_eq!(status, 0, "{error}");
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[0], "File\tBLEU\tNIST\tMETEOR\tROUGE_L\tCIDEr");
    let same: Vec<_> = lines[1].split('\t').collect();
    assert_eq!(
        (same[0], same[1], same[3], same[4]),
        ("same.txt", "1.0000", "-", "1.0000")
    );
    // Outputs of one word have no bigram, so NIST is not defined.
    let short: Vec<_> = lines[2].split('\t').collect();
    assert_eq!((short[0], short[2], short[3]), ("short.txt", "-", "-"));
    assert_eq!(lines.len(), 3);
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(
        error.contains("--java-metrics") && error.contains("pycocoevalcap"),
        "{error}"
    );
}

#[test]
fn json_has_all_digits_and_segments_a_row_for_each_output() {
    let dir = files();
    let command = "evaluate e2e --refs refs.csv --outputs sys.tsv --json --segments segments.tsv";
    let (status, out, error) = vblora(dir.path(), command);
    assert_eq!(status, 0, "{error}");
    let found: Value = serde_json::from_str(&out).unwrap();
    let system = &found["systems"][0];
    assert_eq!(system["file"], "sys.tsv");
    assert_eq!(
        (&system["outputs"], &system["references"]),
        (&1.into(), &1.into())
    );
    assert!(
        system["METEOR"].is_null() && system["BLEU"].as_f64().unwrap() > 0.5,
        "{system}"
    );
    let rows = fs::read_to_string(dir.path().join("segments.tsv")).unwrap();
    let rows: Vec<_> = rows.lines().collect();
    assert_eq!(
        rows[0],
        "src\tsys_out\tBLEU\tsentBLEU\tNIST\tMETEOR\tROUGE_L\tCIDEr"
    );
    assert!(
        rows[1].starts_with("b[1]\tx y z v w\t") && rows.len() == 2,
        "{rows:?}"
    );
}

#[test]
fn files_that_do_not_fit_are_one_line_each() {
    let dir = files();
    fs::write(dir.path().join("three.txt"), "a\nb\nc\n").unwrap();
    fs::write(dir.path().join("bad.txt"), b"a\n\xffb\n").unwrap();
    for (arguments, expected) in [
        (
            "--refs refs.txt --outputs three.txt",
            "three.txt, line 3: expected 2 outputs, one for each instance of refs.txt, found 3",
        ),
        (
            "--refs refs.txt --outputs same.txt bad.txt",
            "bad.txt, line 2: expected UTF-8 text, found byte 0xff",
        ),
        ("--refs none.txt --outputs same.txt", "cannot read none.txt"),
        (
            "--refs refs.txt --outputs same.txt short.txt --segments s.tsv",
            "--segments is for one file of outputs, found 2",
        ),
        (
            "--refs refs.txt --outputs same.txt --java-metrics .",
            "METEOR: no meteor-1.5.jar in .",
        ),
    ] {
        let (status, out, error) = vblora(dir.path(), &format!("evaluate e2e {arguments}"));
        assert_eq!((status, out.as_str()), (1, ""), "{arguments}: {error}");
        assert!(error.contains(expected), "{arguments}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    assert!(!dir.path().join("s.tsv").exists());
}
