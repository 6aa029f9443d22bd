//! `vblora verify`: a directory that `vblora train` has made is made again, and what differs is named.

use std::path::Path;

use crate::vblora;

const TRAIN: &str = "train --task demo --data data --method lora --method vblora --epochs 2 --batch 8 --eval-every 3 --patience 2 \
                     --tensorboard --out run --quiet";

fn data(dir: &Path, word: &str) {
    std::fs::create_dir_all(dir.join("data/demo")).unwrap();
    for name in ["train", "dev"] {
        let row = |i: usize| format!("x\t{}\t\tThe {i}th {word}.\n", i % 2);
        let text: String = (0..32).map(row).collect();
        std::fs::write(dir.join(format!("data/demo/{name}.tsv")), text).unwrap();
    }
}

#[test]
fn adapters_are_made_again_and_a_changed_byte_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let refusal = |arguments: &str, words: &[&str]| {
        let (status, _, error) = vblora(dir.path(), arguments);
        assert_eq!(status, 1, "{error}");
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    data(dir.path(), "sentence");
    let (status, _, error) = vblora(dir.path(), TRAIN);
    assert_eq!(status, 0, "{error}");
    let card = std::fs::read_to_string(at("run/vblora-seed1/README.md")).unwrap();
    let command = format!("\nvblora {TRAIN} --model bundled:roberta\n");
    assert!(card.contains(&command), "{card}");
    assert!(at("run/tensorboard/lora-seed1/events.out.tfevents.vblora").is_file());

    let before = std::fs::read(at("run/results.json")).unwrap();
    let (status, out, error) = vblora(dir.path(), "verify run");
    assert_eq!(status, 0, "{error}");
    for part in [
        "lora-seed1: the same, 4 files",
        "vblora-seed1: the same, 5 files",
    ] {
        assert!(out.contains(part), "{out}");
    }
    assert_eq!(std::fs::read(at("run/results.json")).unwrap(), before);

    let adapter = at("run/lora-seed1/adapter_model.safetensors");
    let mut bytes = std::fs::read(&adapter).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&adapter, bytes).unwrap();
    // The data may lie elsewhere now.
    std::fs::rename(at("data"), at("moved")).unwrap();
    let (status, out, _) = vblora(dir.path(), "verify run --data moved");
    assert_eq!(status, 1, "{out}");
    let said = format!("lora-seed1: different in adapter_model.safetensors from byte {last} on");
    assert!(
        out.contains(&said) && out.contains("vblora-seed1: the same"),
        "{out}"
    );
    refusal("verify run", &["data"]);

    data(dir.path(), "word");
    refusal(
        "verify run",
        &["run/session.json cannot be repeated: its data is"],
    );
    let session = std::fs::read_to_string(at("run/session.json")).unwrap();
    let with = |from: &str, to: &str| {
        assert!(session.contains(from), "{session}");
        std::fs::write(at("run/session.json"), session.replacen(from, to, 1)).unwrap();
    };
    with("\"threads\": ", "\"threads\": 9");
    refusal(
        "verify run",
        &["number of threads is 9", "set RAYON_NUM_THREADS=9"],
    );
    with("\"--tensorboard\"", "\"--tensorbored\"");
    refusal("verify run", &["recorded arguments", "--tensorbored"]);
    let made = session.find(",\n  \"made\"").unwrap();
    let earlier =
        format!("{}\n}}\n", &session[..made]).replacen("\"format\": 2", "\"format\": 1", 1);
    std::fs::write(at("run/session.json"), earlier).unwrap();
    refusal("verify run", &["run/session.json", "an earlier version"]);
    refusal("verify data", &["data/session.json"]);
}

#[test]
fn a_table_of_another_name_is_repeated_and_a_session_goes_on_by_its_recorded_flags() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let row = |i: usize| format!("the {i}th text,{}\n", ["bad", "good"][i % 2]);
    let rows: String = (0..16).map(row).collect();
    std::fs::write(at("a.csv"), format!("message,topic\n{rows}")).unwrap();
    std::fs::write(at("dev.csv"), "message,topic\nx,bad\ny,good\n").unwrap();
    std::fs::write(at("weights.toml"), "bad = 2.0\ngood = 1.0\n").unwrap();
    let train = "train --data a.csv --text message --label topic --dev dev.csv --class-weights weights.toml --method vblora \
                 --epochs 1 --batch 8 --out run";
    let (status, out, error) = vblora(dir.path(), train);
    assert_eq!(status, 0, "{error}");
    assert!(
        out.contains(
            "Written to run: table.md, curves.svg, vblora-seed1/\nBest: run/vblora-seed1\n"
        ),
        "{out}"
    );
    // Without a terminal, each evaluation is a line.
    for said in [
        "1 method × 1 seed × 1 epoch × 2 steps; 16 rows",
        "vblora seed 1      epoch   1  loss",
    ] {
        assert_eq!(error.matches(said).count(), 1, "{error}");
    }

    let (status, _, error) = vblora(dir.path(), "train --resume --out run --epochs 3");
    assert_eq!(status, 1, "{error}");
    for part in [
        "its recipe's task is \"a\", now it is \"demo\"",
        "first command: vblora train --data a.csv --text message",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let (status, out, error) = vblora(dir.path(), "train --resume --out run");
    assert_eq!(status, 0, "{error}");
    assert!(out.contains("| vblora |"), "{out}");

    // A lost adapter, other threads and a directory without a session are named.
    std::fs::rename(at("run/vblora-seed1"), at("moved")).unwrap();
    let session = std::fs::read_to_string(at("run/session.json")).unwrap();
    let other = session.replacen("\"threads\": ", "\"threads\": 9", 1);
    std::fs::write(at("run/session.json"), other).unwrap();
    let (status, _, error) = vblora(dir.path(), "train --resume --out run");
    assert_eq!(status, 0, "{error}");
    for part in [
        "run/vblora-seed1 has none of its files",
        "begun with RAYON_NUM_THREADS=9",
    ] {
        assert!(error.contains(part), "{error}");
    }
    std::fs::rename(at("moved"), at("run/vblora-seed1")).unwrap();
    std::fs::write(at("run/session.json"), session).unwrap();
    let (status, _, error) = vblora(dir.path(), "train --resume --out rnu");
    assert_eq!(status, 1, "{error}");
    assert!(error.contains("rnu: no session to continue"), "{error}");
    assert!(!at("rnu").exists());

    // The recipe has the task and the weights. Only rows are read again.
    std::fs::rename(at("a.csv"), at("b.csv")).unwrap();
    std::fs::remove_file(at("weights.toml")).unwrap();
    std::fs::create_dir(at("run/lora-seed7")).unwrap();
    for name in ["lora-seed7/a", "vblora-seed1/notes.txt"] {
        std::fs::write(at("run").join(name), "").unwrap();
    }
    let (status, out, error) = vblora(dir.path(), "verify run --data b.csv");
    assert_eq!(status, 0, "{error}");
    for part in [
        "run/lora-seed7: not compared",
        "run/vblora-seed1/notes.txt: not compared",
        "vblora-seed1: the same",
    ] {
        assert!(out.contains(part), "{out}");
    }
    std::fs::write(at("dev.csv"), "message,topic\nx,bad\nz,good\n").unwrap();
    let (status, _, error) = vblora(dir.path(), "verify run --data b.csv");
    assert_eq!(status, 1, "{error}");
    assert!(
        error.contains("cannot be repeated: its development split is "),
        "{error}"
    );
}
