//! Models that are written in 4 bits and back.

use super::vblora;

#[test]
fn bundled_models_are_quantised_and_decoded() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for name in ["roberta", "llama"] {
        let (status, said, error) = vblora(dir, &format!("quantize bundled:{name} {name}-nf4"));
        assert_eq!(status, 0, "{error}");
        assert!(said.contains("maps in 4 bits"), "{said}");
        let (status, said, error) = vblora(dir, &format!("dequantize {name}-nf4 {name}"));
        assert_eq!(status, 0, "{error}");
        assert!(said.contains("maps in floats"), "{said}");
        let size = |of: &str| {
            let file = dir.join(of).join("model.safetensors");
            std::fs::metadata(file).unwrap().len()
        };
        assert!(size(name) > size(&format!("{name}-nf4")));
    }
    for (arguments, says) in [
        ("quantize bundled:bert to", "bundled:roberta, bundled:llama"),
        ("dequantize bundled:llama to", "no tensor is in 4 bits"),
        ("quantize bundled:llama to --revision main", "revision"),
    ] {
        let (status, _, error) = vblora(dir, arguments);
        assert_ne!(status, 0, "{arguments}");
        assert!(error.contains(says), "{arguments}: {error}");
        assert!(!dir.join("to").exists(), "{arguments}");
    }
}
