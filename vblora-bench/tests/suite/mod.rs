pub(crate) mod causal;
pub(crate) mod learner;
pub(crate) mod recorded;
pub(crate) mod resume;
