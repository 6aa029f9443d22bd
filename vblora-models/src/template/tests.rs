//! Limits of templates, and results of Python's operators.

use std::process::Command;
use std::time::SystemTime;

use minijinja::context;

use super::*;

fn render(source: &str) -> Result<String, Problem> {
    let values = context! { n => 7, s => "abcdef", items => ["x", "y", "z"], u => "größe: é" };
    Template::parse(source, Style::Chat)?.render(values)
}

/// Results of Python 3.12 with jinja2 3.1.6.
#[test]
fn operators_and_methods_are_pythons() {
    for (source, expected) in [
        (
            "{{ 7 // -2 }}|{{ -7 // 2 }}|{{ 7 % -3 }}|{{ -7 % 3 }}|{{ 7.5 // -2 }}|{{ 7.5 % -2 }}",
            "-4|-4|-2|2|-4.0|-0.5",
        ),
        (
            "{{ 2 ** -1 }}|{{ -2 ** 2 }}|{{ 1 + 2 * 3 - 4 }}|{{ 10 - 2 - 3 }}|{{ True + 1 }}",
            "0.5|4|3|5|2",
        ),
        (
            "{{ '%s has %d of %s' % ('a', 2, items) }}|{{ '%02d' % n }}|{{ '%5.1f' % 2.25 }}|{{ '%s' % n }}",
            "a has 2 of ['x', 'y', 'z']|07|  2.2|7",
        ),
        (
            "{{ s[3:0:-1] }}|{{ s[1:3:-1] }}|{{ s[-3:-1] }}|{{ s[:100] }}|{{ items[2:0:-1] }}|{{ items[:-1] }}|{{ (1, 2, 3)[1:] }}",
            "dcb||de|abcdef|['z', 'y']|['x', 'y']|(2, 3)",
        ),
        (
            "{{ [1] * 3 }}|{{ 'ab' * -1 }}|{{ (1,) + (2,) }}|{{ items + ['w'] }}|{{ 3 * '-' }}",
            "[1, 1, 1]||(1, 2)|['x', 'y', 'z', 'w']|---",
        ),
        (
            "{{ 1 ~ none ~ 2.0 ~ [true] }}|{{ 1e16 }}|{{ 0.0001 }}|{{ 123456789.125 }}",
            "1None2.0[True]|1e+16|0.0001|123456789.125",
        ),
        (
            "{{ u.find('e') }}|{{ u.index('é') }}|{{ u.count('') }}|{{ ''.isdigit() }}|{{ 'a-b-c'.rsplit('-', 1) }}|{{ ' a b '.split(none, 1) }}",
            "4|7|9|False|['a-b', 'c']|['a', 'b ']",
        ),
        (
            "{{ 'a=b'.partition('=') }}|{{ '7'.zfill(3) }}|{{ 'x'.center(4, '*') }}|{{ 'ab'.removeprefix('a') }}|{{ 'a'.ljust(3) }}.",
            "('a', '=', 'b')|007|*x**|b|a  .",
        ),
        ("{{ -items | length }}", ""),
        ("{{ -n.real if false else -items.index('y') }}", "-1"),
        (
            "{% set ns = namespace(x=1) %}{% generation %}{% set ns.x = 2 %}{% set y = 3 %}{% endgeneration %}{{ ns.x }}{{ y is defined }}",
            "2False",
        ),
        (
            "{{ {'items': 1}.items() | list }}|{{ [nope] }}|{{ 'a\\nb' | list }}|{{ ['\\n', '\\''] }}",
            "[('items', 1)]|[Undefined]|['a', '\\n', 'b']|['\\n', \"'\"]",
        ),
    ] {
        match render(source) {
            Ok(found) => assert_eq!(found, expected, "{source}"),
            Err(problem) => assert!(expected.is_empty(), "{source}: {problem:?}"),
        }
    }
}

/// Seconds of computing that this process has taken, in whatever threads; where the system does not say, those that have passed.
fn computed() -> f64 {
    // After the name: state, ten more, and the ticks of a hundredth in the program and in the system.
    let ticks = std::fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| {
            let (_, fields) = stat.rsplit_once(')')?;
            let ticks = fields.split_whitespace().skip(11).take(2);
            ticks
                .map(|ticks| ticks.parse::<f64>().ok())
                .sum::<Option<f64>>()
        });
    let passed = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    ticks.map_or_else(passed, |ticks| ticks / 100.0)
}

#[test]
fn limits_end_templates_that_have_none() {
    pass_alone("limits");
}

/// Deep syntax and deep values do not overflow the stack, whatever becomes of them.
#[test]
fn nothing_is_too_deep_for_the_stack() {
    pass_alone("depth");
}

/// Runs a test in a process of its own, whose computing is that of its templates alone. On a busy machine the clock says nothing of them.
fn pass_alone(test: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("template::tests::{test}")]);
    let output = child.args(["--ignored", "--nocapture"]).output().unwrap();
    let [said, errors] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{errors}"
    );
}

#[test]
#[ignore = "a child of another test"]
fn limits() {
    let deep = |open: &str, close: &str, n: usize| {
        format!("{{{{ {}1{} }}}}", open.repeat(n), close.repeat(n))
    };
    let nested_tags = "{% if n %}".repeat(5000) + &"{% endif %}".repeat(5000);
    for (source, says) in [
        ("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}".to_owned(), "steps"),
        ("{% set ns = namespace(s='xxxxxxxx') %}{% for a in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}".to_owned(), "bytes allowed"),
        ("{% set ns = namespace(s='xxxxxxxx') %}{% for a in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}".to_owned(), "bytes allowed"),
        ("{% set ns = namespace(s='xxxxxxxx') %}{% for a in range(64) %}{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}{% endfor %}".to_owned(), "bytes allowed"),
        ("{% set ns = namespace(s=[1]) %}{% for a in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}".to_owned(), "bytes allowed"),
        ("{{ ([0] * 100000000000) | sum }}".to_owned(), "bytes allowed"),
        ("{{ 'x' * 9223372036854775807 }}".to_owned(), "bytes allowed"),
        ("{{ '%1000000000d' % 1 }}".to_owned(), "width"),
        ("{{ '%*d' % (1000000000, 1) }}".to_owned(), "width"),
        ("{{ '{:>1000000000}'.format(1) }}".to_owned(), "width"),
        ("{{ 'x'.ljust(1000000000) }}".to_owned(), "width"),
        ("{{ 'x' | indent(1000000000, true) }}".to_owned(), "width"),
        ("{{ [1] | batch(1000000000, 'x') }}".to_owned(), "width"),
        ("{{ [1] | tojson(indent=1000000000) }}".to_owned(), "indent"),
        (format!("{}{{% for a in range(100000) %}}{}{{% endfor %}}", "", "x".repeat(200_000)), "allowed"),
        (format!("{{% set y %}}{{% for a in range(100000) %}}{}{{% endfor %}}{{% endset %}}", "x".repeat(200_000)), "steps"),
        ("{% for a in range(10000) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{{ 'y' * 2000 }}{% endfor %}".to_owned(), "allowed"),
        ("x".repeat(300_000), "262144"),
        (deep("(", ")", 100_000), "nested"),
        (deep("[", "]", 100_000), "nested"),
        (deep("-", "", 100_000), "nested"),
        (nested_tags, "recursion"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(), "recursion"),
        ("{% include 'template' %}".to_owned(), "include"),
        ("{% extends 'template' %}".to_owned(), "extends"),
        ("{% set ns = namespace(x=1) %}{% for a in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}".to_owned(), "nested"),
        ("{% set ns = namespace(x=1) %}{% for a in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}".to_owned(), "nested"),
    ] {
        let shown = &source[..source.len().min(100)];
        let start = computed();
        let problem = end_in_time(&source).expect_err(shown);
        let seconds = computed() - start;
        assert!(problem.text.contains(says), "{shown}: {problem:?}");
        assert!(seconds < 20.0, "{shown}: {seconds} s");
    }
}

/// Once more where the clock of a busy machine came before the limit that is meant.
fn end_in_time(source: &str) -> Result<String, Problem> {
    let is_late =
        |text: &str| text.contains("takes longer") || text.contains("time for a template");
    match render(source) {
        Err(problem) if is_late(&problem.text) => render(source),
        ended => ended,
    }
}

#[test]
#[ignore = "a child of another test"]
fn depth() {
    let values = "{% set ns = namespace(x=1, y=1) %}{% for a in range(60000) %}{% set ns.x = [ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}";
    for source in [
        format!("{{{{ {} n }}}}", "not ".repeat(1_000)),
        format!("{{{{ n{} }}}}", ".a".repeat(100_000)),
        format!("{{{{ n{} }}}}", "|e".repeat(100_000)),
        format!("{{{{ n{} }}}}", " or n".repeat(1_000)),
        format!("{{{{ n{} }}}}", "[0]".repeat(80_000)),
        format!("{{{{ n{} }}}}", " if n else n".repeat(20_000)),
        format!("{{% if n %}}{}{{% endif %}}", "{% elif n %}".repeat(20_000)),
        format!("{{{{ n{} }}}}", " + n".repeat(50_000)),
        format!("{values}{{{{ ns.x == ns.y }}}}"),
        format!("{values}{{{{ ns.x | upper | length }}}}"),
        format!("{values}{{{{ ns.x < ns.y }}}}"),
    ] {
        let start = computed();
        let _ = render(&source);
        let seconds = computed() - start;
        assert!(seconds < 20.0, "{}: {seconds} s", &source[..40]);
    }
}

#[test]
fn a_panic_of_the_engine_is_an_error() {
    let failed = on_own_stack::<()>(|| panic!("the engine fell over")).unwrap_err();
    assert!(failed.text.contains("the engine fell over"), "{failed:?}");
}
