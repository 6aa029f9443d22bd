//! The linear maps of a block from a source of weights.

use vblora::{FrozenLinear, backend::VbLoraBackend};

use super::sites::{Map, name};
use crate::{
    DecoderConfig, Error, HostTensor, Result, parts::Builder, source::WeightSource,
    weights::MapWeight,
};

/// Builds the maps of one block.
pub(super) struct MapBuilder<'a, 'b, B: VbLoraBackend, S> {
    builder: &'a mut Builder<'b, B, S>,
    config: &'a DecoderConfig,
    index: usize,
}

/// The weight and the bias of a map.
type Values = (MapWeight, Option<HostTensor>);

impl<'a, 'b, B: VbLoraBackend, S: WeightSource> MapBuilder<'a, 'b, B, S> {
    pub(super) fn new(
        builder: &'a mut Builder<'b, B, S>,
        config: &'a DecoderConfig,
        index: usize,
    ) -> Self {
        Self {
            builder,
            config,
            index,
        }
    }

    pub(super) fn map(&mut self, map: &Map) -> Result<FrozenLinear<B>> {
        let (weight, bias) = self.take(map);
        self.built(&map.role, weight, bias)
    }

    /// Query, key and value: the maps that the file has, or three out of the columns of its one.
    pub(super) fn qkv(&mut self, maps: &[Map]) -> Result<Vec<FrozenLinear<B>>> {
        let (Some(fused), true) = (self.config.layout.fused_qkv(), self.config.split_qkv) else {
            // Every tensor is asked for, even after a failure.
            let built: Vec<_> = maps.iter().map(|map| self.map(map)).collect();
            return built.into_iter().collect();
        };
        let widths: Vec<usize> = maps.iter().map(|map| map.d_out).collect();
        let (weight, bias) = self.take(&Map {
            role: fused.to_owned(),
            d_out: widths.iter().sum(),
            ..maps[0].clone()
        });
        let mut start = 0;
        let parts = maps.iter().map(|map| {
            let part = [start, map.d_out];
            start += map.d_out;
            let weight = outputs(&weight, &widths, part, fused)?;
            let bias = bias.as_ref().map(|bias| columns(bias, &widths, part));
            self.built(&map.role, weight, bias)
        });
        parts.collect()
    }

    fn take(&mut self, map: &Map) -> Values {
        let (d_in, d_out) = (map.d_in, map.d_out);
        let stored = self.config.layout.in_block(self.index, &map.role);
        let weight = format!("{stored}.weight");
        let is_conv1d = self.config.layout.conv1d;
        let weight = self.builder.take_map(&weight, [d_in, d_out], is_conv1d);
        let source = &mut *self.builder.source;
        let bias = map
            .has_bias
            .then(|| source.take(&format!("{stored}.bias"), [d_out]));
        (weight, bias)
    }

    fn built(
        &self,
        role: &str,
        weight: MapWeight,
        bias: Option<HostTensor>,
    ) -> Result<FrozenLinear<B>> {
        let site = name(self.config, self.index, role);
        self.builder.map(&site, weight, bias)
    }
}

/// Some outputs of a map whose outputs have these widths together. Those of a map in 4 bits must be whole blocks.
fn outputs(of: &MapWeight, widths: &[usize], part: [usize; 2], name: &str) -> Result<MapWeight> {
    let of = match of {
        MapWeight::Dense(of) => return Ok(MapWeight::Dense(columns(of, widths, part))),
        MapWeight::Nf4(of) => of,
    };
    // A tensor that the checkpoint lacks comes as one value, whatever was asked for.
    if of.shape()[0] < widths.iter().sum::<usize>() {
        return Ok(MapWeight::Nf4(of.clone()));
    }
    let [start, width] = part;
    let rows = of.rows(start..start + width).ok_or_else(|| {
        Error::Adapter(vblora::Error::Setting {
            setting: "base_dtype",
            expected: format!(
                "f32, f16 or bf16, since {name} is to be several maps whose {width} x {} weights are no whole blocks of {}",
                of.shape()[1],
                of.block()
            ),
            found: "nf4".into(),
        })
    })?;
    Ok(MapWeight::Nf4(rows))
}

/// Some columns of a tensor whose columns have these widths together.
fn columns(of: &HostTensor, widths: &[usize], [start, width]: [usize; 2]) -> HostTensor {
    let all: usize = widths.iter().sum();
    // A tensor that the checkpoint lacks comes as one value, whatever was asked for.
    if of.values.len() < all {
        return of.clone();
    }
    let rows = of.values.chunks_exact(all);
    let values = rows.flat_map(|row| &row[start..start + width]);
    let mut shape = of.shape.clone();
    shape.pop();
    shape.push(width);
    HostTensor {
        shape,
        values: values.copied().collect(),
    }
}
