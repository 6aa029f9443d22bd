//! Hostile tables and files of evaluations. Reading gives rows or an error that names the file; it never panics.
#![allow(missing_docs, clippy::print_stdout)]

#[path = "../../vblora/tests/support/corrupt.rs"]
#[allow(dead_code, unreachable_pub)]
mod corrupt;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use corrupt::corrupt;
use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use vblora_bench::{
    evaluate::{
        Benchmark,
        e2e::References,
        math::{PromptForm, gsm8k_questions, math_questions},
        mtbench::{self, JudgePrompts, JudgmentFile, Questions},
        read_answers,
    },
    tasks::table::Table,
};

/// Reads a file in `cases` spoiled forms. An error names the file.
fn attack(path: &Path, cases: u64, read: impl Fn(&Path) -> vblora_bench::Result<()>) {
    let file = std::fs::read(path).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    read(path).unwrap();
    let mut right = 0;
    for case in 0..cases {
        std::fs::write(path, corrupt(&file, case, &name)).unwrap();
        match read(path) {
            Ok(()) => right += 1,
            Err(error) => assert!(error.to_string().contains(&name), "case {case}: {error}"),
        }
    }
    println!("{name}: {right} of {cases} were still right");
}

/// Two columns, a text and a number, in two row groups.
fn write_parquet(path: &Path, compression: Compression) {
    let schema = "message rows { required binary text (UTF8); optional int64 label; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for part in 0..2_i64 {
        let mut group = writer.next_row_group().unwrap();
        let texts = ["one two", "three", "four five six"].map(ByteArray::from);
        let mut column = group.next_column().unwrap().unwrap();
        let typed = column.typed::<ByteArrayType>();
        typed.write_batch(&texts, None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let typed = column.typed::<Int64Type>();
        let levels = Some(&[1, 0, 1][..]);
        typed.write_batch(&[part, 7], levels, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn tables_of_arbitrary_bytes_are_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let read = |path: &Path| Table::open(path)?.read(&["text", "label"], &mut |_| Ok(()));
    let texts = [
        (
            "t.csv",
            "id,text,label\n1,\"one, two\",5\n2,three,0\n3,\"fo\"\"ur\",1\n",
        ),
        (
            "t.tsv",
            "text\tlabel\none two\t5\nthree\t0\n\"fo\tur\"\t1\n",
        ),
        (
            "t.jsonl",
            "{\"text\": \"one\", \"label\": 5}\n{\"text\": \"two\", \"label\": [\"a\"]}\n",
        ),
        (
            "t.json",
            "[{\"text\": \"one\", \"label\": 5}, {\"text\": null, \"label\": 1.5}]",
        ),
    ];
    for (name, text) in texts {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        attack(&path, 600, read);
    }
    for (name, compression) in [
        ("plain.parquet", Compression::UNCOMPRESSED),
        ("snappy.parquet", Compression::SNAPPY),
    ] {
        let path = dir.path().join(name);
        write_parquet(&path, compression);
        attack(&path, 1500, |path| {
            Table::open(path)?.text_bytes(&["text"])?;
            read(path)
        });
    }
}

#[test]
fn files_of_evaluations_of_arbitrary_bytes_are_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let questions = put(
        "question.jsonl",
        "{\"question_id\": 81, \"category\": \"writing\", \"turns\": [\"Write.\", \"Again.\"]}\n\
         {\"question_id\": 101, \"category\": \"math\", \"turns\": [\"Add.\", \"Twice.\"], \"reference\": [\"3\", \"6\"]}\n",
    );
    let known = Questions::read(&questions).unwrap();
    attack(&questions, 600, |path| Questions::read(path).map(drop));
    let answers = put(
        "answers.jsonl",
        "{\"question_id\": 81, \"answer_id\": \"x\", \"model_id\": \"m\", \"choices\": [{\"index\": 0, \"turns\": [\"a\", \"b\"]}], \"tstamp\": 1.5}\n",
    );
    attack(&answers, 600, |path| {
        mtbench::AnswerFile::read(path, &known).map(drop)
    });
    let judgments = put(
        "judgments.jsonl",
        "{\"question_id\": 81, \"model\": \"m\", \"judge\": [\"j\", \"single-v1\"], \"user_prompt\": \"p\", \"judgment\": \"[[5]]\", \"score\": 5, \"turn\": 1, \"tstamp\": 1.5}\n",
    );
    attack(&judgments, 600, |path| JudgmentFile::read(path).map(drop));
    let judge_prompts: String = ["single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn"]
        .map(|name| format!("{{\"name\": \"{name}\", \"system_prompt\": \"s\", \"prompt_template\": \"{{question}}\", \"output_format\": \"[[rating]]\"}}\n"))
        .concat();
    let prompts = put("prompts.jsonl", &judge_prompts);
    attack(&prompts, 300, |path| JudgePrompts::read(path).map(drop));
    let gsm8k = put(
        "gsm8k.jsonl",
        "{\"question\": \"One and two?\", \"answer\": \"1 + 2 = 3\\n#### 3\"}\n",
    );
    attack(&gsm8k, 600, |path| {
        gsm8k_questions(path, PromptForm::default(), None).map(drop)
    });
    let math = put(
        "math.jsonl",
        "{\"problem\": \"One and two?\", \"solution\": \"$\\\\boxed{3}$\", \"level\": \"Level 1\", \"type\": \"Algebra\"}\n",
    );
    attack(&math, 600, |path| {
        math_questions(path, PromptForm::default(), None).map(drop)
    });
    let made = put(
        "gsm8k-answers.jsonl",
        "{\"id\": \"gsm8k-1\", \"prompt\": \"One?\", \"references\": [\"3\"], \"answer\": \"3\", \"tokens\": 2, \"stop\": \"stop_token\"}\n",
    );
    attack(&made, 600, |path| {
        read_answers(path, Benchmark::Gsm8k).map(drop)
    });
    let table = put(
        "refs.csv",
        "mr,ref\nname[A],A is.\nname[A],It is A.\nname[B],B is.\n",
    );
    let lines = put("refs.txt", "A is.\nIt is A.\n\nB is.\n");
    let known = References::read(&table).unwrap();
    for references in [table, lines] {
        attack(&references, 600, |path| References::read(path).map(drop));
    }
    let outputs = put("outputs.csv", "mr,output\nname[A],A was.\nname[B],B was.\n");
    attack(&outputs, 600, |path| known.with_outputs(path).map(drop));
}
