//! Which linear maps a `config.json` describes: the one place where the tool knows models.

use std::path::Path;

use serde_json::{Map, Value};
use vblora::{
    Result, Site,
    storage::{MAX_CONFIG_BYTES, MAX_DIMENSION, read_file, strict_json},
};

use crate::adapter::wrong;

/// Over any published model; stops numbers that are typing errors.
const MAX_LAYERS: usize = 1 << 12;

/// A side of a linear map.
#[derive(Clone, Copy)]
enum Side {
    /// The width of the model.
    Hidden,
    /// Query, key and value in one, each of that width.
    ThreeHidden,
    /// The width inside the perceptron.
    Inner,
    /// All query heads.
    Query,
    /// All key or value heads, which may be fewer.
    KeyValue,
}

use Side::{Hidden, Inner, KeyValue, Query, ThreeHidden};

/// A kind of model: `model_type`, the fields of its sizes, and a layer's maps, by the names that vblora-models gives its sites.
struct Architecture {
    model_type: &'static str,
    hidden: &'static str,
    layers: &'static str,
    /// Absent or null where it is four times the width.
    inner: &'static str,
    maps: &'static [(&'static str, Side, Side)],
}

const ENCODER: &[(&str, Side, Side)] = &[
    ("encoder.layer.{}.attention.self.query", Hidden, Hidden),
    ("encoder.layer.{}.attention.self.key", Hidden, Hidden),
    ("encoder.layer.{}.attention.self.value", Hidden, Hidden),
    ("encoder.layer.{}.attention.output.dense", Hidden, Hidden),
    ("encoder.layer.{}.intermediate.dense", Hidden, Inner),
    ("encoder.layer.{}.output.dense", Inner, Hidden),
];

const GPT2: &[(&str, Side, Side)] = &[
    ("transformer.h.{}.attn.c_attn", Hidden, ThreeHidden),
    ("transformer.h.{}.attn.c_proj", Hidden, Hidden),
    ("transformer.h.{}.mlp.c_fc", Hidden, Inner),
    ("transformer.h.{}.mlp.c_proj", Inner, Hidden),
];

const DECODER: &[(&str, Side, Side)] = &[
    ("model.layers.{}.self_attn.q_proj", Hidden, Query),
    ("model.layers.{}.self_attn.k_proj", Hidden, KeyValue),
    ("model.layers.{}.self_attn.v_proj", Hidden, KeyValue),
    ("model.layers.{}.self_attn.o_proj", Query, Hidden),
    ("model.layers.{}.mlp.gate_proj", Hidden, Inner),
    ("model.layers.{}.mlp.up_proj", Hidden, Inner),
    ("model.layers.{}.mlp.down_proj", Inner, Hidden),
];

const fn usual(
    model_type: &'static str,
    maps: &'static [(&'static str, Side, Side)],
) -> Architecture {
    Architecture {
        model_type,
        hidden: "hidden_size",
        layers: "num_hidden_layers",
        inner: "intermediate_size",
        maps,
    }
}

const ARCHITECTURES: &[Architecture] = &[
    usual("roberta", ENCODER),
    usual("bert", ENCODER),
    Architecture {
        model_type: "gpt2",
        hidden: "n_embd",
        layers: "n_layer",
        inner: "n_inner",
        maps: GPT2,
    },
    usual("llama", DECODER),
    usual("mistral", DECODER),
    usual("gemma", DECODER),
];

/// What a `config.json` describes.
pub(crate) struct Model {
    pub(crate) architecture: &'static str,
    pub(crate) sites: Vec<Site>,
}

impl Model {
    /// Reads a `config.json`, or the one in a directory. With `split`, a map that is query, key and value in one counts as three.
    pub(crate) fn read(path: &Path, split: bool) -> Result<Self> {
        let path = match path.is_dir() {
            true => &path.join("config.json"),
            false => path,
        };
        let io = |cause| vblora::Error::Io {
            path: path.to_owned(),
            cause,
        };
        let text = read_file(path, MAX_CONFIG_BYTES).map_err(io)?;
        let fields = strict_json::from_slice(&text).map_err(|e| wrong(path, e))?;
        Self::describe(&fields, split).map_err(|reason| wrong(path, reason))
    }

    fn describe(fields: &Map<String, Value>, split: bool) -> Result<Self, String> {
        let model_type = fields.get("model_type").and_then(Value::as_str);
        let model_type = model_type.ok_or("no model_type")?;
        let mut known = ARCHITECTURES.iter();
        let Some(found) = known.find(|known| known.model_type == model_type) else {
            let known: Vec<_> = ARCHITECTURES.iter().map(|known| known.model_type).collect();
            return Err(format!(
                "model_type {model_type:?} is not known here; known are {}",
                known.join(", ")
            ));
        };
        let sizes = Sizes::read(found, fields)?;
        let layers = number(fields, found.layers, MAX_LAYERS)?.ok_or(missing(found.layers))?;
        let sites = (0..layers).flat_map(|layer| {
            let sites = found.maps.iter().flat_map(|map| sizes.sites(map, split));
            sites.map(move |(name, d_in, d_out)| {
                Site::new(name.replace("{}", &layer.to_string()), d_in, d_out)
            })
        });
        Ok(Self {
            architecture: found.model_type,
            sites: sites.collect(),
        })
    }
}

struct Sizes {
    hidden: usize,
    inner: usize,
    query: usize,
    key_value: usize,
}

impl Sizes {
    fn read(architecture: &Architecture, fields: &Map<String, Value>) -> Result<Self, String> {
        let read = |key: &str| number(fields, key, MAX_DIMENSION);
        let hidden = read(architecture.hidden)?.ok_or(missing(architecture.hidden))?;
        let inner = read(architecture.inner)?;
        let heads = read("num_attention_heads")?.unwrap_or(1);
        // Written by newer versions of transformers, or where heads are wider than the model's width says.
        let head = read("head_dim")?.unwrap_or(hidden / heads);
        Ok(Self {
            hidden,
            inner: inner.unwrap_or(4 * hidden),
            query: heads * head,
            key_value: read("num_key_value_heads")?.unwrap_or(heads) * head,
        })
    }

    fn of(&self, side: Side) -> usize {
        match side {
            Hidden => self.hidden,
            ThreeHidden => 3 * self.hidden,
            Inner => self.inner,
            Query => self.query,
            KeyValue => self.key_value,
        }
    }

    /// A map's name and dimensions, thrice if it is split.
    fn sites(
        &self,
        &(name, d_in, d_out): &(&str, Side, Side),
        split: bool,
    ) -> Vec<(String, usize, usize)> {
        match d_out {
            ThreeHidden if split => ["q", "k", "v"]
                .map(|part| (format!("{name}.{part}"), self.of(d_in), self.hidden))
                .into(),
            _ => vec![(name.to_owned(), self.of(d_in), self.of(d_out))],
        }
    }
}

/// A whole number from 1 to `most`; `None` if absent or null.
fn number(fields: &Map<String, Value>, key: &str, most: usize) -> Result<Option<usize>, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number @ 1..) if number <= most as u64 => Ok(Some(number as usize)),
            _ => Err(format!(
                "{key}: expected a number from 1 to {most}, found {value}"
            )),
        },
    }
}

fn missing(key: &str) -> String {
    format!("no {key}")
}
