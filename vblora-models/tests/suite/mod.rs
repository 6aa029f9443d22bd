pub(crate) mod encoder;
pub(crate) mod heads;
pub(crate) mod minilm;
pub(crate) mod plain;
pub(crate) mod recorded;
pub(crate) mod saving;
pub(crate) mod tiny;
pub(crate) mod training;
