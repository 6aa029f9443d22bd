//! `vblora plan`: shows an adapter's size before training, or the settings that fit into a number of bytes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use vblora::{
    AdapterConfig, LoraConfig, LoraXsConfig, Site, SitePlan, TiedLoraConfig, ValidVbLora,
    VbLoraConfig, VeraConfig,
    count::{Count, thousands},
};

use vblora_bench::commands::config::ModelConfig;

use crate::{adapter::json, forms::Form, search};

/// Show which linear maps an adapter adapts, and how much it trains and stores
///
/// The command reads only the model's config.json and downloads no weights. With --at-most, it lists the settings whose file fits into a
/// number of bytes.
#[derive(Args)]
#[command(before_help = "\
vblora plan roberta-base --targets qv --bank 90
vblora plan path/to/llama --at-most 1MB")]
pub(crate) struct Arguments {
    /// Hugging Face directory, hub id, config.json, bundled:roberta or bundled:llama
    #[arg(
        value_name = "DIR|HUB_ID|FILE",
        required_unless_present = "model",
        conflicts_with = "model"
    )]
    config: Option<PathBuf>,
    /// The model, as an alternative to the argument
    #[arg(long, value_name = "DIR|HUB_ID|FILE")]
    model: Option<PathBuf>,
    /// Hub revision: a branch, tag or commit
    #[arg(long)]
    revision: Option<String>,
    /// Method to plan; methods other than vblora take only --rank
    #[arg(long, value_enum, default_value = "vblora", conflicts_with_all = ["at_most"])]
    method: Method,
    /// Linear maps to adapt: qv, all, a comma-separated list of suffixes, or a pattern for the whole name
    #[arg(
        long,
        default_value = "all",
        value_name = "qv|all|SUFFIX,...|regex:PATTERN"
    )]
    targets: String,
    /// Count GPT-2's c_attn as three linear maps, as the paper does
    #[arg(long)]
    split_qkv: bool,
    /// Number of bank vectors, h [default: 90; with --at-most, any]
    #[arg(long, value_parser = size, value_name = "H")]
    bank: Option<usize>,
    /// Length of a bank vector, b [default: the greatest up to 256 that divides all dimensions; with --at-most, any that does]
    #[arg(long, value_parser = size, value_name = "B")]
    vector_length: Option<usize>,
    /// Rank, r, of any method [default: that of the method; with --at-most, any]
    #[arg(long, value_parser = size)]
    rank: Option<usize>,
    /// Bank vectors mixed per sub-vector, k [default: 2; with --at-most, any]
    #[arg(long, value_parser = size, value_name = "K")]
    topk: Option<usize>,
    /// List the settings whose file has at most this size (30kB, 0.7MB, 64KiB, 30000), most trained parameters first
    #[arg(long, value_parser = bytes, value_name = "SIZE")]
    at_most: Option<usize>,
    /// Form of the file that --at-most limits
    #[arg(
        long,
        value_enum,
        default_value = "compact-8bits",
        requires = "at_most"
    )]
    form: Form,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    #[value(name = "vblora")]
    VbLora,
    Lora,
    Vera,
    TiedLora,
    LoraXs,
}

/// The plan of a method other than VB-LoRA.
#[derive(Serialize)]
struct Baseline<'a> {
    architecture: &'static str,
    sites: &'a [Site],
    settings: AdapterConfig,
    count: Count,
}

#[derive(Serialize)]
struct Report<'a> {
    architecture: &'static str,
    sites: &'a [Site],
    settings: &'a VbLoraConfig,
    sub_vectors: usize,
    count: Count,
    /// Bytes by form.
    bytes: BTreeMap<String, usize>,
}

#[derive(Serialize)]
struct Fitting<'a> {
    architecture: &'static str,
    sites: &'a [Site],
    form: String,
    at_most: usize,
    fits: Vec<search::Fit>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    let model = ModelConfig::find(arguments.place()?, arguments.revision.as_deref())?
        .with_split_qkv(arguments.split_qkv);
    let plan = model.targets(&arguments.targets)?.select(&model.sites())?;
    let text = match arguments.at_most {
        Some(most) => fitting(arguments, model.name(), &plan, most),
        None => match baseline(arguments)? {
            Some(settings) => describe(arguments, model.name(), &plan, settings),
            None => forward(arguments, model.name(), &plan),
        },
    }?;
    let note = model.note().filter(|_| !arguments.json);
    Ok(match note {
        Some(note) => format!("{text}{note}\n"),
        None => text,
    })
}

impl Arguments {
    /// The model, given as the argument or with --model.
    fn place(&self) -> Result<&Path> {
        let model = self.config.as_deref().or(self.model.as_deref());
        model.context("no model")
    }
}

/// The settings of a method other than VB-LoRA.
fn baseline(arguments: &Arguments) -> Result<Option<AdapterConfig>> {
    let rank = |default: usize| arguments.rank.unwrap_or(default);
    let (lora, vera) = (LoraConfig::default(), VeraConfig::default());
    let (tied, xs) = (TiedLoraConfig::default(), LoraXsConfig::default());
    let settings = match arguments.method {
        Method::VbLora => return Ok(None),
        Method::Lora => AdapterConfig::Lora(LoraConfig {
            rank: rank(lora.rank),
            ..lora
        }),
        Method::Vera => AdapterConfig::Vera(VeraConfig {
            rank: rank(vera.rank),
            ..vera
        }),
        Method::TiedLora => AdapterConfig::TiedLora(TiedLoraConfig {
            rank: rank(tied.rank),
        }),
        Method::LoraXs => AdapterConfig::LoraXs(LoraXsConfig {
            rank: rank(xs.rank),
            ..xs
        }),
    };
    for (name, given) in [
        ("--bank", arguments.bank),
        ("--vector-length", arguments.vector_length),
        ("--topk", arguments.topk),
    ] {
        if given.is_some() {
            bail!("{name} is VB-LoRA's, {} has none", settings.name());
        }
    }
    Ok(Some(settings))
}

fn describe(
    arguments: &Arguments,
    architecture: &'static str,
    plan: &SitePlan,
    settings: AdapterConfig,
) -> Result<String> {
    if arguments.json {
        return json(&Baseline {
            architecture,
            sites: plan.sites(),
            count: settings.count(plan)?,
            settings,
        });
    }
    Ok(format!("{architecture}: {}", settings.describe(plan)?))
}

fn forward(arguments: &Arguments, architecture: &'static str, plan: &SitePlan) -> Result<String> {
    let default = VbLoraConfig::default();
    let config = VbLoraConfig {
        bank: arguments.bank.unwrap_or(default.bank),
        vector_length: arguments
            .vector_length
            .unwrap_or_else(|| longest(plan, default.vector_length)),
        rank: arguments.rank.unwrap_or(default.rank),
        topk: arguments.topk.unwrap_or(default.topk),
        ..default
    };
    let settings = config.check(plan)?;
    if arguments.json {
        return json(&Report {
            architecture,
            sites: plan.sites(),
            settings: &config,
            sub_vectors: settings.sub_vectors(),
            count: settings.count(),
            bytes: by_form(&settings)
                .map(|(form, bytes)| (form.name(), bytes))
                .collect(),
        });
    }
    let described = AdapterConfig::VbLora(config.clone()).describe(plan)?;
    let mut text = format!("{architecture}: {described}");
    for (form, bytes) in by_form(&settings) {
        text += &format!(
            "  {:<15} {:>15} bytes  {}\n",
            form.name(),
            thousands(bytes),
            form.what()
        );
    }
    Ok(text)
}

/// The greatest valid vector length up to the paper's, which does not divide every model's dimensions.
fn longest(plan: &SitePlan, most: usize) -> usize {
    let lengths = plan.valid_vector_lengths();
    let fitting = lengths.into_iter().filter(|&length| length <= most);
    fitting.max().unwrap_or(most)
}

fn by_form(settings: &ValidVbLora) -> impl Iterator<Item = (Form, usize)> {
    let forms = Form::value_variants().iter();
    forms.map(|form| (*form, form.bytes(settings)))
}

fn fitting(
    arguments: &Arguments,
    architecture: &'static str,
    plan: &SitePlan,
    most: usize,
) -> Result<String> {
    let pinned = search::Pinned {
        bank: arguments.bank,
        vector_length: arguments.vector_length,
        rank: arguments.rank,
        topk: arguments.topk,
    };
    let fits = search::fits(plan, &pinned, arguments.form, most)?;
    let form = arguments.form.name();
    if fits.is_empty() {
        let most = thousands(most);
        bail!("no settings fit into {most} bytes as {form}");
    }
    if arguments.json {
        return json(&Fitting {
            architecture,
            sites: plan.sites(),
            form,
            at_most: most,
            fits,
        });
    }
    let mut text = format!(
        "{architecture}: {} sites as {form} in at most {} bytes, most trained parameters first\n{plan}",
        plan.sites().len(),
        thousands(most)
    );
    text += "      r      h      b    k        S         trained         bytes\n";
    for fit in &fits {
        let search::Fit {
            rank,
            bank,
            vector_length,
            topk,
            ..
        } = fit;
        text += &format!(
            "{rank:>7} {bank:>6} {vector_length:>6} {topk:>4} {:>8} {:>15} {:>13}\n",
            thousands(fit.sub_vectors),
            thousands(fit.trained),
            thousands(fit.bytes)
        );
    }
    Ok(text)
}

/// Parses a setting. The limit is above every real adapter and keeps all products from overflow.
fn size(text: &str) -> Result<usize, String> {
    const MOST: usize = 1 << 20;
    match text.parse() {
        Ok(number @ 1..=MOST) => Ok(number),
        _ => Err(format!("expected a number from 1 to {MOST}")),
    }
}

/// Parses `30kB`, `0.7 MB`, `64KiB`, `30000`.
fn bytes(text: &str) -> Result<usize, String> {
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.'));
    let (number, unit) = text.split_at(at.unwrap_or(text.len()));
    let unit = match unit.trim() {
        "" | "B" => 1.0,
        "kB" | "KB" | "k" => 1e3,
        "MB" | "M" => 1e6,
        "GB" | "G" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        other => {
            return Err(format!(
                "unit {other:?}; expected B, kB, MB, GB, KiB, MiB or GiB"
            ));
        }
    };
    match number.parse::<f64>() {
        Ok(number) if number * unit >= 1.0 => Ok((number * unit).round() as usize),
        _ => Err("expected a size such as 30kB".into()),
    }
}
