//! The built-in recipes.

use toml::{Table, Value};

use super::recipe::{Recipe, syntax};
use crate::tasks::Task;
use crate::{Error, Result};

/// A built-in recipe file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// The paper's Table 7 for RoBERTa-base.
    Base,
    /// The paper's Table 7 for RoBERTa-large.
    Large,
    /// The settings of the PEFT reference runs on all-MiniLM-L6-v2 (MRPC and CoLA).
    Minilm,
    /// The bundled tiny models on the demonstration tasks.
    Demo,
    /// Causal models of any size on texts: the paper's settings for GPT-2 on E2E, as far as they fit other models.
    Decoder,
    /// The paper's Table 8 for GPT-2 medium on E2E.
    Gpt2Medium,
    /// The paper's Table 8 for GPT-2 large on E2E.
    Gpt2Large,
    /// The paper's Table 9 for Llama-2 7B on Alpaca.
    Llama2With7B,
    /// The paper's Table 9 for Llama-2 13B on Alpaca.
    Llama2With13B,
    /// The settings of the paper's Table 4 for Mistral 7B on MetaMathQA.
    Mistral,
    /// The settings of the paper's Table 4 for Gemma 7B on MetaMathQA.
    Gemma,
    /// SmolLM2-135M on texts, for runs of minutes.
    Smollm2,
}

impl Size {
    /// Every built-in file.
    pub const ALL: [Self; 12] = [
        Self::Base,
        Self::Large,
        Self::Minilm,
        Self::Demo,
        Self::Decoder,
        Self::Gpt2Medium,
        Self::Gpt2Large,
        Self::Llama2With7B,
        Self::Llama2With13B,
        Self::Mistral,
        Self::Gemma,
        Self::Smollm2,
    ];

    /// The file's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Base => "roberta_base.toml",
            Self::Large => "roberta_large.toml",
            Self::Minilm => "minilm.toml",
            Self::Demo => "demo.toml",
            Self::Decoder => "decoder.toml",
            Self::Gpt2Medium => "gpt2_medium.toml",
            Self::Gpt2Large => "gpt2_large.toml",
            Self::Llama2With7B => "llama2_7b.toml",
            Self::Llama2With13B => "llama2_13b.toml",
            Self::Mistral => "mistral_7b.toml",
            Self::Gemma => "gemma_7b.toml",
            Self::Smollm2 => "smollm2.toml",
        }
    }

    fn text(&self) -> &'static str {
        match self {
            Self::Base => include_str!("roberta_base.toml"),
            Self::Large => include_str!("roberta_large.toml"),
            Self::Minilm => include_str!("minilm.toml"),
            Self::Demo => include_str!("demo.toml"),
            Self::Decoder => include_str!("decoder.toml"),
            Self::Gpt2Medium => include_str!("gpt2_medium.toml"),
            Self::Gpt2Large => include_str!("gpt2_large.toml"),
            Self::Llama2With7B => include_str!("llama2_7b.toml"),
            Self::Llama2With13B => include_str!("llama2_13b.toml"),
            Self::Mistral => include_str!("mistral_7b.toml"),
            Self::Gemma => include_str!("gemma_7b.toml"),
            Self::Smollm2 => include_str!("smollm2.toml"),
        }
    }
}

impl Recipe {
    /// The built-in recipe of a task: the file's common settings, overridden by the task's own.
    ///
    /// # Errors
    /// The file does not have the task. The error lists the tasks that it has.
    pub fn builtin(size: Size, task: &Task) -> Result<Self> {
        let mut file: Table = toml::from_str(size.text()).map_err(|e| syntax(size.name(), e))?;
        let mut merged = take_table(&mut file, "common");
        let mut tasks = take_table(&mut file, "tasks");
        let available = tasks.keys().cloned().collect::<Vec<_>>().join(", ");
        let Some(Value::Table(own)) = tasks.remove(task.name()) else {
            return Err(Error::NoRecipe {
                size: size.name(),
                task: task.name().to_owned(),
                available,
            });
        };
        merge(&mut merged, own);
        merged.insert("task".into(), task.name().into());
        let recipe: Self = merged.try_into().map_err(|e| syntax(size.name(), e))?;
        recipe.validate()?;
        Ok(recipe)
    }
}

fn take_table(file: &mut Table, key: &str) -> Table {
    match file.remove(key) {
        Some(Value::Table(table)) => table,
        _ => Table::new(),
    }
}

/// Overrides `base` with `over`, table by table.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipes::HeadInit;
    use crate::schedule::ScheduleKind;
    use crate::tasks::{Columns, Target, Written};

    const PAPER: [fn() -> Task; 6] = [
        Task::sst2,
        Task::mrpc,
        Task::cola,
        Task::qnli,
        Task::rte,
        Task::stsb,
    ];

    /// Table 7 of the paper: epochs and head learning rates, in the order of `PAPER`.
    const TABLE_7: [(Size, usize, [usize; 6], [f64; 6]); 2] = [
        (
            Size::Base,
            512,
            [60, 30, 80, 25, 160, 80],
            [4e-3, 4e-3, 2e-2, 1e-2, 2e-2, 2e-2],
        ),
        (
            Size::Large,
            128,
            [20, 40, 40, 20, 40, 40],
            [3e-3, 3e-3, 3e-3, 2e-3, 2e-3, 6e-3],
        ),
    ];

    #[test]
    fn matches_table_7() {
        for (size, max_length, epochs, head_lr) in TABLE_7 {
            for (i, task) in PAPER.into_iter().enumerate() {
                let task = task();
                let recipe = Recipe::builtin(size, &task).unwrap();
                assert_eq!(recipe.task, task);
                assert_eq!(
                    (recipe.epochs, recipe.lr.head),
                    (epochs[i], head_lr[i]),
                    "{size:?} {task}"
                );
                assert_eq!(
                    (recipe.max_length, recipe.batch, recipe.accumulation),
                    (max_length, 32, 1)
                );
                let v = &recipe.vblora;
                assert_eq!((v.bank, v.vector_length, v.rank, v.topk), (90, 256, 4, 2));
                assert_eq!((v.bank_bound, v.logits_std), (0.02, 0.01));
                assert_eq!((recipe.lr.bank, recipe.lr.logits), (1e-3, 1e-2));
                assert_eq!(
                    (recipe.schedule.kind, recipe.schedule.warmup_ratio),
                    (ScheduleKind::Linear, 0.06)
                );
                assert_eq!(
                    (recipe.weight_decay.head, recipe.weight_decay.logits),
                    (0.1, 0.0)
                );
                assert_eq!((recipe.clip_norm, recipe.base_dropout), (1.0, None));
            }
        }
    }

    /// The VeRA paper's learning rates and ranks, in the order of `PAPER`. Tied-LoRA's ranks follow from the published counts.
    #[test]
    fn baselines_have_their_papers_settings() {
        for (size, vera_rank, tied_rank, vera_lr) in [
            (Size::Base, 1024, 8, [4e-3, 1e-2, 1e-2, 1e-2, 4e-3, 1e-2]),
            (Size::Large, 256, 4, [1e-2, 3e-2, 1e-2, 1e-2, 2e-2, 2e-2]),
        ] {
            for (task, lr) in PAPER.into_iter().zip(vera_lr) {
                let task = task();
                let recipe = Recipe::builtin(size, &task).unwrap();
                assert_eq!(recipe.lr.of_adapter("vera"), lr, "{size:?} {task}");
                assert_eq!(
                    (recipe.vera.rank, recipe.tied_lora.rank),
                    (vera_rank, tied_rank)
                );
                assert!(recipe.differs["vera"].contains("head"));
            }
        }
    }

    #[test]
    fn where_paper_and_code_differ_both_are_written() {
        for (size, key, code) in [
            (Size::Base, "epochs", "60"),
            (Size::Large, "lr.head", "6e-3"),
        ] {
            let mrpc = Recipe::builtin(size, &Task::mrpc()).unwrap();
            let note = &mrpc.differs[key];
            assert!(note.contains("paper") && note.contains(code), "{note}");
            // The common notes stay next to the task's own.
            assert!(mrpc.differs.contains_key("vblora.logits_std"));
            let cola = Recipe::builtin(size, &Task::cola()).unwrap();
            assert!(!cola.differs.contains_key(key), "{size:?}");
        }
    }

    #[test]
    fn minilm_has_the_reference_runs_settings() {
        for task in [Task::mrpc(), Task::cola()] {
            let recipe = Recipe::builtin(Size::Minilm, &task).unwrap();
            assert_eq!(
                (recipe.epochs, recipe.batch, recipe.max_length),
                (5, 32, 128)
            );
            let v = &recipe.vblora;
            assert_eq!((v.bank, v.vector_length, v.rank, v.topk), (90, 128, 4, 2));
            let lr = &recipe.lr;
            assert_eq!(
                (lr.bank, lr.logits, lr.adapter, lr.head),
                (1e-3, 1e-2, 5e-4, 1e-3)
            );
            assert_eq!(
                (recipe.lora.rank, recipe.lora.alpha, recipe.lora.dropout),
                (8, 16.0, 0.0)
            );
            assert_eq!(
                (recipe.head.init, recipe.head.dropout),
                (HeadInit::Torch, 0.1)
            );
            assert_eq!(recipe.schedule.warmup_ratio, 0.06);
        }
    }

    #[test]
    fn demo_is_there() {
        let recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
        let v = &recipe.vblora;
        assert_eq!((v.vector_length, v.rank, v.topk), (64, 8, 2));
    }

    #[test]
    fn the_decoder_recipe_is_table_8_where_it_does_not_say_otherwise() {
        let recipe = Recipe::builtin(Size::Decoder, &Task::text()).unwrap();
        let (v, lr) = (&recipe.vblora, &recipe.lr);
        assert_eq!((v.bank, v.rank, v.topk, recipe.batch), (256, 4, 2, 8));
        assert_eq!((lr.bank, lr.logits), (1e-3, 1e-2));
        for key in ["vblora.vector_length", "epochs", "text.label_smoothing"] {
            assert!(recipe.differs[key].contains("Table 8"), "{key}");
        }
    }

    #[test]
    fn every_entry_of_every_file_is_a_whole_recipe() {
        for size in Size::ALL {
            let file: Table = toml::from_str(size.text()).unwrap();
            assert_eq!(
                file.keys().collect::<Vec<_>>(),
                ["common", "tasks"],
                "{}",
                size.name()
            );
            for name in file["tasks"].as_table().unwrap().keys() {
                let recipe = Recipe::builtin(size, &name.parse().unwrap()).unwrap();
                let text = recipe.to_toml().unwrap();
                assert_eq!(Recipe::from_toml(&text, size.name()).unwrap(), recipe);
            }
        }
    }

    #[test]
    fn a_task_the_file_lacks_is_named() {
        let error = Recipe::builtin(Size::Minilm, &Task::rte())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("minilm.toml") && error.contains("rte") && error.contains("cola, mrpc"),
            "{error}"
        );
        assert!(Recipe::builtin(Size::Base, &Task::demo()).is_err());
    }

    #[test]
    fn an_unknown_key_in_a_merged_table_is_named() {
        let mut base: Table = toml::from_str("lr = { bank = 1.0 }").unwrap();
        merge(
            &mut base,
            toml::from_str("lr = { bnak = 2.0 }\nepochs = 1").unwrap(),
        );
        assert_eq!(base["lr"].as_table().unwrap().len(), 2);
        let mut whole =
            Table::try_from(Recipe::builtin(Size::Demo, &Task::demo()).unwrap()).unwrap();
        merge(&mut whole, base);
        let error = whole.try_into::<Recipe>().unwrap_err().to_string();
        assert!(error.contains("bnak"), "{error}");
    }

    #[test]
    fn tasks_of_ones_own_go_round_in_json_and_toml() {
        let columns = Columns {
            first: "review".into(),
            second: Some("reply".into()),
            label: "stars".into(),
        };
        let names = || ["bad", "so so", "good"].map(String::from).to_vec();
        let targets = [
            Target::Classes {
                names: names(),
                written: Written::Name,
            },
            Target::Sets {
                names: names(),
                separator: Some(";".into()),
            },
            Target::Number {
                lowest: -1.5,
                highest: 1e30,
            },
        ];
        // A task with the name of a known one is still another task.
        for (target, name) in targets.into_iter().zip(["reviews", "tags", "mrpc"]) {
            let task = Task::own(name, columns.clone(), target);
            let json = serde_json::to_value(&task).unwrap();
            assert_eq!(serde_json::from_value::<Task>(json).unwrap(), task);
            let mut recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
            recipe.task = task;
            let text = recipe.to_toml().unwrap();
            assert_eq!(Recipe::from_toml(&text, "x").unwrap(), recipe, "{text}");
        }
        let twice = Target::Sets {
            names: vec!["a".into(), "a".into()],
            separator: None,
        };
        let task = Task::own("x", columns, twice);
        let json = serde_json::to_value(&task).unwrap();
        let error = serde_json::from_value::<Task>(json).unwrap_err();
        assert!(
            error.to_string().contains("\"a\" is listed twice"),
            "{error}"
        );
    }
}
