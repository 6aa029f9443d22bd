//! Reading a directory: names to modules, modules to sites, tensors to values, everything checked and named.

use std::{collections::BTreeSet, path::Path};

use safetensors::Dtype;

use super::{
    BANK, FULL, LORA, PeftAdapter, PeftConfig, PeftMethod, ROOT, TENSORS, TOPK, VERA, VERA_SHARED,
    swap,
};
use crate::{
    LoraConfig, Result, Site, SitePlan, VbLoraConfig, VeraConfig,
    adapter::Projection,
    storage::{
        Bank, Codes, HostAdapter, HostLora, HostTensor, HostVbLora, HostVera, StoredVbLora,
        TensorFile,
    },
};

/// A PEFT directory whose names and shapes have been checked against each other, not yet bound to a model.
#[derive(Debug)]
pub struct PeftDirectory {
    config: PeftConfig,
    file: TensorFile,
    form: &'static [&'static str],
    /// The adapted modules, named as in the wrapped model.
    sites: Vec<Site>,
    /// The tensors of `modules_to_save`.
    saved: Vec<String>,
}

impl PeftDirectory {
    /// Opens a directory and finds out what it holds; the tensors decide whether it is VB-LoRA's full or its top-k form.
    ///
    /// # Errors
    /// A file is missing or broken; the method or a setting is one that this library does not have; a tensor is missing, of another shape
    /// than settings say, or none that belongs here.
    pub fn open(dir: &Path) -> Result<Self> {
        let config = PeftConfig::read(dir)?;
        let file = TensorFile::read(&dir.join(TENSORS))?;
        let form = form(&config, &file);
        let (modules, saved) = sort_names(&config, &file, form)?;
        match &config.method {
            PeftMethod::VbLora(vblora) => {
                expect_shape(&file, BANK, &[vblora.bank, vblora.vector_length])?;
            }
            PeftMethod::Vera(vera) => expect_projection(&file, vera.rank)?,
            _ => {}
        }
        let sites = modules
            .into_iter()
            .map(|module| dimensions(&config, &file, form, &module))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            config,
            file,
            form,
            sites,
            saved,
        })
    }

    /// What `adapter_config.json` says.
    pub fn config(&self) -> &PeftConfig {
        &self.config
    }

    /// Whether only the codes are stored.
    pub fn is_topk(&self) -> bool {
        self.form == TOPK
    }

    /// The adapted modules as sites, named as in the model that PEFT wraps; dimensions as the tensors have them. VeRA's tensors do not say how
    /// wide a module's input is: `d_in` is then the largest, the width of the random matrix.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// The vector bank alone, whatever the directory's sites are.
    ///
    /// # Errors
    /// It is no VB-LoRA; a value is not finite.
    pub fn bank(&self) -> Result<Bank> {
        let PeftMethod::VbLora(config) = &self.config.method else {
            return Err(self.file.error("no VB-LoRA, so there is no bank in it"));
        };
        Bank::new([config.bank, config.vector_length], self.file.floats(BANK)?)
            .map_err(|e| self.file.error(e.to_string()))
    }

    /// Reads the values for a model with these sites, whose names may stand behind a common prefix in the directory.
    ///
    /// # Errors
    /// A module of the directory is no site of the model or has other dimensions; a site that the targeting rules pick has no tensors; a
    /// value is not finite, an index is at or above h or twice in a row, a weight is outside 0 to 1.
    pub fn bind(&self, sites: &[Site]) -> Result<PeftAdapter> {
        let prefix = self.prefix(sites)?;
        let chosen = self.chosen(sites, &prefix)?;
        let plan = SitePlan::exactly(chosen);
        let adapter = match &self.config.method {
            PeftMethod::VbLora(config) => self.vblora(config, &plan, &prefix)?,
            PeftMethod::Lora(config) => HostAdapter::Lora(self.lora(config, &plan, &prefix)?),
            PeftMethod::Vera(config) => HostAdapter::Vera(self.vera(config, &plan, &prefix)?),
        };
        let saved = self
            .saved
            .iter()
            .map(|name| {
                let tensor = HostTensor {
                    shape: self.file.shape(name).unwrap_or_default().to_vec(),
                    values: self.file.floats(name)?,
                };
                Ok((name[ROOT.len()..].to_owned(), tensor))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(PeftAdapter {
            adapter,
            prefix,
            modules_to_save: self.config.modules_to_save.clone(),
            saved,
            task_type: self.config.task_type.clone(),
            base_model: self.config.base_model.clone(),
            fan_in_fan_out: self.config.fan_in_fan_out,
        })
    }

    /// What stands in front of the sites' names: the shortest prefix of the first module behind which a site's name follows.
    fn prefix(&self, sites: &[Site]) -> Result<String> {
        let first = &self.sites[0].name;
        let prefixes = sites.iter().filter_map(|site| {
            let prefix = first.strip_suffix(site.name.as_str())?;
            (prefix.is_empty() || prefix.ends_with('.')).then_some(prefix)
        });
        prefixes
            .min_by_key(|prefix| prefix.len())
            .map(str::to_owned)
            .ok_or_else(|| self.no_such_site(first, sites))
    }

    fn no_such_site(&self, module: &str, sites: &[Site]) -> crate::Error {
        let example = sites
            .first()
            .map_or("none".into(), |site| format!("{:?} and others", site.name));
        self.file.error(format!(
            "tensor {:?}: the model has no linear map {module:?} (it has {example})",
            self.tensor(module, self.form[0])
        ))
    }

    /// The model's sites that the directory adapts, in the model's order.
    fn chosen(&self, sites: &[Site], prefix: &str) -> Result<Vec<Site>> {
        for module in &self.sites {
            let name = module.name.strip_prefix(prefix);
            let site = sites
                .iter()
                .find(|site| Some(site.name.as_str()) == name)
                .ok_or_else(|| self.no_such_site(&module.name, sites))?;
            for (part, expected, found) in [
                (self.form[0], site.d_in, module.d_in),
                (self.form[1], site.d_out, module.d_out),
            ] {
                let is_bound = self.form == VERA && part == VERA[0];
                if expected != found && !(is_bound && expected < found) {
                    return Err(self.file.error(format!(
                        "tensor {:?} is for a dimension of {found}, but the model's is {expected}",
                        self.tensor(&module.name, part)
                    )));
                }
            }
        }
        let named: Vec<_> = sites
            .iter()
            .map(|site| Site::new(format!("{prefix}{}", site.name), site.d_in, site.d_out))
            .collect();
        let has = |name: &str| self.sites.iter().any(|module| module.name == name);
        let targeted = self.config.targeted(&named).unwrap_or_default();
        if let Some(missing) = targeted.iter().find(|site| !has(&site.name)) {
            return Err(self.file.error(format!(
                "no tensor {:?}, though target_modules picks this module",
                self.tensor(&missing.name, self.form[0])
            )));
        }
        Ok(sites
            .iter()
            .zip(&named)
            .filter(|(_, named)| has(&named.name))
            .map(|(site, _)| site.clone())
            .collect())
    }

    fn tensor(&self, module: &str, part: &str) -> String {
        format!("{ROOT}{module}.{part}")
    }

    fn vblora(&self, config: &VbLoraConfig, plan: &SitePlan, prefix: &str) -> Result<HostAdapter> {
        let settings = config
            .check(plan)
            .map_err(|e| self.file.error(e.to_string()))?;
        let bank = self.file.floats(BANK)?;
        let (h, b, rank, k) = (config.bank, config.vector_length, config.rank, config.topk);
        let blame = |e: crate::Error| self.file.error(e.to_string());
        if !self.is_topk() {
            let read = |name: &str| self.file.floats(name);
            let logits = self.slab(plan, prefix, [FULL[0], FULL[1]], [rank, b, h], read)?;
            return HostVbLora::new(settings, bank, logits)
                .map(HostAdapter::VbLora)
                .map_err(blame);
        }
        let indices = self.slab(plan, prefix, [TOPK[0], TOPK[1]], [rank, b, k], |name| {
            let indices = self.file.integers(name)?;
            match indices.iter().find(|&&index| index as usize >= h) {
                None => Ok(indices),
                Some(index) => Err(self.file.error(format!(
                    "tensor {name:?}: index {index} into a bank of {h} vectors"
                ))),
            }
        })?;
        let read = |name: &str| self.file.floats(name);
        let weights = self.slab(plan, prefix, [TOPK[2], TOPK[3]], [rank, b, k - 1], read)?;
        let mut codes = Codes {
            topk: k,
            indices,
            weights,
        };
        // Half precision may have pushed a sum over 1.
        let first = self.tensor(&self.sites[0].name, TOPK[2]);
        if self.file.dtype(&first) != Some(Dtype::F32) {
            codes.bring_sums_to_one();
        }
        StoredVbLora::new(settings, bank, codes)
            .map(HostAdapter::TopK)
            .map_err(blame)
    }

    /// The rows of all sites in this library's order: down then up, each rank-major.
    fn slab<T: Copy>(
        &self,
        plan: &SitePlan,
        prefix: &str,
        [down, up]: [&str; 2],
        [rank, b, width]: [usize; 3],
        read: impl Fn(&str) -> Result<Vec<T>>,
    ) -> Result<Vec<T>> {
        let mut rows = Vec::new();
        for site in plan.sites() {
            let module = format!("{prefix}{}", site.name);
            rows.extend(read(&self.tensor(&module, down))?);
            let tiles_first = read(&self.tensor(&module, up))?;
            rows.extend(swap(&tiles_first, [site.d_out / b, rank, width]));
        }
        Ok(rows)
    }

    fn lora(&self, config: &LoraConfig, plan: &SitePlan, prefix: &str) -> Result<HostLora> {
        let settings = config
            .check(plan)
            .map_err(|e| self.file.error(e.to_string()))?;
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for site in plan.sites() {
            let module = format!("{prefix}{}", site.name);
            a.push(self.file.floats(&self.tensor(&module, LORA[0]))?);
            let outputs_first = self.file.floats(&self.tensor(&module, LORA[1]))?;
            b.push(swap(&outputs_first, [site.d_out, config.rank, 1]));
        }
        HostLora::new(settings, a, b).map_err(|e| self.file.error(e.to_string()))
    }

    fn vera(&self, config: &VeraConfig, plan: &SitePlan, prefix: &str) -> Result<HostVera> {
        let blame = |e: crate::Error| self.file.error(e.to_string());
        let settings = config.check(plan).map_err(blame)?;
        let lambdas = |part: &str| {
            let sites = plan.sites().iter();
            let name = |site: &Site| self.tensor(&format!("{prefix}{}", site.name), part);
            sites.map(|site| self.file.floats(&name(site))).collect()
        };
        let [a, outputs_first] = VERA_SHARED.map(|name| self.file.floats(name));
        let outputs_first = outputs_first?;
        let d_out = outputs_first.len() / config.rank;
        let projection = Projection {
            a: a?,
            b: swap(&outputs_first, [d_out, config.rank, 1]),
        };
        let [d, b]: [Result<Vec<_>>; 2] = [lambdas(VERA[0]), lambdas(VERA[1])];
        HostVera::new(settings, projection, d?, b?).map_err(blame)
    }
}

/// The parts that each module must have.
fn form(config: &PeftConfig, file: &TensorFile) -> &'static [&'static str] {
    match config.method {
        PeftMethod::Lora(_) => LORA,
        PeftMethod::Vera(_) => VERA,
        PeftMethod::VbLora(_) => {
            let is_topk = |name: &str| part_of(name).is_some_and(|(_, part)| TOPK.contains(&part));
            if file.names().any(is_topk) {
                TOPK
            } else {
                FULL
            }
        }
    }
}

/// The tensors that stand beside the modules'.
fn shared(form: &[&str]) -> &'static [&'static str] {
    match form {
        _ if form == LORA => &[],
        _ if form == VERA => &VERA_SHARED,
        _ => &[BANK],
    }
}

/// A tensor's module and the part of its adapter, if it is one.
fn part_of(tensor: &str) -> Option<(&str, &'static str)> {
    let name = tensor.strip_prefix(ROOT)?;
    [FULL, TOPK, LORA, VERA]
        .concat()
        .into_iter()
        .find_map(|part| {
            let module = name.strip_suffix(part)?.strip_suffix('.')?;
            (!module.is_empty()).then_some((module, part))
        })
}

/// The adapted modules, complete, and the tensors of `modules_to_save`; nothing else may be there.
fn sort_names(
    config: &PeftConfig,
    file: &TensorFile,
    form: &[&str],
) -> Result<(BTreeSet<String>, Vec<String>)> {
    let (mut modules, mut saved) = (BTreeSet::new(), Vec::new());
    for name in file.names() {
        match part_of(name) {
            Some((module, part)) if form.contains(&part) => {
                modules.insert(module.to_owned());
            }
            None if shared(form).contains(&name) => {}
            None if is_saved(config, name) => saved.push(name.to_owned()),
            _ => {
                return Err(file.error(format!(
                    "tensor {name:?} belongs neither to this kind of adapter nor to modules_to_save {:?}",
                    config.modules_to_save
                )));
            }
        }
    }
    let complete = modules.iter().flat_map(|module| {
        form.iter()
            .map(move |part| format!("{ROOT}{module}.{part}"))
    });
    if let Some(missing) = complete.into_iter().find(|name| file.shape(name).is_none()) {
        return Err(file.error(format!("no tensor {missing:?}")));
    }
    if modules.is_empty() {
        return Err(file.error(format!("no tensor {ROOT}MODULE.{}", form[0])));
    }
    Ok((modules, saved))
}

/// Whether a tensor is of one of `modules_to_save`, which name modules by their last parts.
fn is_saved(config: &PeftConfig, tensor: &str) -> bool {
    let Some(name) = tensor.strip_prefix(ROOT) else {
        return false;
    };
    config.modules_to_save.iter().any(|module| {
        name.match_indices(module.as_str()).any(|(at, found)| {
            let (before, after) = (&name[..at], &name[at + found.len()..]);
            (before.is_empty() || before.ends_with('.')) && after.starts_with('.')
        })
    })
}

fn expect_shape(file: &TensorFile, name: &str, expected: &[usize]) -> Result<()> {
    match file.shape(name) {
        None => Err(file.error(format!("no tensor {name:?}"))),
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(file.error(format!(
            "tensor {name:?}: expected shape {expected:?}, found {found:?}"
        ))),
    }
}

/// VeRA's random matrices, whose larger sides are their own.
fn expect_projection(file: &TensorFile, rank: usize) -> Result<()> {
    for (name, side) in VERA_SHARED.into_iter().zip([0, 1]) {
        match file.shape(name) {
            Some(&[rows, columns]) if [rows, columns][side] == rank && rank > 0 => {}
            Some(found) => {
                return Err(file.error(format!(
                    "tensor {name:?}: expected two sides, number {side} of {rank}, found {found:?}"
                )));
            }
            None => {
                return Err(file.error(format!(
                    "no tensor {name:?} (save_projection): only torch can draw it again"
                )));
            }
        }
    }
    Ok(())
}

/// A module as a site, with the dimensions that its tensors have.
fn dimensions(config: &PeftConfig, file: &TensorFile, form: &[&str], module: &str) -> Result<Site> {
    let name = |part: &str| format!("{ROOT}{module}.{part}");
    // The dimension that is this tensor's own, in place of `None` in its shape.
    let own = |part: &str, shape: &[Option<usize>]| {
        let found = file.shape(&name(part)).unwrap_or_default();
        let fits = found.len() == shape.len()
            && found
                .iter()
                .zip(shape)
                .all(|(found, expected)| expected.is_none_or(|expected| expected == *found));
        let at = shape.iter().position(Option::is_none).unwrap_or_default();
        if fits {
            return Ok(found[at]);
        }
        let expected: Vec<_> = shape
            .iter()
            .map(|side| side.map_or("any".to_owned(), |side| side.to_string()))
            .collect();
        Err(file.error(format!(
            "tensor {:?}: expected shape [{}], found {found:?}",
            name(part),
            expected.join(", ")
        )))
    };
    let (d_in, d_out) = match &config.method {
        PeftMethod::Lora(lora) => (
            own(form[0], &[Some(lora.rank), None])?,
            own(form[1], &[None, Some(lora.rank)])?,
        ),
        PeftMethod::Vera(vera) => {
            own(form[0], &[Some(vera.rank)])?;
            let widest = file.shape(VERA_SHARED[0]).unwrap_or_default();
            (widest.last().copied().unwrap_or(0), own(form[1], &[None])?)
        }
        PeftMethod::VbLora(vblora) => {
            let tiles = |parts: [&str; 2], width: usize| {
                let (rank, width) = (Some(vblora.rank), Some(width));
                Ok([
                    own(parts[0], &[rank, None, width])?,
                    own(parts[1], &[None, rank, width])?,
                ])
            };
            let found = if form == FULL {
                tiles([FULL[0], FULL[1]], vblora.bank)?
            } else {
                let found = tiles([TOPK[0], TOPK[1]], vblora.topk)?;
                let weights = tiles([TOPK[2], TOPK[3]], vblora.topk.saturating_sub(1))?;
                if weights != found {
                    return Err(file.error(format!(
                        "tensor {:?} is for {weights:?} sub-vectors per component, its indices for {found:?}",
                        name(TOPK[2])
                    )));
                }
                found
            };
            let [d_in, d_out] = found.map(|tiles| tiles.checked_mul(vblora.vector_length));
            let sized = |dim: Option<usize>| {
                dim.ok_or_else(|| file.error(format!("module {module:?} has no possible size")))
            };
            (sized(d_in)?, sized(d_out)?)
        }
    };
    Ok(Site::new(module, d_in, d_out))
}
