//! Top-k selection over rows in memory.

/// Partial selection over rows of `h`; an equal later value is inserted after the earlier one, so ties go to the lowest index.
pub(super) fn top_k_rows(values: &[f32], h: usize, k: usize) -> impl Iterator<Item = usize> {
    values.chunks_exact(h).flat_map(move |row| {
        let mut best: Vec<(f32, usize)> = Vec::with_capacity(k + 1);
        for (i, &value) in row.iter().enumerate() {
            if best.len() < k || value > best[k - 1].0 {
                best.insert(best.partition_point(|&(v, _)| v >= value), (value, i));
                best.truncate(k);
            }
        }
        best.into_iter().map(|(_, i)| i)
    })
}
