//! The name by which others find the base of an adapter.

use std::path::Path;

use vblora_models::ModelFiles;

/// The base of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Base {
    /// A model of the hub: its id, and its commit.
    Hub(String, Option<String>),
    /// A directory or a bundled model.
    Named(String),
}

impl Base {
    /// The base with these files. A directory is called by its name alone.
    pub(crate) fn new(files: &ModelFiles) -> Self {
        let (name, place) = (files.name(), files.place());
        match name == place {
            false => Self::hub(&name),
            true => Self::directory(&place),
        }
    }

    /// `ID@COMMIT`.
    pub(super) fn hub(name: &str) -> Self {
        match name.rsplit_once('@') {
            Some((id, commit)) => Self::Hub(id.into(), Some(commit.into())),
            None => Self::Hub(name.into(), None),
        }
    }

    pub(super) fn directory(place: &str) -> Self {
        let path = Path::new(place);
        // "." and ".." have names too.
        let whole = path.is_dir().then(|| path.canonicalize().ok()).flatten();
        let named = whole.as_deref().unwrap_or(path).file_name();
        Self::Named(match named {
            Some(name) => name.to_string_lossy().into_owned(),
            None => "unknown".into(),
        })
    }

    /// The name for readers.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Hub(name, _) | Self::Named(name) => name,
        }
    }

    /// The hub's id.
    pub(super) fn id(&self) -> Option<&str> {
        match self {
            Self::Hub(id, _) => Some(id),
            Self::Named(_) => None,
        }
    }

    /// The name, if it has the form of an id of the hub. The hub refuses cards with another one.
    pub(super) fn hub_name(&self) -> Option<&str> {
        let is_known = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let name = self.name();
        (!name.is_empty() && name.chars().all(is_known)).then_some(name)
    }

    /// The hub's commit.
    pub(super) fn revision(&self) -> Option<&str> {
        match self {
            Self::Hub(_, revision) => revision.as_deref(),
            Self::Named(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo;

    #[test]
    fn a_base_is_known_by_its_id_or_by_its_last_name() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("my-model");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(model.join("config.json"), "{}").unwrap();
        for place in [model.clone(), model.join("."), model.join("../my-model/")] {
            let base = Base::new(&ModelFiles::open(&place).unwrap());
            assert_eq!(base, Base::Named("my-model".into()), "{}", place.display());
            assert_eq!((base.hub_name(), base.id()), (Some("my-model"), None));
        }
        let bundled = Base::new(&demo::model_files());
        assert_eq!(bundled.name(), "the bundled tiny RoBERTa");
        assert_eq!(bundled.hub_name(), None);
        let hub = Base::hub("org/name@c0ffee");
        assert_eq!((hub.name(), hub.revision()), ("org/name", Some("c0ffee")));
    }
}
