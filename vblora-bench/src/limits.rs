//! Limits for recipes, sweeps and the files of runs. `docs/limits.md` lists all limits.

/// Maximum passes over the training split.
pub const MAX_EPOCHS: usize = 1 << 20;

/// Maximum rows of a micro-batch.
pub const MAX_BATCH: usize = 1 << 16;

/// Maximum micro-batches of an optimizer step.
pub const MAX_ACCUMULATION: usize = 1 << 20;

/// Maximum tokens of a row. No model here has more positions.
pub const MAX_LENGTH: usize = 1 << 24;

/// Maximum runs of a sweep: the product of its axes, summed over all blocks.
pub const MAX_SWEEP_RUNS: usize = 1 << 16;

/// Maximum bytes of a recipe, sweep file or template. Larger files are refused before they are read.
pub const MAX_TEXT_BYTES: u64 = 4 << 20;

/// Maximum bytes of a file of examples. Larger files are refused before they are read, because all examples are held in memory.
pub const MAX_DATA_BYTES: u64 = 4 << 30;

/// Maximum bytes of a file of results. Larger files are refused before they are read.
pub const MAX_RESULTS_BYTES: u64 = 256 << 20;

/// Maximum bytes of a log that a resumed run reads again. A step takes some 200 bytes. Larger logs are refused before they are read.
pub const MAX_LOG_BYTES: u64 = 4 << 30;

/// Maximum bytes of a recording. Larger files are refused before they are read.
pub const MAX_RECORDING_BYTES: u64 = 4 << 30;
