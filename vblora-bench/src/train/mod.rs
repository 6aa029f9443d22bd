//! Training: what a model is trained for, parameters by path, the optimizer, data order, one step, one run and its checkpoints, many runs.

mod adamw;
pub mod causal;
mod checkpoint;
mod classification;
mod compact;
mod data;
mod identity;
mod layout;
mod learner;
mod learner_state;
mod log;
mod method;
mod model_hash;
mod objective;
pub mod order;
mod parameters;
mod run;
mod run_dir;
mod session;
mod source;
mod step;
mod timing;
mod touched;
mod training;

pub use adamw::{AdamW, Moments, Rule};
pub use checkpoint::CheckpointSettings;
pub use classification::Classification;
pub use data::{EncodedSplit, LabelledBatch};
pub use identity::Identity;
pub use learner::{Learner, Trained};
pub use learner_state::LearnerState;
pub use log::StepLog;
pub use method::Method;
pub(crate) use model_hash::model_hash;
pub use objective::{Graph, Objective, PlainHead, Saving};
pub use parameters::Gradients;
pub(crate) use parameters::RequireGrad;
pub use run::{Prepared, Run};
pub use run_dir::RunDir;
pub use session::Session;
pub use source::{DataSource, Loaded, Shape, Source};
pub use step::{MicroGradients, StepReport, StepSum};
pub use touched::Touched;

pub use crate::directory::DirLock;
