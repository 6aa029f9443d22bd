//! Attention with rotary or relative positions on flex, without weights or scores of all pairs.

use burn::{
    backend::flex::{Flex, FlexTensor},
    tensor::{TensorMetadata, ops::FloatTensor},
};

use vblora_kernels::{
    attention::{Relative, Sequences, Sizes, Tables},
    dropout::Mask,
    rotary::rotate,
};

use super::{PositionOps, RelativeTables, RotarySettings, Texts, default};
use crate::backend::{
    AttentionSettings,
    attention::flex::{unpadded_ranges, vector},
    flex::{in_place, is_f32, tensor, width, with_width},
};

impl PositionOps for Flex {
    fn rotary_attention(
        qkv: FloatTensor<Self>,
        angles: [FloatTensor<Self>; 2],
        texts: &Texts<Self>,
        settings: RotarySettings,
    ) -> (FloatTensor<Self>, Vec<FloatTensor<Self>>) {
        let [cos, sin] = &angles;
        let tokens = qkv.shape().num_elements() / width(&qkv).max(1);
        // Texts may share their angles.
        let is_for_each = cos.shape().num_elements() == tokens * width(cos);
        if !is_f32(&[&qkv, cos, sin]) || !is_for_each {
            return default::rotary_attention::<Self>(qkv, angles, texts, settings);
        }
        let d = width(&qkv) / 3;
        let [cos, sin] = angles.map(|x| x.to_contiguous());
        let qkv = in_place(qkv, |values| {
            rotate(
                values,
                [3 * d, 2 * d],
                [cos.storage(), sin.storage()],
                width(&cos),
            );
        });
        let places = Places::new(&qkv, texts);
        let [output, sums] = rotary(&qkv, &places, settings).forward();
        (tensor(output, with_width(&qkv, d)), vec![qkv, vector(sums)])
    }

    fn rotary_attention_backward(
        saved: Vec<FloatTensor<Self>>,
        angles: [FloatTensor<Self>; 2],
        texts: &Texts<Self>,
        settings: RotarySettings,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let [qkv, sums] = match <[_; 2]>::try_from(saved) {
            Ok(both) => both,
            Err(saved) => {
                return default::rotary_attention_backward::<Self>(
                    saved, angles, texts, settings, grad,
                );
            }
        };
        let [cos, sin] = angles.map(|x| x.to_contiguous());
        let back: Vec<f32> = sin.storage::<f32>().iter().map(|x| -x).collect();
        let (d, grad) = (width(&grad), grad.to_contiguous());
        let places = Places::new(&qkv, texts);
        let all = rotary(&qkv, &places, settings);
        let mut found = all.joined_backward(sums.storage(), grad.storage());
        rotate(
            &mut found,
            [3 * d, 2 * d],
            [cos.storage(), &back],
            width(&cos),
        );
        tensor(found, qkv.shape())
    }

    fn disentangled_attention(
        qkv: [FloatTensor<Self>; 3],
        relative: RelativeTables<FloatTensor<Self>>,
        texts: &Texts<Self>,
        settings: AttentionSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        if !is_readable(&qkv, &relative) {
            return default::disentangled_attention::<Self>(qkv, relative, texts, settings);
        }
        let qkv = qkv.map(|x| x.to_contiguous());
        let (places, tables) = (
            Places::new(&qkv[0], texts),
            tables(&relative, settings.heads),
        );
        let all = disentangled(&qkv, &places, tables.view(), settings);
        let [output, sums] = all.forward();
        (tensor(output, qkv[0].shape()), vector(sums))
    }

    fn disentangled_attention_backward(
        qkv: [FloatTensor<Self>; 3],
        relative: RelativeTables<FloatTensor<Self>>,
        saved: FloatTensor<Self>,
        texts: &Texts<Self>,
        settings: AttentionSettings,
        grad: FloatTensor<Self>,
    ) -> ([FloatTensor<Self>; 3], RelativeTables<FloatTensor<Self>>) {
        if !is_readable(&qkv, &relative) {
            return default::disentangled_attention_backward::<Self>(
                qkv, relative, saved, texts, settings, grad,
            );
        }
        let (qkv, grad) = (qkv.map(|x| x.to_contiguous()), grad.to_contiguous());
        let (places, tables) = (
            Places::new(&qkv[0], texts),
            tables(&relative, settings.heads),
        );
        let all = disentangled(&qkv, &places, tables.view(), settings);
        let (found, d_tables) = all.backward(saved.storage(), grad.storage());
        let shape = relative.of_key.shape();
        let [of_key, of_query] = tables
            .joined(&d_tables)
            .map(|values| tensor(values, shape.clone()));
        let found = found.map(|values| tensor(values, grad.shape()));
        (found, RelativeTables { of_query, of_key })
    }
}

/// Where the sequences of a batch are, and the mask of their keys.
struct Places {
    ranges: Vec<std::ops::Range<usize>>,
    columns: usize,
    mask: Option<FlexTensor>,
}

impl Places {
    fn new(x: &FlexTensor, texts: &Texts<Flex>) -> Self {
        match texts {
            Texts::Padded(mask) => {
                let [n, t, _] = x.shape().dims();
                Self {
                    ranges: (0..n).map(|i| i * t..(i + 1) * t).collect(),
                    columns: t,
                    mask: mask.as_ref().map(FlexTensor::to_contiguous),
                }
            }
            Texts::Unpadded(unpadded) => {
                let (ranges, columns) = unpadded_ranges(unpadded);
                Self {
                    ranges,
                    columns,
                    mask: None,
                }
            }
        }
    }

    fn mask(&self) -> Option<&[f32]> {
        self.mask.as_ref().map(|mask| mask.storage())
    }
}

fn rotary<'a>(qkv: &'a FlexTensor, places: &'a Places, settings: RotarySettings) -> Sequences<'a> {
    let AttentionSettings { heads, dropout } = settings.attention;
    let (values, stride) = (qkv.storage::<f32>(), width(qkv));
    let size = stride / 3 / heads;
    Sequences {
        qkv: [0, 1, 2].map(|part| &values[(part * stride / 3).min(values.len())..]),
        stride,
        ranges: places.ranges.clone(),
        columns: places.columns,
        heads,
        size,
        scale: 1.0 / (size as f32).sqrt(),
        mask: places.mask(),
        reach: settings.reach,
        relative: None,
        dropout: dropout.map(|(key, p)| Mask::new(key, p)),
    }
}

fn disentangled<'a>(
    qkv: &'a [FlexTensor; 3],
    places: &'a Places,
    relative: Relative<'a>,
    settings: AttentionSettings,
) -> Sequences<'a> {
    let AttentionSettings { heads, dropout } = settings;
    let d = width(&qkv[0]);
    Sequences {
        qkv: qkv.each_ref().map(|x| x.storage()),
        stride: d,
        ranges: places.ranges.clone(),
        columns: places.columns,
        heads,
        size: d / heads,
        scale: default::disentangled_scale(d, heads) as f32,
        mask: places.mask(),
        reach: None,
        relative: Some(relative),
        dropout: dropout.map(|(key, p)| Mask::new(key, p)),
    }
}

/// True if the kernels read these inputs: all texts share the tables.
fn is_readable(qkv: &[FlexTensor; 3], relative: &RelativeTables<FlexTensor>) -> bool {
    let RelativeTables { of_query, of_key } = relative;
    is_f32(&qkv.each_ref()) && is_f32(&[of_query, of_key]) && of_key.shape()[0] == 1
}

fn tables(relative: &RelativeTables<FlexTensor>, heads: usize) -> Tables {
    let [of_key, of_query] = [&relative.of_key, &relative.of_query].map(|x| x.to_contiguous());
    let [_, rows, d] = of_key.shape().dims::<3>();
    let sizes = Sizes {
        rows,
        size: d / heads,
    };
    Tables::new([of_key.storage(), of_query.storage()], heads, sizes)
}
