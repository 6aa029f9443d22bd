//! A method chosen at run time.

// This attribute covers the whole file, because the record that Burn derives from the adapter takes no attribute of its own.
#![allow(
    clippy::large_enum_variant,
    reason = "there is one adapter per run, and Burn's modules cannot be boxed"
)]

use std::fmt;

use burn::{
    module::{Module, ParamId},
    tensor::{Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};

use super::{Adapter, BaseWeights, MethodConfig, ParameterGroup, SiteSpans, methods::*};
use crate::{
    Result, SitePlan, backend::VbLoraBackend, count::Count, for_each_method, limits, rng::Key,
    storage::HostAdapter,
};

macro_rules! define {
    ($($method:ident $config:ident $name:literal $table:ident $title:literal;)+) => {
        /// The settings of one of the methods.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub enum AdapterConfig {
            $(
                #[doc = $title]
                #[serde(rename = $name)]
                $method($config),
            )+
        }

        impl AdapterConfig {
            /// The method's name on the command line and in results.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$method(_) => $name,)+
                }
            }

            fn settings(&self) -> &dyn MethodConfig {
                match self {
                    $(Self::$method(config) => config,)+
                }
            }

            fn start<B: VbLoraBackend>(
                &self,
                base: &dyn BaseWeights,
                plan: &SitePlan,
                seed: u64,
                device: &B::Device,
            ) -> Result<AnyAdapter<B>> {
                Ok(match self {
                    $(Self::$method(config) => {
                        AnyAdapter::$method(config.start(base, plan, seed, device)?)
                    })+
                })
            }
        }

        /// An adapter of any method.
        #[derive(Module, Debug)]
        pub enum AnyAdapter<B: Backend> {
            $(
                #[doc = $title]
                $method($method<B>),
            )+
        }

        impl<B: Backend> AnyAdapter<B> {
            /// The method's name, as [`AdapterConfig::name`] has it.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$method(_) => $name,)+
                }
            }
        }

        impl<B: VbLoraBackend> Adapter<B> for AnyAdapter<B> {
            fn plan(&self) -> &SitePlan {
                match self {
                    $(Self::$method(adapter) => adapter.plan(),)+
                }
            }

            fn slabs(&self) -> Vec<Tensor<B, 2>> {
                match self {
                    $(Self::$method(adapter) => adapter.slabs(),)+
                }
            }

            fn training_slabs(&self, key: Key) -> Vec<Tensor<B, 2>> {
                match self {
                    $(Self::$method(adapter) => adapter.training_slabs(key),)+
                }
            }

            fn spans(&self) -> Vec<SiteSpans> {
                match self {
                    $(Self::$method(adapter) => adapter.spans(),)+
                }
            }

            fn scale(&self) -> f64 {
                match self {
                    $(Self::$method(adapter) => adapter.scale(),)+
                }
            }

            fn dropout(&self) -> f64 {
                match self {
                    $(Self::$method(adapter) => adapter.dropout(),)+
                }
            }

            fn group(&self, parameter: ParamId) -> ParameterGroup {
                match self {
                    $(Self::$method(adapter) => adapter.group(parameter),)+
                }
            }

            fn to_host(&self) -> Result<HostAdapter> {
                match self {
                    $(Self::$method(adapter) => adapter.to_host(),)+
                }
            }
        }
    };
}

for_each_method!(define);

impl AdapterConfig {
    /// Counts the trained and stored parameters on these sites before anything is allocated.
    ///
    /// # Errors
    /// The settings do not work on these sites.
    pub fn count(&self, plan: &SitePlan) -> Result<Count> {
        self.settings().count(plan)
    }

    /// The method's parameter groups that have their own learning rate.
    pub fn groups(&self) -> &'static [ParameterGroup] {
        self.settings().groups()
    }

    /// The number of sub-vectors, for the method that has them.
    pub fn sub_vectors(&self, plan: &SitePlan) -> Option<usize> {
        self.settings().sub_vectors(plan)
    }

    /// Makes the adapter with initial values that depend on `seed` and the sites' names alone. LoRA-XS, which starts from the frozen weights,
    /// needs [`init_on`](Self::init_on).
    ///
    /// # Errors
    /// The settings do not work on these sites.
    pub fn init<B: VbLoraBackend>(
        &self,
        plan: &SitePlan,
        seed: u64,
        device: &B::Device,
    ) -> Result<AnyAdapter<B>> {
        self.init_on(&(), plan, seed, device)
    }

    /// Like [`init`](Self::init), with access to a base. Methods that start from the frozen weights read them there.
    ///
    /// # Errors
    /// The settings do not work on these sites or weights, or the values do not fit in memory.
    pub fn init_on<B: VbLoraBackend>(
        &self,
        base: &dyn BaseWeights,
        plan: &SitePlan,
        seed: u64,
        device: &B::Device,
    ) -> Result<AnyAdapter<B>> {
        let trained = self.count(plan)?.trained as u64;
        let values = trained.saturating_add(limits::factor_values(self.settings().rank(), plan));
        limits::check_room(format!("values and factors of {self}"), values)?;
        self.start(base, plan, seed, device)
    }

    /// Describes the sites that would be adapted and their cost. Nothing is allocated.
    ///
    /// # Errors
    /// The settings do not work on these sites.
    pub fn describe(&self, plan: &SitePlan) -> Result<String> {
        Ok(self.describe_counted(plan, self.count(plan)?))
    }

    /// Like [`describe`](Self::describe), with the caller's own count. Adapters that share a bank need one.
    pub fn describe_counted(&self, plan: &SitePlan, count: Count) -> String {
        let sub_vectors = self
            .sub_vectors(plan)
            .map(|s| format!("  S = {s} sub-vectors\n"))
            .unwrap_or_default();
        format!(
            "{self} on {} sites\n{plan}{sub_vectors}  {count}\n",
            plan.sites().len()
        )
    }
}

impl fmt::Display for AdapterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.settings(), f)
    }
}
