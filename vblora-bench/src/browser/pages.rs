//! The viewer and the report's page, loaded from files.

use std::path::Path;

use super::driver::Browser;
use crate::{
    recordings::{
        Recording,
        tests::{file, frames, header},
    },
    report::test_page,
    view::viewer,
};

/// WebDriver's key codes.
const TAB: char = '\u{e004}';
const RIGHT: char = '\u{e014}';
const LEFT: char = '\u{e012}';
const DOWN: char = '\u{e015}';
const HOME: char = '\u{e011}';
const END: char = '\u{e010}';

/// Window widths of a phone and of a desktop screen.
const NARROW: u32 = 400;
const WIDE: u32 = 1200;

/// Writes a page, loads it, runs `check`, and asserts that the console and the network stayed quiet.
fn with_page(html: &str, check: impl Fn(&Browser)) {
    let Some(browser) = Browser::start() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("page.html");
    std::fs::write(&path, html).unwrap();
    for width in [WIDE, NARROW] {
        browser.open(&path, width);
        let overflow =
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
        assert_eq!(browser.run(overflow), 0, "wider than {width} pixels");
        check(&browser);
        assert_eq!(browser.run(overflow), 0, "wider than {width} pixels");
        assert_quiet(&browser, &path);
    }
}

/// Asserts that the console is empty, and that the page requested only itself and the empty icon inside it.
#[track_caller]
fn assert_quiet(browser: &Browser, page: &Path) {
    let own = format!("file://{}", page.display());
    let requests = browser.requests();
    assert!(requests.contains(&own), "{requests:?}");
    let foreign: Vec<_> = requests
        .iter()
        .filter(|url| **url != own && !url.starts_with("data:"))
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let console = browser.console();
    assert!(console.is_empty(), "{console:?}");
}

/// The content of the map as a data URL.
fn map(browser: &Browser) -> String {
    browser
        .run("return document.getElementById('map').toDataURL()")
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn the_viewer_scrubs_by_mouse_and_by_keys() {
    with_page(&viewer_page(), |browser| {
        assert!(
            browser.text("step").starts_with("step 0,"),
            "{}",
            browser.text("step")
        );
        let first = map(browser);
        browser.press(RIGHT);
        assert!(
            browser.text("step").contains("(2 of 40)"),
            "{}",
            browser.text("step")
        );
        assert_ne!(map(browser), first);
        browser.press(LEFT);
        assert_eq!(map(browser), first);
        browser.press(END);
        assert!(
            browser.text("step").contains("(40 of 40)"),
            "{}",
            browser.text("step")
        );
        let last = map(browser);
        assert_ne!(last, first);
        // A click in the middle of a curve selects a step in the middle.
        let width = browser.run("return Math.round(document.getElementById('churn').clientWidth)");
        browser.click("churn", [width.as_i64().unwrap() / 2, 30]);
        let between = browser.text("step");
        assert!(
            !between.contains("(40 of 40)") && !between.contains("(1 of 40)"),
            "{between}"
        );
        browser.press(HOME);
        assert_eq!(map(browser), first);
    });
}

#[test]
fn the_viewer_plays_and_pauses() {
    with_page(&viewer_page(), |browser| {
        browser.press(' ');
        assert_eq!(browser.text("play"), "Pause");
        browser.run("return new Promise(done => setTimeout(done, 500))");
        browser.press(' ');
        assert_eq!(browser.text("play"), "Play");
        assert!(
            !browser.text("step").contains("(1 of 40)"),
            "{}",
            browser.text("step")
        );
    });
}

#[test]
fn a_site_of_the_viewer_is_chosen_by_click_by_list_and_by_keys() {
    with_page(&viewer_page(), |browser| {
        let hint = browser.text("detail");
        assert!(hint.starts_with("Choose a site"), "{hint}");
        let before = map(browser);
        browser.click("map", [20, 4]);
        let first = browser.text("detail");
        assert!(first.starts_with("layer.0.query, step 0"), "{first}");
        assert_ne!(map(browser), before);
        assert_eq!(
            browser.run("return document.getElementById('site').value"),
            "0"
        );
        browser.run("document.getElementById('map').focus()");
        browser.press(DOWN);
        let next = browser.text("detail");
        assert!(next.starts_with("layer.0.value, step 0"), "{next}");
        let list = "const list = document.getElementById('site'); list.value = '3'; list.dispatchEvent(new Event('change'))";
        browser.run(list);
        assert!(
            browser.text("detail").starts_with("layer.1.value"),
            "{}",
            browser.text("detail")
        );
    });
}

#[test]
fn every_control_of_the_viewer_is_reached_by_tab_and_has_a_name() {
    with_page(&viewer_page(), |browser| {
        let mut reached = Vec::new();
        for _ in 0..6 {
            browser.press(TAB);
            let focus = "const e = document.activeElement; \
                return [e.id, e.labels?.[0]?.textContent || e.getAttribute('aria-label') || e.textContent]";
            let [id, name] = serde_json::from_value::<[String; 2]>(browser.run(focus)).unwrap();
            assert!(!name.trim().is_empty(), "{id}");
            reached.push(id);
        }
        assert_eq!(reached, ["play", "slider", "order", "side", "site", "map"]);
        // On the slider the browser's own keys move it.
        browser.run("document.getElementById('slider').focus()");
        browser.press(RIGHT);
        assert!(
            browser.text("step").contains("(2 of 40)"),
            "{}",
            browser.text("step")
        );
    });
}

#[test]
fn the_report_is_read_in_any_window() {
    with_page(&test_page().html(), |browser| {
        let shown = "return [...document.querySelectorAll('figure svg')].map(svg => svg.getBoundingClientRect().width)";
        let widths: Vec<f64> = serde_json::from_value(browser.run(shown)).unwrap();
        assert!(
            !widths.is_empty() && widths.iter().all(|width| *width > 300.0),
            "{widths:?}"
        );
        let title = browser.run("return document.querySelector('h1').textContent");
        assert_eq!(title, "VB-LoRA: s");
        // The keyboard can reach and scroll a table that is too wide.
        browser.press(TAB);
        assert_eq!(
            browser.run("return document.activeElement.tagName"),
            "TABLE"
        );
        let words = "return document.querySelector('figure svg').getAttribute('aria-label')";
        let words = browser.run(words);
        assert!(
            words
                .as_str()
                .unwrap()
                .starts_with("Accuracy against stored parameters"),
            "{words}"
        );
    });
}

/// A page of 40 selections of 300 vectors.
fn viewer_page() -> String {
    let frames = frames(300, 3, 40, 9);
    let bank = vec![0.5; 1200];
    let bytes = file(&header(300, 3), &frames, [&bank, &bank]);
    viewer(&Recording::from_bytes(bytes).unwrap())
}
