pub(crate) mod adapters;
pub(crate) mod admixture;
pub(crate) mod decoder_operations;
pub(crate) mod operations;
pub(crate) mod recorded;
pub(crate) mod selection;
pub(crate) mod serving;
pub(crate) mod storage;
