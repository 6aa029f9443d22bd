//! A trained adapter in host memory, bound to no backend. Files are read into it and written from it.

mod vera;

use burn::{module::Param, tensor::Tensor};

pub use vera::HostVera;

use super::{Codes, StoredVbLora};
use crate::{
    Adapter, AnyAdapter, Error, Factors, Lora, LoraConfig, Result, Selection, SitePlan, ValidLora,
    ValidVbLora, VbLora, adapter::SiteSpans, admixture::host, backend::VbLoraBackend, limits,
};

/// An adapter's values and settings, in one of the forms that files have.
#[derive(Debug, Clone, PartialEq)]
pub enum HostAdapter {
    /// VB-LoRA with all logits: can be trained further.
    VbLora(HostVbLora),
    /// VB-LoRA's bank and codes: for inference, merging and export.
    TopK(StoredVbLora),
    /// LoRA.
    Lora(HostLora),
    /// VeRA.
    Vera(HostVera),
}

/// VB-LoRA with all its logits. Its settings are [stored ones](ValidVbLora::stored): it mixes its vectors by the rule of inference,
/// whatever selection it was trained with.
#[derive(Debug, Clone, PartialEq)]
pub struct HostVbLora {
    settings: ValidVbLora,
    bank: Vec<f32>,
    logits: Vec<f32>,
    gate: f32,
}

/// LoRA's factors.
#[derive(Debug, Clone, PartialEq)]
pub struct HostLora {
    settings: ValidLora,
    a: Vec<Vec<f32>>,
    b: Vec<Vec<f32>>,
}

impl HostVbLora {
    /// Makes an adapter from given values.
    ///
    /// # Shapes
    /// - bank: `[h, b]`, logits: `[S, h]`, in the order of [`ValidVbLora::load`]
    ///
    /// # Errors
    /// A wrong number of values, or one that is not finite.
    pub fn new(settings: ValidVbLora, bank: Vec<f32>, logits: Vec<f32>) -> Result<Self> {
        settings.check_values(&bank, &logits)?;
        Ok(Self {
            settings: settings.stored(),
            bank,
            logits,
            gate: 1.0,
        })
    }

    /// The same adapter with this value of its gate.
    ///
    /// # Errors
    /// It is not finite, or the settings have no gate.
    pub fn with_gate(self, gate: f32) -> Result<Self> {
        self.settings.check_gate(gate)?;
        Ok(Self { gate, ..self })
    }

    /// The number that multiplies every update; 1 without a gate.
    pub fn gate(&self) -> f32 {
        self.gate
    }

    /// The settings and sites.
    pub fn settings(&self) -> &ValidVbLora {
        &self.settings
    }

    /// The bank, `[h, b]` row-major.
    pub fn bank(&self) -> &[f32] {
        &self.bank
    }

    /// The logits, `[S, h]` row-major.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// An adapter's present values.
    pub(crate) fn read<B: VbLoraBackend>(adapter: &VbLora<B>) -> Result<Self> {
        let read = Self::new(
            adapter.settings().clone(),
            host(adapter.bank.val()),
            host(adapter.logits.val()),
        )?;
        match &adapter.gate {
            Some(gate) => read.with_gate(host(gate.val())[0]),
            None => Ok(read),
        }
    }

    /// The bank and the codes of the logits (paper 3.4).
    pub fn store(&self) -> StoredVbLora {
        let config = self.settings.config();
        let codes = match config.selection {
            Selection::SelectAll => Codes::of_all(&self.logits, config.bank),
            _ => Codes::from_logits(&self.logits, config.bank, config.topk),
        };
        let stored = StoredVbLora::new(self.settings.clone(), self.bank.clone(), codes)
            .expect("codes of finite logits fit their settings");
        match config.gate {
            true => stored
                .with_gate(self.gate)
                .expect("checked when it came in"),
            false => stored,
        }
    }
}

impl HostLora {
    /// Makes an adapter from given values.
    ///
    /// # Shapes
    /// - a: per site `[r, d_in]`, b: per site `[r, d_out]`, row-major
    ///
    /// # Errors
    /// A wrong number of values, or one that is not finite.
    pub fn new(settings: ValidLora, a: Vec<Vec<f32>>, b: Vec<Vec<f32>>) -> Result<Self> {
        settings.check_values(&a, &b)?;
        Ok(Self { settings, a, b })
    }

    /// LoRA of finite factors of rank one or more, unscaled: `alpha = r`.
    fn of_factors(plan: &SitePlan, rank: usize, a: Vec<Vec<f32>>, b: Vec<Vec<f32>>) -> Self {
        let config = LoraConfig {
            rank,
            alpha: rank as f64,
            ..LoraConfig::default()
        };
        let settings = config.check(plan).expect("a rank of at least one");
        Self { settings, a, b }
    }

    /// An adapter's present values.
    pub(crate) fn read<B: VbLoraBackend>(adapter: &Lora<B>) -> Result<Self> {
        let values =
            |parameters: &[Param<Tensor<B, 2>>]| parameters.iter().map(|p| host(p.val())).collect();
        Self::new(
            adapter.settings().clone(),
            values(&adapter.a),
            values(&adapter.b),
        )
    }

    /// The factors that an adapter composes at present, its scale in the up factors.
    pub(crate) fn composed<B: VbLoraBackend, A: Adapter<B>>(adapter: &A) -> Result<Self> {
        let (slabs, spans) = (adapter.slabs(), adapter.spans());
        let rank = spans[0].down.rank;
        let a = spans.iter().map(|site| host(site.down.read(&slabs)));
        let up = |site: &SiteSpans| site.up.read(&slabs).mul_scalar(adapter.scale());
        let b = spans.iter().map(|site| host(up(site)));
        let found = Self::of_factors(adapter.plan(), rank, a.collect(), b.collect());
        found.settings.check_values(&found.a, &found.b)?;
        Ok(found)
    }

    /// The settings and sites.
    pub fn settings(&self) -> &ValidLora {
        &self.settings
    }

    /// Per site `[r, d_in]`, row-major.
    pub fn a(&self) -> &[Vec<f32>] {
        &self.a
    }

    /// Per site `[r, d_out]`, row-major.
    pub fn b(&self) -> &[Vec<f32>] {
        &self.b
    }
}

impl HostAdapter {
    /// An adapter's present values, as [`Adapter::to_host`] gives them.
    ///
    /// # Errors
    /// A value is not finite.
    pub fn read<B: VbLoraBackend>(adapter: &AnyAdapter<B>) -> Result<Self> {
        adapter.to_host()
    }

    /// The adapted sites.
    pub fn plan(&self) -> &SitePlan {
        match self {
            Self::VbLora(adapter) => adapter.settings.plan(),
            Self::TopK(adapter) => adapter.settings().plan(),
            Self::Lora(adapter) => adapter.settings.plan(),
            Self::Vera(adapter) => adapter.settings().plan(),
        }
    }

    /// The adapter as a module whose parameters can be trained.
    ///
    /// # Errors
    /// Only codes are left, without the logits that training moves.
    pub fn trainable<B: VbLoraBackend>(&self, device: &B::Device) -> Result<AnyAdapter<B>> {
        match self {
            Self::VbLora(HostVbLora {
                settings,
                bank,
                logits,
                gate,
            }) => {
                let adapter = settings.load(bank.clone(), logits.clone(), device)?;
                Ok(AnyAdapter::VbLora(adapter.with_gate(*gate)))
            }
            Self::TopK(_) => Err(Error::CodesOnly),
            Self::Lora(HostLora { settings, a, b }) => {
                settings.load(a, b, device).map(AnyAdapter::Lora)
            }
            Self::Vera(adapter) => adapter.trainable(device).map(AnyAdapter::Vera),
        }
    }

    /// The factors of all sites, for inference and merging.
    pub fn factors<B: VbLoraBackend>(&self, device: &B::Device) -> Factors<B> {
        match self {
            Self::TopK(adapter) => adapter.factors(device),
            _ => self
                .trainable::<B>(device)
                .expect("values were checked when they came in")
                .factors(),
        }
    }

    /// The bank and the codes; `None` for the other methods, which have none.
    pub fn store(&self) -> Option<StoredVbLora> {
        match self {
            Self::VbLora(adapter) => Some(adapter.store()),
            Self::TopK(adapter) => Some(adapter.clone()),
            Self::Lora(_) | Self::Vera(_) => None,
        }
    }

    /// Number of values of the factors that [`to_lora`](Self::to_lora) makes. Codes are small, but their factors need not be.
    pub fn lora_values(&self) -> u64 {
        let rank = match self {
            Self::VbLora(adapter) => adapter.settings().config().rank,
            Self::TopK(adapter) => adapter.settings().config().rank,
            Self::Lora(adapter) => adapter.settings().config().rank,
            Self::Vera(adapter) => adapter.settings().config().rank,
        };
        limits::factor_values(rank, self.plan())
    }

    /// Checks that memory has room for the factors of [`to_lora`](Self::to_lora).
    ///
    /// # Errors
    /// [`Error::NoRoom`].
    pub fn check_lora_room(&self) -> Result<()> {
        limits::check_room("the adapter's factors", self.lora_values())
    }

    /// The same update as LoRA with `alpha = r`. VB-LoRA's codes and VeRA's vectors are composed to factors, and a gate goes into the up
    /// factors. LoRA stays as it is.
    pub fn to_lora(&self) -> HostLora {
        let stored = match self {
            Self::VbLora(adapter) => adapter.store(),
            Self::TopK(adapter) => adapter.clone(),
            Self::Lora(adapter) => return adapter.clone(),
            Self::Vera(adapter) => return adapter.to_lora(),
        };
        let (a, b) = stored.host_factors().into_iter().unzip();
        let settings = stored.settings();
        HostLora::of_factors(settings.plan(), settings.config().rank, a, b)
    }
}
