//! `vblora plan`: what an adapter would be, before there is one; and which settings fit a number of bytes.

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

/// Show what an adapter would adapt, train and store on a model
///
/// The model's config.json says enough: no weights are read or downloaded. With --at-most, the command lists the settings whose file fits
/// into a number of bytes.
#[derive(Args)]
#[command(before_help = "\
vblora plan roberta-base --targets qv --bank 90
vblora plan path/to/llama --at-most 1MB")]
pub(crate) struct Arguments {
    /// A Hugging Face directory, a hub id, or a config.json
    #[arg(
        value_name = "DIR|HUB_ID|FILE",
        required_unless_present = "model",
        conflicts_with = "model"
    )]
    config: Option<PathBuf>,
    /// The same, as other subcommands name it
    #[arg(long, value_name = "DIR|HUB_ID|FILE")]
    model: Option<PathBuf>,
    /// The hub revision: a branch, tag or commit
    #[arg(long)]
    revision: Option<String>,
    /// The method; the others than vblora take --rank alone
    #[arg(long, value_enum, default_value = "vblora", conflicts_with_all = ["at_most"])]
    method: Method,
    /// Adapted linear maps: qv, all, suffixes with commas between, or a pattern for the whole name
    #[arg(
        long,
        default_value = "all",
        value_name = "qv|all|SUFFIX,...|regex:PATTERN"
    )]
    targets: String,
    /// Count GPT-2's c_attn as three maps, as the paper does
    #[arg(long)]
    split_qkv: bool,
    /// h, the number of bank vectors [default: 90; with --at-most, any]
    #[arg(long, value_parser = size, value_name = "H")]
    bank: Option<usize>,
    /// b, the length of a bank vector [default: 256; with --at-most, any that divides all dimensions]
    #[arg(long, value_parser = size, value_name = "B")]
    vector_length: Option<usize>,
    /// r, the rank of every method [default: that of the method; with --at-most, any]
    #[arg(long, value_parser = size)]
    rank: Option<usize>,
    /// k, the bank vectors mixed per sub-vector [default: 2; with --at-most, any]
    #[arg(long, value_parser = size, value_name = "K")]
    topk: Option<usize>,
    /// List the settings whose file has at most this size (30kB, 0.7MB, 64KiB, 30000), most trained parameters first
    #[arg(long, value_parser = bytes, value_name = "SIZE")]
    at_most: Option<usize>,
    /// The form of that file
    #[arg(
        long,
        value_enum,
        default_value = "compact-8bits",
        requires = "at_most"
    )]
    form: Form,
    /// Print one JSON object in place of a text
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

/// What another method than VB-LoRA would be.
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
    /// By form.
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
    match arguments.at_most {
        Some(most) => fitting(arguments, model.name(), &plan, most),
        None => match baseline(arguments)? {
            Some(settings) => describe(arguments, model.name(), &plan, settings),
            None => forward(arguments, model.name(), &plan),
        },
    }
}

impl Arguments {
    /// The model, which stands alone or behind --model.
    fn place(&self) -> Result<&Path> {
        let model = self.config.as_deref().or(self.model.as_deref());
        model.context("no model")
    }
}

/// The settings of another method than VB-LoRA.
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
        vector_length: arguments.vector_length.unwrap_or(default.vector_length),
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

/// A setting: beyond this no product of them overflows, and no adapter has such.
fn size(text: &str) -> Result<usize, String> {
    const MOST: usize = 1 << 20;
    match text.parse() {
        Ok(number @ 1..=MOST) => Ok(number),
        _ => Err(format!("expected a number from 1 to {MOST}")),
    }
}

/// `30kB`, `0.7 MB`, `64KiB`, `30000`.
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
