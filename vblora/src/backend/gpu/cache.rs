//! Compiled CUDA kernels on disk, so that a process need not compile what an earlier one did.
//!
//! CubeCL finds a kernel by its name and settings, not by its text or its card. So each program and kind of card has a folder of its own.

#[cfg(feature = "cuda")]
use std::{fs, sync::Once};
use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

#[cfg(feature = "cuda")]
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig, cache::CacheConfig};
use sha2::{Digest, Sha256};

/// The folder in the user's cache.
const FOLDER: &str = "vblora-kernels";

/// Has CubeCL keep compiled kernels, unless its configuration says where, or was read before. Where card or program cannot be told, nothing is
/// kept.
#[cfg(feature = "cuda")]
pub(in crate::backend) fn keep_kernels() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Some(folder) = folder_here() else { return };
        if CubeClRuntimeConfig::storage().lock().is_some() {
            return;
        }
        let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
        let cache = &mut config.compilation.cache;
        cache.get_or_insert(CacheConfig::File(folder));
        CubeClRuntimeConfig::set(config);
    });
}

#[cfg(feature = "cuda")]
fn folder_here() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = match set("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => std::env::home_dir()?.join(".cache"),
    };
    let driver = fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let cards = fs::read_dir("/proc/driver/nvidia/gpus").ok()?;
    let cards = cards.map(|card| fs::read_to_string(card.ok()?.path().join("information")).ok());
    let cards: Option<Vec<_>> = cards.collect();
    let path = std::env::current_exe().ok()?;
    let file = path.metadata().ok()?;
    let program = (path.as_path(), file.len(), file.modified().ok()?);
    folder(&cache, &driver, &cards?, program)
}

/// The folder for the kernels of this program on these cards, by the driver's words about each. `None` for cards of several models.
fn folder(
    cache: &Path,
    driver: &str,
    cards: &[String],
    (path, bytes, modified): (&Path, u64, SystemTime),
) -> Option<PathBuf> {
    let model = |card: &String| {
        let model = card.lines().find_map(|line| line.strip_prefix("Model:"));
        model.map(|model| model.trim().to_owned())
    };
    let first = model(cards.first()?)?;
    if cards
        .iter()
        .any(|card| model(card).as_ref() != Some(&first))
    {
        return None;
    }
    let program = format!("{path:?} {bytes} {modified:?}");
    let digest = Sha256::digest(format!("{driver}\n{first}\n{program}"));
    let name: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
    Some(cache.join(FOLDER).join(name))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn kernels_are_kept_apart_by_program_card_and_driver() {
        let card = |model: &str, bus: &str| format!("Model: \t\t {model}\nIRQ: 7\nBus: {bus}\n");
        let of = |driver: &str, models: &[&str], bytes: u64, seconds: u64| {
            let cards: Vec<_> = models.iter().map(|model| card(model, "1")).collect();
            let built = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let program = (Path::new("/bin/vblora"), bytes, built);
            folder(Path::new("/cache"), driver, &cards, program)
        };
        let h100 = of("580", &["H100"], 5, 9).unwrap();
        assert!(h100.starts_with("/cache/vblora-kernels"));
        assert_eq!(Some(&h100), of("580", &["H100", "H100"], 5, 9).as_ref());
        for other in [
            of("581", &["H100"], 5, 9),
            of("580", &["A100"], 5, 9),
            of("580", &["H100"], 6, 9),
            of("580", &["H100"], 5, 10),
        ] {
            assert_ne!(Some(&h100), other.as_ref());
            assert!(other.is_some());
        }
        assert_eq!(of("580", &["H100", "A100"], 5, 9), None);
        assert_eq!(of("580", &[], 5, 9), None);
    }
}
