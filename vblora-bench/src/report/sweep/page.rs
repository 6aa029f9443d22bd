//! A page of text, tables and pictures, as one HTML file that needs nothing else, and as Markdown.

use std::fmt::Write;

use crate::report::{Align, Table};

/// A picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// The name of its file, without an ending.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub caption: String,
    /// The picture, as a whole SVG document.
    pub svg: String,
}

/// A table whose cells may be emphasised.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sheet {
    header: Vec<(String, Align)>,
    rows: Vec<Vec<Entry>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Entry {
    pub(super) text: String,
    pub(super) is_bold: bool,
    /// Stands behind the text, smaller.
    pub(super) note: Option<String>,
}

impl From<String> for Entry {
    fn from(text: String) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }
}

impl Sheet {
    /// A table with as many columns of words as said, and then columns of numbers.
    pub(super) fn new(words: usize, names: impl IntoIterator<Item = String>) -> Self {
        let align = |i| if i < words { Align::Left } else { Align::Right };
        let header = names
            .into_iter()
            .enumerate()
            .map(|(i, name)| (name, align(i)));
        Self {
            header: header.collect(),
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, entries: impl IntoIterator<Item = Entry>) {
        self.rows.push(entries.into_iter().collect());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn markdown(&self) -> String {
        let mut table = Table::new(self.header.iter().cloned());
        let cell = |entry: &Entry| {
            let text = match entry.is_bold {
                true => format!("**{}**", entry.text),
                false => entry.text.clone(),
            };
            entry
                .note
                .as_ref()
                .map_or(text.clone(), |note| format!("{text} [{note}]"))
        };
        for row in &self.rows {
            table.row(row.iter().map(cell));
        }
        table.to_string()
    }

    fn html(&self) -> String {
        let class = |align: Align| {
            if align == Align::Right {
                " class=n"
            } else {
                ""
            }
        };
        let mut html = String::from("<table>\n<thead><tr>");
        for (name, align) in &self.header {
            let _ = write!(html, "<th{}>{}</th>", class(*align), escape(name));
        }
        html.push_str("</tr></thead>\n<tbody>\n");
        for row in &self.rows {
            html.push_str("<tr>");
            for (entry, (_, align)) in row.iter().zip(&self.header) {
                let _ = write!(html, "<td{}>{}</td>", class(*align), entry.html());
            }
            html.push_str("</tr>\n");
        }
        html.push_str("</tbody></table>\n");
        html
    }
}

impl Entry {
    fn html(&self) -> String {
        let text = escape(&self.text);
        let text = if self.is_bold {
            format!("<b>{text}</b>")
        } else {
            text
        };
        let note = self.note.as_ref();
        let note = note.map(|note| format!("<br><small>[{}]</small>", escape(note)));
        text + &note.unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Block {
    /// A heading of the second rank, or of a lower one.
    Heading(u8, String),
    Text(String),
    List(Vec<String>),
    Sheet(Sheet),
    Figure(Figure),
}

/// A report.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub(super) title: String,
    pub(super) blocks: Vec<Block>,
}

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.25rem;margin-top:2.5rem;border-bottom:1px solid #ddd}h3{font-size:1.05rem}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}
th,td{padding:.25rem .7rem;border-bottom:1px solid #e4e4e4;text-align:left;vertical-align:top;white-space:nowrap}
th{border-bottom:2px solid #888}.n{text-align:right;font-variant-numeric:tabular-nums}
small{color:#666}figure{margin:1rem 0}figure svg{max-width:100%;height:auto}figcaption{color:#444}";

impl Page {
    /// The pictures on it.
    pub fn figures(&self) -> impl Iterator<Item = &Figure> {
        self.blocks.iter().filter_map(|block| match block {
            Block::Figure(figure) => Some(figure),
            _ => None,
        })
    }

    /// Puts pictures at its end, under a heading.
    pub fn add_figures(&mut self, heading: &str, figures: Vec<Figure>) {
        if figures.is_empty() {
            return;
        }
        self.blocks.push(Block::Heading(2, heading.into()));
        self.blocks.extend(figures.into_iter().map(Block::Figure));
    }

    /// One HTML file with style and pictures in it.
    pub fn html(&self) -> String {
        let title = escape(&self.title);
        let mut html = format!(
            "<!DOCTYPE html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n<meta name=viewport content=\"width=device-width\">\n\
             <title>{title}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        );
        for block in &self.blocks {
            html.push_str(&block.html());
        }
        html.push_str("</body>\n</html>\n");
        html
    }

    /// Markdown, which takes its pictures from files `NAME.svg` beside it.
    pub fn markdown(&self) -> String {
        let blocks = self.blocks.iter().map(Block::markdown);
        let title = format!("# {}\n", self.title);
        std::iter::once(title)
            .chain(blocks)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Block {
    fn html(&self) -> String {
        match self {
            Self::Heading(rank, text) => format!("<h{rank}>{}</h{rank}>\n", escape(text)),
            Self::Text(text) => format!("<p>{}</p>\n", escape(text)),
            Self::List(items) => {
                let items = items
                    .iter()
                    .map(|item| format!("<li>{}</li>\n", escape(item)));
                format!("<ul>\n{}</ul>\n", items.collect::<String>())
            }
            Self::Sheet(sheet) => sheet.html(),
            Self::Figure(figure) => format!(
                "<h3>{}</h3>\n<figure>\n{}\n<figcaption>{}</figcaption>\n</figure>\n",
                escape(&figure.title),
                inline(&figure.svg),
                escape(&figure.caption)
            ),
        }
    }

    fn markdown(&self) -> String {
        match self {
            Self::Heading(rank, text) => format!("{} {text}\n", "#".repeat(usize::from(*rank))),
            Self::Text(text) => format!("{text}\n"),
            Self::List(items) => items.iter().map(|item| format!("- {item}\n")).collect(),
            Self::Sheet(sheet) => sheet.markdown(),
            Self::Figure(figure) => format!(
                "### {title}\n\n![{title}]({}.svg)\n\n{}\n",
                figure.name,
                figure.caption,
                title = figure.title
            ),
        }
    }
}

/// The SVG element of an SVG document, which HTML takes as it is.
fn inline(svg: &str) -> &str {
    svg.find("<svg")
        .map_or(svg, |start| svg[start..].trim_end())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        let mut sheet = Sheet::new(1, ["method".into(), "a<b".into()]);
        let bold = Entry {
            text: "63.3 ±0.7".into(),
            is_bold: true,
            note: Some("62.0".into()),
        };
        sheet.row([Entry::from("vb & lora".to_owned()), bold]);
        let figure = Figure {
            name: "fig1".into(),
            title: "scores".into(),
            caption: "one & all".into(),
            svg: "<?xml version=\"1.0\"?>\n<svg width=\"9\"></svg>\n".into(),
        };
        Page {
            title: "T & <U>".into(),
            blocks: vec![
                Block::Heading(2, "H".into()),
                Block::List(vec!["one".into()]),
                Block::Sheet(sheet),
                Block::Figure(figure),
            ],
        }
    }

    #[test]
    fn html_is_one_file_with_everything_escaped() {
        let html = page().html();
        for part in [
            "<title>T &amp; &lt;U&gt;</title>",
            "<th class=n>a&lt;b</th>",
            "<td>vb &amp; lora</td><td class=n><b>63.3 ±0.7</b><br><small>[62.0]</small></td>",
            "<h3>scores</h3>\n<figure>\n<svg width=\"9\"></svg>\n<figcaption>one &amp; all<",
        ] {
            assert!(html.contains(part), "{part}\n{html}");
        }
        assert!(!html.contains("<?xml") && !html.contains("http"), "{html}");
    }

    #[test]
    fn markdown_names_pictures_beside_it() {
        let found = page().markdown();
        assert!(
            found.contains("| vb & lora | **63.3 ±0.7** [62.0] |"),
            "{found}"
        );
        assert!(
            found.ends_with("### scores\n\n![scores](fig1.svg)\n\none & all\n")
                && found.starts_with("# T & <U>\n\n## H\n")
        );
    }
}
