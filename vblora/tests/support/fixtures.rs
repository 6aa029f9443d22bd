//! Values recorded from other programs, in safetensors files with a JSON of the settings beside each.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors};
use vblora::storage::to_f32;

/// The fixtures' folder of one kind; `None`, with a printed reason, where there are none.
pub fn folder(kind: &str) -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures");
    let root = std::env::var("VBLORA_FIXTURES").unwrap_or_else(|_| default.into());
    let folder = Path::new(&root).join(kind);
    if !folder.is_dir() {
        println!(
            "skipped: no recorded values at {} (set VBLORA_FIXTURES)",
            folder.display()
        );
        return None;
    }
    Some(folder)
}

/// Every entry of a folder whose name ends in `suffix`, sorted; at least one.
pub fn entries(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.expect("readable folder").path())
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{}: no *{suffix}", folder.display());
    found
}

/// A JSON file.
pub fn json(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A whole number of a JSON file.
#[track_caller]
pub fn number(json: &serde_json::Value, key: &str) -> usize {
    json[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key}: not a whole number in {json}")) as usize
}

/// The tensors of a safetensors file, widened to f64.
pub struct Tensors {
    path: PathBuf,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

impl Tensors {
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file =
            SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let tensors = file.iter().map(|(name, view)| {
            (
                name.to_owned(),
                (view.shape().to_vec(), widen(view.dtype(), view.data())),
            )
        });
        Self {
            path: path.to_owned(),
            tensors: tensors.collect(),
        }
    }

    #[track_caller]
    fn find(&self, name: &str) -> &(Vec<usize>, Vec<f64>) {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("{}: no tensor {name:?}", self.path.display()))
    }

    #[track_caller]
    pub fn get(&self, name: &str) -> &[f64] {
        &self.find(name).1
    }

    #[track_caller]
    pub fn shape(&self, name: &str) -> &[usize] {
        &self.find(name).0
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

fn widen(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    macro_rules! read {
        ($type:ty) => {
            bytes
                .chunks_exact(size_of::<$type>())
                .map(|c| <$type>::from_le_bytes(c.try_into().unwrap()) as f64)
                .collect()
        };
    }
    match dtype {
        Dtype::F32 => read!(f32),
        Dtype::F64 => read!(f64),
        Dtype::I64 => read!(i64),
        Dtype::I32 => read!(i32),
        Dtype::I16 => read!(i16),
        Dtype::U8 => read!(u8),
        Dtype::F16 | Dtype::BF16 => {
            let values = to_f32(dtype, bytes).expect("finite values");
            values.into_iter().map(f64::from).collect()
        }
        other => panic!("dtype {other:?} in a fixture"),
    }
}

/// PEFT's `vblora_logits_B` `(out/b, r, h)` with the rank first, as this library keeps it.
pub fn rank_first(values: &[f64], shape: &[usize]) -> Vec<f64> {
    let [tiles, rank, h] = *shape else {
        panic!("logits of shape {shape:?}")
    };
    let row = |rho: usize, tile: usize| &values[(tile * rank + rho) * h..][..h];
    (0..rank)
        .flat_map(|rho| (0..tiles).flat_map(move |tile| row(rho, tile).iter().copied()))
        .collect()
}
