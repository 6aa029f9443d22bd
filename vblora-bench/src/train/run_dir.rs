//! The directory of a session: what was asked for, what happened, what came out.

use std::path::{Path, PathBuf};

use burn::module::AutodiffModule;
use vblora::{AnyAdapter, backend::VbLoraBackend, storage::write_atomically};
use vblora_models::{SaveDtype, save_safetensors};

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
/// | `METHOD-seedN/` | the best epoch's adapter (VB-LoRA: bank and codes) and head |
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

    /// Writes what the run has trained so far: the adapter in its stored form, and the head under its Hugging Face names.
    pub(super) fn save_trained<B: VbLoraBackend>(
        &self,
        run: &Run,
        learner: &Learner<B>,
    ) -> Result<()> {
        let dir = self
            .0
            .join(format!("{}-seed{}", run.method.name(), run.seed));
        std::fs::create_dir_all(&dir).map_err(|e| Error::write(&dir, e))?;
        save_tensors(
            &dir.join("head.safetensors"),
            &learner.head().valid().tensors(),
        )?;
        match learner.trained() {
            Trained::Adapter(adapter) => match &**adapter {
                AnyAdapter::VbLora(adapter) => Ok(adapter
                    .valid()
                    .store()?
                    .save(&dir.join("adapter.safetensors"))?),
                AnyAdapter::Lora(adapter) => save_tensors(
                    &dir.join("adapter.safetensors"),
                    &lora_tensors(&adapter.valid()),
                ),
            },
            Trained::Everything => save_tensors(
                &dir.join("model.safetensors"),
                &learner.base().valid().tensors(),
            ),
            Trained::HeadOnly => Ok(()),
        }
    }
}

type Named = Vec<(String, vblora_models::HostTensor)>;

fn save_tensors(path: &Path, tensors: &Named) -> Result<()> {
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, t)| (name.as_str(), t.shape.as_slice(), t.values.as_slice()))
        .collect();
    Ok(save_safetensors(path, &views, SaveDtype::F32)?)
}

/// `SITE.lora_A.weight` `[r, d_in]` and `SITE.lora_B.weight` `[d_out, r]`, the shapes of PEFT.
fn lora_tensors<B: VbLoraBackend>(adapter: &vblora::Lora<B>) -> Named {
    let sites = adapter
        .settings()
        .plan()
        .sites()
        .iter()
        .zip(adapter.a.iter().zip(&adapter.b));
    let named = sites.flat_map(|(site, (a, b))| {
        [
            (
                format!("{}.lora_A.weight", site.name),
                vblora_models::host_tensor(a.val()),
            ),
            (
                format!("{}.lora_B.weight", site.name),
                vblora_models::host_tensor(b.val().transpose()),
            ),
        ]
    });
    named.collect()
}
