//! Training: parameters by path, the optimizer, data order, one step, one run and its checkpoints, many runs.

mod adamw;
mod checkpoint;
mod compact;
mod data;
mod identity;
mod learner;
mod learner_state;
mod log;
mod method;
mod parameters;
mod run;
mod run_dir;
mod session;
mod training;

pub use adamw::{AdamW, Moments, Rule};
pub use checkpoint::CheckpointSettings;
pub use data::{EncodedSplit, LabelledBatch};
pub use identity::Identity;
pub use learner::{Learner, StepReport, Trained};
pub use learner_state::LearnerState;
pub use log::StepLog;
pub use method::Method;
pub use parameters::Gradients;
pub(crate) use parameters::RequireGrad;
pub use run::{Prepared, Run};
pub use run_dir::RunDir;
pub use session::{DataSource, Session};
