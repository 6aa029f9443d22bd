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

/// A tensor beside the maps gets a text that gives it 4 bits and an impossible shape.
#[test]
fn a_shape_that_lies_is_an_error_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (status, _, error) = vblora(dir, "quantize bundled:llama nf4");
    assert_eq!(status, 0, "{error}");
    let file = dir.join("nf4/model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: serde_json::Value = serde_json::from_slice(header).unwrap();
    let text = r#"{"quant_type": "nf4", "blocksize": 64, "shape": [1099511627776, 1099511627776]}"#;
    header["model.norm.weight.quant_state.bitsandbytes__nf4"] = serde_json::json!({
        "dtype": "U8", "shape": [text.len()], "data_offsets": [data.len(), data.len() + text.len()],
    });
    let header = serde_json::to_vec(&header).unwrap();
    let length = (header.len() as u64).to_le_bytes();
    let lying = [&length, &header[..], data, text.as_bytes()].concat();
    std::fs::write(&file, lying).unwrap();
    let (status, _, error) = vblora(dir, "dequantize nf4 to");
    assert_eq!(status, 1, "{error}");
    assert!(error.contains("model.norm.weight"), "{error}");
    assert!(error.contains("no possible size"), "{error}");
    assert!(!dir.join("to").exists());
}
