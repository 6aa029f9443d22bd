//! `make-text-task`: makes the bundled data-to-text task, and the pretraining text of the bundled decoder.
//!
//! All text is generated from word lists: places of an invented town, and sentences about them. It contains no text by other authors.

use std::{collections::HashSet, fs, path::PathBuf};

use anyhow::{Context, Result};
use vblora::storage::write_atomically;
use vblora_bench::program::say;

use crate::keyed_hash::keyed_hash;

const ADJECTIVES: [&str; 24] = [
    "Blue", "Red", "Green", "Golden", "Silver", "Old", "New", "Little", "Great", "Happy", "Quiet",
    "Lucky", "White", "Black", "Brown", "Round", "Broken", "Hidden", "Sleeping", "Flying",
    "Crooked", "Merry", "Tall", "Wooden",
];
const NOUNS: [&str; 30] = [
    "Lamp", "Mill", "Fox", "Tree", "House", "Bridge", "River", "Garden", "Clock", "Horse", "Bird",
    "Apple", "Ship", "Star", "Moon", "Door", "Table", "Flower", "Stone", "Bell", "Boat", "Cat",
    "Dog", "Tower", "Window", "Hill", "Bear", "Fish", "Wheel", "Crown",
];
const KINDS: [&str; 8] = [
    "bakery",
    "museum",
    "library",
    "school",
    "restaurant",
    "market",
    "hotel",
    "theater",
];
const AREAS: [&str; 6] = ["harbor", "old town", "park", "north", "center", "valley"];
const PRICES: [&str; 3] = ["cheap", "fair", "expensive"];
const TIMES: [&str; 4] = ["morning", "afternoon", "evening", "night"];

/// Make the bundled data-to-text task (`mr,ref` as in the E2E challenge) and the pretraining text of the bundled decoder
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder for train.csv and dev.csv
    #[arg(long, default_value = "vblora-bench/assets/demo-text")]
    out: PathBuf,
    /// File for the pretraining text, one short story of sentences per line
    #[arg(long)]
    corpus: PathBuf,
    /// Meaning representations of train.csv
    #[arg(long, default_value_t = 1_500)]
    train: usize,
    /// Meaning representations of dev.csv, with two references each
    #[arg(long, default_value_t = 100)]
    dev: usize,
    /// Lines of pretraining text
    #[arg(long, default_value_t = 60_000)]
    stories: usize,
    /// Seed of all draws
    #[arg(long, default_value_t = 20_26)]
    seed: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let seed = arguments.seed;
    let mut seen = HashSet::new();
    let mut fresh = |name: &str, n: usize| {
        let mut places = Vec::new();
        for index in 0.. {
            if places.len() == n {
                break;
            }
            let place = Place::draw(&Draw { seed, name, index });
            if seen.insert(place.meaning()) {
                places.push(place);
            }
        }
        places
    };
    // Dev comes first: no later part may repeat the same facts about the same place.
    let (dev, train) = (fresh("dev", arguments.dev), fresh("train", arguments.train));
    let dev_names: HashSet<&str> = dev.iter().map(|place| place.name.as_str()).collect();
    let line =
        |place: &Place, way| format!("\"{}\",\"{}\"\n", place.meaning(), place.sentences(way));
    let two = |(i, place): (usize, &Place)| [line(place, i), line(place, i + 1)].concat();
    let dev_text: String = dev.iter().enumerate().map(two).collect();
    let train_text: String = train
        .iter()
        .enumerate()
        .map(|(i, place)| line(place, i))
        .collect();
    // No story mentions a place of dev.
    let stories: String = (0..arguments.stories as u64)
        .map(|index| {
            story(&Draw {
                seed,
                name: "story",
                index,
            })
        })
        .filter(|(about, _)| !dev_names.contains(about.as_str()))
        .map(|(_, story)| story + "\n")
        .collect();
    fs::create_dir_all(&arguments.out)
        .with_context(|| format!("cannot create {}", arguments.out.display()))?;
    for (file, text) in [
        (
            arguments.out.join("train.csv"),
            format!("mr,ref\n{train_text}"),
        ),
        (arguments.out.join("dev.csv"), format!("mr,ref\n{dev_text}")),
        (arguments.corpus.clone(), stories),
    ] {
        write_atomically(&file, text.as_bytes())?;
        say(format!("{} bytes  {}", text.len(), file.display()));
    }
    Ok(())
}

/// Random draws that belong to one row.
struct Draw<'a> {
    seed: u64,
    name: &'a str,
    index: u64,
}

impl Draw<'_> {
    fn below(&self, part: &str, n: usize) -> usize {
        let name = format!("{} {part}", self.name);
        (keyed_hash(self.seed, &name, self.index) % n as u64) as usize
    }

    fn pick<'a>(&self, part: &str, of: &[&'a str]) -> &'a str {
        of[self.below(part, of.len())]
    }

    fn place_name(&self, part: &str) -> String {
        let adjective = self.pick(&format!("{part} adjective"), &ADJECTIVES);
        format!(
            "The {adjective} {}",
            self.pick(&format!("{part} noun"), &NOUNS)
        )
    }
}

/// The facts about a place. Name and kind are always given.
struct Place {
    name: String,
    kind: &'static str,
    area: Option<&'static str>,
    price: Option<&'static str>,
    near: Option<String>,
    opens: Option<&'static str>,
    children: Option<bool>,
}

impl Place {
    fn draw(draw: &Draw<'_>) -> Self {
        let has = |part: &str| draw.below(&format!("has {part}"), 3) > 0;
        let name = draw.place_name("name");
        let near = draw.place_name("near");
        Self {
            kind: draw.pick("kind", &KINDS),
            area: has("area").then(|| draw.pick("area", &AREAS)),
            price: has("price").then(|| draw.pick("price", &PRICES)),
            near: (has("near") && near != name).then_some(near),
            opens: has("opens").then(|| draw.pick("opens", &TIMES)),
            children: has("children").then(|| draw.below("children", 2) == 0),
            name,
        }
    }

    /// The slots in the E2E challenge's notation.
    fn meaning(&self) -> String {
        let children = self.children.map(|yes| if yes { "yes" } else { "no" });
        let slots = [
            ("name", Some(self.name.as_str())),
            ("kind", Some(self.kind)),
            ("area", self.area),
            ("price", self.price),
            ("near", self.near.as_deref()),
            ("opens", self.opens),
            ("children", children),
        ];
        let slot = |(slot, value): (&str, Option<&str>)| Some(format!("{slot}[{}]", value?));
        slots
            .into_iter()
            .filter_map(slot)
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// One or two sentences that state all facts, in one of two ways.
    fn sentences(&self, way: usize) -> String {
        let Self { name, kind, .. } = self;
        let price = self
            .price
            .map_or(String::new(), |price| format!("{price} "));
        let area = self
            .area
            .map_or(String::new(), |area| format!(" in the {area}"));
        let near = self
            .near
            .as_ref()
            .map_or(String::new(), |near| format!(" near {near}"));
        let article = if price.starts_with('e') { "an" } else { "a" };
        let first = match way % 2 {
            0 => format!("{name} is {article} {price}{kind}{area}{near}."),
            _ => format!("There is {article} {price}{kind} called {name}{area}{near}."),
        };
        let opens = self.opens.map(|time| format!("opens in the {time}"));
        let children = self.children.map(|yes| match yes {
            true => "welcomes children".to_owned(),
            false => "is not for children".to_owned(),
        });
        let more: Vec<_> = [opens, children].into_iter().flatten().collect();
        match more.as_slice() {
            [] => first,
            more => format!("{first} It {}.", more.join(" and ")),
        }
    }
}

/// A place's name and a few sentences about it that repeat names. A model learns copying from them.
fn story(draw: &Draw<'_>) -> (String, String) {
    let (a, b) = (Place::draw(draw), draw.place_name("other"));
    let [x, y] = [&a.name, &b];
    let kind = draw.pick("other kind", &KINDS);
    let about = a.sentences(draw.below("way", 2));
    let story = match draw.below("story", 6) {
        0 => about,
        1 => format!("{x} and {y} are old friends of the town. {about} {y} is a {kind}."),
        2 => format!("We went to {x}. {about} We liked {x} more than {y}."),
        3 => format!("{y} is a {kind}. {about} Many people who know {y} go to {x} too."),
        4 => format!("Where is {x}? {about} Where is {y}? {y} is a {kind} near {x}."),
        _ => format!(
            "{x}, {y}, {x}, {y}. {about} The {} is {x} and the {kind} is {y}.",
            a.kind
        ),
    };
    (a.name, story)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn place(index: u64) -> Place {
        Place::draw(&Draw {
            seed: 1,
            name: "test",
            index,
        })
    }

    #[test]
    fn sentences_say_every_slot_in_both_ways() {
        for place in (0..200).map(place) {
            for way in [0, 1] {
                let text = place.sentences(way);
                let parts = [
                    Some(place.name.as_str()),
                    Some(place.kind),
                    place.area,
                    place.price,
                    place.near.as_deref(),
                    place.opens,
                ];
                for part in parts.into_iter().flatten() {
                    assert!(text.contains(part), "{text} lacks {part}");
                }
                assert_eq!(
                    text.contains("children"),
                    place.children.is_some(),
                    "{text}"
                );
                assert!(!text.contains("  ") && text.ends_with('.'), "{text}");
            }
            assert_ne!(place.sentences(0), place.sentences(1));
        }
    }

    #[test]
    fn the_bundled_task_is_what_the_command_makes() {
        let dir = tempfile::tempdir().unwrap();
        let made = Arguments {
            out: dir.path().join("task"),
            corpus: dir.path().join("corpus.txt"),
            train: 1_500,
            dev: 100,
            stories: 100,
            seed: 20_26,
        };
        run(&made).unwrap();
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../vblora-bench/assets/demo-text"
        );
        for file in ["train.csv", "dev.csv"] {
            let bundled = fs::read_to_string(PathBuf::from(folder).join(file)).unwrap();
            let made = fs::read_to_string(made.out.join(file)).unwrap();
            assert!(made == bundled, "{file} differs");
            let readme = fs::read_to_string(PathBuf::from(folder).join("README.md")).unwrap();
            let sum = format!("{:x}", Sha256::digest(bundled.as_bytes()));
            assert!(readme.contains(&sum), "README.md has another checksum");
        }
    }
}
