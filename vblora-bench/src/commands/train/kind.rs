//! The kind of the model, and the flags that only one kind has.

use anyhow::{Result, bail};
use vblora_models::ModelFiles;

use super::arguments::Arguments;
use crate::commands::config::ModelConfig;

/// The kind of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Learns a task with labels.
    Encoder,
    /// Learns to continue a prompt.
    Causal,
}

impl Kind {
    /// The kind of a model, from its configuration.
    pub(super) fn of(files: &ModelFiles) -> Result<Self> {
        Ok(match ModelConfig::of(files)? {
            ModelConfig::Encoder(_) => Self::Encoder,
            ModelConfig::Decoder(_) => Self::Causal,
        })
    }

    /// Refuses flags that only the other kind has.
    pub(super) fn check(self, arguments: &Arguments, files: &ModelFiles) -> Result<()> {
        let (own, other, flags) = match self {
            Self::Encoder => ("an encoder", "a causal model", arguments.causal.given()),
            Self::Causal => (
                "a causal model",
                "an encoder",
                [arguments.encoder.given(), arguments.table.given()].concat(),
            ),
        };
        if flags.is_empty() {
            return Ok(());
        }
        bail!(
            "{} is {own}, and only {other} takes {}",
            files.name(),
            flags.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;
    use crate::demo;

    fn command() -> Command {
        Arguments::augment_args(Command::new("train"))
    }

    fn parse(flags: &[&str]) -> Arguments {
        let matches = command().try_get_matches_from([&["train"], flags].concat());
        Arguments::from_arg_matches(&matches.unwrap()).unwrap()
    }

    /// The flags under a heading of the help.
    fn flags(heading: &str) -> Vec<(String, bool)> {
        let command = command();
        let under = command.get_arguments();
        let under = under.filter(|a| a.get_help_heading() == Some(heading));
        under
            .map(|a| {
                let flag = format!("--{}", a.get_long().unwrap());
                (flag, a.get_action().takes_values())
            })
            .collect()
    }

    #[test]
    fn the_configuration_says_which_kind_a_model_is() {
        assert_eq!(Kind::of(&demo::model_files()).unwrap(), Kind::Encoder);
        assert_eq!(Kind::of(&demo::decoder_files()).unwrap(), Kind::Causal);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), r#"{"model_type": "t5"}"#).unwrap();
        let error = Kind::of(&ModelFiles::open(dir.path()).unwrap()).unwrap_err();
        let error = error.to_string();
        for part in ["config.json", "\"t5\"", "roberta", "llama"] {
            assert!(error.contains(part), "{error}");
        }
    }

    /// The flags that clap requires beside a flag.
    fn needed(flag: &str) -> &'static [&'static str] {
        match flag {
            "--held-out" | "--text" => &["--data", "x"],
            "--length-penalty" => &["--beams", "2"],
            "--text-pair" | "--label" | "--dev" | "--hold-out" | "--hold-out-seed" => {
                &["--data", "x", "--text", "a"]
            }
            "--labels" | "--regression" | "--multi-label" => {
                &["--data", "x", "--text", "a", "--label", "b"]
            }
            "--label-separator" => &[
                "--data",
                "x",
                "--text",
                "a",
                "--label",
                "b",
                "--multi-label",
            ],
            _ => &[],
        }
    }

    #[test]
    fn every_flag_of_the_other_kind_is_refused_by_name() {
        let kinds = [
            (Kind::Encoder, "Causal models only", demo::model_files(), 15),
            (Kind::Causal, "Encoders only", demo::decoder_files(), 14),
        ];
        for (kind, heading, files, count) in kinds {
            let flags = flags(heading);
            assert_eq!(flags.len(), count);
            for (flag, takes_value) in flags {
                let value = match flag.as_str() {
                    "--format" => "alpaca",
                    "--too-long" => "drop",
                    "--task" => "rte",
                    "--metric" => "accuracy",
                    _ => "1",
                };
                let mut given = vec![flag.as_str()];
                given.extend(takes_value.then_some(value));
                given.extend(needed(&flag));
                let error = kind.check(&parse(&given), &files).unwrap_err().to_string();
                let flags = given.iter().filter(|flag| flag.starts_with("--"));
                let flags: Vec<_> = flags.filter(|flag| **flag != "--data").collect();
                assert!(flags.iter().all(|flag| error.contains(**flag)), "{error}");
                let only = format!("takes {flag}");
                assert!(flags.len() > 1 || error.ends_with(&only), "{error}");
            }
            kind.check(&parse(&["--epochs", "1"]), &files).unwrap();
        }
    }
}
