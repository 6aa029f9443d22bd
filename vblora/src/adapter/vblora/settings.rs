//! The settings of VB-LoRA, checked against the sites.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    Error, Result, Selection, SitePlan,
    adapter::{MethodConfig, ParameterGroup, SiteSpans, Span},
    admixture::check_values,
    count::{self, Count},
    limits::{MAX_BANK, MAX_DIMENSION, MAX_RANK, check_product, check_rank, check_size},
    storage::Bank,
};

/// The settings of VB-LoRA; the defaults are the paper's for RoBERTa (Table 7).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VbLoraConfig {
    /// h, the number of bank vectors.
    pub bank: usize,
    /// b, the length of a bank vector; must divide every adapted dimension.
    pub vector_length: usize,
    /// r, the rank of the factors.
    pub rank: usize,
    /// k, the number of bank vectors in a sub-vector's mixture. The selections `topk` and `noisy-topk` use it in training. At inference all
    /// selections except `select-all` use it.
    pub topk: usize,
    /// The bank starts uniform between minus and plus this value.
    pub bank_bound: f64,
    /// The logits start normal with this standard deviation (the paper's code: 0.01; PEFT's default: 0.1).
    pub logits_std: f64,
    /// The rule by which sub-vectors choose bank vectors in training.
    pub selection: Selection,
    /// The temperature of the two Gumbel selections. The others ignore it.
    pub tau: f64,
    /// The noise logits of `noisy-topk` start normal with this standard deviation. Other selections have none.
    pub noise_std: f64,
    /// True if a trained number, the gate, multiplies every update. It starts at zero, so training starts from the unchanged base.
    pub gate: bool,
}

impl Default for VbLoraConfig {
    fn default() -> Self {
        Self {
            bank: 90,
            vector_length: 256,
            rank: 4,
            topk: 2,
            bank_bound: 0.02,
            logits_std: 0.01,
            selection: Selection::TopK,
            tau: 1.0 / 3.0,
            noise_std: 0.01,
            gate: false,
        }
    }
}

impl VbLoraConfig {
    /// The number of vectors in a mixture at inference and in files: k, or all h.
    pub fn topk_at_inference(&self) -> usize {
        match self.selection {
            Selection::SelectAll => self.bank,
            _ => self.topk,
        }
    }

    /// Checks the settings against the sites they are meant for.
    ///
    /// # Errors
    /// A setting that cannot work, a dimension that `vector_length` does not divide, or more values than an adapter may have
    /// ([`limits`](crate::limits)).
    pub fn check(&self, plan: &SitePlan) -> Result<ValidVbLora> {
        self.check_values()?;
        check_rank(self.rank, plan)?;
        plan.check_vector_length(self.vector_length)?;
        let (length, rows) = (
            self.vector_length,
            plan.sub_vectors(self.rank, self.vector_length),
        );
        check_product("bank", self.bank, length as u64, "values in the bank")?;
        check_product("bank", self.bank, rows as u64, "logits of these sites")?;
        Ok(ValidVbLora {
            config: self.clone(),
            plan: plan.clone(),
        })
    }
}

impl MethodConfig for VbLoraConfig {
    fn rank(&self) -> usize {
        self.rank
    }

    fn check_values(&self) -> Result<()> {
        check_size("bank", self.bank, MAX_BANK)?;
        check_size("vector_length", self.vector_length, MAX_DIMENSION)?;
        check_size("rank", self.rank, MAX_RANK)?;
        if !(1..=self.bank).contains(&self.topk) {
            return Err(Error::setting(
                "topk",
                format!("from 1 to the bank size {}", self.bank),
                self.topk,
            ));
        }
        if !(self.bank_bound.is_finite() && self.bank_bound > 0.0) {
            let expected = "finite and above 0 (a bank of zeros gets no gradient)";
            return Err(Error::setting("bank_bound", expected, self.bank_bound));
        }
        for (setting, std) in [
            ("logits_std", self.logits_std),
            ("noise_std", self.noise_std),
        ] {
            if !(std.is_finite() && std >= 0.0) {
                return Err(Error::setting(setting, "finite and not negative", std));
            }
        }
        if !(self.tau.is_finite() && self.tau > 0.0) {
            return Err(Error::setting("tau", "finite and above 0", self.tau));
        }
        Ok(())
    }

    fn count(&self, plan: &SitePlan) -> Result<Count> {
        self.check(plan).map(|valid| valid.count())
    }

    fn sub_vectors(&self, plan: &SitePlan) -> Option<usize> {
        Some(plan.sub_vectors(self.rank, self.vector_length.max(1)))
    }

    fn groups(&self) -> &'static [ParameterGroup] {
        &[ParameterGroup::Bank, ParameterGroup::Logits]
    }
}

impl fmt::Display for VbLoraConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (h, b, r, k) = (self.bank, self.vector_length, self.rank, self.topk);
        write!(f, "VB-LoRA h = {h}, b = {b}, r = {r}")?;
        match self.selection {
            Selection::TopK => write!(f, ", k = {k}")?,
            Selection::SelectAll => write!(f, ", {}", self.selection)?,
            _ => write!(f, ", {}, k = {k}", self.selection)?,
        }
        f.write_str(if self.gate { ", gated" } else { "" })
    }
}

/// Settings that fit their sites.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidVbLora {
    config: VbLoraConfig,
    plan: SitePlan,
}

impl ValidVbLora {
    /// The settings.
    pub fn config(&self) -> &VbLoraConfig {
        &self.config
    }

    /// The sites.
    pub fn plan(&self) -> &SitePlan {
        &self.plan
    }

    /// S, the number of sub-vectors.
    pub fn sub_vectors(&self) -> usize {
        self.plan
            .sub_vectors(self.config.rank, self.config.vector_length)
    }

    /// The settings of the stored adapter. Its selection is that of inference: top-k, or all.
    #[must_use]
    pub fn stored(&self) -> Self {
        let VbLoraConfig { tau, noise_std, .. } = VbLoraConfig::default();
        let config = VbLoraConfig {
            topk: self.config.topk_at_inference(),
            selection: match self.config.selection {
                Selection::SelectAll => Selection::SelectAll,
                _ => Selection::TopK,
            },
            tau,
            noise_std,
            ..self.config.clone()
        };
        Self {
            config,
            plan: self.plan.clone(),
        }
    }

    /// Counts the trained and stored parameters.
    pub fn count(&self) -> Count {
        count::dense(self.config.bank * self.config.vector_length) + self.count_codes()
    }

    /// Counts the trained and stored parameters of an adapter whose bank is trained and stored elsewhere.
    pub fn count_codes(&self) -> Count {
        let (h, s, k) = (self.config.bank, self.sub_vectors(), self.config.topk);
        let codes = match self.config.selection {
            Selection::SelectAll => count::select_all_codes(h, s),
            _ => count::vblora_codes(h, s, k),
        };
        let noise_logits = match self.config.selection {
            Selection::NoisyTopK => s * h,
            _ => 0,
        };
        let gate = count::dense(usize::from(self.config.gate));
        codes + count::trained_only(noise_logits) + gate
    }

    /// Refuses a bank of another shape than `[h, b]`.
    ///
    /// # Errors
    /// The shape expected and the one found.
    pub fn check_bank(&self, bank: &Bank) -> Result<()> {
        let expected = [self.config.bank, self.config.vector_length];
        match bank.shape() == expected {
            true => Ok(()),
            false => Err(Error::Shape {
                tensor: "bank".into(),
                expected: expected.into(),
                found: bank.shape().into(),
            }),
        }
    }

    /// Refuses a value if the settings have no gate, or if it is not finite.
    pub(crate) fn check_gate(&self, gate: f32) -> Result<()> {
        match self.config.gate {
            true => check_values("gate", [1, 1], &[gate]),
            false => Err(Error::setting("gate", "no value without a gate", gate)),
        }
    }

    /// Refuses a bank or logits of a wrong size, and values that are not finite.
    pub(crate) fn check_values(&self, bank: &[f32], logits: &[f32]) -> Result<()> {
        let (h, b) = (self.config.bank, self.config.vector_length);
        check_values("bank", [h, b], bank)?;
        check_values("logits", [self.sub_vectors(), h], logits)
    }

    /// The places of the sites' sub-vectors among the S rows.
    pub fn spans(&self) -> Vec<SiteSpans> {
        let VbLoraConfig {
            vector_length,
            rank,
            ..
        } = self.config;
        let mut row = 0;
        let mut next = |dim: usize| {
            let start = row;
            row += rank * dim / vector_length;
            Span {
                slab: 0,
                rows: start..row,
                rank,
                dim,
            }
        };
        self.plan
            .sites()
            .iter()
            .map(|site| SiteSpans {
                down: next(site.d_in),
                up: next(site.d_out),
            })
            .collect()
    }
}
