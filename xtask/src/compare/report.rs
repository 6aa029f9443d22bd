//! The results: JSON for programs, a table for people.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use serde::Serialize;

use super::work::Work;

#[derive(Serialize)]
pub(super) struct Report {
    pub(super) machine: String,
    pub(super) versions: BTreeMap<String, String>,
    pub(super) rows: Vec<Row>,
}

/// One work: medians over the pairs, and ratios of each pair (ours / reference; below 1 is faster).
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) work: String,
    pub(super) ours_ms: f64,
    pub(super) reference_ms: f64,
    pub(super) ratio: f64,
    pub(super) ratio_min: f64,
    pub(super) ratio_max: f64,
    pub(super) ours_peak_mb: Option<f64>,
    pub(super) reference_peak_mb: Option<f64>,
    /// The most MiB that tensors took on the device, without what allocators keep for later. Ours is what a thread saw that looks often.
    pub(super) ours_allocated_mb: Option<f64>,
    pub(super) reference_allocated_mb: Option<f64>,
    /// 10^12 floating-point operations per second in the base's products and attention.
    pub(super) ours_tflops: Option<f64>,
    pub(super) reference_tflops: Option<f64>,
    /// Milliseconds of the reference's other forms, by form.
    pub(super) others_ms: BTreeMap<&'static str, f64>,
    /// Ours divided by the fastest form.
    pub(super) ratio_to_fastest: f64,
    /// Milliseconds from the start of the preparation to the end of the first repetition, including kernel compilation.
    pub(super) ours_first_ms: f64,
}

/// The most memory that ours and the reference took, in MiB.
#[derive(Default)]
pub(super) struct Peaks {
    pub(super) of_process: [Option<f64>; 2],
    pub(super) allocated: [Option<f64>; 2],
}

impl Row {
    /// `pairs` holds milliseconds of one repetition, ours and the reference's; `others` those of the reference's other forms.
    pub(super) fn new(
        work: Work,
        pairs: &[(f64, f64)],
        others: Vec<(&'static str, Vec<f64>)>,
        first: f64,
        peaks: Peaks,
    ) -> Self {
        let ours_ms = median(pairs.iter().map(|(ours, _)| *ours));
        let reference_ms = median(pairs.iter().map(|(_, theirs)| *theirs));
        let ratios = || pairs.iter().map(|(ours, theirs)| ours / theirs);
        let others_ms: BTreeMap<_, _> = others
            .into_iter()
            .map(|(form, times)| (form, median(times.into_iter())))
            .collect();
        let fastest = others_ms.values().copied().fold(reference_ms, f64::min);
        let rate = |ms: f64| work.operations().map(|n| n / ms / 1e9);
        Self {
            work: work.to_string(),
            ours_ms,
            reference_ms,
            ratio: median(ratios()),
            ratio_min: ratios().fold(f64::INFINITY, f64::min),
            ratio_max: ratios().fold(0.0, f64::max),
            ours_peak_mb: peaks.of_process[0],
            reference_peak_mb: peaks.of_process[1],
            ours_allocated_mb: peaks.allocated[0],
            reference_allocated_mb: peaks.allocated[1],
            ours_tflops: rate(ours_ms),
            reference_tflops: rate(reference_ms),
            others_ms,
            ratio_to_fastest: ours_ms / fastest,
            ours_first_ms: first,
        }
    }
}

impl Row {
    /// The cells of the other forms and of the ratio to the fastest, if any row has such.
    fn others(&self, forms: &BTreeSet<&&'static str>) -> String {
        let mut out = String::new();
        for form in forms {
            let cell = self.others_ms.get(**form);
            out += &format!(" {} |", cell.map_or("-".into(), |ms| significant(*ms)));
        }
        if !forms.is_empty() {
            out += &format!(" {:.2} |", self.ratio_to_fastest);
        }
        out
    }
}

/// The middle value, or the mean of the two middle values; 0 without values.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match (n, n % 2) {
        (0, _) => 0.0,
        (_, 1) => values[n / 2],
        _ => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

impl Report {
    /// The table as Markdown.
    pub(super) fn table(&self) -> String {
        let mut out = format!("{}; {}\n\n", self.machine, self.versions());
        let forms: BTreeSet<_> = self
            .rows
            .iter()
            .flat_map(|row| row.others_ms.keys())
            .collect();
        let of_forms =
            |cell: &dyn Fn(&str) -> String| forms.iter().map(|form| cell(form)).collect::<String>();
        let names = of_forms(&|form| format!(" {form}, ms |"));
        let (fastest, rule) = if forms.is_empty() {
            ("", "")
        } else {
            (" ours / fastest |", " ---: |")
        };
        out += &format!(
            "| work | ours, ms | reference, ms | ratio | min to max |{names}{fastest} TFLOP/s | peak, MiB | in tensors, MiB |\n"
        );
        let rules = of_forms(&|_| " ---: |".into());
        out += &format!("| --- | ---: | ---: | ---: | --- |{rules}{rule} --- | --- | --- |\n");
        for row in &self.rows {
            let both = |a: Option<f64>, b: Option<f64>, digits: usize| match (a, b) {
                (Some(a), Some(b)) => format!("{a:.digits$} / {b:.digits$}"),
                (Some(a), None) => format!("{a:.digits$} / -"),
                _ => "-".into(),
            };
            writeln!(
                out,
                "| {} | {} | {} | {:.2} | {:.2} to {:.2} |{} {} | {} | {} |",
                row.work,
                significant(row.ours_ms),
                significant(row.reference_ms),
                row.ratio,
                row.ratio_min,
                row.ratio_max,
                row.others(&forms),
                both(row.ours_tflops, row.reference_tflops, 1),
                both(row.ours_peak_mb, row.reference_peak_mb, 0),
                both(row.ours_allocated_mb, row.reference_allocated_mb, 0),
            )
            .expect("a string takes everything");
        }
        out + &self.shares()
    }

    fn versions(&self) -> String {
        let versions: Vec<_> = self
            .versions
            .iter()
            .map(|(name, v)| format!("{name} {v}"))
            .collect();
        versions.join(", ")
    }

    /// The adapter's share of a step, compared with a step whose gradients flow equally far down.
    fn shares(&self) -> String {
        let mut out = String::new();
        for row in &self.rows {
            let bare = row.work.replace("vblora-all", "gradient-flow");
            let Some(bare) = self
                .rows
                .iter()
                .find(|other| bare != row.work && other.work == bare)
            else {
                continue;
            };
            let share = |with: f64, without: f64| 100.0 * (with / without - 1.0);
            writeln!(
                out,
                "\n{} adds to {}: ours {:.1} %, reference {:.1} %",
                row.work,
                bare.work,
                share(row.ours_ms, bare.ours_ms),
                share(row.reference_ms, bare.reference_ms)
            )
            .expect("a string takes everything");
        }
        out
    }
}

/// At least four digits, with all digits before the point.
fn significant(ms: f64) -> String {
    let digits = (3 - ms.abs().log10().floor() as i32).clamp(0, 3) as usize;
    format!("{ms:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let work: Work = "product/1000".parse().unwrap();
        let pairs = [(1.0, 2.0), (4.0, 4.0), (3.0, 12.0)];
        let row = Row::new(work, &pairs, Vec::new(), 0.0, Peaks::default());
        assert_eq!((row.ours_ms, row.reference_ms), (3.0, 4.0));
        assert_eq!((row.ratio, row.ratio_min, row.ratio_max), (0.5, 0.25, 1.0));
        // 2 * 10^9 operations in 3 ms.
        assert!((row.ours_tflops.unwrap() - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn the_table_says_what_the_adapter_adds() {
        let row = |work: &str, ms: f64| {
            let work: Work = work.parse().unwrap();
            Row::new(work, &[(ms, 2.0 * ms)], Vec::new(), 0.0, Peaks::default())
        };
        let report = Report {
            machine: "a machine".into(),
            versions: BTreeMap::from([("torch".into(), "2".into())]),
            rows: vec![
                row("roberta-base/gradient-flow/8x128", 100.0),
                row("roberta-base/vblora-all/8x128", 104.0),
            ],
        };
        let table = report.table();
        assert!(
            table.contains("| roberta-base/vblora-all/8x128 | 104.0 | 208.0 | 0.50 |"),
            "{table}"
        );
        assert!(table.contains("ours 4.0 %, reference 4.0 %"), "{table}");
    }

    #[test]
    fn the_fastest_form_is_beside_the_first() {
        let work: Work = "product/1000".parse().unwrap();
        let others = vec![("graph", vec![1.0, 3.0, 2.0])];
        let graph = Row::new(work, &[(3.0, 4.0)], others, 0.0, Peaks::default());
        assert_eq!(graph.ratio_to_fastest, 1.5);
        let eager = Row::new(work, &[(3.0, 4.0)], Vec::new(), 0.0, Peaks::default());
        assert_eq!(eager.ratio_to_fastest, 0.75);
        let report = Report {
            machine: "a machine".into(),
            versions: BTreeMap::new(),
            rows: vec![graph, eager],
        };
        let table = report.table();
        assert!(table.contains("| 0.75 to 0.75 | 2.000 | 1.50 |"), "{table}");
        assert!(table.contains("| 0.75 to 0.75 | - | 0.75 |"), "{table}");
        assert!(table.contains("graph, ms | ours / fastest |"), "{table}");
    }
}
