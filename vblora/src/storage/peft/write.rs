//! Writing a directory that PEFT loads.

use std::{collections::BTreeSet, fs, io, path::Path};

use safetensors::Dtype;

use super::{
    BANK, BASE_LAYER, CONFIG, FULL, LORA, PeftAdapter, ROOT, TENSORS, TOPK, VERA, VERA_SHARED,
    config, swap, unsaved,
};
use crate::{
    Error, Result, SitePlan,
    count::peft_index_bytes,
    storage::{
        HostAdapter, HostLora, HostVbLora, HostVera, StoredVbLora,
        atomic::UNFINISHED,
        replace_directory,
        tensors::{StoredTensor, write_tensors},
        write_atomically,
    },
};

type Named = Vec<(String, StoredTensor)>;

impl PeftAdapter {
    /// Writes `adapter_config.json` and `adapter_model.safetensors` into `dir`, which is made if absent.
    ///
    /// An older adapter in `dir` is replaced in one step: a reader sees the old one or the new, also after a crash. Other files in `dir`
    /// stay. A directory without a configuration holds no adapter. If it exists, its files are written in place, the configuration last.
    ///
    /// # Errors
    /// The operating system refuses, or `dir` is a symbolic link to an adapter. Two tensors have one name, a value is not finite, or
    /// `modules_to_save` names a module without tensors. A VB-LoRA has a gate, for which PEFT has no place. An older adapter is then still
    /// there.
    pub fn write(&self, dir: &Path) -> Result<()> {
        self.write_with(dir, &[])
    }

    /// As [`write`](Self::write), with files that belong to the adapter, by their names. They appear together with it.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_with(&self, dir: &Path, beside: &[(String, Vec<u8>)]) -> Result<()> {
        self.check_gate()?;
        let stored = self.tensors();
        self.check_readable(&stored)
            .map_err(|reason| Error::Format {
                path: dir.join(TENSORS),
                reason,
            })?;
        let mut names: Vec<_> = stored.iter().map(|(name, _)| name).collect();
        names.sort();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::Format {
                path: dir.join(TENSORS),
                reason: format!("tensor {:?} is given twice", twice[0]),
            });
        }
        let config =
            serde_json::to_string_pretty(&config::to_json(self)).map_err(|e| Error::Format {
                path: dir.join(CONFIG),
                reason: e.to_string(),
            })?;
        let write = |dir: &Path| {
            write_tensors(&dir.join(TENSORS), &stored, ("format", "pt"))?;
            for (name, bytes) in beside {
                write_atomically(&dir.join(name), bytes)?;
            }
            write_atomically(&dir.join(CONFIG), config.as_bytes())
        };
        let is_there = std::fs::symlink_metadata(dir).is_ok();
        if is_there && std::fs::symlink_metadata(dir.join(CONFIG)).is_err() {
            return write(dir);
        }
        replace_directory(dir, |new| {
            if is_there {
                take_over(dir, new).map_err(|cause| Error::Io {
                    path: dir.to_owned(),
                    cause,
                })?;
            }
            write(new)
        })
    }

    /// Refuses tensors that a reader would refuse.
    fn check_readable(&self, stored: &Named) -> Result<(), String> {
        for (name, tensor) in stored {
            let finite = tensor.check_finite();
            finite.map_err(|problem| format!("tensor {name:?}: {problem}; nothing was written"))?;
        }
        let saved = self.saved.iter().map(|(name, _)| name);
        match unsaved(&self.modules_to_save, saved) {
            Some(module) => Err(format!(
                "no tensor of {module:?}, which modules_to_save names; nothing was written"
            )),
            None => Ok(()),
        }
    }

    /// Refuses a gate. Both factors come from one bank, so the bank cannot take a gate in and keep its sign.
    fn check_gate(&self) -> Result<()> {
        let settings = match &self.adapter {
            HostAdapter::VbLora(adapter) => adapter.settings(),
            HostAdapter::TopK(adapter) => adapter.settings(),
            _ => return Ok(()),
        };
        match settings.config().gate {
            true => Err(Error::setting(
                "gate",
                "false for PEFT's VB-LoRA, which has none; as LoRA (`to_lora`, `--form peft-lora`) the factors hold it",
                true,
            )),
            false => Ok(()),
        }
    }

    fn tensors(&self) -> Named {
        let mut tensors = match &self.adapter {
            HostAdapter::VbLora(adapter) => self.full(adapter),
            HostAdapter::TopK(adapter) => self.topk(adapter),
            HostAdapter::Lora(adapter) => self.lora(adapter),
            HostAdapter::Vera(adapter) => self.vera(adapter),
        };
        let sites = self.adapter.plan().sites().iter();
        let adapted: BTreeSet<_> = sites
            .map(|site| format!("{}{}", self.prefix, site.name))
            .collect();
        tensors.extend(self.saved.iter().map(|(name, saved)| {
            let name = match name.rsplit_once('.') {
                Some((module, leaf)) if adapted.contains(module) => {
                    format!("{ROOT}{module}{BASE_LAYER}.{leaf}")
                }
                _ => format!("{ROOT}{name}"),
            };
            (name, StoredTensor::floats(&saved.shape, &saved.values))
        }));
        tensors
    }

    fn name(&self, site: &str, part: &str) -> String {
        format!("{ROOT}{}{site}.{part}", self.prefix)
    }

    fn full(&self, adapter: &HostVbLora) -> Named {
        let config = adapter.settings().config();
        let shape = [config.rank, config.vector_length, config.bank];
        let plan = adapter.settings().plan();
        let logits = StoredTensor::floats;
        let mut tensors = self.slab(plan, adapter.logits(), [FULL[0], FULL[1]], shape, logits);
        tensors.push(bank(adapter.bank(), config.bank, config.vector_length));
        tensors
    }

    fn topk(&self, adapter: &StoredVbLora) -> Named {
        let config = adapter.settings().config();
        let (rank, b, k) = (config.rank, config.vector_length, config.topk);
        let (plan, codes) = (adapter.settings().plan(), adapter.codes());
        let index = match peft_index_bytes(config.bank) {
            1 => Dtype::U8,
            2 => Dtype::I16,
            _ => Dtype::I32,
        };
        let indices =
            |shape: &[usize], values: &[u32]| StoredTensor::integers(index, shape, values);
        let weights = StoredTensor::floats;
        let mut tensors = self.slab(
            plan,
            &codes.indices,
            [TOPK[0], TOPK[1]],
            [rank, b, k],
            indices,
        );
        tensors.extend(self.slab(
            plan,
            &codes.weights,
            [TOPK[2], TOPK[3]],
            [rank, b, k - 1],
            weights,
        ));
        tensors.push(bank(adapter.bank(), config.bank, b));
        tensors
    }

    fn lora(&self, adapter: &HostLora) -> Named {
        let rank = adapter.settings().config().rank;
        let sites = adapter.settings().plan().sites().iter();
        let factors = adapter.a().iter().zip(adapter.b());
        sites
            .zip(factors)
            .flat_map(|(site, (a, b))| {
                [
                    (
                        self.name(&site.name, LORA[0]),
                        StoredTensor::floats(&[rank, site.d_in], a),
                    ),
                    (
                        self.name(&site.name, LORA[1]),
                        StoredTensor::floats(&[site.d_out, rank], &swap(b, [rank, site.d_out, 1])),
                    ),
                ]
            })
            .collect()
    }

    fn vera(&self, adapter: &HostVera) -> Named {
        let (settings, projection) = (adapter.settings(), adapter.projection());
        let rank = settings.config().rank;
        let [d_in, d_out] = settings.largest();
        let vector = |name: String, values: &[f32]| {
            let stored = StoredTensor::floats(&[values.len()], values);
            (name, stored)
        };
        let lambdas = adapter.lambda_d().iter().zip(adapter.lambda_b());
        let sites = settings.plan().sites().iter();
        let mut tensors: Named = sites
            .zip(lambdas)
            .flat_map(|(site, (d, b))| {
                [
                    vector(self.name(&site.name, VERA[0]), d),
                    vector(self.name(&site.name, VERA[1]), b),
                ]
            })
            .collect();
        let a = StoredTensor::floats(&[rank, d_in], &projection.a);
        let b = StoredTensor::floats(&[d_out, rank], &swap(&projection.b, [rank, d_out, 1]));
        tensors.extend(VERA_SHARED.map(str::to_owned).into_iter().zip([a, b]));
        tensors
    }

    /// The rows of a slab as PEFT's tensors, two per site.
    fn slab<T: Copy>(
        &self,
        plan: &SitePlan,
        values: &[T],
        [down, up]: [&str; 2],
        [rank, b, width]: [usize; 3],
        store: impl Fn(&[usize], &[T]) -> StoredTensor,
    ) -> Named {
        let mut rest = values;
        let mut take = |tiles: usize| {
            let (taken, left) = rest.split_at(rank * tiles * width);
            rest = left;
            taken
        };
        let mut tensors = Vec::new();
        for site in plan.sites() {
            let tiles = [site.d_in / b, site.d_out / b];
            let rows = take(tiles[0]);
            tensors.push((
                self.name(&site.name, down),
                store(&[rank, tiles[0], width], rows),
            ));
            let rows = swap(take(tiles[1]), [rank, tiles[1], width]);
            tensors.push((
                self.name(&site.name, up),
                store(&[tiles[1], rank, width], &rows),
            ));
        }
        tensors
    }
}

fn bank(values: &[f32], h: usize, b: usize) -> (String, StoredTensor) {
    (BANK.to_owned(), StoredTensor::floats(&[h, b], values))
}

/// Links files that are no part of the older adapter into the new directory, under the same names.
fn take_over(old: &Path, new: &Path) -> io::Result<()> {
    let is_adapters = |name: &str| name == CONFIG || name.starts_with("adapter_model");
    for entry in fs::read_dir(old)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !is_adapters(&name) && !name.starts_with(UNFINISHED) {
            link(&entry, &new.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn link(entry: &fs::DirEntry, to: &Path) -> io::Result<()> {
    let kind = entry.file_type()?;
    if kind.is_dir() {
        fs::create_dir(to)?;
        fs::set_permissions(to, entry.metadata()?.permissions())?;
        return fs::read_dir(entry.path())?.try_for_each(|inside| {
            let inside = inside?;
            link(&inside, &to.join(inside.file_name()))
        });
    }
    match fs::hard_link(entry.path(), to) {
        // The file system has no hard links.
        Err(_) if kind.is_file() => fs::copy(entry.path(), to).map(|_| ()),
        linked => linked,
    }
}
