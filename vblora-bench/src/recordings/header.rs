//! The first line of a recording, which identifies its run.

use derive_new::new;
use serde::{Deserialize, Serialize};
use vblora::{
    Selection, ValidVbLora,
    storage::{MAX_DIMENSION, MAX_SUB_VECTORS, strict_json},
};

/// The start of every file, with the version of the format.
const FORMAT: &str = "vblora selections 1";

/// Maximum bytes of the first line. Llama-2-7B's 224 sites take 20 kB.
const MAX_HEADER_BYTES: usize = 16 << 20;

/// Maximum bank vectors. Readers allocate counters per bank vector.
const MAX_BANK: usize = 1 << 20;

/// Maximum steps. Real runs take fewer.
const MAX_STEPS: u64 = 1 << 40;

/// The run that a recording belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, new)]
#[serde(deny_unknown_fields)]
pub struct Header {
    #[new(value = "FORMAT.into()")]
    format: String,
    /// The run's name, for example `vblora seed 1`.
    pub run: String,
    /// The task's name.
    pub task: String,
    /// The adapter's settings and sites.
    pub settings: ValidVbLora,
    /// Optimizer steps per epoch.
    pub steps_per_epoch: u64,
    /// Optimizer steps of the whole run.
    pub steps: u64,
}

impl Header {
    /// The sizes `[h, k, S]`.
    pub fn sizes(&self) -> [usize; 3] {
        let config = self.settings.config();
        [config.bank, config.topk, self.settings.sub_vectors()]
    }

    /// The epoch, from 1, that contains the last of this many steps. Step 0 belongs to the first epoch.
    pub fn epoch(&self, step: u64) -> u64 {
        step.div_ceil(self.steps_per_epoch).max(1)
    }

    /// The run's name and settings in one line, used as the title of pictures.
    pub fn title(&self) -> String {
        let config = self.settings.config();
        let sites = self.settings.plan().sites().len();
        let rule = match config.selection {
            Selection::TopK => String::new(),
            other => format!("{other}, "),
        };
        format!(
            "{}, {}: {rule}h = {}, b = {}, r = {}, k = {}, {sites} sites",
            self.run, self.task, config.bank, config.vector_length, config.rank, config.topk
        )
    }

    /// Writes the header as the first line of a file.
    pub(super) fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("names and numbers alone");
        line.push(b'\n');
        line
    }

    /// Reads the header of a file. Returns the header and its size in bytes.
    ///
    /// # Errors
    /// Only the cause.
    pub(super) fn of_bytes(bytes: &[u8]) -> Result<(Self, usize), String> {
        let start = &bytes[..bytes.len().min(MAX_HEADER_BYTES)];
        let end = start
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or("it has no first line of JSON")?;
        let header: Self =
            strict_json::from_slice(&start[..end]).map_err(|e| format!("its first line: {e}"))?;
        header.check()?;
        Ok((header, end + 1))
    }

    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!(
                "format {:?}, but this version reads {FORMAT:?}",
                self.format
            ));
        }
        if self.steps_per_epoch == 0 || self.steps > MAX_STEPS {
            let (steps, all) = (self.steps_per_epoch, self.steps);
            return Err(format!(
                "impossible counts: {steps} steps per epoch, {all} in all"
            ));
        }
        let (config, plan) = (self.settings.config(), self.settings.plan());
        let is_large = |site: &vblora::Site| site.d_in.max(site.d_out) > MAX_DIMENSION;
        if config.bank > MAX_BANK || plan.sites().iter().any(is_large) {
            return Err("a bank or site larger than any model's".into());
        }
        config.check(plan).map_err(|e| e.to_string())?;
        match self.settings.sub_vectors() {
            1..=MAX_SUB_VECTORS => Ok(()),
            s => Err(format!("{s} sub-vectors")),
        }
    }
}
