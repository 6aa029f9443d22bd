//! `cargo xtask scaling`: what a training step costs as batches, rows and models grow, as a table and a picture.

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, anyhow, ensure};
use burn::backend::Flex;
use clap::Args;
use plotters::prelude::*;
use vblora::storage::write_atomically;
use vblora_bench::{commands::progress, program::say};
use vblora_models::{EncoderConfig, Roberta};

use crate::{
    compare::{Pass, Shape, encoder_step},
    memory::Peak,
};

/// Measures VB-LoRA steps on every linear map at RoBERTa-base's width (random weights, f32, flex), one size growing at a time.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Steps of each size, of which the median counts.
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Where the picture goes.
    #[arg(long, value_name = "FILE", default_value = "scaling.svg")]
    out: PathBuf,
}

/// A step's sizes; of one axis all but one are these.
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

/// A size that grows: its name, and what it is set to.
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
    let svg = draw(&measured).map_err(|e| anyhow!("the picture was not drawn: {e}"))?;
    write_atomically(&arguments.out, svg.as_bytes())?;
    say(arguments.out.display());
    Ok(())
}

fn measure(size: usize, sizes: Sizes, repetitions: usize) -> Result<Point> {
    let device = Default::default();
    let config = EncoderConfig {
        num_layers: sizes.layers,
        ..EncoderConfig::roberta_base().without_dropout()
    };
    let base = Roberta::<Flex>::random(config, 1, &device)?;
    let batch = Shape::without_padding(sizes.rows, sizes.columns).batch(base.config().pad_token_id);
    let (mut learner, batch) = encoder_step(&base, Pass::VbLoraAll, batch, &device)?;
    let process = std::process::id();
    // The first step takes memory from the system that later ones take from the allocator.
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

/// What a unit of an axis costs at each size, beside what it costs at the smallest.
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

/// One panel an axis, both scales logarithmic, with the line of proportion through the largest size.
fn draw(measured: &[(&str, Vec<Point>)]) -> Result<String> {
    const SIZE: (u32, u32) = (1080, 360);
    const BLUE: RGBColor = RGBColor(0, 114, 178);
    const GREY: RGBColor = RGBColor(150, 150, 150);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        for (area, (name, points)) in root.split_evenly((1, measured.len())).iter().zip(measured) {
            let (Some(first), Some(last)) = (points.first(), points.last()) else {
                continue;
            };
            let times = points.iter().map(|p| p.ms);
            let low = times.clone().fold(f64::INFINITY, f64::min) / 1.5;
            let high = times.fold(0.0, f64::max) * 1.5;
            let (left, right) = (first.size as f64 / 1.2, last.size as f64 * 1.2);
            let mut chart = ChartBuilder::on(area)
                .margin(12)
                .x_label_area_size(40)
                .y_label_area_size(58)
                .build_cartesian_2d((left..right).log_scale(), (low..high).log_scale())
                .map_err(failed)?;
            chart
                .configure_mesh()
                .x_desc(*name)
                .y_desc("ms a step")
                .x_label_formatter(&|x| format!("{x:.0}"))
                .y_label_formatter(&|y| format!("{y:.0}"))
                .light_line_style(WHITE)
                .draw()
                .map_err(failed)?;
            let line = |x: f64| (x, last.ms * x / last.size as f64);
            let ends = [first, last].map(|p| line(p.size as f64));
            chart
                .draw_series(LineSeries::new(ends, GREY.stroke_width(1)))
                .map_err(failed)?;
            let at = points.iter().map(|p| (p.size as f64, p.ms));
            chart
                .draw_series(LineSeries::new(at.clone(), BLUE.stroke_width(2)))
                .map_err(failed)?;
            chart
                .draw_series(at.map(|at| Circle::new(at, 4, BLUE.filled())))
                .map_err(failed)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(text)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}
