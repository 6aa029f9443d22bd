//! An evaluation by several ranks: what they send, and how rank 0 joins it.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use vblora::{Factors, LowRank, backend::VbLoraBackend};
use vblora_models::host_tensor;

use super::{
    fold::{Pieces, check_len, upload},
    message::{Order, Report, SiteShape},
};
use crate::{
    Error, Result,
    group::{Message, message},
    train::{objective::BatchOutputs, parameters::join},
};

/// What rank 0 asks of the others: outputs with these factors and these values of the head.
pub(super) fn order<B: VbLoraBackend>(factors: &Factors<B>, head: Vec<f32>) -> Result<Message> {
    let (mut shapes, mut pieces) = (Vec::new(), Vec::new());
    for site in factors.names() {
        let Some(LowRank { down, up, scale }) = factors.get(site) else {
            continue;
        };
        let ([d_in, rank], [_, d_out]) = (down.dims(), up.dims());
        shapes.push(SiteShape {
            site: site.to_owned(),
            rank,
            d_in,
            d_out,
            scale: *scale,
        });
        // As factors lie in slabs: the rank comes first in both.
        for factor in [down.clone().transpose(), up.clone()] {
            let size = factor.shape().num_elements();
            pieces.push(factor.reshape([size]));
        }
    }
    let mut values = match pieces.is_empty() {
        true => Vec::new(),
        false => host_tensor(join(pieces)).values,
    };
    values.extend(head);
    message(&Order::Evaluate(shapes), values)
}

/// The factors and the head's `head` values in such a message.
///
/// # Errors
/// There are more or fewer values.
pub(super) fn ordered<'a, B: VbLoraBackend>(
    shapes: Vec<SiteShape>,
    head: usize,
    values: &'a [f32],
    device: &B::Device,
) -> Result<(Factors<B>, &'a [f32])> {
    let count = shapes.iter().map(SiteShape::len).sum();
    check_len(0, count + head, values)?;
    let (of_factors, of_head) = values.split_at(count);
    if shapes.is_empty() {
        return Ok((Factors::none(), of_head));
    }
    let mut pieces = Pieces::new(upload(of_factors.to_vec(), device));
    let pairs = shapes.into_iter().map(|shape| {
        let down: Tensor<B, 2> = pieces.matrix([shape.rank, shape.d_in]);
        let pair = LowRank {
            down: down.transpose(),
            up: pieces.matrix([shape.rank, shape.d_out]),
            scale: shape.scale,
        };
        (shape.site, pair)
    });
    Ok((Factors::new(pairs.collect(), 0.0), of_head))
}

/// A rank's outputs as a message.
pub(super) fn report(outputs: Vec<BatchOutputs>) -> Result<Message> {
    let mut values = Vec::new();
    let batches = outputs.into_iter().map(|batch| {
        values.extend_from_slice(&batch.values);
        (batch.indices, batch.values.len())
    });
    let batches = batches.collect();
    message(&Report::Outputs(batches), values)
}

/// The outputs in the message of rank `from`.
///
/// # Errors
/// There are more or fewer values.
pub(super) fn reported(
    from: usize,
    batches: Vec<(Vec<usize>, usize)>,
    values: &[f32],
) -> Result<Vec<BatchOutputs>> {
    let count = batches.iter().map(|(_, size)| size).sum();
    check_len(from, count, values)?;
    let mut rest = values;
    let batches = batches.into_iter().map(|(indices, size)| {
        let (own, others) = rest.split_at(size);
        rest = others;
        let values = own.to_vec();
        BatchOutputs { indices, values }
    });
    Ok(batches.collect())
}

/// All batches in their order. Rank r has sent those whose number is r modulo the number of ranks.
///
/// # Errors
/// A rank has sent more or fewer than it has.
pub(super) fn joined(parts: BTreeMap<usize, Vec<BatchOutputs>>) -> Result<Vec<BatchOutputs>> {
    let sizes: Vec<usize> = parts.values().map(Vec::len).collect();
    let all: usize = sizes.iter().sum();
    let ranks = sizes.len();
    let expected = |rank: usize| all / ranks + usize::from(rank < all % ranks);
    let other = sizes.iter().enumerate();
    let mut other = other.filter(|&(rank, size)| *size != expected(rank));
    if let Some((rank, found)) = other.next() {
        return Err(Error::RankMessage {
            rank,
            expected: format!("outputs for {} batches", expected(rank)),
            found: format!("outputs for {found}"),
        });
    }
    let mut parts: Vec<_> = parts.into_values().map(Vec::into_iter).collect();
    let next = |number: usize| parts[number % ranks].next();
    Ok((0..all).filter_map(next).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(number: usize) -> BatchOutputs {
        BatchOutputs {
            indices: vec![number, number + 100],
            values: vec![number as f32, 0.5, -1.0, f32::MAX],
        }
    }

    /// The parts of ranks that take `count` batches in turn.
    fn dealt(count: usize, ranks: usize) -> BTreeMap<usize, Vec<BatchOutputs>> {
        let of = |rank| (rank..count).step_by(ranks).map(batch).collect();
        (0..ranks).map(|rank| (rank, of(rank))).collect()
    }

    #[test]
    fn outputs_are_joined_in_the_order_of_the_batches() {
        for (count, ranks) in [(0, 3), (1, 3), (2, 3), (7, 3), (6, 3), (5, 1)] {
            let sent = dealt(count, ranks).into_iter().map(|(rank, own)| {
                let message = report(own).unwrap();
                let Report::Outputs(batches) = crate::group::head(rank, &message).unwrap() else {
                    panic!("outputs")
                };
                (rank, reported(rank, batches, &message.values).unwrap())
            });
            let expected: Vec<_> = (0..count).map(batch).collect();
            assert_eq!(joined(sent.collect()).unwrap(), expected);
        }
    }

    #[test]
    fn too_few_outputs_are_refused() {
        let mut parts = dealt(7, 3);
        parts.get_mut(&1).unwrap().pop();
        let error = joined(parts).unwrap_err().to_string();
        assert!(error.contains(" sent outputs for "), "{error}");
        let error = reported(2, vec![(vec![0], 3)], &[1.0]).unwrap_err();
        assert!(
            error.to_string().contains("rank 2 sent 1 values"),
            "{error}"
        );
    }
}
