use vblora::count;

use super::{bars::Histogram, grid::runs, *};
use crate::{
    analysis::Cells,
    recordings::{
        FOLDER, Frame,
        tests::{file, header, picks},
    },
    results::test_run,
    sweep::{Plan, PlannedRun, Store, record_tests::record},
};

/// Twelve sub-vectors with k = 2 over nine vectors: most move from vectors 0 and 1 to 2 and 3.
fn bytes(name: &str) -> Vec<u8> {
    let of = |a: u32, b: u32| {
        let mut indices = [a, b].repeat(12);
        indices[..2].copy_from_slice(&[0, 8]);
        picks(2, &indices, &[204, 51].repeat(12))
    };
    let frames = [(0, of(0, 1)), (8, of(2, 1)), (15, of(2, 3))];
    let frames = frames.map(|(step, picks)| Frame { step, picks });
    let bank: Vec<f32> = (0..36).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut header = header(9, 2);
    header.run = name.into();
    file(&header, &frames, [&bank, &bank])
}

fn recording(name: &str) -> Recording {
    Recording::from_bytes(bytes(name)).unwrap()
}

#[track_caller]
fn assert_is_svg(svg: &str) {
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
}

#[test]
fn a_run_has_seven_figures_that_say_run_settings_and_score() {
    let result = test_run("vblora", "qv", 1, &[0.7, 0.8]);
    let made = figures(&recording("vblora seed 1"), Some(&result)).unwrap();
    let names: Vec<_> = made.iter().map(|figure| &figure.name[..4]).collect();
    assert_eq!(
        names,
        ["fig3", "fig4", "fig5", "fig6", "fig7", "fig8", "fig9"]
    );
    for figure in &made {
        assert_is_svg(&figure.svg);
        assert!(figure.svg.contains(&figure.title), "{}", figure.name);
        assert!(
            figure
                .title
                .contains("vblora seed 1, demo: h = 9, b = 4, r = 1, k = 2")
        );
        assert!(
            figure
                .caption
                .contains("best dev accuracy is 0.8000, after epoch 2")
        );
    }
    assert!(
        made[5].caption.contains("k S / h = 2.7"),
        "{}",
        made[5].caption
    );
    assert!(
        made[5].caption.contains("5 of 9 unused"),
        "{}",
        made[5].caption
    );
    assert!(made[6].caption.contains("PCA, not the paper's t-SNE"));
}

/// Filled rectangles of a colour.
fn rectangles(svg: &str, colour: &str) -> usize {
    let is_one =
        |line: &&str| line.starts_with("<rect") && line.contains(&format!("fill=\"{colour}\""));
    svg.lines().filter(is_one).count()
}

#[test]
fn what_is_given_up_taken_up_and_kept_has_a_colour_of_its_own() {
    let Figure { svg, caption, .. } = changes(&recording("r")).unwrap();
    // Eleven sub-vectors have 0 and 1 as one bar, then 2 and 3. The first keeps two that are apart. The legend adds one of each.
    let of = |colour| rectangles(&svg, colour);
    assert_eq!((of("#E69F00"), of("#0072B2"), of("#003C2D")), (12, 12, 3));
    assert!(
        caption.contains("2 of the last 24 were there at first"),
        "{caption}"
    );
}

#[test]
fn windows_have_a_panel_each_and_runs_too() {
    // Steps 0, 8 and 15 with 5 steps per epoch are in epochs 1, 2 and 3.
    let figure = footprint_windows(&recording("r")).unwrap();
    for words in ["epoch 1", "epoch 2", "epoch 3"] {
        assert!(figure.svg.contains(words));
    }
    assert!(
        figure.caption.contains("2.0 in epoch 1"),
        "{}",
        figure.caption
    );
    let (first, second) = (recording("first<run>"), recording("second"));
    let both = footprints(&[&first, &second]).unwrap();
    assert!(both.svg.contains("first&lt;run&gt;, demo") && both.svg.contains("second, demo"));
    // Eleven sub-vectors used 0 to 3, one 0 and 8.
    assert!(
        both.caption.contains("second: 3.8 different"),
        "{}",
        both.caption
    );
    assert_is_svg(&both.svg);
}

#[test]
fn bars_name_the_heaviest_vectors_of_each_group() {
    let thirds = mass_by_third(&recording("r")).unwrap().svg;
    assert!(thirds.contains("layer 0") && thirds.contains("layer 1"));
    assert!(thirds.contains("#2") && thirds.contains("#3"));
    let roles = mass_by_role(&recording("r")).unwrap().svg;
    for name in ["query A", "query B", "value A", "value B"] {
        assert!(roles.contains(name), "{name}");
    }
}

#[test]
fn cells_above_one_another_are_one_bar_and_large_banks_share_rows() {
    let cells = Cells::from([(0, 1), (0, 2), (0, 5), (1, 3)]);
    assert_eq!(runs(&cells, 1), [(0, 1, 3), (0, 5, 6), (1, 3, 4)]);
    assert_eq!(runs(&cells, 2), [(0, 0, 6), (1, 2, 4)]);
}

#[test]
fn a_histogram_counts_every_vector_once() {
    let of = |uses: &[usize]| Histogram { uses, mean: 0.0 }.bars();
    assert_eq!(of(&[3, 5, 3]), (1, vec![(3, 2), (4, 0), (5, 1)]));
    let wide: Vec<usize> = (0..200).collect();
    let (span, bars) = of(&wide);
    assert_eq!((span, bars.iter().map(|(_, n)| n).sum::<usize>()), (4, 200));
    assert_eq!(bars[1], (4, 4));
    assert_eq!(of(&[]), (1, vec![(0, 0)]));
}

#[test]
fn numbers_on_axes_are_short() {
    let of = |number: f64| crate::chart::plain_number(number);
    let found = [5.0, 0.1 + 0.2, -0.0, 120.0, -0.25].map(of);
    assert_eq!(found, ["5", "0.3", "0", "120", "-0.25"]);
}

/// Figure 3 shows the two runs of the lowest seed out of three. The other figures show the better one.
#[test]
fn a_sweep_has_the_footprints_of_its_first_seed_and_the_best_run_in_full() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(sweep_figures(dir.path()).unwrap(), []);
    let mut store = Store::open(dir.path()).unwrap();
    let mut runs = Vec::new();
    for (id, seed, accuracy) in [("late", 2, 0.9), ("worse", 1, 0.7), ("better", 1, 0.8)] {
        let record = record(id, "vblora", seed, &[accuracy]);
        runs.push(PlannedRun {
            name: record.name.clone(),
            table: None,
            id: id.into(),
            count: count::dense(1),
            head: 0,
            steps: 1,
            rows: [1, 1],
            config: record.config.clone(),
        });
        store.add(record).unwrap();
        let file = store.run_dir(id).join(FOLDER).join("x.rec");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes(id)).unwrap();
    }
    let plan = Plan {
        sweep: "s".into(),
        about: String::new(),
        tables: Default::default(),
        runs,
    };
    store.save_plan(&plan).unwrap();
    let made = sweep_figures(dir.path()).unwrap();
    let names: Vec<_> = made.iter().map(|figure| &figure.name[..17]).collect();
    let expected = [3, 4, 5, 6, 7, 8, 9].map(|n| format!("selections-1-fig{n}"));
    assert_eq!(names, expected);
    let all = &made[0].caption;
    assert!(all.contains("worse") && all.contains("better") && !all.contains("late"));
    assert!(
        made[1..]
            .iter()
            .all(|figure| figure.title.contains("better"))
    );
}
