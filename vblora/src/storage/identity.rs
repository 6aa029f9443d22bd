//! The origin of an adapter: the hash of its sites, and its recipe.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::hash::hex;
use crate::{Error, Result, Site};

/// A longer recipe is refused: it is a text beside an adapter of a few kilobytes, not a log.
pub const MAX_RECIPE_BYTES: usize = 64 << 10;

/// The identity of linear maps by names and shapes, whatever their order: SHA-256 in hexadecimal over the sites sorted by name. Each site
/// is the length of its name in bytes, the name in UTF-8, `d_in` and `d_out`. Numbers are u64 in little-endian bytes.
///
/// A compact file holds the hash of the sites that its adapter was made for.
pub fn sites_sha256(sites: &[Site]) -> String {
    let mut sites: Vec<_> = sites.iter().collect();
    sites.sort_by(|a, b| a.name.cmp(&b.name));
    let mut hash = Sha256::new();
    for site in sites {
        hash.update((site.name.len() as u64).to_le_bytes());
        hash.update(&site.name);
        hash.update((site.d_in as u64).to_le_bytes());
        hash.update((site.d_out as u64).to_le_bytes());
    }
    hex(hash)
}

/// Refuses a model whose sites of the adapter's names have another hash. The error names the first site that differs.
pub(super) fn check_base(adapter: &[Site], model: &[Site]) -> Result<()> {
    let model: BTreeMap<_, _> = model.iter().map(|site| (&site.name, site)).collect();
    let of_model = |site: &Site| model.get(&site.name).copied();
    let chosen: Vec<_> = adapter.iter().filter_map(of_model).cloned().collect();
    let [made_for, found] = [adapter, &chosen].map(sites_sha256);
    if made_for == found {
        return Ok(());
    }
    let differs = |site: &&Site| of_model(site) != Some(site);
    let site = adapter.iter().find(differs).unwrap_or(&adapter[0]);
    let shape = |site: &Site| format!("{} -> {}", site.d_in, site.d_out);
    let here = of_model(site).map_or("there is none of this name".into(), shape);
    Err(Error::OtherBase {
        made_for,
        found,
        difference: format!(
            "site {:?} is {} for the adapter, {here} in the model",
            site.name,
            shape(site)
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites() -> Vec<Site> {
        vec![Site::new("one", 8, 12), Site::new("two", 12, 4)]
    }

    /// The hash by another program: `printf '\x03\0\0\0\0\0\0\0one\x08\0\0\0\0\0\0\0\x0c\0\0\0\0\0\0\0' | sha256sum`.
    #[test]
    fn the_hash_is_what_its_definition_says() {
        assert_eq!(
            sites_sha256(&sites()[..1]),
            "25963ebf6d10b2f70571443e218d9951c923d70cf603124c0d47e76bc9740c8d"
        );
    }

    #[test]
    fn names_and_shapes_change_the_hash_and_their_order_does_not() {
        let hash = sites_sha256(&sites());
        let mut other = sites();
        other.reverse();
        assert_eq!(sites_sha256(&other), hash);
        for edit in [
            |site: &mut Site| site.name = "on".into(),
            |site: &mut Site| site.d_in = 12,
            |site: &mut Site| site.d_out = 8,
        ] {
            let mut other = sites();
            edit(&mut other[0]);
            assert_ne!(sites_sha256(&other), hash);
        }
        assert_ne!(sites_sha256(&sites()[..1]), hash);
    }

    #[test]
    fn another_base_is_named_with_the_site_in_the_way() {
        let mut model = sites();
        model.push(Site::new("three", 1, 1));
        check_base(&sites(), &model).unwrap();
        model[1].d_out = 8;
        let error = check_base(&sites(), &model).unwrap_err().to_string();
        assert!(
            error.contains("\"two\"") && error.contains("12 -> 4") && error.contains("12 -> 8"),
            "{error}"
        );
        assert!(error.contains(&sites_sha256(&sites())), "{error}");
        model.remove(1);
        let error = check_base(&sites(), &model).unwrap_err().to_string();
        assert!(error.contains("there is none of this name"), "{error}");
    }
}
