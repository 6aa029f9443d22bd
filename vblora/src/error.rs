//! The crate's errors. Each names the thing at fault, the expected value and the found one.

use std::path::PathBuf;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of the crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A target rule picked no site.
    #[error("targets {rule} match no site; the model has {available}")]
    NoMatch {
        /// The rule as it was given.
        rule: String,
        /// The roles of the model's sites.
        available: String,
    },
    /// A target or exclusion pattern is not a regular expression.
    #[error("target pattern {pattern:?} is not a regular expression: {reason}")]
    Pattern {
        /// The pattern as it was given.
        pattern: String,
        /// The parser's message.
        reason: String,
    },
    /// The sub-vector length does not divide a dimension of a site.
    #[error(
        "site {site}: vector length b = {b} does not divide {side} = {dim}; \
         valid for all chosen sites: {valid}"
    )]
    NotDivisible {
        /// The first site with a dimension that is not divisible.
        site: String,
        /// `d_in` or `d_out`.
        side: &'static str,
        /// The dimension.
        dim: usize,
        /// The vector length asked for.
        b: usize,
        /// The vector lengths that divide every dimension of every chosen site.
        valid: String,
    },
    /// A setting has a value that cannot work.
    #[error("{setting} must be {expected}, found {found}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// The accepted values.
        expected: String,
        /// The value that was given.
        found: String,
    },
    /// A tensor holds NaN or an infinity.
    #[error("{tensor}: value {value} in row {row}, all values must be finite")]
    NonFinite {
        /// The tensor.
        tensor: String,
        /// The first row with such a value.
        row: usize,
        /// The value.
        value: f32,
    },
    /// A tensor has another shape than it must have.
    #[error("{tensor}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// The shape it must have.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// The rank asked for is higher than the weight's.
    #[error("site {site}: rank r = {rank} is too high for a weight {shape:?} of rank {limit}")]
    Rank {
        /// The site.
        site: String,
        /// `[d_in, d_out]`
        shape: [usize; 2],
        /// The rank asked for.
        rank: usize,
        /// The weight's rank.
        limit: usize,
    },
    /// A method starts from the frozen weights, and a site has none.
    #[error(
        "site {site}: lora-xs starts from its frozen weight, but the base has no weight of this name"
    )]
    NoWeight {
        /// The site.
        site: String,
    },
    /// Gradients were pushed back for factors that no backward pass reached.
    #[error(
        "site {site} got no gradient: no loss was differentiated through these factors \
         (a graph can be walked only once)"
    )]
    NoGradient {
        /// The first site without a gradient.
        site: String,
    },
    /// Training needs the adapter's logits, and only the codes are left.
    #[error(
        "only the top-k codes of this adapter were stored, and training needs all logits: train from the full form \
         (PEFT: save_only_topk_weights = false) or from a checkpoint"
    )]
    CodesOnly,
    /// The adapter was made for other linear maps than the model has.
    #[error(
        "the adapter was made for linear maps with SHA-256 {made_for}, the model's have {found}: {difference}"
    )]
    OtherBase {
        /// The hash of the sites that the adapter was made for.
        made_for: String,
        /// The hash of the model's sites of these names.
        found: String,
        /// The first site that differs, with its shape in the adapter and in the model.
        difference: String,
    },
    /// The program was built without the backend.
    #[error(
        "backend {name} is not compiled in; build with --features {name} (compiled in: {compiled})"
    )]
    NotCompiled {
        /// The backend asked for.
        name: &'static str,
        /// The backends that the program was built with.
        compiled: String,
    },
    /// A device is absent or does not work.
    #[error("backend {backend}, device {device}: {reason}")]
    Device {
        /// The backend.
        backend: &'static str,
        /// The device index.
        device: usize,
        /// The backend's message.
        reason: String,
    },
    /// A tensor is larger than the device can hold in one piece.
    #[error(
        "{tensor}: {bytes} bytes, more than the {limit} bytes that a tensor may have on backend {backend}"
    )]
    TooLarge {
        /// The tensor.
        tensor: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
        /// The backend.
        backend: String,
    },
    /// More memory is needed than can be allocated.
    #[error("{what}: {bytes} bytes, which cannot be allocated here")]
    NoRoom {
        /// The purpose of the memory.
        what: String,
        /// The number of bytes.
        bytes: u64,
    },
    /// More bytes are to be written than the disk has left.
    #[error("{}: {bytes} bytes are to be written, but the disk has only {left} left", path.display())]
    NoDisk {
        /// The file or directory to be written.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The bytes left on the disk.
        left: u64,
    },
    /// The device reported an error of earlier work.
    #[error("the device failed while {during}: {reason}")]
    DeviceFailed {
        /// The work that failed.
        during: String,
        /// The backend's message.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        cause: std::io::Error,
    },
    /// A file's content is not what it must be.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The tensor or field, what was expected and what was found.
        reason: String,
    },
}

impl Error {
    /// The operating system's refusal to read or write a file.
    pub(crate) fn io(path: &std::path::Path) -> impl Fn(std::io::Error) -> Self {
        move |cause| Self::Io {
            path: path.to_owned(),
            cause,
        }
    }

    pub(crate) fn setting(
        setting: &'static str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self::Setting {
            setting,
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}
