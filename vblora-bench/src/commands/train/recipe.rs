//! Applies the flags that both kinds of models have to a recipe.

use anyhow::{Result, ensure};

use super::arguments::Arguments;
use crate::{
    recipes::{Recipe, SharedBank},
    train::Method,
};

impl Arguments {
    /// Sets the recipe's keys from the flags. The rank is set elsewhere: its effect on LoRA's scale depends on the kind of model.
    pub(super) fn set(&self, recipe: &mut Recipe) {
        let (method, optimisation) = (&self.method, &self.optimisation);
        let set = |to: &mut usize, from: Option<usize>| *to = from.unwrap_or(*to);
        set(&mut recipe.epochs, optimisation.epochs);
        set(&mut recipe.batch, optimisation.batch);
        set(&mut recipe.accumulation, optimisation.accumulation);
        set(&mut recipe.max_length, self.model.max_length);
        set(&mut recipe.vblora.bank, method.bank);
        set(&mut recipe.vblora.vector_length, method.vector_length);
        set(&mut recipe.vblora.topk, method.topk);
        let set = |to: &mut f64, from: Option<f64>| *to = from.unwrap_or(*to);
        set(&mut recipe.lr.bank, optimisation.lr_bank);
        set(&mut recipe.lr.logits, optimisation.lr_logits);
        if let Some(rate) = optimisation.lr_adapter {
            recipe.lr = recipe.lr.with_adapter(rate);
        }
        if let Some(file) = method.bank_file.clone() {
            let frozen = method.freeze_bank;
            recipe.bank = Some(SharedBank { file, frozen });
        }
        let selection = &mut recipe.vblora.selection;
        *selection = method.selection.unwrap_or(*selection);
        recipe.base_dtype = self.model.base_dtype.unwrap_or(recipe.base_dtype);
        if let Some(targets) = &method.targets {
            recipe.targets.clone_from(targets);
        }
        self.schedule.set(recipe);
        if !optimisation.seeds.is_empty() {
            recipe.seeds.clone_from(&optimisation.seeds);
        }
    }
}

/// Sets the rank of every method. LoRA's and VB-LoRA's ranks are always set, as in recipes of earlier sessions.
pub(super) fn set_rank(recipe: &mut Recipe, methods: &[Method], rank: usize) -> Result<()> {
    let mut has_rank = false;
    for method in methods {
        match method {
            Method::VbLora | Method::Lora => {}
            Method::Vera => recipe.vera.rank = rank,
            Method::TiedLora => recipe.tied_lora.rank = rank,
            Method::LoraXs => recipe.lora_xs.rank = rank,
            Method::Head | Method::Full => continue,
        }
        has_rank = true;
    }
    let names: Vec<_> = methods.iter().map(|method| method.name()).collect();
    ensure!(
        has_rank,
        "--rank: none of the methods ({}) has a rank",
        names.join(", ")
    );
    (recipe.vblora.rank, recipe.lora.rank) = (rank, rank);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{recipes::Size, tasks::Task};

    #[test]
    fn a_rank_is_that_of_every_method_compared() {
        let recipe = Recipe::builtin(Size::Demo, &Task::demo()).unwrap();
        let with = |methods: &[Method]| {
            let mut recipe = recipe.clone();
            set_rank(&mut recipe, methods, 3).map(|()| recipe)
        };
        let ranks = |r: &Recipe| {
            let others = [r.vera.rank, r.tied_lora.rank, r.lora_xs.rank];
            ([r.vblora.rank, r.lora.rank], others)
        };
        let [vera, tied, xs] = ranks(&recipe).1;
        for (method, others) in [
            (Method::VbLora, [vera, tied, xs]),
            (Method::Vera, [3, tied, xs]),
            (Method::TiedLora, [vera, 3, xs]),
            (Method::LoraXs, [vera, tied, 3]),
        ] {
            let found = with(&[Method::Head, method]).unwrap();
            assert_eq!(ranks(&found), ([3, 3], others), "{}", method.name());
        }
        let error = with(&[Method::Head, Method::Full]).unwrap_err().to_string();
        assert!(
            error.contains("--rank") && error.contains("head, full"),
            "{error}"
        );
    }
}
