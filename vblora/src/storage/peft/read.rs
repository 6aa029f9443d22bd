//! Reading a directory: names to modules, modules to sites, tensors to values. Everything is checked, and errors name the tensor.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use safetensors::Dtype;

use super::{
    BANK, BASE_LAYER, CONFIG, FULL, LORA, PeftAdapter, PeftConfig, PeftMethod, ROOT, TOPK, VERA,
    VERA_SHARED, is_of, swap,
    tensors::{Tensors, hint, is_compiled, is_on_embedding},
    unsaved,
};
use crate::{
    Error, LoraConfig, Result, Site, SitePlan, VbLoraConfig, VeraConfig,
    adapter::Projection,
    storage::{
        Bank, Codes, HostAdapter, HostLora, HostTensor, HostVbLora, HostVera, MAX_FILE_BYTES,
        StoredVbLora,
    },
};

/// Modules that PEFT saves unasked if they were resized or are adapted themselves, by the last part of their names.
const EMBEDDINGS: [&str; 4] = ["embed_tokens", "lm_head", "word_embeddings", "wte"];

/// The parts between the name of a module of `modules_to_save` and its tensor: for the trained copy, and for the base's.
const WRAPPERS: [&str; 2] = [".modules_to_save.", ".original_module."];

/// The name of the adapter in memory, in front of a trained copy's tensors.
const DEFAULT: &str = "default.";

/// A PEFT directory whose names and shapes have been checked against each other, not yet bound to a model.
#[derive(Debug)]
pub struct PeftDirectory {
    config: PeftConfig,
    file: Tensors,
    form: &'static [&'static str],
    /// The adapted modules, named as in the wrapped model, in alphabetical order.
    sites: Vec<Site>,
    /// LoRA's settings of each of them; empty for the other methods.
    own: Vec<LoraConfig>,
    /// The tensors of modules that are saved whole, by their names in the model.
    saved: BTreeMap<String, String>,
}

impl PeftDirectory {
    /// Opens a directory and checks its content. The tensors decide whether it is VB-LoRA's full or its top-k form.
    ///
    /// # Errors
    /// A file is missing or broken. This library does not have the method or a field. A tensor is missing, of another shape than the
    /// settings say, or none that belongs here. `modules_to_save` names a module without tensors.
    pub fn open(dir: &Path) -> Result<Self> {
        let config = PeftConfig::read(dir)?;
        let file = Tensors::read(dir)?;
        let form = form(&config, &file);
        let (modules, saved) = sort_names(&config, &file, form)?;
        match &config.method {
            PeftMethod::VbLora(vblora) => {
                expect_shape(&file, BANK, &[vblora.bank, vblora.vector_length])?;
            }
            PeftMethod::Vera(vera) => expect_projection(&file, vera.rank)?,
            _ => {}
        }
        let own = match &config.method {
            PeftMethod::Lora(lora) => {
                let names: Vec<_> = modules.iter().map(String::as_str).collect();
                let own = config.patterns.settings(lora, &names);
                own.map_err(|error| Error::Format {
                    path: dir.join(CONFIG),
                    reason: format!("rank_pattern or alpha_pattern: {error}"),
                })?
            }
            _ => Vec::new(),
        };
        let sites = modules.iter().enumerate().map(|(at, module)| {
            let rank = own.get(at).map_or(0, |lora| lora.rank);
            dimensions(&config, &file, form, module, rank)
        });
        Ok(Self {
            sites: sites.collect::<Result<_>>()?,
            config,
            file,
            form,
            own,
            saved,
        })
    }

    /// The contents of `adapter_config.json`.
    pub fn config(&self) -> &PeftConfig {
        &self.config
    }

    /// True if bank and codes are stored, without the logits (`save_only_topk_weights`).
    pub fn is_topk(&self) -> bool {
        self.form == TOPK
    }

    /// The adapted modules as sites, named as in the model that PEFT wraps. Their dimensions are those of the tensors. VeRA's tensors do
    /// not tell the width of a module's input: `d_in` is then the largest, the width of the random matrix.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Rank and scale of each of [`sites`](Self::sites), if `rank_pattern` or `alpha_pattern` give them different ones.
    ///
    /// [`bind`](Self::bind) then holds LoRA of the largest rank and of scale 1: missing components are zeros, and scales are in the up
    /// factors.
    pub fn patterned(&self) -> Option<Vec<(usize, f64)>> {
        let mut pairs = self.own.windows(2);
        pairs.any(|pair| pair[0] != pair[1]).then(|| {
            let own = self.own.iter();
            own.map(|lora| (lora.rank, lora.scale())).collect()
        })
    }

    /// The vector bank alone, whatever the directory's sites are.
    ///
    /// # Errors
    /// The directory holds no VB-LoRA, or a value is not finite.
    pub fn bank(&self) -> Result<Bank> {
        let PeftMethod::VbLora(config) = &self.config.method else {
            return Err(self.file.error("no VB-LoRA, so there is no bank in it"));
        };
        Bank::new([config.bank, config.vector_length], self.file.floats(BANK)?)
            .map_err(|e| self.file.error(e.to_string()))
    }

    /// Reads the values for a model with these sites. In the directory, their names may have a common prefix.
    ///
    /// # Errors
    /// A module of the directory is no site of the model, has other dimensions, or is not picked by the targeting rules. A site that the
    /// rules pick has no tensors. A value is not finite, an index is at or above h or twice in a row, or a weight is outside 0 to 1.
    pub fn bind(&self, sites: &[Site]) -> Result<PeftAdapter> {
        let prefix = self.prefix(sites)?;
        let chosen = self.chosen(sites, &prefix)?;
        let plan = SitePlan::exactly(chosen);
        let adapter = match &self.config.method {
            PeftMethod::VbLora(config) => self.vblora(config, &plan, &prefix)?,
            PeftMethod::Lora(_) => HostAdapter::Lora(self.lora(&plan, &prefix)?),
            PeftMethod::Vera(config) => HostAdapter::Vera(self.vera(config, &plan, &prefix)?),
        };
        let saved = self
            .saved
            .iter()
            .map(|(name, tensor)| {
                let values = self.file.floats(tensor)?;
                let shape = self.file.shape(tensor).unwrap_or_default().to_vec();
                Ok((name.clone(), HostTensor { shape, values }))
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

    /// The prefix of the sites' names: the shortest prefix of the first module that a site's name follows.
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
        let by_name: BTreeMap<_, _> = sites.iter().map(|site| (&*site.name, site)).collect();
        for module in &self.sites {
            let name = module.name.strip_prefix(prefix);
            let site = name.and_then(|name| by_name.get(name));
            let site = site.ok_or_else(|| self.no_such_site(&module.name, sites))?;
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
        let named = |site: &Site| format!("{prefix}{}", site.name);
        self.check_rules(sites.iter().map(named))?;
        let chosen = sites.iter().filter(|site| self.has(&named(site)));
        Ok(chosen.cloned().collect())
    }

    fn has(&self, module: &str) -> bool {
        self.at(module).is_some()
    }

    /// The place of a module among the directory's.
    fn at(&self, module: &str) -> Option<usize> {
        let found = self
            .sites
            .binary_search_by(|site| site.name.as_str().cmp(module));
        found.ok()
    }

    /// Compares tensors and rules. PEFT would start with untrained values where tensors are missing, and leave out tensors of modules that
    /// its rules do not pick. If PEFT chooses by the model's class, nothing is compared: the tensors decide.
    fn check_rules(&self, model: impl Iterator<Item = String>) -> Result<()> {
        let blame = |reason: String| self.file.error(reason);
        let Some(rules) = self.config.rules.compile().map_err(blame)? else {
            return Ok(());
        };
        let picks = |name: &str| rules.picks(name).map_err(|error| blame(error.to_string()));
        for module in &self.sites {
            if !picks(&module.name)? {
                return Err(self.file.error(format!(
                    "tensor {:?} is of a module that target_modules, exclude_modules, modules_to_save and layers_to_transform do not \
                     pick: PEFT leaves it out",
                    self.tensor(&module.name, self.form[0])
                )));
            }
        }
        for name in model {
            if !self.has(&name) && picks(&name)? {
                return Err(self.file.error(format!(
                    "no tensor {:?}, though target_modules picks this module",
                    self.tensor(&name, self.form[0])
                )));
            }
        }
        Ok(())
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
        // Half precision may have raised a sum above 1.
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

    fn lora(&self, plan: &SitePlan, prefix: &str) -> Result<HostLora> {
        let blame = |e: crate::Error| self.file.error(e.to_string());
        let is_patterned = self.patterned().is_some();
        let mut config = self.own[0].clone();
        if is_patterned {
            let ranks = self.own.iter().map(|lora| lora.rank);
            config.rank = ranks.max().unwrap_or(config.rank);
            (config.alpha, config.rslora) = (config.rank as f64, false);
            self.check_padded(config.rank)?;
        }
        let settings = config.check(plan).map_err(blame)?;
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for site in plan.sites() {
            let module = format!("{prefix}{}", site.name);
            let own = self.at(&module).map_or(&config, |at| &self.own[at]);
            let mut down = self.file.floats(&self.tensor(&module, LORA[0]))?;
            let outputs_first = self.file.floats(&self.tensor(&module, LORA[1]))?;
            let mut up = swap(&outputs_first, [site.d_out, own.rank, 1]);
            if is_patterned {
                own.check(plan).map_err(blame)?;
                let scale = own.scale();
                for value in &mut up {
                    *value = (f64::from(*value) * scale) as f32;
                }
                down.resize(config.rank * site.d_in, 0.0);
                up.resize(config.rank * site.d_out, 0.0);
            }
            a.push(down);
            b.push(up);
        }
        HostLora::new(settings, a, b).map_err(blame)
    }

    /// Refuses factors that would take far more memory than the file has bytes.
    fn check_padded(&self, rank: usize) -> Result<()> {
        let sides = self
            .sites
            .iter()
            .map(|site| site.d_in.saturating_add(site.d_out));
        let values = sides.fold(0, usize::saturating_add).saturating_mul(rank);
        let bytes = values.saturating_mul(size_of::<f32>());
        if bytes as u64 > MAX_FILE_BYTES {
            return Err(self.file.error(format!(
                "rank_pattern: all modules at the largest rank {rank} have {bytes} bytes, over the limit of {MAX_FILE_BYTES}"
            )));
        }
        Ok(())
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
fn form(config: &PeftConfig, file: &Tensors) -> &'static [&'static str] {
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

/// Sorts the tensors into adapted modules, which must be complete, and modules that are saved whole. Any other tensor is an error.
fn sort_names(
    config: &PeftConfig,
    file: &Tensors,
    form: &[&str],
) -> Result<(BTreeSet<String>, BTreeMap<String, String>)> {
    let mut modules = BTreeSet::new();
    let mut others = Vec::new();
    if let Some(name) = file.names().find(|name| is_on_embedding(name)) {
        return Err(nowhere(config, file, name));
    }
    for name in file.names() {
        if let Some(read) = wrapped(config, name) {
            check_wrapped(file, name, &read)?;
            continue;
        }
        match part_of(name) {
            _ if is_compiled(name) => return Err(nowhere(config, file, name)),
            Some((module, part)) if form.contains(&part) => {
                modules.insert(module.to_owned());
            }
            None if shared(form).contains(&name) => {}
            None => others.push(name),
            Some(_) => return Err(nowhere(config, file, name)),
        }
    }
    let mut saved = BTreeMap::new();
    for name in others {
        let in_model = saved_name(config, &modules, name);
        let in_model = in_model.ok_or_else(|| nowhere(config, file, name))?;
        if let Some(other) = saved.insert(in_model, name.to_owned()) {
            return Err(file.error(format!(
                "tensors {other:?} and {name:?} belong to the same weight"
            )));
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
    match unsaved(&config.modules_to_save, saved.keys()) {
        Some(module) => Err(file.error(format!(
            "no tensor of {module:?}, which modules_to_save names; remove it there if the model has no such module"
        ))),
        None => Ok((modules, saved)),
    }
}

/// The name under which PEFT reads a tensor of its wrapper around a module of `modules_to_save`. `None` for any other tensor.
///
/// PEFT writes the wrapper's tensors beside the module's own if it saves embeddings unasked: the trained copy and the base's.
fn wrapped(config: &PeftConfig, tensor: &str) -> Option<String> {
    WRAPPERS.iter().find_map(|wrapper| {
        let (module, leaf) = tensor.split_once(wrapper)?;
        let name = module.strip_prefix(ROOT)?;
        let mut listed = config.modules_to_save.iter();
        let leaf = leaf.strip_prefix(DEFAULT).unwrap_or(leaf);
        let is_listed = listed.any(|listed| !listed.is_empty() && name.ends_with(&**listed));
        is_listed.then(|| format!("{module}.{leaf}"))
    })
}

/// Refuses a wrapper's tensor that stands alone or has another shape than the one that is read.
fn check_wrapped(file: &Tensors, name: &str, read: &str) -> Result<()> {
    match (file.shape(read), file.shape(name)) {
        (None, _) => Err(file.error(format!(
            "tensor {name:?} is inside PEFT's wrapper; PEFT reads {read:?}, which is not there"
        ))),
        // The base's tensor may have had fewer tokens.
        (Some(one), Some(other)) if one == other || name.contains(WRAPPERS[1]) => Ok(()),
        (Some(expected), found) => Err(file.error(format!(
            "tensor {name:?}: expected shape {expected:?}, that of {read:?}, found {:?}",
            found.unwrap_or_default()
        ))),
    }
}

fn nowhere(config: &PeftConfig, file: &Tensors, tensor: &str) -> Error {
    file.error(format!(
        "tensor {tensor:?} belongs neither to this kind of adapter nor to modules_to_save {:?}{}",
        config.modules_to_save,
        hint(tensor)
    ))
}

/// The name in the model of a tensor that is saved whole. The tensor belongs to one of `modules_to_save`, to an embedding or the output
/// layer, or to the map below an adapted one.
fn saved_name(config: &PeftConfig, modules: &BTreeSet<String>, tensor: &str) -> Option<String> {
    let name = tensor.strip_prefix(ROOT)?;
    let (module, leaf) = name.rsplit_once('.')?;
    if let Some(adapted) = module.strip_suffix(BASE_LAYER)
        && modules.contains(adapted)
    {
        return Some(format!("{adapted}.{leaf}"));
    }
    // PEFT would look for this tensor below the module.
    if modules.contains(module) {
        return None;
    }
    let is_embedding = EMBEDDINGS.contains(&module.rsplit('.').next()?);
    let mut listed = config.modules_to_save.iter();
    (is_embedding || listed.any(|module| is_of(module, name))).then(|| name.to_owned())
}

fn expect_shape(file: &Tensors, name: &str, expected: &[usize]) -> Result<()> {
    match file.shape(name) {
        None => Err(file.error(format!("no tensor {name:?}"))),
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(file.error(format!(
            "tensor {name:?}: expected shape {expected:?}, found {found:?}"
        ))),
    }
}

/// Checks VeRA's random matrices. One side is the rank, and the other may have any size.
fn expect_projection(file: &Tensors, rank: usize) -> Result<()> {
    for (name, side) in VERA_SHARED.into_iter().zip([0, 1]) {
        match file.shape(name) {
            Some(&[rows, columns]) if [rows, columns][side] == rank && rank > 0 => {}
            Some(found) => {
                return Err(file.error(format!(
                    "tensor {name:?}: expected two dimensions, number {side} equal to {rank}, found {found:?}"
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
///
/// `rank` is LoRA's of this module.
fn dimensions(
    config: &PeftConfig,
    file: &Tensors,
    form: &[&str],
    module: &str,
    rank: usize,
) -> Result<Site> {
    let name = |part: &str| format!("{ROOT}{module}.{part}");
    // The dimension that only this tensor tells. It is `None` in its shape.
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
        PeftMethod::Lora(_) => (
            own(form[0], &[Some(rank), None])?,
            own(form[1], &[None, Some(rank)])?,
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
