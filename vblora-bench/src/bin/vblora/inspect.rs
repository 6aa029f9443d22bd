//! `vblora inspect`: shows the content of an adapter's file or directory.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use vblora::{
    AdapterConfig, Site, StoredVbLora,
    count::{Count, lora, thousands},
    storage::{HostAdapter, TensorFile, sites_sha256},
};

use crate::adapter::{Place, config, json};

/// Show the content of an adapter's directory or file
///
/// The command lists method, sites, parameter counts and bytes, and the use of the bank.
#[derive(Args)]
#[command(before_help = "\
vblora inspect runs/mrpc/vblora-seed1
vblora inspect runs/mrpc/vblora-seed1/compact.safetensors --json")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    form: &'static str,
    method: AdapterConfig,
    sites: &'a [Site],
    /// `[rank, scale]` of each site, if rank_pattern or alpha_pattern make them differ.
    patterned: Option<&'a [(usize, f64)]>,
    count: Count,
    /// Absent for a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<Stored>,
    bank: Option<BankUse>,
    saved: Vec<(&'a str, &'a [usize])>,
    /// The file of the saved tensors, if it is another than the adapter's.
    #[serde(skip_serializing_if = "Option::is_none")]
    head_file: Option<&'static str>,
    base_model: Option<&'a str>,
    base_sha256: String,
    recipe: Option<&'a str>,
}

/// The numbers of a compact file as it stores them.
#[derive(Serialize)]
struct Stored {
    bank_bits: usize,
    weight_bits: usize,
    /// All bytes of the file, and of that of the bank if it is another.
    bytes: u64,
}

/// The use of the bank by the codes.
#[derive(Serialize)]
struct BankUse {
    vectors: usize,
    /// Vectors that at least one sub-vector mixes.
    used: usize,
    /// The number of sub-vectors that mix the most used vector.
    most_used_by: usize,
    sub_vectors: usize,
    /// The mean of the largest weight of a sub-vector: 1 / k if all mix evenly, 1 if each picks one vector.
    mean_first_weight: f64,
    largest_entry: f32,
}

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    let opened = arguments.place.open()?;
    let adapter = &opened.adapter;
    let (method, plan) = (config(&adapter.adapter), adapter.adapter.plan());
    let report = Report {
        form: opened.form,
        count: match &opened.patterned {
            Some(own) => patterned_count(plan.sites(), own),
            None => method.count(plan)?,
        },
        stored: match arguments.place.path.is_dir() {
            true => None,
            false => Some(Stored::of(&arguments.place)?),
        },
        patterned: opened.patterned.as_deref(),
        sites: plan.sites(),
        bank: adapter.adapter.store().as_ref().map(BankUse::of),
        saved: adapter
            .saved
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice()))
            .collect(),
        head_file: opened.head_file,
        base_model: adapter.base_model.as_deref(),
        base_sha256: sites_sha256(plan.sites()),
        recipe: match &adapter.adapter {
            HostAdapter::TopK(stored) => stored.recipe(),
            _ => None,
        },
        method,
    };
    if arguments.json {
        return json(&report);
    }
    let mut lines = vec![
        format!("{}: {}", arguments.place.path.display(), report.form),
        report
            .method
            .describe_counted(plan, report.count)
            .trim_end()
            .to_owned(),
    ];
    lines.extend(report.stored.as_ref().map(|stored| {
        let bytes = thousands(stored.bytes as usize);
        format!(
            "  stored: bank in {} bits, weights in {} bits; {bytes} bytes with names and settings",
            stored.bank_bits, stored.weight_bits
        )
    }));
    lines.extend(report.patterned.map(by_rank));
    lines.extend(report.bank.as_ref().map(|bank| {
        format!(
            "  bank: {} of {} vectors used, the most used one by {} of {} sub-vectors; mean first weight {:.3}; entries up to {:.3e}",
            bank.used,
            bank.vectors,
            bank.most_used_by,
            bank.sub_vectors,
            bank.mean_first_weight,
            bank.largest_entry
        )
    }));
    let saved = report.saved.iter();
    let place = report.head_file.map(|file| format!(" in {file}"));
    let place = place.unwrap_or_default();
    lines.extend(saved.map(|(name, shape)| format!("  beside it{place}: {name} {shape:?}")));
    lines.extend(report.base_model.map(|base| format!("  base: {base}")));
    lines.push(format!(
        "  names and shapes: SHA-256 {}",
        report.base_sha256
    ));
    let recipe = report.recipe.into_iter().flat_map(str::lines);
    lines.extend(recipe.map(|line| format!("  recipe: {line}")));
    Ok(lines.join("\n"))
}

/// Parameter counts and bytes for sites of different ranks.
fn patterned_count(sites: &[Site], own: &[(usize, f64)]) -> Count {
    let counts = sites
        .iter()
        .zip(own)
        .map(|(site, (rank, _))| lora(*rank, [(site.d_in, site.d_out)]));
    counts.fold(lora(0, []), |sum, count| sum + count)
}

/// The number of sites for each pair of rank and scale.
fn by_rank(own: &[(usize, f64)]) -> String {
    let mut sites = BTreeMap::new();
    for (rank, scale) in own {
        // The scale is text here because floats have no total order.
        *sites.entry((rank, scale.to_string())).or_insert(0) += 1;
    }
    let sites = sites.into_iter();
    let groups = sites.map(|((rank, scale), n)| format!("rank {rank}, scale {scale} x {n}"));
    format!(
        "  by rank_pattern and alpha_pattern: {}; read as one rank and scale",
        groups.collect::<Vec<_>>().join("; ")
    )
}

impl Stored {
    fn of(place: &Place) -> Result<Self> {
        let own = TensorFile::read(&place.path)?;
        let bank = place.bank_file.as_ref().map(|path| TensorFile::read(path));
        let bank = bank.transpose()?;
        let bits = |file: &TensorFile, tensor: &str| {
            let dtype = file.dtype(tensor);
            dtype.map_or(0, |dtype| dtype.bitsize())
        };
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        Ok(Self {
            bank_bits: bits(bank.as_ref().unwrap_or(&own), "bank"),
            weight_bits: bits(&own, "weights"),
            bytes: size(&place.path) + place.bank_file.as_deref().map_or(0, size),
        })
    }
}

impl BankUse {
    fn of(stored: &StoredVbLora) -> Self {
        let (config, codes) = (stored.settings().config(), stored.codes());
        let mut uses = vec![0; config.bank];
        for &index in &codes.indices {
            uses[index as usize] += 1;
        }
        let weights = codes.full_weights();
        let largest = |row: &[f32]| f64::from(row.iter().copied().fold(0.0, f32::max));
        let largest = weights.chunks_exact(codes.topk).map(largest);
        let sub_vectors = stored.settings().sub_vectors();
        Self {
            vectors: config.bank,
            used: uses.iter().filter(|&&n| n > 0).count(),
            most_used_by: uses.iter().copied().max().unwrap_or(0),
            sub_vectors,
            mean_first_weight: largest.sum::<f64>() / sub_vectors.max(1) as f64,
            largest_entry: stored.bank().iter().fold(0.0, |m, v| v.abs().max(m)),
        }
    }
}
