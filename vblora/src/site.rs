//! Sites are the linear maps of a model that an adapter may act on. Targets pick among them, and a plan holds the picked sites.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    ops::RangeInclusive,
    str::FromStr,
};

use derive_new::new;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, pattern::Pattern};

/// A linear map `[d_in, d_out]` that an adapter may act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, new)]
pub struct Site {
    /// The map's name in the checkpoint, for example `encoder.layer.3.attention.self.query`.
    #[new(into)]
    pub name: String,
    /// Input features.
    pub d_in: usize,
    /// Output features.
    pub d_out: usize,
}

impl Site {
    /// The layer: the first part of the name that is a number.
    pub fn layer(&self) -> Option<usize> {
        self.name.split('.').find_map(|part| part.parse().ok())
    }

    /// The name after the layer number, for example `attention.self.query`; the whole name if it has no number.
    pub fn role(&self) -> &str {
        let mut rest = self.name.as_str();
        while let Some((part, tail)) = rest.split_once('.') {
            rest = tail;
            if part.parse::<usize>().is_ok() {
                return rest;
            }
        }
        &self.name
    }
}

/// The form of a target rule.
#[derive(Debug, Clone)]
enum Rule {
    /// The name is one of these, or ends in `.` and one of these.
    Suffixes(Vec<String>),
    /// The whole name matches.
    Regex(Pattern),
    /// Every site of the model.
    AllLinear,
}

/// A rule that picks sites, with PEFT's meaning of `target_modules`. It is a list of suffixes, a regular expression for the whole name, or
/// `all-linear`. Exclusions (suffixes too) and layer ranges narrow it.
///
/// ```
/// use vblora::{Site, Targets};
/// let sites = [Site::new("layer.0.query", 8, 8), Site::new("layer.0.key", 8, 8), Site::new("layer.1.query", 8, 8)];
/// let plan = Targets::suffixes(["query"]).layers(1..=1).select(&sites)?;
/// assert_eq!(plan.sites()[0].name, "layer.1.query");
/// # Ok::<(), vblora::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Targets {
    rule: Rule,
    exclude: Vec<String>,
    layers: Vec<RangeInclusive<usize>>,
}

impl Targets {
    fn new(rule: Rule) -> Self {
        Self {
            rule,
            exclude: Vec::new(),
            layers: Vec::new(),
        }
    }

    /// Sites whose name is one of `suffixes` or ends in `.` and one of them.
    pub fn suffixes<S: Into<String>>(suffixes: impl IntoIterator<Item = S>) -> Self {
        Self::new(Rule::Suffixes(
            suffixes.into_iter().map(Into::into).collect(),
        ))
    }

    /// Sites whose whole name matches `pattern`.
    ///
    /// # Errors
    /// The pattern is not a regular expression.
    pub fn regex(pattern: &str) -> Result<Self> {
        Ok(Self::new(Rule::Regex(Pattern::whole(pattern)?)))
    }

    /// Every site. A model's head is never a site.
    pub fn all_linear() -> Self {
        Self::new(Rule::AllLinear)
    }

    /// Leaves out sites whose name ends in one of `suffixes`.
    #[must_use]
    pub fn exclude<S: Into<String>>(mut self, suffixes: impl IntoIterator<Item = S>) -> Self {
        self.exclude.extend(suffixes.into_iter().map(Into::into));
        self
    }

    /// Keeps only sites of these layers. Several calls keep the layers of any of the ranges.
    #[must_use]
    pub fn layers(mut self, layers: RangeInclusive<usize>) -> Self {
        self.layers.push(layers);
        self
    }

    /// The sites that the rule picks, in the model's order.
    ///
    /// # Errors
    /// No site is picked; a pattern takes too many steps to match.
    pub fn select(&self, sites: &[Site]) -> Result<SitePlan> {
        let mut chosen = Vec::new();
        for site in sites {
            if self.picks(site)? {
                chosen.push(site.clone());
            }
        }
        if chosen.is_empty() {
            return Err(Error::NoMatch {
                rule: self.to_string(),
                available: roles(sites),
            });
        }
        Ok(SitePlan { sites: chosen })
    }

    fn picks(&self, site: &Site) -> Result<bool> {
        let named = match &self.rule {
            Rule::Suffixes(suffixes) => suffixes.iter().any(|s| has_suffix(&site.name, s)),
            Rule::Regex(pattern) => pattern.matches(&site.name)?,
            Rule::AllLinear => true,
        };
        let layer = || {
            site.layer()
                .is_some_and(|l| self.layers.iter().any(|range| range.contains(&l)))
        };
        Ok(named
            && !self.exclude.iter().any(|s| has_suffix(&site.name, s))
            && (self.layers.is_empty() || layer()))
    }
}

pub(crate) fn has_suffix(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The most roles that an error lists.
const LISTED_ROLES: usize = 40;

fn roles(sites: &[Site]) -> String {
    let mut seen = HashSet::new();
    let roles = sites.iter().map(Site::role);
    let roles: Vec<&str> = roles.filter(|role| seen.insert(*role)).collect();
    let more = roles.len().saturating_sub(LISTED_ROLES);
    match (roles.get(..LISTED_ROLES), more) {
        _ if roles.is_empty() => "no sites".into(),
        (Some(first), 1..) => format!("{} and {more} more", first.join(", ")),
        _ => roles.join(", "),
    }
}

/// `all-linear`, a comma-separated list of suffixes, or `regex:PATTERN`.
impl FromStr for Targets {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "all-linear" {
            return Ok(Self::all_linear());
        }
        if let Some(pattern) = text.strip_prefix("regex:") {
            return Self::regex(pattern);
        }
        let suffixes: Vec<&str> = text
            .split(',')
            .map(str::trim)
            .filter(|s| !s.is_empty())
            .collect();
        if suffixes.is_empty() {
            return Err(Error::setting(
                "targets",
                "all-linear, SUFFIX,... or regex:PATTERN",
                format!("{text:?}"),
            ));
        }
        Ok(Self::suffixes(suffixes))
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Rule::Suffixes(suffixes) => write!(f, "{}", suffixes.join(","))?,
            Rule::Regex(pattern) => write!(f, "regex:{}", pattern.given())?,
            Rule::AllLinear => write!(f, "all-linear")?,
        }
        if !self.exclude.is_empty() {
            write!(f, " without {}", self.exclude.join(","))?;
        }
        for range in &self.layers {
            write!(f, " layers {}-{}", range.start(), range.end())?;
        }
        Ok(())
    }
}

/// The sites that targets picked, in the model's order. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SitePlan {
    sites: Vec<Site>,
}

impl SitePlan {
    /// These sites, at least one.
    pub(crate) fn exactly(sites: Vec<Site>) -> Self {
        debug_assert!(!sites.is_empty());
        Self { sites }
    }

    /// The chosen sites.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Every sub-vector length that divides each dimension of each site, ascending.
    pub fn valid_vector_lengths(&self) -> Vec<usize> {
        let common = self
            .sites
            .iter()
            .fold(0, |g, s| gcd(gcd(g, s.d_in), s.d_out));
        let small = (1..=common.isqrt()).filter(|b| common % b == 0);
        let mut all: Vec<usize> = small.flat_map(|b| [b, common / b]).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The number of sub-vectors S of rank-`rank` factors cut into vectors of length `b`.
    pub fn sub_vectors(&self, rank: usize, b: usize) -> usize {
        self.sites
            .iter()
            .map(|s| rank.saturating_mul((s.d_in / b).saturating_add(s.d_out / b)))
            .fold(0, usize::saturating_add)
    }

    /// Checks that `b` divides every dimension.
    ///
    /// # Errors
    /// The first site with a dimension that `b` does not divide, and the valid values of `b`.
    pub(crate) fn check_vector_length(&self, b: usize) -> Result<()> {
        for site in &self.sites {
            for (side, dim) in [("d_in", site.d_in), ("d_out", site.d_out)] {
                if dim % b != 0 {
                    let valid = self.valid_vector_lengths();
                    let valid = valid
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(", ");
                    return Err(Error::NotDivisible {
                        site: site.name.clone(),
                        side,
                        dim,
                        b,
                        valid,
                    });
                }
            }
        }
        Ok(())
    }
}

/// One line per role: the number of sites, their dimensions, the layers.
impl fmt::Display for SitePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups: Vec<(&str, usize, usize, Vec<usize>, usize)> = Vec::new();
        let mut places = HashMap::new();
        for site in &self.sites {
            let key = (site.role(), site.d_in, site.d_out);
            let at = *places.entry(key).or_insert_with(|| {
                groups.push((key.0, key.1, key.2, Vec::new(), 0));
                groups.len() - 1
            });
            groups[at].3.extend(site.layer());
            groups[at].4 += 1;
        }
        let width = groups.iter().map(|g| g.0.len()).max().unwrap_or(0);
        for (role, d_in, d_out, layers, count) in groups {
            write!(f, "  {role:width$}  {d_in:>5} -> {d_out:<5}  x {count}")?;
            match (layers.iter().min(), layers.iter().max()) {
                (Some(first), Some(last)) => writeln!(f, "  (layers {first}-{last})")?,
                _ => writeln!(f)?,
            }
        }
        Ok(())
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roberta(layers: usize) -> Vec<Site> {
        (0..layers)
            .flat_map(|n| {
                [
                    ("attention.self.query", 768, 768),
                    ("attention.output.dense", 768, 768),
                    ("intermediate.dense", 768, 3072),
                    ("output.dense", 3072, 768),
                ]
                .map(|(role, i, o)| Site::new(format!("encoder.layer.{n}.{role}"), i, o))
            })
            .collect()
    }

    fn names(plan: &SitePlan) -> Vec<&str> {
        plan.sites().iter().map(|s| s.name.as_str()).collect()
    }

    #[test]
    fn suffixes_match_whole_parts_only() {
        let plan = Targets::suffixes(["output.dense"])
            .select(&roberta(1))
            .unwrap();
        assert_eq!(
            names(&plan),
            [
                "encoder.layer.0.attention.output.dense",
                "encoder.layer.0.output.dense"
            ]
        );
        assert!(Targets::suffixes(["uery"]).select(&roberta(1)).is_err());
    }

    #[test]
    fn regex_matches_the_whole_name() {
        let plan = Targets::regex(r".*\.layer\.\d+\.output\.dense")
            .unwrap()
            .select(&roberta(2))
            .unwrap();
        assert_eq!(
            names(&plan),
            [
                "encoder.layer.0.output.dense",
                "encoder.layer.1.output.dense"
            ]
        );
        assert!(
            Targets::regex("output")
                .unwrap()
                .select(&roberta(2))
                .is_err()
        );
        assert!(
            Targets::regex("(")
                .unwrap_err()
                .to_string()
                .contains("\"(\"")
        );
    }

    #[test]
    fn exclusions_and_layers_narrow() {
        let plan = Targets::all_linear()
            .exclude(["dense"])
            .layers(0..=0)
            .layers(2..=3)
            .select(&roberta(4))
            .unwrap();
        let want: Vec<String> = [0, 2, 3]
            .map(|n| format!("encoder.layer.{n}.attention.self.query"))
            .into();
        assert_eq!(names(&plan), want);
    }

    #[test]
    fn no_match_names_the_rule_and_the_roles() {
        let message = Targets::suffixes(["q_proj"])
            .select(&roberta(2))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("q_proj") && message.contains("attention.self.query"),
            "{message}"
        );
    }

    #[test]
    fn a_vector_length_that_does_not_divide_names_site_and_valid_values() {
        let plan = Targets::all_linear().select(&roberta(1)).unwrap();
        let message = plan.check_vector_length(512).unwrap_err().to_string();
        assert!(
            message.contains("encoder.layer.0.attention.self.query")
                && message.contains("d_in = 768"),
            "{message}"
        );
        assert!(message.contains("256, 384, 768"), "{message}");
        assert!(plan.check_vector_length(384).is_ok());
    }

    #[test]
    fn text_forms() {
        assert_eq!(
            "query, value".parse::<Targets>().unwrap().to_string(),
            "query,value"
        );
        assert_eq!(
            "all-linear".parse::<Targets>().unwrap().to_string(),
            "all-linear"
        );
        assert!(" , ".parse::<Targets>().is_err());
        let plan = "all-linear"
            .parse::<Targets>()
            .unwrap()
            .select(&roberta(12))
            .unwrap();
        assert!(plan.to_string().contains("x 12  (layers 0-11)"), "{plan}");
    }

    #[test]
    fn role_and_layer() {
        let site = Site::new("encoder.layer.11.attention.self.query", 1, 1);
        assert_eq!(
            (site.layer(), site.role()),
            (Some(11), "attention.self.query")
        );
        assert_eq!(
            (
                Site::new("first", 1, 1).layer(),
                Site::new("first", 1, 1).role()
            ),
            (None, "first")
        );
    }
}
