//! Tensors in 4 bits as bitsandbytes stores them: packed bytes under the tensor's name, and beside them its maps and a text that describes
//! it. They may lie in other shards, and the packed bytes in a tensor of any type.

use std::{borrow::Cow, collections::BTreeMap};

use safetensors::Dtype;
use serde::{Deserialize, de::IgnoredAny};
use vblora::{
    nf4::{BLOCK, NESTED_BLOCK, NF4, Nf4Host, Nf4Scales, QUANT_STATE, block_count},
    storage::{Entry, strict_json, to_f32},
};

use super::{Checkpoint, checkpoint::Shard};
use crate::{Error, Result};

/// The types that are read. Their codes differ, and each tensor brings its own.
const TYPES: [&str; 2] = ["nf4", "fp4"];

/// Parts beside a tensor.
const PARTS: [&str; 4] = [
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
];

/// Parts of scales that are quantised themselves.
const SECOND_LEVEL: [&str; 2] = [".nested_absmax", ".nested_quant_map"];

/// A longer text is refused. Real ones have 200 bytes.
const MAX_STATE_BYTES: usize = 4 << 10;

/// Characters of a wrong type that a message shows.
const MAX_SHOWN: usize = 80;

/// The text beside a tensor.
#[derive(Debug, Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    dtype: Option<String>,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_dtype: Option<String>,
    nested_offset: Option<f64>,
}

/// Tensors with such a text, by name. `file` is for messages.
///
/// # Errors
/// [`Error::Tensor`] if a tensor has two texts.
pub(super) fn find<'a>(
    file: &str,
    names: impl Iterator<Item = &'a String>,
) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for name in names {
        let Some((whole, _)) = name.split_once(QUANT_STATE) else {
            continue;
        };
        if let Some(other) = found.insert(whole.to_owned(), name.clone()) {
            return Err(Error::Tensor {
                file: file.to_owned(),
                tensor: whole.to_owned(),
                problem: format!("described twice, by {other:?} and {name:?}"),
            });
        }
    }
    Ok(found)
}

/// The tensor that a tensor of this name is a part of, if it has a part's name.
pub(crate) fn whole_of(name: &str) -> Option<&str> {
    let whole = name.split_once(QUANT_STATE).map(|(whole, _)| whole);
    whole.or_else(|| PARTS.iter().find_map(|part| name.strip_suffix(part)))
}

/// The shape of a tensor in 4 bits, and the type that it was quantised from.
pub(super) fn described(
    checkpoint: &Checkpoint,
    name: &str,
    state: &str,
) -> Result<(Vec<usize>, Dtype)> {
    let state = Parts::new(checkpoint, name, state)?.state;
    let dtype = match state.dtype.as_deref() {
        Some("float16") => Dtype::F16,
        Some("bfloat16") => Dtype::BF16,
        Some(_) | None => Dtype::F32,
    };
    Ok((state.shape, dtype))
}

/// A tensor to write.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// Bytes of those [`parts`] of a matrix of so many values that are of f32.
pub(crate) fn float_bytes(values: usize, double: bool) -> usize {
    const CODE: usize = NF4.len();
    const NESTED_MAP: usize = 1 << u8::BITS;
    let blocks = values.div_ceil(BLOCK);
    let scales = match double {
        true => NESTED_MAP + blocks.div_ceil(NESTED_BLOCK),
        false => blocks,
    };
    size_of::<f32>() * (CODE + scales)
}

/// The tensors of a matrix in 4 bits. `dtype` is torch's name of the type that it was quantised from.
pub(crate) fn parts(name: &str, host: &Nf4Host, dtype: &str) -> Vec<Part> {
    let floats = |part: &str, values: &[f32]| Part {
        name: format!("{name}{part}"),
        dtype: Dtype::F32,
        shape: vec![values.len()],
        bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    let bytes = |part: &str, bytes: Vec<u8>| Part {
        name: format!("{name}{part}"),
        dtype: Dtype::U8,
        shape: vec![bytes.len()],
        bytes,
    };
    let packed = Part {
        shape: vec![host.packed().len(), 1],
        ..bytes("", host.packed().to_vec())
    };
    let mut all = vec![packed, floats(".quant_map", host.code())];
    let [d_out, d_in] = host.shape();
    let block = host.block();
    let mut text = format!(
        r#"{{"quant_type": "nf4", "blocksize": {block}, "dtype": "{dtype}", "shape": [{d_out}, {d_in}]"#
    );
    match host.scales() {
        Nf4Scales::Single(absmax) => all.push(floats(".absmax", absmax)),
        Nf4Scales::Double {
            codes,
            map,
            nested,
            offset,
        } => {
            all.push(bytes(".absmax", codes.clone()));
            all.push(floats(".nested_absmax", nested));
            all.push(floats(".nested_quant_map", &map[..]));
            let offset = f64::from(*offset);
            text += &format!(
                r#", "nested_blocksize": {NESTED_BLOCK}, "nested_dtype": "float32", "nested_offset": {offset:?}"#
            );
        }
    }
    text.push('}');
    all.push(bytes(&format!("{QUANT_STATE}nf4"), text.into_bytes()));
    all
}

/// Reads a tensor in 4 bits. Every part's type and size are checked before it is read.
pub(super) fn read(
    checkpoint: &Checkpoint,
    name: &str,
    state: &str,
    out_in: &[usize],
) -> Result<Nf4Host> {
    Parts::new(checkpoint, name, state)?.read(out_in)
}

/// A tensor's parts and their description.
struct Parts<'a> {
    checkpoint: &'a Checkpoint,
    name: &'a str,
    state: State,
}

impl<'a> Parts<'a> {
    fn new(checkpoint: &'a Checkpoint, name: &'a str, text: &str) -> Result<Self> {
        let (shard, entry) = find_part(checkpoint, text)?;
        let fail = |problem: String| error(shard, text, problem);
        if entry.dtype != Dtype::U8 || entry.bytes.len() > MAX_STATE_BYTES {
            return Err(fail(format!(
                "expected a text of at most {MAX_STATE_BYTES} bytes in U8, found {} bytes of {}",
                entry.bytes.len(),
                entry.dtype
            )));
        }
        let bytes = shard.bytes(entry)?;
        let state: State = strict_json::from_slice(&bytes).map_err(|problem| {
            match serde_json::from_slice::<IgnoredAny>(&bytes) {
                Ok(_) => fail(problem),
                Err(_) => fail(format!("not JSON: {problem}")),
            }
        })?;
        let said = text.split_once(QUANT_STATE).map_or("", |(_, said)| said);
        for found in [said, state.quant_type.as_str()] {
            if !TYPES.contains(&found) {
                let start: String = found.chars().take(MAX_SHOWN).collect();
                return Err(fail(format!("type {start:?}; read are nf4 and fp4")));
            }
        }
        if said != state.quant_type {
            let problem = format!("its name says {said:?}, its text {:?}", state.quant_type);
            return Err(fail(problem));
        }
        Ok(Self {
            checkpoint,
            name,
            state,
        })
    }

    fn read(self, out_in: &[usize]) -> Result<Nf4Host> {
        let state = &self.state;
        let (shard, entry) = find_part(self.checkpoint, self.name)?;
        self.checkpoint.expect(self.name, out_in, &state.shape)?;
        let fail = |problem| error(shard, self.name, problem);
        let &[d_out, d_in] = out_in else {
            return Err(fail(format!(
                "shape {out_in:?} in 4 bits; expected two dimensions"
            )));
        };
        let block = state.blocksize;
        let blocks = block_count([d_out, d_in], block).map_err(fail)?;
        let bytes = (d_out * d_in).div_ceil(2);
        if entry.bytes.len() != bytes {
            return Err(fail(format!(
                "shape {out_in:?} in 4 bits needs {bytes} bytes, found {}",
                entry.bytes.len()
            )));
        }
        let code = self.floats(".quant_map", 16)?;
        let scales = self.scales(blocks)?;
        let packed = shard.bytes(entry)?.into_owned();
        let code = code.try_into().expect("checked to be 16 values");
        Nf4Host::new([d_out, d_in], block, packed, code, scales).map_err(fail)
    }

    fn scales(&self, blocks: usize) -> Result<Nf4Scales> {
        let state = &self.state;
        let Some(offset) = state.nested_offset else {
            self.refuse_second_level()?;
            return Ok(Nf4Scales::Single(self.floats(".absmax", blocks)?));
        };
        let (shard, _) = find_part(self.checkpoint, self.name)?;
        let fail = |problem| error(shard, self.name, problem);
        if state.nested_blocksize != Some(NESTED_BLOCK) {
            let found = state.nested_blocksize.map(|size| size.to_string());
            return Err(fail(format!(
                "nested_blocksize {}; expected {NESTED_BLOCK}",
                found.as_deref().unwrap_or("missing")
            )));
        }
        if state.nested_dtype.as_deref() != Some("float32") {
            return Err(fail(format!(
                "nested_dtype {}; expected float32",
                state.nested_dtype.as_deref().unwrap_or("missing")
            )));
        }
        let map = self.floats(".nested_quant_map", 256)?;
        Ok(Nf4Scales::Double {
            codes: self.part(".absmax", Dtype::U8, blocks)?.1.into_owned(),
            map: Box::new(map.try_into().expect("checked to be 256 values")),
            nested: self.floats(".nested_absmax", blocks.div_ceil(NESTED_BLOCK))?,
            offset: offset as f32,
        })
    }

    /// Refuses parts of a second level that the text does not describe. bitsandbytes would decode with them.
    fn refuse_second_level(&self) -> Result<()> {
        for part in SECOND_LEVEL {
            let name = format!("{}{part}", self.name);
            if let Some((shard, _)) = self.checkpoint.find(&name) {
                let problem = "a part of quantised scales, but the text has no nested_offset";
                return Err(error(shard, &name, problem.into()));
            }
        }
        Ok(())
    }

    fn floats(&self, part: &str, len: usize) -> Result<Vec<f32>> {
        let (shard, bytes) = self.part(part, Dtype::F32, len)?;
        let name = format!("{}{part}", self.name);
        to_f32(Dtype::F32, &bytes).map_err(|problem| error(shard, &name, problem))
    }

    fn part(
        &self,
        part: &str,
        dtype: Dtype,
        len: usize,
    ) -> Result<(&'a Shard, Cow<'static, [u8]>)> {
        let name = format!("{}{part}", self.name);
        let (shard, entry) = find_part(self.checkpoint, &name)?;
        if entry.dtype != dtype || entry.shape != [len] {
            let problem = format!(
                "expected {dtype} of shape [{len}], found {} of shape {:?}",
                entry.dtype, entry.shape
            );
            return Err(error(shard, &name, problem));
        }
        Ok((shard, shard.bytes(entry)?))
    }
}

fn find_part<'a>(checkpoint: &'a Checkpoint, name: &str) -> Result<(&'a Shard, &'a Entry)> {
    checkpoint.find(name).ok_or_else(|| Error::NoTensor {
        file: checkpoint.file().to_owned(),
        tensor: name.to_owned(),
    })
}

fn error(shard: &Shard, tensor: &str, problem: String) -> Error {
    Error::Tensor {
        file: shard.file().to_owned(),
        tensor: tensor.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;
    use crate::ModelFiles;

    const NAME: &str = "w";

    /// Reads a matrix with one level of scales, from a file that has one more tensor beside its parts.
    fn read_beside(extra: Option<&str>) -> Result<Nf4Host> {
        read_with(false, extra, |text| text.to_owned())
    }

    /// [`read_beside`] with one level of scales or two, and another text.
    fn read_with(
        double: bool,
        extra: Option<&str>,
        edit: impl Fn(&str) -> String,
    ) -> Result<Nf4Host> {
        let host = Nf4Host::quantise(&[0.5; 64], [1, 64], double);
        let mut all = parts(NAME, &host, "float32");
        for part in all.iter_mut().filter(|p| p.name.contains(QUANT_STATE)) {
            part.bytes = edit(std::str::from_utf8(&part.bytes).unwrap()).into_bytes();
            part.shape = vec![part.bytes.len()];
        }
        if let Some(extra) = extra {
            all.push(Part {
                name: format!("{NAME}{extra}"),
                dtype: Dtype::F32,
                shape: vec![1],
                bytes: vec![0; 4],
            });
        }
        let views = all.iter().map(|part| {
            let view = TensorView::new(part.dtype, part.shape.clone(), &part.bytes).unwrap();
            (part.name.as_str(), view)
        });
        let whole = safetensors::serialize(views, None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("model.safetensors"), whole).unwrap();
        let files = ModelFiles::open(dir.path()).unwrap();
        Checkpoint::open(&files)?.nf4(NAME, &[1, 64])
    }

    #[test]
    fn parts_that_contradict_the_text_are_named() {
        assert_eq!(read_beside(None).unwrap().dequantise(), [0.5; 64]);
        let other = format!("{QUANT_STATE}fp4");
        for (extra, problem) in [
            (other.as_str(), "described twice"),
            (".nested_absmax", "no nested_offset"),
            (".nested_quant_map", "no nested_offset"),
        ] {
            let error = read_beside(Some(extra)).unwrap_err().to_string();
            let name = format!("{NAME}{extra}");
            assert!(error.contains(&name) && error.contains(problem), "{error}");
        }
        let long = "x".repeat(3000);
        for (from, to, problem) in [
            ("{", "say ", "not JSON: "),
            ("\"shape\"", "\"form\"", "missing field `shape`"),
            ("nf4", "fp4", "its name says \"nf4\", its text \"fp4\""),
            ("nf4", long.as_str(), "x\"; read are nf4 and fp4"),
            (": 256", ": 128", "nested_blocksize 128; expected 256"),
            ("nested_dtype", "n", "nested_dtype missing; expected"),
        ] {
            let found = read_with(true, None, |text| text.replace(from, to));
            let error = found.unwrap_err().to_string();
            assert!(error.contains(problem) && error.len() < 400, "{error}");
        }
    }
}
