//! The plan of the merged model's tensors.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::{
    base::{Base, Shard},
    change::{Source, Update},
    model::{Edits, Model},
};
use crate::{
    Result,
    storage::{
        Entry, HostLora, HostTensor, Tie,
        peft::{PeftAdapter, is_of as is_of_module},
    },
};

const HEAD: &str = "lm_head.weight";

/// Token embeddings by the last parts of their names. A head may be tied to them.
const WORDS: &[&str] = &["embed_tokens.weight", "wte.weight"];

/// Further tensors that have a row for each token.
const OF_TOKENS: &[&str] = &[
    "word_embeddings.weight",
    "lm_head.weight",
    "lm_head.bias",
    "decoder.weight",
    "decoder.bias",
    "predictions.bias",
];

/// The merged model.
pub(super) struct Plan<'a> {
    /// The tensors of each of the base's files, in their order.
    pub(super) shards: Vec<Vec<Output<'a>>>,
    pub(super) edits: Edits,
    /// Contradictions between the base and the adapter or its configuration. The base was believed.
    pub(super) notes: Vec<String>,
}

/// One of its tensors.
pub(super) struct Output<'a> {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) source: Source<'a>,
    pub(super) update: Option<Update<'a>>,
}

/// Saved tensors and updates by the base's names.
struct Wanted<'a> {
    saved: BTreeMap<String, (&'a HostTensor, bool)>,
    updates: BTreeMap<String, Update<'a>>,
    /// The adapter's names of saved tensors, by the base's.
    own_names: BTreeMap<String, &'a str>,
    /// Tensors of modules of a whole model, by the base's names.
    heads: Vec<(String, Output<'a>)>,
}

impl<'a> Wanted<'a> {
    /// Takes the tensors of `modules_to_save` out of those that change the base's.
    fn separate_heads(&mut self, adapter: &PeftAdapter) {
        for (name, own) in std::mem::take(&mut self.own_names) {
            let mut modules = adapter.modules_to_save.iter();
            if modules.any(|module| is_of_module(module, own))
                && let Some((tensor, _)) = self.saved.remove(&name)
            {
                self.heads.push((name, Output::saved(own, tensor)));
            }
        }
    }
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        base: &'a Base,
        model: &Model,
        adapter: &'a PeftAdapter,
        lora: &'a HostLora,
        prefix: Option<&str>,
    ) -> Result<Self> {
        let of_shard = |shard: &'a Shard| {
            let tensors = shard.in_order().into_iter();
            tensors.map(Output::unchanged).collect()
        };
        let mut plan = Self {
            shards: base.shards().iter().map(of_shard).collect(),
            edits: Edits::default(),
            notes: Vec::new(),
        };
        let mut wanted = plan.wanted(base, model, adapter, lora)?;
        if prefix.is_some() {
            wanted.separate_heads(adapter);
        }
        plan.tie(base, model, adapter, &mut wanted)?;
        let heads = std::mem::take(&mut wanted.heads);
        plan.apply(base, wanted)?;
        plan.check_tokens(base)?;
        if let Some(prefix) = prefix {
            plan.make_whole(base, adapter, prefix, heads)?;
        }
        Ok(plan)
    }

    /// The adapter's changes, by the base's names.
    fn wanted(
        &mut self,
        base: &Base,
        model: &Model,
        adapter: &'a PeftAdapter,
        lora: &'a HostLora,
    ) -> Result<Wanted<'a>> {
        let sites = adapter.adapter.plan().sites();
        let weight = |site: &crate::Site| format!("{}{}.weight", adapter.prefix, site.name);
        // The head may be absent from the file, and its name stands beside the model whatever the model's prefix.
        let first = sites.iter().find(|site| weight(site) != HEAD);
        let renaming = first.map(|site| base.renaming(&weight(site))).transpose()?;
        let renamed = |name: &str| match &renaming {
            _ if base.contains(name) || name == HEAD => name.to_owned(),
            Some(renaming) => renaming.apply(name),
            None => name.to_owned(),
        };
        let config = lora.settings().config();
        let mut corrected = Vec::new();
        let mut updates = BTreeMap::new();
        for (site, (down, up)) in sites.iter().zip(lora.a().iter().zip(lora.b())) {
            let is_transposed = model.is_transposed(&site.name, adapter.fan_in_fan_out);
            if is_transposed != adapter.fan_in_fan_out {
                corrected.push(site.name.as_str());
            }
            let [rows, columns] = match is_transposed {
                true => [down, up],
                false => [up, down],
            };
            let update = Update {
                rows,
                columns,
                rank: config.rank,
                scale: config.scale() as f32,
            };
            let name = match &renaming {
                Some(renaming) if weight(site) != HEAD => renaming.apply(&weight(site)),
                _ => weight(site),
            };
            updates.insert(name, update);
        }
        if let (Some(first), Some(kind)) = (corrected.first(), model.kind()) {
            self.notes.push(format!(
                "fan_in_fan_out is {} in the adapter, but {kind} stores {first:?} {}: corrected for {} of {} modules",
                adapter.fan_in_fan_out,
                match adapter.fan_in_fan_out {
                    true => "[d_out, d_in]",
                    false => "[d_in, d_out]",
                },
                corrected.len(),
                sites.len()
            ));
        }
        let (mut saved, mut own_names) = (BTreeMap::new(), BTreeMap::new());
        for (own_name, tensor) in &adapter.saved {
            let name = renamed(&own_name.replace(".base_layer.", "."));
            let module = name.rsplit_once('.').map_or("", |(module, _)| module);
            let mut own = adapter.modules_to_save.iter();
            let is_own = own.any(|own| module.ends_with(own.as_str()));
            if saved.insert(name.clone(), (tensor, is_own)).is_some() {
                return Err(base.error(format!("the adapter changes tensor {name:?} twice")));
            }
            own_names.insert(name, own_name.as_str());
        }
        Ok(Wanted {
            saved,
            updates,
            own_names,
            heads: Vec::new(),
        })
    }

    /// Handles a head that is tied to the token embedding, as PEFT does. An embedding that was saved unasked takes the place of both. One
    /// of `modules_to_save`, or an update, leaves the other as it is.
    fn tie(
        &mut self,
        base: &'a Base,
        model: &Model,
        adapter: &PeftAdapter,
        wanted: &mut Wanted<'a>,
    ) -> Result<()> {
        let is_words = |name: &&str| WORDS.iter().any(|words| is_of(name, words));
        let mut words = base.names().filter(is_words).map(str::to_owned);
        let mut saved_words = wanted.saved.keys().map(String::as_str).filter(is_words);
        let (in_file, saved) = (words.next(), saved_words.next().map(str::to_owned));
        // A model of two parts has two token embeddings, and so no single head.
        if words.next().is_some() || saved_words.next().is_some() {
            return Ok(());
        }
        let updates_head = wanted.updates.contains_key(HEAD);
        let saves_head = wanted.saved.contains_key(HEAD);
        let has_lm_head = !matches!(
            adapter.task_type.as_deref(),
            Some("SEQ_CLS" | "TOKEN_CLS" | "QUESTION_ANS" | "FEATURE_EXTRACTION")
        );
        let has_head = base.contains(HEAD);
        if !(updates_head || saves_head || saved.is_some())
            || !has_lm_head
            || !model.is_tied()
            || (in_file.is_none() && !has_head)
        {
            return Ok(());
        }
        let words = in_file.clone().or(saved.clone());
        let words = words.unwrap_or_else(|| model.words().to_owned());
        if in_file.is_some() && has_head && !base.are_equal(&words, HEAD)? {
            self.notes.push(format!(
                "tie_word_embeddings is true, but {words} and {HEAD} differ in the base: each is changed alone"
            ));
            self.edits.unties = true;
            return Ok(());
        }
        let of = |name: &str| wanted.saved.get(name).copied();
        let ends = [of(&words), of(HEAD)];
        let are_equal = || ends[0].map(|end| end.0) == ends[1].map(|end| end.0);
        let tie = Tie::of_saved(ends.map(|end| Some(end?.1)), are_equal);
        if tie == Tie::Contradiction {
            return Err(base.error(format!(
                "the adapter saved {words:?} and {HEAD:?} with different values, but they are one table in the base; modules_to_save \
                 must name the one that is the adapter's own"
            )));
        }
        let stays_tied = !updates_head && tie == Tie::Kept;
        // A tensor that was saved unasked for one of the two counts for both.
        let shared = match ends {
            [Some((table, false)), None] | [None, Some((table, false))] => Some(table),
            _ => None,
        };
        let names = [words.as_str(), HEAD];
        if let Some(table) = shared {
            for name in names {
                wanted.saved.insert(name.to_owned(), (table, false));
            }
        }
        let has = [in_file.is_some(), has_head];
        for (at, name) in names.into_iter().enumerate() {
            match (has[at], stays_tied) {
                (true, _) => {}
                (false, true) => {
                    wanted.saved.remove(name);
                }
                (false, false) => self.add(base, names[1 - at], name)?,
            }
        }
        self.edits.unties = !stays_tied;
        Ok(())
    }

    /// Adds a tensor after an existing one of the same form.
    fn add(&mut self, base: &'a Base, like: &str, name: &str) -> Result<()> {
        let (_, entry) = base.tensor(like)?;
        for shard in &mut self.shards {
            if let Some(at) = shard.iter().position(|output| output.name == like) {
                shard.insert(at + 1, Output::unchanged((name, entry)));
            }
        }
        Ok(())
    }

    /// Applies the adapter's values and updates to the planned tensors.
    fn apply(&mut self, base: &Base, wanted: Wanted<'a>) -> Result<()> {
        let Wanted {
            saved, mut updates, ..
        } = wanted;
        let mut saved: BTreeMap<_, _> = saved
            .into_iter()
            .map(|(name, (tensor, _))| (name, tensor))
            .collect();
        for (shard, outputs) in base.shards().iter().zip(&mut self.shards) {
            for output in outputs {
                let name = output.name.clone();
                let wrong =
                    |problem: String| Err(shard.error(format!("tensor {name:?}: {problem}")));
                let (values, update) = (saved.remove(&name), updates.remove(&name));
                if values.is_none() && update.is_none() {
                    continue;
                }
                if let Some(tensor) = values {
                    if tensor.shape != output.shape && !is_resized(&name, output, tensor) {
                        return wrong(mismatch(&tensor.shape, &output.shape));
                    }
                    output.shape.clone_from(&tensor.shape);
                    output.source = Source::Saved(tensor);
                }
                if let Some(update) = update {
                    let expected = update.shape();
                    if output.shape != expected {
                        return wrong(mismatch(&expected, &output.shape));
                    }
                    output.update = Some(update);
                }
                if !matches!(output.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                    return wrong(format!(
                        "type {}, which cannot take an update; expected F32, F16 or BF16",
                        output.dtype
                    ));
                }
            }
        }
        if let Some(name) = updates.into_keys().next() {
            return Err(base.error(format!("no tensor {name:?}, which the adapter changes")));
        }
        match saved.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(base.error(format!(
                "no tensor {name:?}, which the adapter saved whole: the base has no such module; `vblora merge --without-modules` leaves \
                 out what modules_to_save names"
            ))),
        }
    }

    /// Puts the base's tensors below a prefix and the heads beside them. Other heads of the base go.
    fn make_whole(
        &mut self,
        base: &Base,
        adapter: &PeftAdapter,
        prefix: &str,
        heads: Vec<(String, Output<'a>)>,
    ) -> Result<()> {
        let is_below = |output: &Output<'_>| output.name.starts_with(prefix);
        let has_prefix = self.shards.iter().flatten().any(is_below);
        let mut others = Vec::new();
        for shard in &mut self.shards {
            shard.retain(|output| !heads.iter().any(|(name, _)| *name == output.name));
            match has_prefix {
                true => {
                    let out = shard.iter().filter(|output| !is_below(output));
                    others.extend(out.map(|output| output.name.clone()));
                    shard.retain(is_below);
                }
                false => shard
                    .iter_mut()
                    .for_each(|output| output.name.insert_str(0, prefix)),
            }
        }
        if let Some(first) = others.first() {
            self.notes.push(format!(
                "{} tensors of the base's other heads are left out ({first})",
                others.len()
            ));
        }
        let sites = adapter.adapter.plan().sites().iter();
        let mut weights = sites.map(|site| format!("{}{}.weight", adapter.prefix, site.name));
        let has = |name: &String| self.shards.iter().flatten().any(|o| o.name == *name);
        if let Some(missing) = weights.find(|name| !has(name)) {
            return Err(base.error(format!(
                "tensor {missing:?} of the adapter would have another name in the model with its head"
            )));
        }
        if let Some(last) = self.shards.last_mut() {
            last.extend(heads.into_iter().map(|(_, head)| head));
        }
        Ok(())
    }

    /// If the adapter has more or fewer tokens than the base, every tensor with a row for each token must have as many.
    fn check_tokens(&mut self, base: &Base) -> Result<()> {
        let outputs = || self.shards.iter().flatten();
        let before = |output: &Output<'_>| {
            let found = base.tensor(&output.name).ok();
            found.and_then(|(_, entry)| entry.shape.first().copied())
        };
        let resized = outputs().find(|output| {
            let rows = output.shape.first().copied();
            before(output).is_some_and(|before| Some(before) != rows)
        });
        let Some(resized) = resized else {
            return Ok(());
        };
        let (old, new) = (before(resized), resized.shape[0]);
        let other = outputs().find(|output| {
            is_of_tokens(&output.name) && before(output) == old && output.shape[0] != new
        });
        if let Some(other) = other {
            return Err(base.error(format!(
                "tensor {:?} has {} rows, but with the adapter tensor {:?} has {new}",
                other.name, other.shape[0], resized.name
            )));
        }
        self.edits.vocab_size = Some(new);
        Ok(())
    }
}

impl<'a> Output<'a> {
    /// Its size in the file.
    pub(super) fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }

    /// A tensor of the adapter alone.
    fn saved(name: &str, tensor: &'a HostTensor) -> Self {
        Self {
            name: name.to_owned(),
            dtype: Dtype::F32,
            shape: tensor.shape.clone(),
            source: Source::Saved(tensor),
            update: None,
        }
    }

    fn unchanged((name, entry): (&str, &'a Entry)) -> Self {
        Self {
            name: name.to_owned(),
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            source: Source::Base(entry),
            update: None,
        }
    }
}

fn mismatch(expected: &[usize], found: &[usize]) -> String {
    format!("the adapter is for shape {expected:?}, found {found:?}")
}

/// True if a name is this one, or ends in a dot and this one.
fn is_of(name: &str, last: &str) -> bool {
    let before = name.strip_suffix(last);
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn is_of_tokens(name: &str) -> bool {
    WORDS.iter().chain(OF_TOKENS).any(|last| is_of(name, last))
}

/// True if a saved tensor is the base's with another number of tokens.
fn is_resized(name: &str, output: &Output<'_>, saved: &HostTensor) -> bool {
    is_of_tokens(name)
        && saved.shape.len() == output.shape.len()
        && saved.shape.get(1..) == output.shape.get(1..)
        && saved.shape[0] > 0
}
