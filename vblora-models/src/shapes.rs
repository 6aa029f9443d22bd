//! Linear maps of published models that are not run here yet, for plans and measurements at their size.

use vblora::Site;

/// The seven linear maps of each of Llama-2-7B's layers (arXiv 2307.09288: width 4,096, inner width 11,008, 32 layers), by their Hugging
/// Face names.
pub fn llama_2_7b(layers: usize) -> Vec<Site> {
    let (d, inner) = (4096, 11_008);
    let maps = [
        ("self_attn.q_proj", d, d),
        ("self_attn.k_proj", d, d),
        ("self_attn.v_proj", d, d),
        ("self_attn.o_proj", d, d),
        ("mlp.gate_proj", d, inner),
        ("mlp.up_proj", d, inner),
        ("mlp.down_proj", inner, d),
    ];
    let layer = |n: usize| {
        maps.map(|(map, d_in, d_out)| Site::new(format!("model.layers.{n}.{map}"), d_in, d_out))
    };
    (0..layers).flat_map(layer).collect()
}

#[cfg(test)]
mod tests {
    use vblora::Targets;

    /// The paper's number of sub-vectors at r = 4 and b = 256.
    #[test]
    fn llama_has_the_sub_vectors_of_the_paper() {
        let plan = Targets::all_linear()
            .select(&super::llama_2_7b(32))
            .unwrap();
        assert_eq!(plan.sub_vectors(4, 256), 39_040);
    }
}
