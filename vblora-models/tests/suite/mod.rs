pub(crate) mod decoders;
pub(crate) mod encoder;
pub(crate) mod heads;
pub(crate) mod minilm;
pub(crate) mod plain;
pub(crate) mod real_decoders;
pub(crate) mod recorded;
pub(crate) mod recorded_decoders;
pub(crate) mod saving;
pub(crate) mod serving;

pub(crate) mod tiny;
pub(crate) mod training;
