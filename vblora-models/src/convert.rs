//! A model's directory written again with its maps in 4 bits, or with maps in 4 bits written as floats.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    str::FromStr,
};

use safetensors::Dtype;
use serde_json::{Map, Value, json};
use vblora::{
    Site,
    nf4::{Nf4Host, QUANT_STATE},
    storage::{from_f32, replace_directory, strict_json},
};

use crate::{
    Checkpoint, DecoderConfig, EncoderConfig, Error, HostTensor, ModelFiles, Result, SIDE_FILES,
    config::PROJECT,
    decoder, encoder,
    upload::transposed,
    weights::{
        INDEX, SINGLE, Shard,
        four_bit::{self, Part},
    },
};

const CONFIG: &str = "config.json";
const QUANTIZATION: &str = "quantization_config";

/// A pooler among what an encoder does not use, and its map.
const POOLER: (&str, &str) = ("pooler.*", "pooler.dense");

/// Bytes of a tensor's line in a header beside its name, at most.
const LINE: usize = 200;

/// The number type of decoded maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodedDtype {
    /// Exact.
    F32,
    /// Rounded once; a value that becomes infinite is an error.
    F16,
    /// Rounded once; a value that becomes infinite is an error.
    Bf16,
}

impl FromStr for DecodedDtype {
    type Err = vblora::Error;

    fn from_str(text: &str) -> vblora::Result<Self> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            other => Err(vblora::Error::Setting {
                setting: "dtype",
                expected: "one of f32, f16, bf16".into(),
                found: other.into(),
            }),
        }
    }
}

impl DecodedDtype {
    fn stored(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }
}

/// A directory that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Converted {
    /// Maps that have another form now.
    pub maps: usize,
    /// Bytes of all tensors before.
    pub before: usize,
    /// Bytes of all tensors after.
    pub after: usize,
}

/// Writes a causal model or an encoder with the maps of its blocks in 4 bits, as transformers and bitsandbytes store and load them.
/// Embeddings, norms and heads stay as they are, and so do maps whose module's name ends in one of `keep`. Shards and index are kept.
///
/// One tensor is in memory at a time, and the directory appears whole or not at all.
///
/// # Errors
/// The model is of no family that is read, or is in 4 bits already. A file cannot be read or written. `to` exists. `keep` has a name that no
/// map has.
pub fn quantize(from: &ModelFiles, to: &Path, double: bool, keep: &[String]) -> Result<Converted> {
    let blocks = Blocks::read(from)?;
    let checkpoint = Checkpoint::open(from)?;
    if checkpoint.has_4_bit() {
        return Err(refused(from, "its maps are in 4 bits already"));
    }
    let maps = blocks.maps(&checkpoint, keep)?;
    if maps.is_empty() {
        return Err(refused(from, "no map is left to be quantised"));
    }
    let mut fields = fields(from)?;
    let stored = maps.keys().find_map(|name| checkpoint.find(name));
    let compute = stored.map_or("float32", |(_, entry)| torch_name(entry.dtype));
    let skipped = blocks.skipped(keep);
    fields.insert(QUANTIZATION.into(), quantization(compute, double, skipped));
    let change = Change {
        maps,
        form: Form::Quantised { double },
        is_conv1d: blocks.is_conv1d,
    };
    write(from, &checkpoint, &change, &fields, to)
}

/// Writes a model whose maps are in 4 bits with those maps as floats. Without `dtype` they get the type that they were quantised from.
/// All other tensors stay as they are. Shards and index are kept.
///
/// One tensor is in memory at a time, and the directory appears whole or not at all.
///
/// # Errors
/// No tensor is in 4 bits. A map is missing, has another shape than the model's, or is neither in 4 bits nor in floats. A part of a tensor in
/// 4 bits has no tensor. A file cannot be read or written. `to` exists. A value does not fit the type.
pub fn dequantize(from: &ModelFiles, to: &Path, dtype: Option<DecodedDtype>) -> Result<Converted> {
    let blocks = Blocks::read(from)?;
    let checkpoint = Checkpoint::open(from)?;
    if !checkpoint.has_4_bit() {
        return Err(refused(from, "no tensor is in 4 bits"));
    }
    let maps = blocks.maps(&checkpoint, &[])?;
    check_4_bit(&checkpoint, &maps, blocks.is_conv1d)?;
    let mut fields = fields(from)?;
    fields.remove(QUANTIZATION);
    if let Some(dtype) = dtype {
        for name in ["dtype", "torch_dtype"] {
            if fields.contains_key(name) {
                fields.insert(name.into(), torch_name(dtype.stored()).into());
            }
        }
    }
    let change = Change {
        maps,
        form: Form::Decoded { dtype },
        is_conv1d: blocks.is_conv1d,
    };
    write(from, &checkpoint, &change, &fields, to)
}

/// True if a map's name has this end, which begins where a part of the name does.
fn ends_in(site: &str, end: &str) -> bool {
    site == end || site.ends_with(&format!(".{end}"))
}

/// Refuses maps that are neither in 4 bits nor in floats, and parts of tensors in 4 bits without their tensor.
fn check_4_bit(
    checkpoint: &Checkpoint,
    maps: &BTreeMap<String, [usize; 2]>,
    is_conv1d: bool,
) -> Result<()> {
    const FLOATS: [Dtype; 4] = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16];
    for (name, &[d_out, d_in]) in maps {
        if checkpoint.is_4_bit(name) {
            let (shape, _) = checkpoint.described(name)?;
            checkpoint.expect(name, &[d_out, d_in], &shape)?;
            continue;
        }
        let (shard, entry) = checkpoint.find(name).expect("a name of the checkpoint");
        if !FLOATS.contains(&entry.dtype) {
            let problem = format!(
                "expected floats or 4 bits of shape {:?}, found {} of shape {:?} without a {QUANT_STATE}",
                [d_out, d_in],
                entry.dtype,
                entry.shape
            );
            return Err(error(shard, name, problem));
        }
        let stored = match is_conv1d {
            true => [d_in, d_out],
            false => [d_out, d_in],
        };
        checkpoint.expect(name, &stored, &entry.shape)?;
    }
    for name in checkpoint.names() {
        if let Some(whole) = four_bit::whole_of(name)
            && !checkpoint.is_4_bit(whole)
        {
            let (shard, _) = checkpoint.find(name).expect("a name of the checkpoint");
            let problem = format!("a part of {whole:?}, which is not there in 4 bits");
            return Err(error(shard, name, problem));
        }
    }
    Ok(())
}

fn refused(from: &ModelFiles, problem: &str) -> Error {
    Error::Config {
        file: from.describe(CONFIG),
        field: QUANTIZATION.into(),
        problem: problem.into(),
    }
}

/// The maps of a model's blocks, and how its files name them.
struct Blocks {
    sites: Vec<Site>,
    /// What a name in a file may have in front. Names of sites have the first one, or none.
    prefixes: Vec<&'static str>,
    /// True if dense maps are stored `[d_in, d_out]`.
    is_conv1d: bool,
    /// Modules beside the blocks that stay dense, where transformers does not know them by itself.
    others: Vec<&'static str>,
}

impl Blocks {
    fn read(from: &ModelFiles) -> Result<Self> {
        let config = match EncoderConfig::from_files(from) {
            Err(Error::OtherArchitecture { .. }) => return Self::of_decoder(from),
            other => other?,
        };
        let layout = config.layout();
        let blocks = format!("{}.", layout.blocks);
        let in_block = |site: &Site| site.name.contains(&blocks);
        let heads = layout
            .not_used
            .iter()
            .filter_map(|name| name.strip_suffix(".*"));
        // A pooler lies inside the encoder, where transformers 5 finds a module by the whole end of its name only.
        let pooler = layout.not_used.contains(&POOLER.0).then_some(POOLER.1);
        let heads = heads.chain(pooler.or(layout.head.map(|(dense, _)| dense)));
        let project = config.embedding_size.map(|_| PROJECT);
        Ok(Self {
            sites: encoder::sites(&config)
                .into_iter()
                .filter(in_block)
                .collect(),
            prefixes: layout.prefixes.to_vec(),
            is_conv1d: false,
            others: heads.chain(project).collect(),
        })
    }

    fn of_decoder(from: &ModelFiles) -> Result<Self> {
        let config = DecoderConfig::from_files(from)?;
        Ok(Self {
            sites: decoder::sites(&config),
            prefixes: vec![config.layout.prefix, ""],
            is_conv1d: config.layout.conv1d,
            others: Vec::new(),
        })
    }

    /// `llm_int8_skip_modules`. transformers takes each name as the end of many, so that only a whole one means one map. A map that is kept has
    /// its name in the inner model too, which has no prefix.
    fn skipped(&self, keep: &[String]) -> Value {
        let others = match (&self.others[..], keep) {
            ([], []) => return Value::Null,
            ([], _) => &["lm_head"],
            (others, _) => others,
        };
        let kept = self.sites.iter().map(|site| &site.name);
        let kept = kept.filter(|name| keep.iter().any(|end| ends_in(name, end)));
        let named = kept.flat_map(|name| {
            let bare = self.bare(name);
            [format!("{}{bare}", self.prefixes[0]), bare.to_owned()]
        });
        let others = others.iter().map(|&name| name.to_owned());
        others.chain(named).collect()
    }

    /// A site's name without a prefix.
    fn bare<'a>(&self, site: &'a str) -> &'a str {
        site.strip_prefix(self.prefixes[0]).unwrap_or(site)
    }

    /// The weights of the maps by their names in the file, each with `[d_out, d_in]`.
    fn maps(
        &self,
        checkpoint: &Checkpoint,
        keep: &[String],
    ) -> Result<BTreeMap<String, [usize; 2]>> {
        for end in keep {
            if !self.sites.iter().any(|site| ends_in(&site.name, end)) {
                return Err(vblora::Error::Setting {
                    setting: "keep",
                    expected: "the end of a map's name, such as down_proj".into(),
                    found: end.clone(),
                }
                .into());
            }
        }
        let wanted = self.sites.iter();
        let wanted = wanted.filter(|site| !keep.iter().any(|end| ends_in(&site.name, end)));
        let named = wanted.map(|site| {
            let bare = self.bare(&site.name);
            let mut names = self
                .prefixes
                .iter()
                .map(|front| format!("{front}{bare}.weight"));
            let found = names.find(|name| checkpoint.contains(name));
            let name = found.ok_or_else(|| Error::NoTensor {
                file: checkpoint.file().to_owned(),
                tensor: format!("{}.weight", site.name),
            })?;
            Ok((name, [site.d_out, site.d_in]))
        });
        named.collect()
    }
}

fn fields(from: &ModelFiles) -> Result<Map<String, Value>> {
    strict_json::from_slice(&from.read(CONFIG)?).map_err(|problem| Error::Json {
        file: from.describe(CONFIG),
        problem,
    })
}

/// As transformers writes it.
fn quantization(compute: &str, double: bool, skipped: Value) -> Value {
    json!({
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": compute,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": double,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": skipped,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "quant_method": "bitsandbytes",
    })
}

fn torch_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::BF16 => "bfloat16",
        Dtype::F16 => "float16",
        _ => "float32",
    }
}

/// The change to a directory's tensors.
struct Change {
    /// The weights of the maps by their names, each with `[d_out, d_in]`.
    maps: BTreeMap<String, [usize; 2]>,
    form: Form,
    /// True if dense maps are stored `[d_in, d_out]`.
    is_conv1d: bool,
}

/// The form that maps get.
enum Form {
    Quantised { double: bool },
    Decoded { dtype: Option<DecodedDtype> },
}

impl Change {
    /// True if a tensor gets another form.
    fn has(&self, checkpoint: &Checkpoint, name: &str) -> bool {
        match &self.form {
            Form::Quantised { .. } => self.maps.contains_key(name),
            Form::Decoded { .. } => checkpoint.is_4_bit(name),
        }
    }

    /// A map's values, between the order of a dense file and `[d_out, d_in]`.
    fn turned(&self, values: HostTensor) -> HostTensor {
        match self.is_conv1d {
            true => transposed(values),
            false => values,
        }
    }

    /// The size of the larger elements among the tensors in place of one of the file's, and the bytes of these tensors. All others of the
    /// tensors have elements of one byte.
    ///
    /// The count of values is that of the bytes in the file. A shape that says another is an error when the tensor is read.
    fn room(&self, checkpoint: &Checkpoint, name: &str) -> Result<(usize, usize)> {
        let (_, entry) = checkpoint.find(name).expect("a name of the checkpoint");
        match &self.form {
            Form::Quantised { double } if self.maps.contains_key(name) => {
                let values = entry.shape.iter().product();
                Ok((4, four_bit::float_bytes(values, *double)))
            }
            Form::Decoded { dtype } if checkpoint.is_4_bit(name) => {
                let (shape, said) = checkpoint.described(name)?;
                let size = element_size(dtype.map_or(said, DecodedDtype::stored));
                // Two values share a byte, but for the last one of an odd count.
                let is_odd = shape.iter().all(|n| n % 2 == 1);
                let values = (2 * entry.bytes.len()).saturating_sub(usize::from(is_odd));
                Ok((size, size * values))
            }
            Form::Decoded { .. } if checkpoint.is_part(name) => Ok((1, 0)),
            Form::Quantised { .. } | Form::Decoded { .. } => {
                Ok((element_size(entry.dtype), entry.bytes.len()))
            }
        }
    }

    /// The tensors in place of one of the file's.
    fn parts(&self, checkpoint: &Checkpoint, name: &str) -> Result<Vec<Part>> {
        let (shard, entry) = checkpoint.find(name).expect("a name of the checkpoint");
        match &self.form {
            Form::Quantised { double } if self.maps.contains_key(name) => {
                let out_in = self.maps[name];
                let [d_out, d_in] = out_in;
                let shape = match self.is_conv1d {
                    true => [d_in, d_out],
                    false => out_in,
                };
                let values = self.turned(checkpoint.values(name, &shape)?);
                let host = Nf4Host::quantise(&values.values, out_in, *double);
                Ok(four_bit::parts(name, &host, torch_name(entry.dtype)))
            }
            Form::Decoded { dtype } if checkpoint.is_4_bit(name) => {
                let (shape, said) = checkpoint.described(name)?;
                let stored = dtype.map_or(said, DecodedDtype::stored);
                let values = self.turned(HostTensor {
                    values: checkpoint.read_nf4(name, &shape)?.dequantise(),
                    shape,
                });
                let bytes = from_f32(stored, &values.values)
                    .map_err(|problem| error(shard, name, problem))?;
                Ok(vec![Part {
                    name: name.to_owned(),
                    dtype: stored,
                    shape: values.shape,
                    bytes,
                }])
            }
            Form::Decoded { .. } if checkpoint.is_part(name) => Ok(Vec::new()),
            Form::Quantised { .. } | Form::Decoded { .. } => Ok(vec![Part {
                name: name.to_owned(),
                dtype: entry.dtype,
                shape: entry.shape.clone(),
                bytes: shard.bytes(entry)?.into_owned(),
            }]),
        }
    }
}

/// Bytes of an element; one for elements of less than a byte.
fn element_size(dtype: Dtype) -> usize {
    (dtype.bitsize() / 8).max(1)
}

fn error(shard: &Shard, tensor: &str, problem: String) -> Error {
    Error::Tensor {
        file: shard.file().to_owned(),
        tensor: tensor.to_owned(),
        problem,
    }
}

fn write(
    from: &ModelFiles,
    checkpoint: &Checkpoint,
    change: &Change,
    fields: &Map<String, Value>,
    to: &Path,
) -> Result<Converted> {
    if std::fs::symlink_metadata(to).is_ok() {
        return Err(vblora::Error::Io {
            path: to.to_owned(),
            cause: io::Error::new(io::ErrorKind::AlreadyExists, "it exists already"),
        }
        .into());
    }
    replace_directory(to, |dir| {
        for name in SIDE_FILES {
            if from.contains(name) {
                put(&dir.join(name), &from.read(name)?)?;
            }
        }
        let config = format!("{:#}\n", Value::Object(fields.clone()));
        put(&dir.join(CONFIG), config.as_bytes())?;
        let mut done = Converted {
            maps: 0,
            before: 0,
            after: 0,
        };
        let mut weight_map = BTreeMap::new();
        for shard in checkpoint.shards() {
            let path = Path::new(shard.file());
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or(SINGLE);
            let names = shard.names();
            done.before += shard.data_bytes();
            let is_changed = |tensor: &&String| change.has(checkpoint, tensor);
            done.maps += names.iter().filter(is_changed).count();
            let written = ShardWriter::write(&dir.join(name), checkpoint, change, &names)?;
            done.after += written.bytes;
            weight_map.extend(
                written
                    .names
                    .into_iter()
                    .map(|tensor| (tensor, name.to_owned())),
            );
        }
        if from.contains(INDEX) && !from.contains(SINGLE) {
            let mut index: Map<String, Value> = strict_json::from_slice(&from.read(INDEX)?)
                .map_err(|problem| Error::Json {
                    file: from.describe(INDEX),
                    problem,
                })?;
            let metadata = index.entry("metadata").or_insert_with(|| json!({}));
            if let Value::Object(metadata) = metadata {
                metadata.insert("total_size".into(), done.after.into());
                metadata.remove("total_parameters");
            }
            index.insert("weight_map".into(), json!(weight_map));
            let text = format!("{:#}\n", Value::Object(index));
            put(&dir.join(INDEX), text.as_bytes())?;
        }
        Ok(done)
    })
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|cause| io_error(path, cause))
}

fn io_error(path: &Path, cause: io::Error) -> Error {
    vblora::Error::Io {
        path: path.to_owned(),
        cause,
    }
    .into()
}

/// Sizes of elements in the order in which a file has them, so that all are aligned.
const SIZES: [usize; 4] = [8, 4, 2, 1];

/// A safetensors file that is written tensor by tensor. Room for its header is left in front, and filled at the end.
struct ShardWriter {
    path: PathBuf,
    out: BufWriter<File>,
    header: Map<String, Value>,
    /// Where the first tensor begins in the file.
    data: usize,
    /// Where the next tensor of each of [`SIZES`] begins, from the first one.
    next: [usize; SIZES.len()],
}

struct Written {
    names: BTreeSet<String>,
    bytes: usize,
}

impl ShardWriter {
    fn write(
        path: &Path,
        checkpoint: &Checkpoint,
        change: &Change,
        names: &[String],
    ) -> Result<Written> {
        // A map becomes six tensors at most.
        let per_name = |name: &String| 6 * (name.len() + LINE);
        let room = (LINE + names.iter().map(per_name).sum::<usize>()).next_multiple_of(8);
        let mut next = [0; SIZES.len()];
        for name in names {
            let (size, bytes) = change.room(checkpoint, name)?;
            for (next, other) in next.iter_mut().zip(SIZES) {
                *next += if size > other { bytes } else { 0 };
            }
        }
        let file = File::create_new(path).map_err(|cause| io_error(path, cause))?;
        let mut writer = Self {
            path: path.to_owned(),
            out: BufWriter::new(file),
            // transformers refuses a file without this entry.
            header: Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]),
            data: 8 + room,
            next,
        };
        for name in names {
            for part in change.parts(checkpoint, name)? {
                writer.part(part)?;
            }
        }
        assert_eq!(
            writer.next[..SIZES.len() - 1],
            next[1..],
            "room for tensors"
        );
        writer.finish()
    }

    fn part(&mut self, part: Part) -> Result<()> {
        let size = element_size(part.dtype);
        let class = SIZES.iter().position(|&other| other == size);
        let next = &mut self.next[class.expect("a power of two up to 8")];
        let begin = *next;
        let end = begin + part.bytes.len();
        *next = end;
        let dtype = serde_json::to_value(part.dtype).expect("a dtype is a text");
        let line = json!({"dtype": dtype, "shape": part.shape, "data_offsets": [begin, end]});
        self.header.insert(part.name, line);
        self.put(self.data + begin, &part.bytes)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        let done = self
            .out
            .seek(SeekFrom::Start(at as u64))
            .and_then(|_| self.out.write_all(bytes));
        done.map_err(|cause| io_error(&self.path, cause))
    }

    fn finish(mut self) -> Result<Written> {
        let room = self.data - 8;
        let mut text = serde_json::to_vec(&self.header).expect("texts and numbers");
        assert!(text.len() <= room, "room for the header");
        text.resize(room, b' ');
        self.put(0, &(room as u64).to_le_bytes())?;
        self.put(8, &text)?;
        let flushed = self.out.flush();
        flushed.map_err(|cause| io_error(&self.path, cause))?;
        self.header.remove("__metadata__");
        Ok(Written {
            names: self.header.into_iter().map(|(name, _)| name).collect(),
            bytes: self.next[SIZES.len() - 1],
        })
    }
}
