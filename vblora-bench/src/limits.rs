//! What recipes, sweeps and the files of runs are held to. `docs/limits.md` lists all limits.

/// The most passes over the training split.
pub const MAX_EPOCHS: usize = 1 << 20;

/// The most rows of a micro-batch.
pub const MAX_BATCH: usize = 1 << 16;

/// The most micro-batches of an optimizer step.
pub const MAX_ACCUMULATION: usize = 1 << 20;

/// The most tokens of a row. No model here has positions for more.
pub const MAX_LENGTH: usize = 1 << 24;

/// The most runs of a sweep: the product of its axes, over all blocks.
pub const MAX_SWEEP_RUNS: usize = 1 << 16;

/// A larger recipe, sweep file or template is refused before it is read.
pub const MAX_TEXT_BYTES: u64 = 4 << 20;

/// A larger file of examples is refused before it is read; all of it is held in memory.
pub const MAX_DATA_BYTES: u64 = 4 << 30;

/// A larger file of results is refused before it is read.
pub const MAX_RESULTS_BYTES: u64 = 256 << 20;

/// A larger log is refused before it is read again when a run goes on; a step takes some 200 bytes.
pub const MAX_LOG_BYTES: u64 = 4 << 30;

/// A larger recording is refused before it is read.
pub const MAX_RECORDING_BYTES: u64 = 4 << 30;
