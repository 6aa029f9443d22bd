//! The selection viewer: one HTML file that shows the recorded steps of a run. It needs no server and no network.
//!
//! The template `page.html` takes the title, `style.css`, `selections.js`, `viewer.js` and the data. The data is a JSON object (`Data`).
//! The selections in it are Base64 of the recording's encoding.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Serialize;

use crate::{
    analysis::{Side, churn, dead, entropy, row_places, uses},
    recordings::{Frame, Picks, Recording},
    report::html,
};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SELECTIONS: &str = include_str!("selections.js");
const SCRIPT: &str = include_str!("viewer.js");

/// The data for the script.
#[derive(Serialize)]
struct Data<'a> {
    title: String,
    note: String,
    h: usize,
    k: usize,
    s: usize,
    rank: usize,
    steps_per_epoch: u64,
    sites: Vec<Site<'a>>,
    /// For each recorded selection, the steps taken and its bytes in `bodies`.
    steps: Vec<u64>,
    lengths: Vec<usize>,
    entropy: Vec<f64>,
    churn: Vec<f64>,
    dead: Vec<usize>,
    /// Encoded selections in Base64.
    bodies: String,
}

#[derive(Serialize)]
struct Site<'a> {
    name: &'a str,
    layer: Option<usize>,
    role: &'a str,
    /// The rows of A and of B, each from start to end.
    rows: [[usize; 2]; 2],
}

/// The values for the template.
#[derive(Serialize)]
struct Page {
    title: String,
    style: &'static str,
    selections: &'static str,
    script: &'static str,
    /// The data as JSON.
    data: String,
}

/// Renders the page of a recording.
pub fn viewer(recording: &Recording) -> String {
    let data = serde_json::to_string(&data(recording)).expect("names and finite numbers alone");
    // This character could end the script element, or start a comment in it.
    let data = data.replace('<', "\\u003c");
    html(
        PAGE,
        Page {
            title: recording.header().title(),
            style: STYLE,
            selections: SELECTIONS,
            script: SCRIPT,
            data,
        },
    )
}

fn data(recording: &Recording) -> Data<'_> {
    let header = recording.header();
    let [h, k, s] = header.sizes();
    let differences: Vec<_> = recording.differences().collect();
    let bodies: Vec<u8> = differences
        .iter()
        .flat_map(|(_, body)| *body)
        .copied()
        .collect();
    let mut data = Data {
        title: header.title(),
        note: recording.damage().map_or(String::new(), |damage| {
            format!("The recording is damaged: {damage}.")
        }),
        h,
        k,
        s,
        rank: header.settings.config().rank,
        steps_per_epoch: header.steps_per_epoch,
        sites: sites(recording),
        steps: differences.iter().map(|(step, _)| *step).collect(),
        lengths: differences.iter().map(|(_, body)| body.len()).collect(),
        entropy: Vec::new(),
        churn: Vec::new(),
        dead: Vec::new(),
        bodies: BASE64_STANDARD.encode(bodies),
    };
    let mut before: Option<Picks> = None;
    for Frame { picks, .. } in recording.frames() {
        let uses = uses(&picks, h);
        data.entropy.push(rounded(entropy(&uses)));
        data.dead.push(dead(&uses).len());
        let new = before.map_or(0.0, |before| churn(&before, &picks));
        data.churn.push(rounded(new));
        before = Some(picks);
    }
    data
}

fn sites(recording: &Recording) -> Vec<Site<'_>> {
    let settings = &recording.header().settings;
    let places = row_places(settings);
    let rows = |site: usize, side: Side| {
        let is_in = |place: &(usize, Side)| *place == (site, side);
        let from = places.iter().position(is_in).unwrap_or(0);
        let count = places.iter().filter(|place| is_in(place)).count();
        [from, from + count]
    };
    let sites = settings.plan().sites().iter().enumerate();
    sites
        .map(|(number, site)| Site {
            name: &site.name,
            layer: site.layer(),
            role: site.role(),
            rows: [rows(number, Side::A), rows(number, Side::B)],
        })
        .collect()
}

fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

#[cfg(test)]
#[allow(clippy::print_stdout)]
mod tests {
    use super::*;
    use crate::recordings::tests::{file, frames, header, picks};

    fn recording(run: &str) -> Recording {
        let of = |a: u32, b: u32| picks(2, &[a, b].repeat(12), &[204, 51].repeat(12));
        let frames = [(0, of(0, 1)), (8, of(2, 1))];
        let frames = frames.map(|(step, picks)| Frame { step, picks });
        let bank = [0.5; 36];
        let mut header = header(9, 2);
        header.run = run.into();
        Recording::from_bytes(file(&header, &frames, [&bank, &bank])).unwrap()
    }

    /// The JSON in the page.
    fn data_of(page: &str) -> serde_json::Value {
        let start = page
            .split("<script type=\"application/json\" id=\"data\">")
            .nth(1)
            .unwrap();
        serde_json::from_str(start.split("</script>").next().unwrap()).unwrap()
    }

    #[test]
    fn the_page_holds_every_selection_and_what_is_told_of_it() {
        let recording = recording("vblora seed 1");
        let data = data_of(&viewer(&recording));
        assert_eq!(data["steps"], serde_json::json!([0, 8]));
        // Half of all selected vectors are new. Two of nine vectors are used at a time.
        assert_eq!(data["churn"], serde_json::json!([0.0, 0.5]));
        assert_eq!(data["dead"], serde_json::json!([7, 7]));
        let entropy = 2_f64.ln() / 9_f64.ln();
        assert!((data["entropy"][1].as_f64().unwrap() - entropy).abs() < 1e-4);
        assert_eq!(
            data["sites"][1]["rows"],
            serde_json::json!([[3, 5], [5, 6]])
        );
        assert_eq!(data["sites"][3]["layer"], 1);
        let bodies = BASE64_STANDARD
            .decode(data["bodies"].as_str().unwrap())
            .unwrap();
        let expected: Vec<u8> = recording
            .differences()
            .flat_map(|(_, b)| b.to_vec())
            .collect();
        assert_eq!(bodies, expected);
        let lengths: usize = data["lengths"]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| l.as_u64().unwrap() as usize)
            .sum();
        assert_eq!(lengths, bodies.len());
    }

    #[test]
    fn the_page_asks_for_nothing_and_names_cannot_leave_their_place() {
        let page = viewer(&recording("</script><b>{style} & {data}"));
        for word in [
            "http:", "https:", "src=", "@import", "url(", "fetch(", "<b>",
        ] {
            assert!(!page.contains(word), "{word}");
        }
        assert_eq!(page.matches("</script>").count(), 3);
        let title = data_of(&page)["title"].as_str().unwrap().to_owned();
        assert!(
            title.starts_with("</script><b>{style} & {data}, demo"),
            "{title}"
        );
    }

    /// Selections after 40 random steps. The script goes back and forth between them in Node.js, if that is installed.
    #[test]
    fn the_script_reads_what_was_recorded() {
        const ORDER: [usize; 9] = [0, 39, 1, 33, 32, 31, 39, 5, 38];
        let frames = frames(300, 3, 40, 9);
        let bank = vec![0.5; 1200];
        let bytes = file(&header(300, 3), &frames, [&bank, &bank]);
        let recording = Recording::from_bytes(bytes).unwrap();
        assert_eq!(recording.damage(), None);
        let data = serde_json::to_string(&data(&recording)).unwrap();
        let script = format!(
            "{SELECTIONS}\nconst data = {data};\nconst now = new Selections(data);\nfor (const f of {ORDER:?}) {{ now.goTo(f); console.log(`[[${{now.indices}}],[${{now.weights}}]]`); }}"
        );
        let node = std::process::Command::new("node")
            .args(["-e", &script])
            .output();
        let Ok(output) = node else {
            println!("skipped: no Node.js");
            return;
        };
        let lines = String::from_utf8(output.stdout).unwrap();
        let found: Vec<[Vec<u32>; 2]> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            found.len(),
            ORDER.len(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        for (at, [indices, weights]) in ORDER.into_iter().zip(found) {
            let rows = frames[at].picks.rows();
            let (i, w): (Vec<_>, Vec<_>) = rows.unzip();
            assert_eq!(indices, i.concat(), "{at}");
            assert_eq!(
                weights,
                w.concat().into_iter().map(u32::from).collect::<Vec<_>>(),
                "{at}"
            );
        }
    }
}
