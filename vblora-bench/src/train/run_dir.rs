//! The directory of a session: what was asked for, what happened, what came out.

use std::path::{Path, PathBuf};

use burn::{backend::Autodiff, module::AutodiffModule};
use vblora::{
    AnyAdapter,
    backend::VbLoraBackend,
    storage::{HostAdapter, peft::PeftAdapter, write_atomically},
};
use vblora_models::{Family, SaveDtype, save_safetensors};

use super::{
    learner::{Learner, Trained},
    run::Run,
};
use crate::{
    Error, Result,
    recipes::Recipe,
    report::{Results, curves_svg, summary_table},
};

const RESULTS: &str = "results.json";
const CONFIG: &str = "config.toml";

/// A directory that holds one session.
///
/// | file | what |
/// | --- | --- |
/// | `config.toml` | the resolved recipe, which `--recipe` takes, under the command as a comment |
/// | `log.jsonl` | every step and epoch |
/// | `results.json`, `table.md`, `curves.svg` | the outcome |
/// | `METHOD-seedN/` | the best epoch's adapter as a PEFT directory (VB-LoRA: bank and codes), with the head in it on a RoBERTa; else `head.safetensors` |
#[derive(Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Takes a directory for a new session; it is made if absent.
    ///
    /// # Errors
    /// It holds a run already and `overwrite` is not given; it cannot be made.
    pub fn create(dir: &Path, overwrite: bool) -> Result<Self> {
        for found in [RESULTS, CONFIG] {
            if !overwrite && dir.join(found).exists() {
                return Err(Error::RunExists {
                    dir: dir.to_owned(),
                    found,
                });
            }
        }
        std::fs::create_dir_all(dir).map_err(|e| Error::write(dir, e))?;
        // An older outcome must not stand beside the new run's log.
        for stale in [RESULTS, "table.md", "curves.svg"] {
            match std::fs::remove_file(dir.join(stale)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::write(&dir.join(stale), e));
                }
                _ => {}
            }
        }
        Ok(Self(dir.to_owned()))
    }

    /// The file of JSON lines.
    pub fn log(&self) -> PathBuf {
        self.0.join("log.jsonl")
    }

    /// Writes down what was asked for.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_config(
        &self,
        command: &str,
        model: &str,
        backend: &str,
        recipe: &Recipe,
    ) -> Result<()> {
        let comment = |key: &str, text: &str| format!("# {key}: {}\n", text.replace('\n', " "));
        let head = [
            comment("command", command),
            comment("model", model),
            comment("backend", backend),
        ]
        .concat();
        Ok(write_atomically(
            &self.0.join(CONFIG),
            (head + &recipe.to_toml()?).as_bytes(),
        )?)
    }

    /// Writes results, table and picture, replacing older ones.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save_results(&self, results: &Results) -> Result<()> {
        results.write(self.0.join(RESULTS))?;
        write_atomically(&self.0.join("table.md"), summary_table(results).as_bytes())?;
        Ok(write_atomically(
            &self.0.join("curves.svg"),
            curves_svg(results)?.as_bytes(),
        )?)
    }

    /// Writes what the run has trained so far, in files that other tools load: an adapter as a PEFT directory, everything else under its
    /// Hugging Face names.
    pub(super) fn save_trained<B: VbLoraBackend>(
        &self,
        run: &Run,
        learner: &Learner<B>,
    ) -> Result<()> {
        let dir = self
            .0
            .join(format!("{}-seed{}", run.method.name(), run.seed));
        std::fs::create_dir_all(&dir).map_err(|e| Error::write(&dir, e))?;
        let head = learner.head().valid().tensors();
        // The head is RoBERTa's, whatever the encoder; Hugging Face has no BERT with this head that it could be part of.
        let is_roberta = learner.base().config().family == Family::Roberta;
        match learner.trained() {
            Trained::Adapter(adapter) if is_roberta => {
                let adapter = PeftAdapter {
                    prefix: "roberta.".into(),
                    modules_to_save: vec!["classifier".into()],
                    saved: head,
                    task_type: Some("SEQ_CLS".into()),
                    ..stored(adapter)?
                };
                return Ok(adapter.write(&dir)?);
            }
            Trained::Adapter(adapter) => stored(adapter)?.write(&dir)?,
            Trained::Everything => save_tensors(
                &dir.join("model.safetensors"),
                &learner.base().valid().tensors(),
            )?,
            Trained::HeadOnly => {}
        }
        save_tensors(&dir.join("head.safetensors"), &head)
    }
}

/// The form worth keeping: VB-LoRA's bank and codes, LoRA's factors.
fn stored<B: VbLoraBackend>(adapter: &AnyAdapter<Autodiff<B>>) -> Result<PeftAdapter> {
    let adapter = HostAdapter::read(&adapter.valid())?;
    let stored = adapter.store().map(HostAdapter::TopK);
    Ok(PeftAdapter::new(stored.unwrap_or(adapter)))
}

type Named = Vec<(String, vblora_models::HostTensor)>;

fn save_tensors(path: &Path, tensors: &Named) -> Result<()> {
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, t)| (name.as_str(), t.shape.as_slice(), t.values.as_slice()))
        .collect();
    Ok(save_safetensors(path, &views, SaveDtype::F32)?)
}
