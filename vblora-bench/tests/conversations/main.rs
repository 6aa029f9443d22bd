//! Conversations and documents as tokens to learn: which tokens, which of them are predicted, and what is refused.
#![allow(missing_docs)]

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use burn::backend::Flex;
use serde_json::{Value, json};
use tempfile::TempDir;
use vblora_bench::{
    metrics::Metric,
    recipes::{Recipe, Size, TooLong},
    tasks::{
        Task,
        causal::{Format, TextFile, Texts},
    },
    train::{
        CheckpointSettings, Method, Session,
        causal::{EncodedTexts, Encoding, TextSource, answer, answerable},
    },
};
use vblora_models::{
    ChatTemplate, DecoderConfig, Message, ModelFiles, TextTokenizer, decoder::CausalLm,
    generate::GenerationConfig,
};

/// With the tokens of the bundled tokenizer.
const TEMPLATE: &str = "{% for m in messages %}{{ '<s>' + m.role + '\n' + m.content + '</s>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}";
const END: u32 = 2;
const PAD: u32 = 1;

/// The bundled causal model with this chat template.
fn model(template: &str) -> (TempDir, ModelFiles) {
    let dir = tempfile::tempdir().unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny-llama");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(assets.join(name), dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let files = ModelFiles::open(dir.path()).unwrap();
    (dir, files)
}

fn read_as(
    format: &str,
    name: &str,
    text: &str,
    files: &ModelFiles,
) -> vblora_bench::Result<Texts> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    let format: Format = format.parse().unwrap();
    format.texts(&TextFile::read(&path)?, files)
}

fn read(text: &str, files: &ModelFiles) -> vblora_bench::Result<Texts> {
    read_as("chat", "data.jsonl", text, files)
}

fn row(turns: &[(&str, &str)]) -> String {
    let turn = |(role, content): &(&str, &str)| json!({"role": role, "content": content});
    let turns: Vec<Value> = turns.iter().map(turn).collect();
    json!({"messages": turns}).to_string()
}

fn encoding(tokenizer: &TextTokenizer, max_length: usize) -> Encoding<'_> {
    Encoding {
        tokenizer,
        end: END,
        max_length,
        too_long: TooLong::Cut,
        on_prompt: false,
    }
}

/// The tokens of a text, and whether each is predicted.
fn masked(texts: &EncodedTexts, text: usize) -> (Vec<u32>, Vec<u32>) {
    let batch = texts.batch(&[vec![text]], PAD);
    let ids: Vec<u32> = batch.inputs.ids.iter().map(|&id| id as u32).collect();
    let mut mask = vec![0; ids.len()];
    for (place, target) in batch.places.iter().zip(&batch.targets) {
        let at = *place as usize + 1;
        assert_eq!(ids[at], *target as u32);
        mask[at] = 1;
    }
    (ids, mask)
}

/// The predicted parts of a text, and `|` between them.
fn learned(texts: &EncodedTexts, text: usize, tokenizer: &TextTokenizer) -> String {
    let (ids, mask) = masked(texts, text);
    let mut parts = Vec::new();
    for part in mask
        .iter()
        .zip(ids)
        .collect::<Vec<_>>()
        .chunk_by(|a, b| a.0 == b.0)
    {
        if *part[0].0 == 1 {
            let ids: Vec<u32> = part.iter().map(|(_, id)| *id).collect();
            parts.push(tokenizer.decode_with_special_tokens(&ids).unwrap());
        }
    }
    parts.join("|")
}

const TURNS: [(&str, &str); 5] = [
    ("system", "Be kind."),
    ("user", "How many cats are there?"),
    ("assistant", "Three cats."),
    ("user", "And dogs?"),
    ("assistant", "One dog."),
];

#[test]
fn answers_and_their_end_tokens_are_learned_and_nothing_else() {
    let (_dir, files) = model(TEMPLATE);
    let tokenizer = TextTokenizer::from_files(&files).unwrap();
    let encoding = encoding(&tokenizer, 256);
    let sharegpt = json!({"conversations": [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "How many cats are there?"},
        {"from": "gpt", "value": "Three cats."},
        {"from": "human", "value": "And dogs?", "weight": 0},
        {"from": "gpt", "value": "One dog.", "weight": 1},
        {"from": "human", "value": "Thanks."},
    ]});
    let parts = json!({"system": "Be kind.", "messages": [
        {"role": "user", "content": [{"type": "text", "text": "How many "}, {"type": "text", "text": "cats are there?"}]},
        {"role": "assistant", "content": "Three cats.", "tool_calls": []},
        {"role": "user", "content": "And dogs?", "name": null},
        {"role": "assistant", "content": "One dog."},
    ]});
    let rows = [row(&TURNS), sharegpt.to_string(), parts.to_string()].join("\n");
    let texts = read(&rows, &files).unwrap();
    let encoded = encoding.encode(&texts).unwrap();
    assert_eq!(encoded.len(), 3);
    for text in 0..3 {
        assert_eq!(
            learned(&encoded, text, &tokenizer),
            "Three cats.</s>|One dog.</s>"
        );
        assert_eq!(masked(&encoded, text), masked(&encoded, 0));
    }
    let (ids, mask) = masked(&encoded, 0);
    assert_eq!(
        (ids[0], ids[1] == 0, ids.last()),
        (0, false, Some(&END)),
        "one `<s>` in front"
    );
    let all = Encoding {
        on_prompt: true,
        ..encoding
    }
    .encode(&texts)
    .unwrap();
    assert_eq!(
        masked(&all, 0).1.iter().sum::<u32>() as usize,
        ids.len() - 1
    );
    // Packed conversations keep their predictions, and do not see each other.
    let alone = encoded.batch(&[vec![0]], PAD);
    let packed = encoded.batch(&[vec![1, 0]], PAD);
    assert_eq!(
        packed.targets,
        [&alone.targets[..], &alone.targets].concat()
    );
    assert_eq!(packed.targets.len() as u32, 2 * mask.iter().sum::<u32>());
    assert_ne!(packed.inputs.first[0], packed.inputs.first[ids.len()]);
    assert_ne!(all.sha256(), encoded.sha256());
}

#[test]
fn generation_asks_with_the_tokens_that_training_saw() {
    for template in [TEMPLATE, &TEMPLATE.replace("'<s>", "'")] {
        let (_dir, files) = model(template);
        let tokenizer = TextTokenizer::from_files(&files).unwrap();
        let encoding = encoding(&tokenizer, 256);
        let texts = read(&row(&TURNS[..3]), &files).unwrap();
        let encoded = encoding.encode(&texts).unwrap();
        let (ids, mask) = masked(&encoded, 0);
        let seam = mask.iter().position(|&one| one == 1).unwrap();
        let question = texts.questions().remove(0);
        assert_eq!(question.references, ["Three cats."]);
        assert_eq!(encoding.question(&question).unwrap(), ids[..seam]);
        assert_eq!(encoded.moved(), 0);
        // As `vblora generate --chat --system` asks.
        let turns = TURNS[..2]
            .iter()
            .map(|(role, text)| Message::new(*role, *text));
        let turns: Vec<_> = turns.collect();
        let prompt = ChatTemplate::from_files(&files).unwrap().unwrap();
        let prompt = prompt.apply(&turns, true).unwrap();
        assert_eq!(
            tokenizer.encode_plain(&[&prompt]).unwrap().concat(),
            ids[..seam]
        );
    }
}

#[test]
fn a_template_without_end_tokens_gets_one_and_a_block_without_its_end_is_completed() {
    let bare = TEMPLATE.replace("</s>", "");
    let block = TEMPLATE.replace(
        "{{ '<s>' + m.role + '\n' + m.content + '</s>\n' }}",
        "{{ '<s>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '</s>\n' }}",
    );
    let wide = TEMPLATE.replace(
        "{{ '<s>' + m.role + '\n' + m.content + '</s>\n' }}",
        "{% if m.role == 'assistant' %}{% generation %}{{ '<s>assistant\n' + m.content + '</s>\n' }}{% endgeneration %}{% else %}{{ '<s>' + m.role + '\n' + m.content + '</s>\n' }}{% endif %}",
    );
    for (template, expected) in [
        (bare, "Three cats.|One dog.</s>"),
        (block, "Three cats.</s>|One dog.</s>"),
        // What the author marks is learned, as in transformers.
        (
            wide,
            "<s>assistant\nThree cats.</s>\n|<s>assistant\nOne dog.</s>\n",
        ),
    ] {
        let (_dir, files) = model(&template);
        let tokenizer = TextTokenizer::from_files(&files).unwrap();
        let texts = read(&row(&TURNS), &files).unwrap();
        let encoded = encoding(&tokenizer, 256).encode(&texts).unwrap();
        assert_eq!(learned(&encoded, 0, &tokenizer), expected);
    }
}

#[test]
fn long_conversations_lose_their_last_turns_are_dropped_or_refused() {
    let (_dir, files) = model(TEMPLATE);
    let tokenizer = TextTokenizer::from_files(&files).unwrap();
    let texts = read(&[row(&TURNS), row(&TURNS[..3])].join("\n"), &files).unwrap();
    let whole = encoding(&tokenizer, 256).encode(&texts).unwrap();
    let lengths = whole.lengths();
    let less = encoding(&tokenizer, lengths[0] - 1);
    let cut = less.encode(&texts).unwrap();
    assert_eq!((cut.len(), cut.cut(), cut.dropped()), (2, 1, 0));
    assert_eq!(
        masked(&cut, 0),
        masked(&whole, 1),
        "the first turns are those of the shorter one"
    );
    let drop = Encoding {
        too_long: TooLong::Drop,
        ..less
    };
    let dropped = drop.encode(&texts).unwrap();
    assert_eq!((dropped.len(), dropped.cut(), dropped.dropped()), (1, 0, 1));
    let refuse = Encoding {
        too_long: TooLong::Refuse,
        ..less
    };
    let error = refuse.encode(&texts).unwrap_err().to_string();
    assert!(error.contains("text 1: expected at most"), "{error}");
    let none = encoding(&tokenizer, lengths[1] - 1);
    let error = none.encode(&texts).unwrap_err().to_string();
    assert!(
        error.contains("max_length") && error.contains("leaves all 2 out"),
        "{error}"
    );
}

#[test]
fn rows_that_are_no_conversation_of_texts_are_named() {
    let (_dir, files) = model(TEMPLATE);
    let turn = |turn: Value| json!({"messages": [turn]}).to_string();
    let good = row(&TURNS);
    for (rows, expected) in [
        (
            row(&[("assistant", "a")]),
            "line 1: expected a turn of the user before the first of the assistant, found the assistant in turn 1 of field",
        ),
        (
            turn(json!({"role": "robot", "content": "a"})),
            "line 1: expected one of the roles system, user, human, assistant, gpt in turn 1 of field \"messages\", found \"robot\"",
        ),
        (
            turn(json!({"role": "tool", "content": "a"})),
            "expected no tool in turn 1 of field \"messages\", found the role \"tool\"",
        ),
        (
            turn(json!({"role": "user", "content": null})),
            "expected text as \"content\" in turn 1 of field \"messages\", found null",
        ),
        (
            turn(json!({"role": "user"})),
            "expected text as \"content\" in turn 1 of field \"messages\", found none",
        ),
        (
            turn(json!({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]})),
            "found \"image_url\"",
        ),
        (
            turn(json!({"role": "user", "content": "a", "images": ["x"]})),
            "found a field \"images\"",
        ),
        (
            turn(json!({"role": "assistant", "content": "a", "tool_calls": [1]})),
            "found a field \"tool_calls\"",
        ),
        (
            turn(json!({"role": "assistant", "content": "a", "weight": 0})),
            "expected weight 1",
        ),
        (
            turn(json!({"role": "user", "content": "a", "name": "Bob"})),
            "line 1: expected no field but \"role\", \"content\" and \"weight\" in turn 1 of field \"messages\", found a field \"name\"",
        ),
        (
            turn(json!({"role": "assistant", "content": "a", "train": false})),
            "in turn 1 of field \"messages\", found a field \"train\"",
        ),
        (
            turn(json!({"from": "gpt", "value": "a", "mask_history": true})),
            "expected no field but \"from\", \"value\" and \"weight\" in turn 1 of field \"messages\", found a field \"mask_history\"",
        ),
        (
            format!("{good}\n{}", good.replacen('{', "{\"train\": false, ", 1)),
            "line 2: expected no field that chooses what is learned, as each answer is learned, found a field \"train\"",
        ),
        (
            good.replacen('{', "{\"mask_history\": true, ", 1),
            "line 1: expected no field that chooses what is learned, as each answer is learned, found a field \"mask_history\"",
        ),
        (
            good.replacen('{', "{\"weight\": 0, ", 1),
            "line 1: expected weight 1, as each answer is learned, found 0",
        ),
        (
            turn(json!(3)),
            "expected an object in turn 1 of field \"messages\", found 3",
        ),
        (
            json!({"messages": "a"}).to_string(),
            "expected a list of turns in field \"messages\", found \"a\"",
        ),
        (
            json!({"messages": [], "conversations": []}).to_string(),
            "found both",
        ),
        (
            json!({"messages": [], "tools": [1]}).to_string(),
            "found a field \"tools\"",
        ),
        (
            json!({"system": "s", "messages": [{"role": "system", "content": "b"}]}).to_string(),
            "found field \"system\" and turn 1 of field \"messages\"",
        ),
        (
            row(&[("user", "a"), ("system", "b"), ("assistant", "c")]),
            "expected a system prompt in front of all other turns, found one in turn 2 of field",
        ),
        (
            row(&[("user", "a </s> b"), ("assistant", "c")]),
            "expected no special token of the model inside turn 1 (user), found \"</s>\"",
        ),
        (
            row(&[("user", "a"), ("assistant", "<s>c")]),
            "inside turn 2 (assistant), found \"<s>\"",
        ),
        (
            format!("{good}\n{{\"messages\": ["),
            "line 2: expected a JSON object, found EOF",
        ),
        (
            format!("{good}\n\n{{\"prompt\": \"a\"}}"),
            "line 3: expected a conversation in a field \"messages\" or \"conversations\", found prompt",
        ),
        (
            format!("{}\n{}", row(&[]), row(&[("system", "a")])),
            "line 1: expected an answer to learn, found none",
        ),
    ] {
        let error = read(&rows, &files).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\nnot\n{expected}");
    }
    // What says nothing new, and what describes a row.
    let more = "{\"weight\": 1.0, \"train\": null, \"id\": 7, \"source\": \"x\", ";
    let described = read(&good.replacen('{', more, 1), &files).unwrap();
    assert_eq!(described.texts, read(&good, &files).unwrap().texts);
    // Nothing to learn in a row among others: left out and counted.
    let blank = row(&[("user", "a"), ("assistant", " \n")]);
    let rows = [good.as_str(), &row(&[]), &row(&[("user", "a")]), &blank].join("\n");
    let texts = read(&rows, &files).unwrap();
    assert_eq!((texts.texts.len(), texts.empty), (1, 3));
}

#[test]
fn a_template_that_cannot_write_a_row_is_named_with_the_row() {
    let (_dir, files) =
        model("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}");
    let rows = [row(&TURNS[1..3]), row(&TURNS)].join("\n");
    let error = read(&rows, &files).unwrap_err().to_string();
    assert!(
        error.contains("line 2: expected a conversation that the chat template can write"),
        "{error}"
    );
    assert!(
        error.contains("turn 1 (system): the template leaves it out"),
        "{error}"
    );
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    let error = read(&rows, &ModelFiles::open(dir.path()).unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("a model with a chat template"),
        "{error}"
    );
}

#[test]
fn formats_are_found_by_the_fields_of_the_first_row() {
    let dir = tempfile::tempdir().unwrap();
    let found = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        TextFile::read(&path)
            .and_then(|file| Format::detect(&file))
            .map(|format| format.describe())
    };
    for (name, text, expected) in [
        ("a.jsonl", "\n{\"messages\": []}\n{broken", "chat:"),
        ("a.json", "[{\"conversations\": []}]", "chat:"),
        (
            "a.json",
            "[{\"instruction\": \"\", \"output\": \"\"}]",
            "alpaca:",
        ),
        ("a.csv", "mr,ref\na,b", "e2e:"),
        (
            "a.jsonl",
            "\u{feff}{\"question\": \"\", \"answer\": \"\"}",
            "gsm8k:",
        ),
        (
            "a.jsonl",
            "{\"prompt\": \"\", \"completion\": \"\"}",
            "fields:prompt,completion:",
        ),
        (
            "a.csv",
            "text,x\na,b",
            "text: whole documents (of field text)",
        ),
        ("a.txt", "", "text:"),
    ] {
        let found = found(name, text).unwrap();
        assert!(found.starts_with(expected), "{found}");
    }
    let error = found("a.jsonl", "{\"x\": 1}").unwrap_err().to_string();
    assert!(
        error.contains(
            "line 1: expected fields of a known format, or --format or --template, found x"
        ),
        "{error}"
    );
    assert!(found("a.jsonl", "\n").is_err() && found("b.csv", "x\n").is_err());
    let error = "chats".parse::<Format>().unwrap_err().to_string();
    assert!(
        error.contains("chat, text") && error.contains("gsm8k"),
        "{error}"
    );
}

#[test]
fn documents_are_joined_with_end_tokens_and_cut_into_blocks() {
    let (_dir, files) = model(TEMPLATE);
    let tokenizer = TextTokenizer::from_files(&files).unwrap();
    let documents = [
        "One cat is here.",
        "Two dogs.\nThey bark.",
        "<s>Three birds sing.</s>",
    ];
    let rows: Vec<String> = documents
        .iter()
        .map(|text| json!({"text": text}).to_string())
        .collect();
    let texts = read_as("text", "data.jsonl", &rows.join("\n"), &files).unwrap();
    assert!(texts.questions().is_empty());
    let mut joined = Vec::new();
    for document in [
        "One cat is here.",
        "Two dogs.\nThey bark.",
        "Three birds sing.",
    ] {
        let ids = tokenizer.encode_plain(&[document]).unwrap().concat();
        joined.extend([&[0], &ids[..], &[END]].concat());
    }
    for length in [2, 7, 1000] {
        let blocks = encoding(&tokenizer, length).encode(&texts).unwrap();
        assert_eq!(
            (blocks.rendered(), blocks.cut(), blocks.dropped()),
            (1, 0, 0)
        );
        let expected: Vec<&[u32]> = joined
            .chunks(length)
            .filter(|block| block.len() > 1)
            .collect();
        assert_eq!(blocks.len(), expected.len());
        for (i, ids) in expected.iter().enumerate() {
            let mask: Vec<u32> = (0..ids.len()).map(|at| u32::from(at > 0)).collect();
            assert_eq!(masked(&blocks, i), (ids.to_vec(), mask));
        }
    }
    // A file is one document, and its end is held out.
    let text: String = (0..200).map(|i| format!("Line {i} é\r\n")).collect();
    let whole = read_as("text", "data.txt", &format!("\u{feff}{text}"), &files).unwrap();
    assert_eq!(whole.texts[0].response, text);
    let (train, held_out) = whole.hold_out(20).unwrap();
    let [train, held_out] = [train, held_out].map(|texts| texts.texts[0].response.clone());
    assert_eq!(format!("{train}{held_out}"), text);
    let tail = text.len() / 20;
    assert!(
        (tail..tail + 20).contains(&held_out.len()),
        "{}",
        held_out.len()
    );
    assert!(read_as("text", "data.txt", " \n", &files).is_err());
    let csv = read_as("text:body", "data.csv", "body,x\n\"a\nb\",1\n,2\n", &files).unwrap();
    assert_eq!((csv.texts.len(), csv.empty), (1, 1));
}

#[test]
fn texts_that_a_template_wrote_already_are_counted_and_get_no_token_twice() {
    let (_dir, files) = model(TEMPLATE);
    let tokenizer = TextTokenizer::from_files(&files).unwrap();
    let pair = |prompt: &str, response: &str| {
        json!({"prompt": prompt, "completion": response}).to_string()
    };
    let rows = [
        pair("<s>user\nHi</s>\n<s>assistant\n", "Hello</s>\n"),
        pair("Hi", " there"),
    ];
    let texts = read_as(
        "fields:prompt,completion",
        "data.jsonl",
        &rows.join("\n"),
        &files,
    )
    .unwrap();
    let encoded = encoding(&tokenizer, 64).encode(&texts).unwrap();
    assert_eq!(encoded.rendered(), 1);
    let (ids, _) = masked(&encoded, 0);
    assert!(ids[0] == 0 && ids[1] != 0 && ids.ends_with(&[END]) && ids[ids.len() - 2] != END);
}

#[test]
fn long_contents_are_read_and_cut_without_a_long_wait() {
    let (_dir, files) = model(TEMPLATE);
    let tokenizer = TextTokenizer::from_files(&files).unwrap();
    let long = "many words ".repeat(1 << 17);
    let rows = [
        row(&[("user", &long), ("assistant", "a")]),
        row(&[("user", "a"), ("assistant", &long)]),
        row(&TURNS),
    ];
    let texts = read(&rows.join("\n"), &files).unwrap();
    let encoded = encoding(&tokenizer, 256).encode(&texts).unwrap();
    assert_eq!((encoded.len(), encoded.dropped()), (1, 2));
}

#[test]
fn a_session_learns_answers_and_answers_with_the_template() {
    let (_dir, files) = model(TEMPLATE);
    let rows: Vec<String> = (0..60)
        .map(|i| {
            let name = ["Aromi", "Clowns", "Fitzbillies", "Cocum"][i % 4];
            let question = format!("Where is {name} number {i}?");
            row(&[
                ("user", &question),
                ("assistant", "It is by the river."),
                ("user", "Thanks"),
                ("assistant", "You are welcome."),
            ])
        })
        .collect();
    let (train, held_out) = read(&rows.join("\n"), &files)
        .unwrap()
        .hold_out(10)
        .unwrap();
    assert_eq!((train.texts.len(), held_out.texts.len()), (54, 6));
    let mut recipe = Recipe::builtin(Size::Demo, &Task::text()).unwrap();
    (recipe.epochs, recipe.text.packing, recipe.group_by_length) = (4, true, false);
    (recipe.batch, recipe.lr.adapter) = (2, 1e-2);
    let session = Session {
        recipe,
        methods: vec![Method::Lora],
        files,
        data: TextSource { train, held_out },
        out: None,
        overwrite: false,
        resume: false,
        checkpoints: CheckpointSettings::default(),
        record_every: None,
        quiet: true,
        command: "test".into(),
    };
    let results = session
        .run::<Flex>(&Default::default(), &AtomicBool::new(false))
        .unwrap();
    let run = &results.runs[0];
    let nll = |scores: &vblora_bench::metrics::Scores| scores.get(Metric::Nll).unwrap();
    let (before, after) = (
        nll(run.before.as_ref().unwrap()),
        nll(&run.last.as_ref().unwrap().metrics),
    );
    assert!(after < before / 2.0, "{before} to {after}");
    let device = Default::default();
    let (base, _) = CausalLm::<Flex>::load(&session.files, &device).unwrap();
    let tokenizer = TextTokenizer::from_files(&session.files).unwrap();
    let encoding = encoding(&tokenizer, 256);
    let questions = answerable(session.data.held_out.questions(), &encoding, 4).unwrap();
    let settings = GenerationConfig {
        max_new_tokens: 4,
        stop_tokens: vec![END],
        ..GenerationConfig::default()
    };
    let none = vblora::Factors::none();
    let answers = answer(&base, &none, &encoding, &questions, &settings, &device).unwrap();
    assert_eq!(answers.len(), 6);
    assert!(
        answers.iter().all(
            |a| a.references == ["It is by the river."] && a.prompt.ends_with("<s>assistant\n")
        )
    );
    let config = DecoderConfig::from_files(&session.files).unwrap();
    assert!(config.eos_token_ids.contains(&END));
}

/// SmolLM2-135M-Instruct, if it is in the cache.
#[expect(clippy::print_stdout, reason = "a skipped test says why")]
fn smollm2() -> Option<PathBuf> {
    let cache = std::env::var_os("HOME").map(PathBuf::from)?;
    let folder = cache.join(".cache/vblora-models/smollm2-135m-instruct-hf");
    if !folder.join("tokenizer.json").is_file() {
        println!("skipped: no {}", folder.display());
        return None;
    }
    Some(folder)
}

/// Masks that transformers 5.24 gives (`apply_chat_template(.., return_assistant_tokens_mask=True)`).
#[test]
fn masks_are_those_of_transformers_for_smollm2() {
    let Some(folder) = smollm2() else { return };
    let recorded: Value = serde_json::from_str(include_str!("masks.json")).unwrap();
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let with = |template: Option<&str>| {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
        ] {
            std::fs::copy(folder.join(name), dir.path().join(name)).unwrap();
        }
        if let Some(template) = template {
            std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
        }
        let files = ModelFiles::open(dir.path()).unwrap();
        (dir, files)
    };
    let conversations = recorded["conversations"].as_array().unwrap();
    let row = |case: &Value| {
        let turns = &conversations[case["conversation"].as_u64().unwrap() as usize];
        json!({"messages": turns}).to_string()
    };
    for case in recorded["masks"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let mut models = vec![with(recorded["templates"][name].as_str())];
        // The model's own template has no blocks, and is else the one recorded.
        models.extend((name == "smollm2").then(|| with(None)));
        for (_dir, files) in models {
            let tokenizer = TextTokenizer::from_files(&files).unwrap();
            let texts = read(&row(case), &files).unwrap();
            let encoded = encoding(&tokenizer, 1024).encode(&texts).unwrap();
            let (found, mask) = masked(&encoded, 0);
            // Ours end with the last answer.
            let (mut expected, mut rest) = (ids(&case["ids"]), ids(&case["mask"]));
            assert!(expected.split_off(found.len()).len() < 8);
            assert!(rest.split_off(found.len()).iter().all(|&one| one == 0));
            assert_eq!((found, mask), (expected, rest), "{name}");
        }
    }
}
