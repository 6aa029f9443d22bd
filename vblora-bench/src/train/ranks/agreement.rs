//! What ranks must have in common before the first step.

use serde::{Deserialize, Serialize};

use super::Ranks;
use crate::{
    Result,
    group::{head, hear_each, message, same},
    recipes::{Difference, Recipe, first_difference},
    train::identity::Identity,
};

/// Everything that the gradients of a micro-batch depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::train) struct Terms {
    /// The version of this library.
    pub(in crate::train) version: String,
    /// SHA-256 of the program.
    pub(in crate::train) program: String,
    /// SHA-256 of the model's files.
    pub(in crate::train) model: String,
    /// Backend, base, data, recipe and bank.
    pub(in crate::train) identity: Identity,
    /// The hash of the encoded training split.
    pub(in crate::train) train: String,
    /// The recipe as TOML.
    pub(in crate::train) recipe: String,
    /// The names of the methods.
    pub(in crate::train) methods: Vec<String>,
    /// The numbers of threads, if results depend on them.
    pub(in crate::train) threads: Option<String>,
    /// The widest vector instructions of the processor, if results depend on them.
    pub(in crate::train) instructions: Option<String>,
}

/// The widest vector instructions of this processor. Kernels are chosen by them.
pub(in crate::train) fn instructions() -> String {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        return "AVX-512".into();
    } else if std::arch::is_x86_feature_detected!("avx2") {
        return "AVX2".into();
    }
    std::env::consts::ARCH.into()
}

impl Terms {
    /// The first part in which another rank differs, with both values.
    fn difference(&self, other: &Self) -> Result<Option<(String, String, String)>> {
        let pair = |part: &str, here: &str, there: &str| {
            (here != there).then(|| (part.to_owned(), here.to_owned(), there.to_owned()))
        };
        let whole = |of: &Option<String>| of.clone().unwrap_or_else(|| "any".into());
        let hashes = |part: &str, here: &str, there: &str| {
            let shown = |hash: &str| format!("SHA-256 {hash}");
            pair(part, &shown(here), &shown(there))
        };
        let methods = [self, other].map(|terms| terms.methods.join(", "));
        let early = pair("version", &self.version, &other.version)
            .or_else(|| hashes("program", &self.program, &other.program))
            .or_else(|| pair("backend", &self.identity.backend, &other.identity.backend))
            .or_else(|| pair("list of methods", &methods[0], &methods[1]));
        if early.is_some() {
            return Ok(early);
        }
        let recipes = [self, other].map(|terms| Recipe::from_toml(&terms.recipe, "of a rank"));
        let [here, there] = recipes;
        if let Some(Difference { key, first, second }) = first_difference(&here?, &there?)? {
            return Ok(Some((format!("setting {key}"), first, second)));
        }
        let threads = [&self.threads, &other.threads].map(whole);
        let data = (&self.identity.data, &other.identity.data);
        let rest = other.identity.difference(&self.identity);
        Ok(hashes("set of model files", &self.model, &other.model)
            .or_else(|| hashes("training data", &self.train, &other.train))
            .or_else(|| hashes("data", data.0, data.1))
            .or_else(|| rest.and_then(|(part, here, there)| hashes(part, here, there)))
            .or_else(|| pair("number of threads", &threads[0], &threads[1])))
    }
}

/// Rank 0 compares the terms of all ranks with its own. The others send theirs.
///
/// # Errors
/// A rank differs, or does not answer; the error names the first difference.
pub(in crate::train) fn agree(ranks: Ranks<'_>, terms: &Terms) -> Result<()> {
    if !ranks.leads() {
        ranks.group.report(message(terms, Vec::new())?);
        return Ok(());
    }
    let during = "before the first step";
    hear_each(ranks.group, ranks.patience, during, |from, found| {
        let theirs: Terms = head(from, &found)?;
        if theirs.instructions != terms.instructions {
            let named = |of: &Terms| of.instructions.clone().unwrap_or_default();
            let (ours, theirs) = (named(terms), named(&theirs));
            tracing::warn!(
                "rank {from} computes with {theirs} and rank 0 with {ours}: the result will not have the bits of one rank"
            );
        }
        same(from, terms.difference(&theirs)?)
    })
}
