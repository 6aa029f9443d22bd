//! `cargo xtask scaling`: measures the cost of a training step as batches, rows and models grow. It makes a table and a picture.

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, ensure};
use burn::backend::Flex;
use clap::Args;
use vblora::storage::write_atomically;
use vblora_bench::{
    chart::{self, Plot, Series, draw_plots, marks},
    commands::progress,
    program::say,
};
use vblora_models::{Encoder, EncoderConfig};

use crate::{
    compare::{Pass, Shape, encoder_step},
    memory::Peak,
};

/// Measure VB-LoRA steps on every linear map at RoBERTa-base's width (random weights, f32, flex), one size growing at a time
#[derive(Args)]
pub(crate) struct Arguments {
    /// Number of steps of each size; the median counts
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// File for the picture
    #[arg(long, value_name = "FILE", default_value = "scaling.svg")]
    out: PathBuf,
}

/// The sizes of the base case. An axis changes one of them.
const BASE: Sizes = Sizes {
    rows: 8,
    columns: 128,
    layers: 12,
};

#[derive(Debug, Clone, Copy, PartialEq)]
struct Sizes {
    rows: usize,
    columns: usize,
    layers: usize,
}

/// A size that grows: its name and its values.
type Axis = (&'static str, Vec<(usize, Sizes)>);

#[derive(Debug, Clone, Copy)]
struct Point {
    size: usize,
    ms: f64,
    peak_mib: Option<f64>,
}

fn axes() -> [Axis; 3] {
    let axis = |values: &[usize], set: fn(usize) -> Sizes| {
        values.iter().map(|&value| (value, set(value))).collect()
    };
    [
        (
            "rows of 128 tokens",
            axis(&[1, 2, 4, 8, 16, 32], |rows| Sizes { rows, ..BASE }),
        ),
        (
            "tokens of each of 8 rows",
            axis(&[32, 64, 128, 256, 512], |columns| Sizes {
                columns,
                ..BASE
            }),
        ),
        (
            "layers, 8 rows of 128 tokens",
            axis(&[6, 12, 18, 24], |layers| Sizes { layers, ..BASE }),
        ),
    ]
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        arguments.repetitions > 0,
        "--repetitions: at least 1, found 0"
    );
    let axes = axes();
    let all = axes.iter().map(|(_, sizes)| sizes.len() as u64).sum();
    let bar = progress::bar(all, "steps");
    let mut measured = Vec::new();
    for (name, sizes) in axes {
        let mut points = Vec::new();
        for (size, sizes) in sizes {
            bar.set_message(format!("{name}: {size}"));
            points.push(measure(size, sizes, arguments.repetitions)?);
            bar.inc(1);
        }
        measured.push((name, points));
    }
    bar.finish_and_clear();
    say(table(&measured));
    write_atomically(&arguments.out, draw(&measured)?.as_bytes())?;
    say(arguments.out.display());
    Ok(())
}

fn measure(size: usize, sizes: Sizes, repetitions: usize) -> Result<Point> {
    let device = Default::default();
    let config = EncoderConfig {
        num_layers: sizes.layers,
        ..EncoderConfig::roberta_base().without_dropout()
    };
    let base = Encoder::<Flex>::random(config, 1, &device)?;
    let batch = Shape::without_padding(sizes.rows, sizes.columns).batch(base.config().pad_token_id);
    let (mut learner, batch) = encoder_step(&base, Pass::VbLoraAll.adapter(), batch, &device)?;
    let process = std::process::id();
    // The first step allocates memory from the system, later steps reuse it.
    learner.step(0, std::slice::from_ref(&batch), 1.0)?;
    Peak::Resident.reset(process);
    let mut times = Vec::new();
    for step in 1..=repetitions {
        let start = Instant::now();
        let report = learner.step(step, std::slice::from_ref(&batch), 1.0)?;
        ensure!(report.is_finite(), "step {step}: {report:?}");
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(Point {
        size,
        ms: times[repetitions / 2],
        peak_mib: Peak::Resident.mib(process),
    })
}

/// The cost of a unit of an axis at each size, relative to the smallest size.
fn table(measured: &[(&str, Vec<Point>)]) -> String {
    let mut lines = vec![
        "| growing | size | ms | ms a unit | of the largest's | peak, MiB |".to_owned(),
        "| --- | ---: | ---: | ---: | ---: | ---: |".to_owned(),
    ];
    for (name, points) in measured {
        let unit = |point: &Point| point.ms / point.size as f64;
        let last = points.last().map_or(1.0, unit);
        lines.extend(points.iter().map(|point| {
            let (size, ms, unit) = (point.size, point.ms, unit(point));
            let peak = point.peak_mib.map_or("-".into(), |mib| format!("{mib:.0}"));
            let share = unit / last;
            format!("| {name} | {size} | {ms:.0} | {unit:.2} | {share:.2} | {peak} |")
        }));
    }
    lines.join("\n")
}

/// One plot per axis on logarithmic scales, with a line of proportional cost through the largest size.
fn draw(measured: &[(&str, Vec<Point>)]) -> Result<String> {
    let plots: Vec<Plot> = measured
        .iter()
        .filter_map(|(name, points)| plot(name, points))
        .collect();
    let title = "Time of a training step as its sizes grow. VB-LoRA on every linear map, width of RoBERTa-base, CPU; \
                 dashed: in proportion to the size, through the largest";
    Ok(draw_plots(title, &plots)?)
}

fn plot(name: &str, points: &[Point]) -> Option<Plot> {
    let (first, last) = (points.first()?, points.last()?);
    let times = || points.iter().map(|point| point.ms);
    let at = |point: &Point| (point.size as f64, point.ms);
    let in_proportion = |point: &Point| {
        (
            point.size as f64,
            last.ms * point.size as f64 / last.size as f64,
        )
    };
    let low = times().fold(in_proportion(first).1, f64::min);
    let high = times().fold(0.0, f64::max);
    let [mark] = marks(["vblora"])[..] else {
        return None;
    };
    Some(Plot {
        x: chart::Axis {
            places: points.iter().map(|point| point.size as f64).collect(),
            ..chart::Axis::log(name, first.size as f64 / 1.2..last.size as f64 * 1.2)
        },
        y: chart::Axis::log("ms a step", low / 1.3..high * 1.3),
        series: vec![
            Series::dashes([in_proportion(first), in_proportion(last)]),
            Series::line("", mark, points.iter().map(at)),
        ],
    })
}
