//! `vblora diff`: shows the differences between two adapters.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use vblora::{
    StoredVbLora,
    limits::check_room,
    storage::{HostAdapter, HostLora, HostTensor, peft::PeftAdapter},
};

use crate::adapter::{Place, json, wrong};

/// Compare two adapters of any method and form
///
/// The command shows the distance between the updates of each site, the codes that changed, and the bank vectors that correspond. It also
/// compares tensors of modules that are saved whole.
#[derive(Args)]
#[command(before_help = "\
vblora diff runs/mrpc/vblora-seed1 runs/mrpc/vblora-seed2
vblora diff runs/mrpc/vblora-seed1 runs/mrpc/lora-seed1 --json")]
pub(crate) struct Arguments {
    /// The first adapter: a PEFT directory, or a compact file with its bank
    one: PathBuf,
    /// The second adapter, of any method and form
    other: PathBuf,
    /// Prefix of the site names in PEFT directories, such as "roberta."
    #[arg(long, default_value = "", value_name = "TEXT")]
    prefix: String,
    /// The base model. Only VeRA needs it: its files do not store the input dimensions of the linear maps
    #[arg(long, value_name = "DIR|HUB_ID|FILE")]
    model: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    sites: Vec<SiteDistance>,
    /// Tensors that replace those of the base: `modules_to_save`, embeddings and output layers.
    saved: Vec<SavedDistance>,
    /// Sites and saved tensors.
    only_in_one: Vec<String>,
    only_in_other: Vec<String>,
    /// Sites and saved tensors whose dimensions differ between the two adapters. They have no distance.
    other_dimensions: Vec<String>,
    /// Present if both are VB-LoRA with the same h, b, r, k and sites.
    codes: Option<CodeChanges>,
    bank: Option<BankChanges>,
}

#[derive(Serialize)]
struct SiteDistance {
    site: String,
    /// Frobenius norms of the updates.
    one: f64,
    other: f64,
    /// The norm of their difference divided by the larger of the two norms; 0 for equal updates.
    distance: f64,
}

#[derive(Serialize)]
struct SavedDistance {
    tensor: String,
    /// Frobenius norms.
    one: f64,
    other: f64,
    /// The norm of their difference divided by the larger of the two norms; 0 for equal tensors.
    distance: f64,
}

#[derive(Serialize)]
struct CodeChanges {
    sub_vectors: usize,
    /// Sub-vectors that mix other bank vectors.
    changed: usize,
    /// The mean change of a weight, over sub-vectors that mix the same vectors in the same order.
    mean_weight_change: f64,
}

#[derive(Serialize)]
struct BankChanges {
    vectors: usize,
    /// Vectors whose nearest vector in the other bank, by cosine, has the same index.
    same_nearest: usize,
    /// The cosine to the vector of the same index: minimum and mean.
    least_cosine: f64,
    mean_cosine: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    let open = |path: &PathBuf| {
        let place = Place {
            path: path.clone(),
            bank_file: None,
            prefix: arguments.prefix.clone(),
            model: arguments.model.clone(),
            revision: None,
        };
        place.open().map(|opened| opened.adapter)
    };
    let (one, other) = (open(&arguments.one)?, open(&arguments.other)?);
    // The factors of both are there at once.
    let values = [&one, &other].map(|found| found.adapter.lora_values());
    check_room(
        "the factors of both adapters",
        values[0].saturating_add(values[1]),
    )?;
    let report = compare(&one, &other).map_err(|name| {
        wrong(
            &arguments.other,
            format!("{name} is too large to be compared"),
        )
    })?;
    if arguments.json {
        return json(&report);
    }
    Ok(table(&report).join("\n"))
}

fn table(report: &Report) -> Vec<String> {
    let only = |place: &str, names: &[String]| {
        let lines = names
            .iter()
            .map(|name| format!("only in the {place}: {name}"));
        lines.collect::<Vec<_>>()
    };
    let mut lines = only("first", &report.only_in_one);
    lines.extend(only("second", &report.only_in_other));
    let dimensions = report.other_dimensions.iter();
    lines.extend(dimensions.map(|name| format!("different dimensions in the second: {name}")));
    lines.extend(report.codes.as_ref().map(|codes| {
        format!(
            "codes: {} of {} sub-vectors mix other vectors; weights of the others change by {:.1e} on average",
            codes.changed, codes.sub_vectors, codes.mean_weight_change
        )
    }));
    lines.extend(report.bank.as_ref().map(|bank| {
        format!(
            "bank: the nearest vector of the other bank has the same index for {} of {}; cosine of equal indices at least {:.4}, on average {:.4}",
            bank.same_nearest, bank.vectors, bank.least_cosine, bank.mean_cosine
        )
    }));
    let sites = report.sites.iter();
    let sites = sites.map(|s| (s.site.as_str(), s.one, s.other, s.distance));
    lines.extend(distances("site", &sites.collect::<Vec<_>>()));
    let saved = report.saved.iter();
    let saved: Vec<_> = saved
        .map(|s| (s.tensor.as_str(), s.one, s.other, s.distance))
        .collect();
    if !saved.is_empty() {
        lines.extend(distances("saved tensor", &saved));
    }
    lines
}

/// A table of names, two norms and a distance.
fn distances(head: &str, rows: &[(&str, f64, f64, f64)]) -> Vec<String> {
    let names = rows.iter().map(|(name, ..)| name.len());
    let width = names.max().unwrap_or(0).max(head.len());
    let mut lines = vec![format!("{head:width$}  norm, first  second     distance")];
    lines.extend(rows.iter().map(|(name, one, other, distance)| {
        format!("{name:width$}  {one:<11.3e}  {other:<9.3e}  {distance:.3e}")
    }));
    lines
}

/// # Errors
/// The name of the site or tensor whose norm is not finite.
fn compare(one: &PeftAdapter, other: &PeftAdapter) -> Result<Report, String> {
    let [saved_one, saved_other] = [one, other].map(|adapter| {
        let saved = adapter.saved.iter();
        saved
            .map(|(name, tensor)| (name, tensor))
            .collect::<BTreeMap<_, _>>()
    });
    let (one, other) = (&one.adapter, &other.adapter);
    let names = |adapter: &HostAdapter| -> Vec<String> {
        let sites = adapter.plan().sites().iter();
        sites.map(|site| site.name.clone()).collect()
    };
    let (in_one, in_other) = (names(one), names(other));
    let missing = |from: &[String], names: &[String]| -> Vec<String> {
        let missing = names.iter().filter(|name| !from.contains(name));
        missing.cloned().collect()
    };
    let mut only_in_one = missing(&in_other, &in_one);
    let mut only_in_other = missing(&in_one, &in_other);
    let (first, second) = (one.to_lora(), other.to_lora());
    let (mut sites, mut saved, mut other_dimensions) = (Vec::new(), Vec::new(), Vec::new());
    for (i, name) in in_one.iter().enumerate() {
        let Some(j) = in_other.iter().position(|found| found == name) else {
            continue;
        };
        match first.settings().plan().sites()[i] == second.settings().plan().sites()[j] {
            true => sites.push(distance(name, (&first, i), (&second, j))?),
            false => other_dimensions.push(name.clone()),
        }
    }
    for (&name, tensor) in &saved_one {
        match saved_other.get(name) {
            None => only_in_one.push(name.clone()),
            Some(other) if other.shape != tensor.shape => other_dimensions.push(name.clone()),
            Some(other) => saved.push(saved_distance(name, tensor, other)?),
        }
    }
    let new = saved_other
        .keys()
        .filter(|name| !saved_one.contains_key(*name));
    only_in_other.extend(new.map(|name| (*name).clone()));
    let banks = match (one.store(), other.store()) {
        (Some(one), Some(other)) if one.own_bank().shape() == other.own_bank().shape() => {
            Some((one, other))
        }
        _ => None,
    };
    let codes = banks.as_ref().filter(|(one, other)| {
        let key = |s: &StoredVbLora| {
            let config = s.settings().config();
            (config.rank, config.topk, s.settings().plan().clone())
        };
        key(one) == key(other)
    });
    Ok(Report {
        sites,
        saved,
        only_in_one,
        only_in_other,
        other_dimensions,
        codes: codes.map(|(one, other)| code_changes(one, other)),
        bank: banks.as_ref().map(|(one, other)| bank_changes(one, other)),
    })
}

fn saved_distance(
    name: &str,
    one: &HostTensor,
    other: &HostTensor,
) -> Result<SavedDistance, String> {
    let product = |x: &HostTensor, y: &HostTensor| dot(&x.values, &y.values);
    let difference = |(x, y): (&f32, &f32)| (f64::from(*x) - f64::from(*y)).powi(2);
    let apart = one.values.iter().zip(&other.values).map(difference).sum();
    let (one, other, distance) = relative(name, product(one, one), product(other, other), apart)?;
    Ok(SavedDistance {
        tensor: name.to_owned(),
        one,
        other,
        distance,
    })
}

/// Two norms, and the norm of the difference divided by the larger one. The arguments are the squares of all three.
///
/// # Errors
/// The name, if one of the norms is not finite.
fn relative(name: &str, one: f64, other: f64, apart: f64) -> Result<(f64, f64, f64), String> {
    let squares = [one, other, apart];
    if !squares.iter().all(|square| square.is_finite()) {
        return Err(name.to_owned());
    }
    // Rounding can make a zero difference negative.
    let [one, other, apart] = squares.map(|square| square.max(0.0).sqrt());
    let larger = one.max(other);
    let distance = if larger > 0.0 { apart / larger } else { 0.0 };
    Ok((one, other, distance))
}

/// Norms from products of small matrices: `<B1 A1, B2 A2>` is the sum over `(A1 A2^T) * (B1 B2^T)`. The full update is never formed.
fn distance(
    name: &str,
    one: (&HostLora, usize),
    other: (&HostLora, usize),
) -> Result<SiteDistance, String> {
    let product = |x: (&HostLora, usize), y: (&HostLora, usize)| {
        let factors = |(adapter, at): (&HostLora, usize)| {
            let config = adapter.settings().config().clone();
            let scale = config.scale();
            (
                adapter.a()[at].clone(),
                adapter.b()[at].clone(),
                config.rank,
                scale,
            )
        };
        let ((a1, b1, r1, s1), (a2, b2, r2, s2)) = (factors(x), factors(y));
        let rows = (0..r1).flat_map(|i| (0..r2).map(move |j| (i, j)));
        let sum: f64 = rows
            .map(|(i, j)| {
                dot(row(&a1, i, r1), row(&a2, j, r2)) * dot(row(&b1, i, r1), row(&b2, j, r2))
            })
            .sum();
        sum * s1 * s2
    };
    let (xx, yy, xy) = (
        product(one, one),
        product(other, other),
        product(one, other),
    );
    let (one, other, distance) = relative(name, xx, yy, xx + yy - 2.0 * xy)?;
    Ok(SiteDistance {
        site: name.to_owned(),
        one,
        other,
        distance,
    })
}

fn row(matrix: &[f32], at: usize, rows: usize) -> &[f32] {
    let width = matrix.len() / rows;
    &matrix[at * width..][..width]
}

fn dot(x: &[f32], y: &[f32]) -> f64 {
    let products = x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y));
    products.sum()
}

fn code_changes(one: &StoredVbLora, other: &StoredVbLora) -> CodeChanges {
    let k = one.codes().topk;
    let weights = [one, other].map(|stored| stored.codes().full_weights());
    let rows = one
        .codes()
        .indices
        .chunks_exact(k)
        .zip(other.codes().indices.chunks_exact(k));
    let (mut changed, mut change, mut compared) = (0, 0.0, 0_usize);
    for (at, (x, y)) in rows.enumerate() {
        let sorted = |row: &[u32]| {
            let mut row = row.to_vec();
            row.sort_unstable();
            row
        };
        changed += usize::from(sorted(x) != sorted(y));
        if x == y {
            let pairs = weights[0][at * k..][..k].iter().zip(&weights[1][at * k..]);
            change += pairs.map(|(x, y)| f64::from((x - y).abs())).sum::<f64>();
            compared += k;
        }
    }
    CodeChanges {
        sub_vectors: one.settings().sub_vectors(),
        changed,
        mean_weight_change: change / compared.max(1) as f64,
    }
}

fn bank_changes(one: &StoredVbLora, other: &StoredVbLora) -> BankChanges {
    let [h, b] = one.own_bank().shape();
    let vectors = [one, other].map(|stored| stored.bank().chunks_exact(b).collect::<Vec<_>>());
    let norms = vectors.each_ref().map(|vectors| {
        let norms = vectors.iter().map(|vector| dot(vector, vector).sqrt());
        norms.collect::<Vec<_>>()
    });
    let cosine = |i: usize, j: usize| {
        let norm = norms[0][i] * norms[1][j];
        if norm > 0.0 {
            dot(vectors[0][i], vectors[1][j]) / norm
        } else {
            0.0
        }
    };
    let own: Vec<f64> = (0..h).map(|i| cosine(i, i)).collect();
    let is_nearest = |i: &usize| (0..h).all(|j| j == *i || cosine(*i, j) <= own[*i]);
    BankChanges {
        vectors: h,
        same_nearest: (0..h).filter(is_nearest).count(),
        least_cosine: own.iter().copied().fold(1.0, f64::min),
        mean_cosine: own.iter().sum::<f64>() / h as f64,
    }
}
