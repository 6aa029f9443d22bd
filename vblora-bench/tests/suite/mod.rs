pub(crate) mod learner;
pub(crate) mod recorded;
