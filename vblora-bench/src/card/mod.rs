//! The model card of an adapter: `README.md`, with the block of metadata that the hub reads.

mod base;
mod escape;

use std::path::Path;

use vblora::storage::read_text;

use crate::{
    Result,
    limits::MAX_TEXT_BYTES,
    metrics::Metric,
    recipes::Recipe,
    results::{EpochScores, RunResult},
    tasks::counted,
};

pub(crate) use base::Base;
use escape::{code, fenced, quoted};

/// What an example of a file of conversations is.
const CONVERSATION: &str = "conversation";
/// The tag of an adapter that was trained on conversations.
const CONVERSATIONAL: &str = "conversational";
/// The name of the training split's hash.
pub(crate) const TRAIN: &str = "training split";
/// The name of the development split's hash.
pub(crate) const DEV: &str = "development split";

/// Returns true if the card at this path says that the adapter was trained on conversations.
pub(crate) fn is_conversational(card: &Path) -> bool {
    let text = read_text(card, MAX_TEXT_BYTES).unwrap_or_default();
    let metadata = text.strip_prefix("---\n").unwrap_or_default();
    let mut lines = metadata.lines().take_while(|line| *line != "---");
    lines.any(|line| line.strip_prefix("- ") == Some(CONVERSATIONAL))
}

/// The hashes of the training and the development split in the card at this path.
pub(crate) fn splits(card: &Path) -> Option<[String; 2]> {
    let text = read_text(card, MAX_TEXT_BYTES).ok()?;
    let hash = |name: &str| {
        let (_, rest) = text.split_once(&format!("\n- {name}: `"))?;
        Some(rest.split_once('`')?.0.to_owned())
    };
    Some([hash(TRAIN)?, hash(DEV)?])
}

/// The hashes of a run's inputs.
#[derive(Debug)]
pub(crate) struct Hashes<'a> {
    /// SHA-256 of the model's files.
    pub(crate) model: &'a str,
    /// SHA-256 of the encoded training split.
    pub(crate) train: &'a str,
    /// SHA-256 of the encoded development split.
    pub(crate) dev: &'a str,
}

/// An adapter and where it comes from.
#[derive(Debug)]
pub(crate) struct Card<'a> {
    /// The run so far. Its best evaluation is that of the adapter.
    pub(crate) result: &'a RunResult,
    /// The name of the data: that of the task, or of the file of texts.
    pub(crate) data: &'a str,
    /// What an example is: `row`, `text`, `conversation` or `block`.
    pub(crate) unit: &'a str,
    /// The numbers of examples that were trained on and evaluated on.
    pub(crate) rows: [usize; 2],
    pub(crate) recipe: &'a Recipe,
    pub(crate) base: Base,
    pub(crate) hashes: Hashes<'a>,
    /// Bytes of `adapter_model.safetensors`.
    pub(crate) adapter_bytes: u64,
    pub(crate) backend: &'a str,
    pub(crate) threads: Option<usize>,
    /// The arguments of `vblora train`; empty if another program made the session.
    pub(crate) arguments: &'a [String],
}

impl Card<'_> {
    /// The card as Markdown.
    ///
    /// # Errors
    /// The recipe cannot be written as TOML.
    pub(crate) fn text(&self) -> Result<String> {
        let parts = [
            self.metadata(),
            self.introduction(),
            self.scores(),
            self.sizes(),
            self.data(),
            self.repetition(),
            self.settings()?,
        ];
        Ok(parts.concat())
    }

    /// The defined metrics of the adapter's evaluation.
    fn metrics(&self) -> Vec<(Metric, f64)> {
        let best = self.result.best.iter();
        let all = best.flat_map(|best| best.metrics.iter());
        all.filter_map(|(metric, value)| Some((metric, value?)))
            .collect()
    }

    fn metadata(&self) -> String {
        let task = &self.result.task;
        let pipeline = match task.is_text() {
            true => "text-generation",
            false => "text-classification",
        };
        let mut lines = vec!["---".to_owned()];
        lines.extend(
            self.base
                .hub_name()
                .map(|id| format!("base_model: {}", quoted(id))),
        );
        lines.push("library_name: peft".into());
        lines.push(format!("pipeline_tag: {pipeline}"));
        lines.push("tags:".into());
        lines.extend(self.base.id().map(|id| {
            let tag = format!("base_model:adapter:{id}");
            format!("- {}", quoted(&tag))
        }));
        lines.push(format!("- {}", quoted(&self.result.method)));
        lines.push("- burn".into());
        lines.extend((self.unit == CONVERSATION).then(|| format!("- {CONVERSATIONAL}")));
        let metrics = self.metrics();
        if !metrics.is_empty() {
            let name = quoted(self.data);
            lines.push("metrics:".into());
            lines.extend(metrics.iter().map(|(metric, _)| format!("- {metric}")));
            lines.push("model-index:".into());
            lines.push(format!("- name: {}", quoted(&self.result.file_name())));
            lines.push("  results:".into());
            lines.push("  - task:".into());
            lines.push(format!("      type: {pipeline}"));
            lines.push("    dataset:".into());
            lines.push(format!("      name: {name}"));
            lines.push(format!("      type: {name}"));
            lines.push("      split: dev".into());
            lines.push("    metrics:".into());
            for (metric, value) in metrics {
                lines.push(format!("    - type: {metric}"));
                lines.push(format!("      value: {value:?}"));
            }
        }
        lines.push("---\n\n".into());
        lines.join("\n")
    }

    fn introduction(&self) -> String {
        let RunResult {
            method,
            seed,
            targets,
            ..
        } = self.result;
        let name = code(self.data);
        let (title, data) = match self.result.task.is_text() {
            true => (format!("the {}s of {name}", self.unit), String::new()),
            false => (name, "the task ".to_owned()),
        };
        let ([train, dev], unit) = (self.rows, self.unit);
        let revision = match self.base.revision() {
            Some(revision) => format!(" at revision {}", code(revision)),
            None => String::new(),
        };
        let base = code(self.base.name());
        let loaded = match self.result.task.is_text() {
            true => "",
            false => {
                ", with its head, on the base as transformers' AutoModelForSequenceClassification with the `config.json` of the directory"
            }
        };
        format!(
            "# {} for {title}\n\n\
             An adapter of {base}{revision} by the method {}, trained on {data}{title} with seed {seed} on the linear maps {}. \
             It was trained on {train} {unit}s and evaluated on {dev}. \
             `vblora` {} made it. PEFT loads this directory{loaded}.\n\n",
            code(method),
            code(method),
            code(targets),
            env!("CARGO_PKG_VERSION"),
        )
    }

    fn scores(&self) -> String {
        let Some(EpochScores { epoch, step, .. }) = &self.result.best else {
            return String::new();
        };
        let step = step.map_or(String::new(), |step| format!(", step {step}"));
        let mut text =
            format!("## Scores\n\nOn the development split, in epoch {epoch}{step}:\n\n");
        for (metric, value) in self.metrics() {
            text += &format!("- {metric}: {value}\n");
        }
        if let Some(before) = &self.result.before {
            for (metric, value) in before.iter() {
                let value = value.map_or("undefined".into(), |value| value.to_string());
                text += &format!("- {metric} of the base without the adapter: {value}\n");
            }
        }
        text + "\n"
    }

    fn sizes(&self) -> String {
        let RunResult {
            trained_parameters,
            stored_bytes,
            head_parameters,
            ..
        } = self.result;
        let head = match head_parameters {
            0 => String::new(),
            head => format!("- trained and stored parameters of the head: {head}\n"),
        };
        format!(
            "## Sizes\n\n\
             - trained parameters of the adapter: {trained_parameters}\n\
             - bytes of the stored adapter: {stored_bytes}\n\
             {head}\
             - bytes of `adapter_model.safetensors`: {}\n\n",
            self.adapter_bytes
        )
    }

    fn data(&self) -> String {
        let Hashes { model, train, dev } = self.hashes;
        format!(
            "## Hashes\n\n\
             SHA-256 of what the adapter was trained on. A split is hashed as tokens and labels, a large one as texts and labels.\n\n\
             - files of the base: `{model}`\n\
             - {TRAIN}: `{train}`\n\
             - {DEV}: `{dev}`\n\n"
        )
    }

    fn repetition(&self) -> String {
        if self.arguments.is_empty() {
            return String::new();
        }
        let is_kept = |word: &&String| !["--resume", "--overwrite"].contains(&word.as_str());
        let words: Vec<&String> = self.arguments.iter().filter(is_kept).collect();
        let shown: Vec<String> = words.iter().map(|word| shortened(word)).collect();
        let command = ["vblora", "train"].into_iter();
        let command = command.chain(shown.iter().map(String::as_str)).map(shell);
        let command = command.collect::<Vec<_>>().join(" ");
        let threads = self.threads.map_or(String::new(), |threads| {
            format!(" with {}", counted(threads, "thread", "threads"))
        });
        let note = match shown.iter().eq(words) {
            true => "",
            false => " Absolute paths are shortened to their last names.",
        };
        format!(
            "## The command that repeats it\n\n\
             It ran on the backend {}{threads}.{note} `--out` must be new, or `vblora verify RUN`, with the directory of the run, \
             repeats it elsewhere and compares the bytes.\n\n{}\n",
            code(self.backend),
            fenced("sh", &command)
        )
    }

    fn settings(&self) -> Result<String> {
        let mut recipe = self.recipe.clone();
        self.base.name().clone_into(&mut recipe.model);
        if let Some(bank) = &mut recipe.bank {
            bank.file = shortened(&bank.file.to_string_lossy()).into();
        }
        let text = fenced("toml", &recipe.to_toml()?);
        Ok(format!("## Recipe\n\n{text}"))
    }
}

/// The word without the folders of an absolute path in it, which tell a stranger nothing but the names of this machine.
fn shortened(word: &str) -> String {
    let last = |path: &str| {
        let path = Path::new(path);
        let name = path.is_absolute().then(|| path.file_name()).flatten();
        name.map(|name| name.to_string_lossy().into_owned())
    };
    if let Some(name) = last(word) {
        return name;
    }
    match word.split_once('=') {
        Some((flag, value)) if flag.starts_with("--") => match last(value) {
            Some(name) => format!("{flag}={name}"),
            None => word.to_owned(),
        },
        _ => word.to_owned(),
    }
}

/// The word as a shell takes it.
fn shell(word: &str) -> String {
    // The system passes no word with a NUL, the only character that cannot be quoted.
    shlex::try_quote(word).map_or_else(|_| String::new(), |word| word.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{recipes::Size, results::test_run, tasks::Task};

    fn text(base: Base, task: &str, arguments: &[&str]) -> String {
        let mut result = test_run("vblora", "all", 1, &[0.5, 0.75]);
        result.task = match task.ends_with(".jsonl") {
            true => Task::text(),
            false => Task {
                name: task.into(),
                ..result.task
            },
        };
        result.head_parameters *= u64::from(!result.task.is_text());
        let mut recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
        recipe.model = "/home/me/secret/model".into();
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).into()).collect();
        let card = Card {
            result: &result,
            data: task,
            unit: if task.ends_with(".jsonl") {
                CONVERSATION
            } else {
                "row"
            },
            rows: [96, 24],
            recipe: &recipe,
            base,
            hashes: Hashes {
                model: "m5",
                train: "t5",
                dev: "d5",
            },
            adapter_bytes: 1234,
            backend: "flex",
            threads: Some(2),
            arguments: &arguments,
        };
        card.text().unwrap()
    }

    #[test]
    fn a_card_says_what_the_adapter_is_and_how_to_repeat_it() {
        let arguments = ["--data", "my data.tsv", "--seeds", "1", "--resume"];
        let text = text(Base::hub("org/name@abc123"), "mrpc", &arguments);
        for part in [
            "---\nbase_model: \"org/name\"\nlibrary_name: peft\npipeline_tag: text-classification\n",
            "- \"base_model:adapter:org/name\"\n- \"vblora\"\n",
            "    - type: accuracy\n      value: 0.75\n    - type: f1\n      value: 0.5\n",
            "at revision `abc123`",
            "PEFT loads this directory, with its head, on",
            "in epoch 2:\n\n- accuracy: 0.75\n",
            "It was trained on 96 rows and evaluated on 24.",
            "- bytes of the stored adapter: 101376\n- trained and stored parameters of the head: 1051650\n",
            "- bytes of `adapter_model.safetensors`: 1234\n",
            "`vblora verify RUN`",
            "- training split: `t5`\n",
            "\n\n```sh\nvblora train --data 'my data.tsv' --seeds 1\n```\n",
            "```toml\ntask = \"demo\"\nmodel = \"org/name\"\n",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    }

    #[test]
    fn a_card_of_conversations_is_named_after_their_file_and_knows_their_form() {
        let dir = tempfile::tempdir().unwrap();
        let card = dir.path().join("README.md");
        for (task, is_conversational) in [("chat.jsonl", true), ("mrpc", false)] {
            let text = text(Base::directory("model"), task, &[]);
            std::fs::write(&card, &text).unwrap();
            assert_eq!(super::is_conversational(&card), is_conversational, "{text}");
            assert_eq!(splits(&card), Some(["t5".into(), "d5".into()]), "{text}");
            let named = text.contains("# `vblora` for the conversations of `chat.jsonl`\n");
            assert_eq!(named, is_conversational, "{text}");
            assert_eq!(text.contains("the head"), !is_conversational, "{text}");
        }
    }

    #[test]
    fn names_of_this_machine_stay_here() {
        let arguments = [
            "--model",
            "/home/me/secret/model",
            "--data=/home/me/secret/a.csv",
        ];
        let text = text(Base::directory("model"), "mrpc", &arguments);
        assert!(
            !text.contains("/home") && !text.contains("secret"),
            "{text}"
        );
        assert!(
            text.contains("vblora train --model model '--data=a.csv'\n"),
            "{text}"
        );
        assert!(text.contains("shortened") && text.contains("base_model: \"model\"\n"));
        assert!(
            !text.contains("base_model:adapter"),
            "a directory is no id of the hub"
        );
    }

    #[test]
    fn names_become_neither_yaml_nor_markdown() {
        let task = "a\": [x]\n---\n# b `c` <b>";
        let text = text(
            Base::directory("the `bundled` model"),
            task,
            &["--text", "```\n# x"],
        );
        let (metadata, rest) = text[4..].split_once("\n---\n").unwrap();
        assert!(
            metadata.contains(r#"name: "a\": [x]\n---\n# b `c` <b>""#),
            "{metadata}"
        );
        assert!(
            !metadata.contains("base_model:"),
            "no name that the hub could have"
        );
        assert!(
            rest.contains("for ``a\": [x] --- # b `c` <b>``\n"),
            "{rest}"
        );
        assert!(
            rest.contains("\n````sh\nvblora train --text '```\n# x'\n````\n"),
            "{rest}"
        );
    }
}
