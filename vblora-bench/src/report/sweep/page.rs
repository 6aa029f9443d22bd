//! A page of text, tables and pictures, as one self-contained HTML file and as Markdown.

use serde::{Serialize, Serializer};

use crate::report::{Align, Table, as_markdown, as_paragraph, html, picture};

const TEMPLATE: &str = include_str!("page.html");

/// A picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Figure {
    /// The name of its file, without an extension.
    pub name: String,
    /// The subject of the picture.
    pub title: String,
    /// An explanation for the reader.
    pub caption: String,
    /// The picture, as a whole SVG document.
    #[serde(serialize_with = "svg_element")]
    pub svg: String,
}

/// A table whose cells may be emphasised.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Sheet {
    header: Vec<(String, Align)>,
    rows: Vec<Vec<Entry>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(super) struct Entry {
    pub(super) text: String,
    pub(super) is_bold: bool,
    /// A note after the text, in smaller letters.
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
    /// A table with `words` columns of text, followed by columns of numbers.
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
        for row in &self.rows {
            table.markdown_row(row.iter().map(Entry::markdown));
        }
        table.to_string()
    }
}

impl Entry {
    fn markdown(&self) -> String {
        let text = as_markdown(&self.text);
        let text = match self.is_bold {
            true => format!("**{text}**"),
            false => text,
        };
        let note = self.note.as_ref();
        let note = note.map(|note| format!(" [{}]", as_markdown(note)));
        text + &note.unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", content = "value", rename_all = "lowercase")]
pub(super) enum Block {
    /// A heading of level 2 or lower.
    Heading(u8, String),
    Text(String),
    List(Vec<String>),
    Sheet(Sheet),
    Figure(Figure),
}

/// A report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Page {
    pub(super) title: String,
    pub(super) blocks: Vec<Block>,
}

impl Page {
    /// The pictures on it.
    pub fn figures(&self) -> impl Iterator<Item = &Figure> {
        self.blocks.iter().filter_map(|block| match block {
            Block::Figure(figure) => Some(figure),
            _ => None,
        })
    }

    /// Adds pictures at the end of the page, under a heading.
    pub fn add_figures(&mut self, heading: &str, figures: Vec<Figure>) {
        if figures.is_empty() {
            return;
        }
        self.blocks.push(Block::Heading(2, heading.into()));
        self.blocks.extend(figures.into_iter().map(Block::Figure));
    }

    /// The page as one HTML file with style and pictures inside.
    pub fn html(&self) -> String {
        html(TEMPLATE, self)
    }

    /// The page as Markdown, with pictures in files `NAME.svg` next to it.
    pub fn markdown(&self) -> String {
        let blocks = self.blocks.iter().map(Block::markdown);
        let title = format!("# {}\n", as_markdown(&self.title));
        std::iter::once(title)
            .chain(blocks)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Block {
    fn markdown(&self) -> String {
        match self {
            Self::Heading(rank, text) => {
                format!("{} {}\n", "#".repeat(usize::from(*rank)), as_markdown(text))
            }
            Self::Text(text) => format!("{}\n", as_paragraph(text)),
            Self::List(items) => items
                .iter()
                .map(|item| format!("- {}\n", as_paragraph(item)))
                .collect(),
            Self::Sheet(sheet) => sheet.markdown(),
            Self::Figure(figure) => format!(
                "### {}\n\n{}\n\n{}\n",
                as_markdown(&figure.title),
                picture(&figure.title, &format!("{}.svg", figure.name)),
                as_paragraph(&figure.caption)
            ),
        }
    }
}

/// An SVG document without the text before its element. HTML takes the element unchanged.
fn svg_element<S: Serializer>(svg: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let element = svg
        .find("<svg")
        .map_or(svg, |start| svg[start..].trim_end());
    serializer.serialize_str(element)
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
                && found.starts_with("# T & &lt;U>\n\n## H\n")
        );
    }

    /// Every place for text, with a name that would be markup in each of them.
    #[test]
    fn hostile_names_are_shown_in_every_place() {
        const NAME: &str = "a|b`c<img src=x>*d* _e_\n\n# f";
        const SHOWN: &str = "a\\|b\\`c&lt;img src=x>\\*d\\* \\_e\\_  # f";
        let mut sheet = Sheet::new(1, [NAME.into(), "n".into()]);
        let bold = Entry {
            text: NAME.into(),
            is_bold: true,
            note: Some(NAME.into()),
        };
        sheet.row([Entry::from(NAME.to_owned()), bold]);
        let figure = Figure {
            name: NAME.into(),
            title: NAME.into(),
            caption: NAME.into(),
            svg: String::new(),
        };
        let page = Page {
            title: NAME.into(),
            blocks: vec![
                Block::Heading(2, NAME.into()),
                Block::Text(NAME.into()),
                Block::List(vec![NAME.into()]),
                Block::Sheet(sheet),
                Block::Figure(figure),
            ],
        };
        let found = page.markdown();
        let lines: Vec<&str> = found.lines().filter(|line| !line.is_empty()).collect();
        let file = "a%7Cb%60c%3Cimg%20src%3Dx%3E%2Ad%2A%20_e_%0A%0A%23%20f.svg";
        let cell = format!("**{SHOWN}** [{SHOWN}]");
        let width = cell.chars().count();
        let expected = [
            format!("# {SHOWN}"),
            format!("## {SHOWN}"),
            SHOWN.to_owned(),
            format!("- {SHOWN}"),
            format!("| {SHOWN} | {:>width$} |", "n"),
            format!(
                "| {} | {}: |",
                "-".repeat(SHOWN.len()),
                "-".repeat(width - 1)
            ),
            format!("| {SHOWN} | {cell} |"),
            format!("### {SHOWN}"),
            format!("![{SHOWN}]({file})"),
            SHOWN.to_owned(),
        ];
        assert_eq!(lines, expected);
        let html = page.html();
        assert!(!html.contains("<img"), "{html}");
        assert_eq!(html.matches("&lt;img src=x&gt;").count(), 11, "{html}");
    }
}
