//! Hostile recipes, sweeps, data, templates and results. Reading gives the described value or an error. The page of limits must state the
//! constants.
#![allow(missing_docs, clippy::print_stdout)]

#[path = "../../vblora/tests/support/corrupt.rs"]
#[allow(dead_code, unreachable_pub)]
mod corrupt;

use std::{collections::BTreeMap, path::Path};

use corrupt::corrupt;
use vblora_bench::{
    limits,
    recipes::{Recipe, Size},
    results::Results,
    sweep::Spec,
    tasks::{
        Task,
        causal::{Form, TextTemplate, parse_texts},
        parse_split,
    },
};

/// Reads a text in `cases` damaged forms, not all of them UTF-8 if bytes are accepted. Returns the number of forms that were still valid.
fn attack(name: &str, text: &str, cases: u64, read: impl Fn(&str) -> vblora_bench::Result<()>) {
    read(text).unwrap();
    let mut right = 0;
    for case in 0..cases {
        let bytes = corrupt(text.as_bytes(), case, name);
        let text = String::from_utf8_lossy(&bytes);
        match read(&text) {
            Ok(()) => right += 1,
            Err(error) => assert!(error.to_string().contains(name), "case {case}: {error}"),
        }
    }
    println!("{name}: {right} of {cases} were still right");
}

#[test]
fn recipes_of_arbitrary_bytes_are_read_or_refused() {
    let recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
    let text = recipe.to_toml().unwrap();
    // A setting outside its range is named by its key.
    attack("recipe", &text, 1500, |text| {
        Recipe::from_toml(text, "recipe")
            .map(drop)
            .or_else(|error| match error {
                vblora_bench::Error::Setting { .. } => Ok(()),
                other => Err(other),
            })
    });
}

#[test]
fn sweeps_of_arbitrary_bytes_are_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sweep.toml");
    let place = path.display().to_string();
    let text = "about = \"a test\"\n[base]\nrecipe = \"demo\"\ntask = \"demo\"\n[tables.t]\ntitle = \"T\"\nrows = [\"method\"]\ncolumns = \"k\"\n\
        [[grid]]\ntable = \"t\"\nmethod = [\"head\", \"vblora\"]\nseed = [1, 2]\n[[run]]\nname = \"again\"\nmethod = \"vblora\"\nlr.bank = 1e-3\nseed = 1\n";
    attack("sweep.toml", text, 3000, |text| {
        std::fs::write(&path, text).unwrap();
        Spec::find(&place).map(drop)
    });
    let error = Spec::find("/dev/zero").unwrap_err().to_string();
    assert!(
        error.contains("expected a regular file, found a device"),
        "{error}"
    );
}

#[test]
fn data_of_arbitrary_bytes_is_read_or_refused() {
    let form: Form = "fields:q,a".parse().unwrap();
    let texts = [
        (
            "json",
            r#"[{"q": "one", "a": "two"}, {"q": "three", "a": "four"}]"#,
        ),
        (
            "jsonl",
            "{\"q\": \"one\", \"a\": \"two\"}\n{\"q\": \"three\", \"a\": \"four\"}\n",
        ),
        ("csv", "q,a\none,two\n\"thr\"\"ee\",four\n"),
    ];
    for (ending, text) in texts {
        let name = format!("data.{ending}");
        attack(&name, text, 2000, |text| {
            parse_texts(text, ending, &name, &form).map(drop)
        });
    }
    let rows = "x\t1\t\tone two\nx\t0\t\tthree\n";
    attack("dev.tsv", rows, 2000, |text| {
        parse_split(text, "dev.tsv", &Task::demo()).map(drop)
    });
    let template = "{% block prompt %}{{ q }} ({{ topic|default('none') }}){% endblock %}{% block response %} {{ a|trim }}{% endblock %}";
    attack("template", template, 2000, |text| {
        TextTemplate::parse(text, "template").map(drop)
    });
}

#[test]
fn results_of_arbitrary_bytes_are_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("results.json");
    Results::new("a test", "flex", Vec::new())
        .write(&path)
        .unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    attack("results.json", &text, 2000, |text| {
        std::fs::write(&path, text).unwrap();
        Results::read(&path).map(drop)
    });
    std::fs::write(&path, text.replacen('{', "{\"runs\": [],", 1)).unwrap();
    let error = Results::read(&path).unwrap_err().to_string();
    assert!(
        error.contains("given twice") || error.contains("duplicate field"),
        "{error}"
    );
}

/// Each row of the page's tables names a constant and its value.
#[test]
fn the_page_of_limits_has_the_values_of_the_constants() {
    macro_rules! values {
        ($($module:path: $($name:ident)*;)*) => {
            BTreeMap::from([$($((stringify!($name), { use $module as of; of::$name as u64 }),)*)*])
        };
    }
    let values: BTreeMap<&str, u64> = values! {
        vblora::limits: MAX_RANK MAX_BANK MAX_VALUES MAX_DIMENSION MAX_SUB_VECTORS MAX_STORED_FACTORS MAX_NAME_BYTES
            MAX_CONFIG_BYTES MAX_INDEX_BYTES MAX_FILE_BYTES MAX_HEADER_BYTES MAX_RECIPE_BYTES MAX_MANIFEST_BYTES MAX_SET_BYTES MAX_SET_FILES;
        vblora_models::limits: MAX_WIDTH MAX_LAYERS MAX_ROWS MAX_WEIGHT_VALUES MAX_TOKENIZER_BYTES MAX_BEAMS MAX_NEW_TOKENS;
        limits: MAX_EPOCHS MAX_BATCH MAX_ACCUMULATION MAX_LENGTH MAX_SWEEP_RUNS MAX_TEXT_BYTES MAX_DATA_BYTES MAX_RESULTS_BYTES
            MAX_LOG_BYTES MAX_RECORDING_BYTES;
    };
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/limits.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|line| line.contains("MAX_"));
    let found: BTreeMap<&str, u64> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let [_, _, value, name, ..] = cells.as_slice() else {
                panic!("{row}")
            };
            let value = value.split_whitespace().next().unwrap().replace(',', "");
            (name.trim_matches('`'), value.parse().unwrap())
        })
        .collect();
    assert_eq!(found, values);
}
