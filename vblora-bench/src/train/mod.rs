//! Training: parameters by path, the optimizer, data order, one step, one run, many runs.

mod adamw;
mod data;
mod learner;
mod log;
mod method;
mod parameters;
mod run;
mod run_dir;
mod session;

pub use adamw::{AdamW, Rule};
pub use data::{EncodedSplit, LabelledBatch};
pub use learner::{Learner, StepReport, Trained};
pub use log::StepLog;
pub use method::Method;
pub use parameters::Gradients;
pub(crate) use parameters::RequireGrad;
pub use run::{Prepared, Run};
pub use run_dir::RunDir;
pub use session::{DataSource, Session};
