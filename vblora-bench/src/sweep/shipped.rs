//! The built-in sweeps.

/// Name and text of each sweep.
const SHIPPED: [(&str, &str); 17] = [
    ("table1", include_str!("table1.toml")),
    ("table2", include_str!("table2.toml")),
    ("table3", include_str!("table3.toml")),
    ("table4", include_str!("table4.toml")),
    ("table5", include_str!("table5.toml")),
    ("table6", include_str!("table6.toml")),
    ("k", include_str!("k.toml")),
    ("h", include_str!("h.toml")),
    ("r", include_str!("r.toml")),
    ("learning-rates", include_str!("learning-rates.toml")),
    ("targets", include_str!("targets.toml")),
    ("minilm", include_str!("minilm.toml")),
    ("smollm2-e2e", include_str!("smollm2-e2e.toml")),
    ("smollm2-alpaca", include_str!("smollm2-alpaca.toml")),
    ("smollm2-gsm8k", include_str!("smollm2-gsm8k.toml")),
    ("proof", include_str!("proof.toml")),
    ("smoke", include_str!("smoke.toml")),
];

pub(super) fn text(name: &str) -> Option<&'static str> {
    let found = SHIPPED.iter().find(|(known, _)| *known == name);
    found.map(|(_, text)| *text)
}

/// Their names, separated by commas.
pub(super) fn names() -> String {
    SHIPPED.map(|(name, _)| name).join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::sweep::Spec;

    #[test]
    fn every_shipped_sweep_expands_to_runs_with_tables() {
        for (name, runs) in [
            ("table1", 450),
            ("table2", 24),
            ("table3", 6),
            ("table4", 8),
            ("table5", 55),
            ("table6", 20),
            ("k", 24),
            ("h", 30),
            ("r", 24),
            ("learning-rates", 36),
            ("targets", 30),
            ("minilm", 42),
            ("smollm2-e2e", 4),
            ("smollm2-alpaca", 4),
            ("smollm2-gsm8k", 4),
            ("proof", 60),
            ("smoke", 14),
        ] {
            let spec = Spec::find(name).unwrap();
            let wanted = spec.expand(&BTreeMap::new()).unwrap();
            assert_eq!(wanted.len(), runs, "{name}");
            assert!(wanted.iter().all(|run| run.table.is_some()), "{name}");
        }
        let error = Spec::find("smok").unwrap_err().to_string();
        assert!(error.contains(&names()), "{error}");
    }

    #[test]
    fn the_sweeps_of_the_docs_expand() {
        for (page, runs) in [
            (include_str!("../../../docs/ablations.md"), 36),
            (include_str!("../../../docs/mathematics.md"), 6),
        ] {
            let block = page
                .split("```toml\n")
                .find(|part| part.contains("[[grid]]"));
            let text = block.unwrap().split("```").next().unwrap();
            let spec = Spec::parse("page", "page.md", text).unwrap();
            assert_eq!(spec.expand(&BTreeMap::new()).unwrap().len(), runs);
        }
    }
}
