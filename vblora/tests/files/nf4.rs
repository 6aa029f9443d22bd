//! Quantisation to 4 bits against values recorded from bitsandbytes.

use std::path::Path;

use vblora::nf4::{NF4, Nf4Host, Nf4Scales, scale_codes, scale_map};

use crate::support::fixtures::{Tensors, entries, folder};

/// A tensor's values as f32, which the recorded ones are exactly.
fn floats(tensors: &Tensors, name: &str) -> Vec<f32> {
    tensors.get(name).iter().map(|&x| x as f32).collect()
}

fn bytes(tensors: &Tensors, name: &str) -> Vec<u8> {
    tensors.get(name).iter().map(|&x| x as u8).collect()
}

#[test]
fn fixture_nf4() {
    let Some(folder) = folder("nf4") else { return };
    let tables = Tensors::read(&folder.join("codebooks.safetensors"));
    assert_eq!(floats(&tables, "code"), NF4);
    assert_eq!(floats(&tables, "dynamic_map"), scale_map());
    let cases = entries(&folder, ".safetensors");
    let cases = cases
        .iter()
        .filter(|path| !path.ends_with("codebooks.safetensors"));
    let count = cases.map(|path| check(path)).count();
    println!("{count} matrices");
    assert!(count > 0);
}

fn check(path: &Path) {
    let case = path.display();
    let tensors = Tensors::read(path);
    let shape: [usize; 2] = tensors.shape("weight").try_into().expect("a matrix");
    let values = floats(&tensors, "weight");
    let single = Nf4Host::quantise(&values, shape, false);
    assert_eq!(single.packed(), bytes(&tensors, "packed"), "{case}");
    assert_eq!(single.absmax(), floats(&tensors, "absmax"), "{case}");
    assert_eq!(
        single.dequantise(),
        floats(&tensors, "dequant_f32"),
        "{case}"
    );

    let double = Nf4Host::quantise(&values, shape, true);
    assert_eq!(double.packed(), single.packed(), "{case}");
    let Nf4Scales::Double { map, offset, .. } = double.scales() else {
        panic!("{case}: one level")
    };
    let recorded = floats(&tensors, "dq_offset")[0];
    assert!(
        (offset - recorded).abs() <= 1e-6 * recorded.abs(),
        "{case}: {offset} {recorded}"
    );
    // The second level from the recorded offset: another order of the sum moves it by one rounding.
    let (codes, nested) = scale_codes(&single.absmax(), recorded);
    assert_eq!(codes, bytes(&tensors, "dq_codes"), "{case}");
    let most = floats(&tensors, "dq_absmax2");
    assert_eq!(nested.len(), most.len(), "{case}");
    for (found, expected) in nested.iter().zip(&most) {
        assert!(
            (found - expected).abs() <= 1e-6 * expected.abs(),
            "{case}: {found} {expected}"
        );
    }
    let scales = Nf4Scales::Double {
        codes,
        map: map.clone(),
        nested: most,
        offset: recorded,
    };
    let restored = Nf4Host::new(shape, 64, single.packed().to_vec(), NF4, scales).unwrap();
    assert_eq!(restored.absmax(), floats(&tensors, "dq_absmax"), "{case}");
    assert_eq!(
        restored.dequantise(),
        floats(&tensors, "dq_dequant_f32"),
        "{case}"
    );
}
