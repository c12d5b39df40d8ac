//! A folder of GGUF files, as people download them: which model is meant.

use super::parts::{SetName, listed};
use crate::source::SourceError;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A file of the only GGUF model in a folder. None where there is none, or where the folder is a Hugging Face one:
/// `config.json` alone is no sign of that, for it lies beside published GGUF files too.
pub fn model_of_folder(folder: &Path) -> Result<Option<PathBuf>, SourceError> {
    let names = file_names(folder)?;
    let has = |extension| names.iter().any(|name| ends_in(name, extension));
    if has("safetensors") && names.iter().any(|name| name == "config.json") {
        return Ok(None);
    }
    let mut models = BTreeMap::new();
    for name in names.iter().filter(|name| ends_in(name, "gguf")) {
        let model = SetName::of(name).map_or_else(|| name.clone(), |set| set.file_name(1));
        models.entry(model).or_insert(name);
    }
    let mut found = models.values();
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some(name), None) => Ok(Some(folder.join(name))),
        (Some(_), Some(_)) => Err(SourceError::SeveralModels {
            folder: folder.into(),
            names: listed(&models.into_values().collect::<Vec<_>>()),
        }),
    }
}

fn ends_in(name: &str, extension: &str) -> bool {
    let found = Path::new(name).extension();
    found.is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// Names of files, sorted. Hidden ones are no models: some systems keep notes on other files in them.
fn file_names(folder: &Path) -> Result<Vec<String>, SourceError> {
    let failed = |source| SourceError::Io {
        path: folder.into(),
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Not the entry's own kind: a link to a file is one.
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
            && entry.path().is_file()
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn found(names: &[&str]) -> Result<Option<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let model = model_of_folder(folder.path()).map_err(|error| error.to_string())?;
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        Ok(model.map(name))
    }

    #[test]
    fn the_only_model_is_found_among_other_files() {
        let one = |name: &str| Ok(Some(name.to_owned()));
        assert_eq!(found(&["README.md"]), Ok(None));
        assert_eq!(found(&["README.md", "m.GGUF", "._m.gguf"]), one("m.GGUF"));
        let set = ["m-00002-of-00003.gguf", "m-00003-of-00003.gguf"];
        assert_eq!(
            found(&set),
            one("m-00002-of-00003.gguf"),
            "though one is missing"
        );
        assert_eq!(
            found(&["config.json", "m.gguf"]),
            one("m.gguf"),
            "published beside it"
        );
        let both = ["config.json", "m.gguf", "model.safetensors"];
        assert_eq!(found(&both), Ok(None), "a Hugging Face folder");
    }

    #[test]
    fn several_models_are_listed() {
        let names = [
            "a.gguf",
            "b-00001-of-00002.gguf",
            "b-00002-of-00002.gguf",
            "b-00001-of-00003.gguf",
        ];
        let error = found(&names).unwrap_err();
        let listed = "a.gguf, b-00001-of-00002.gguf, b-00001-of-00003.gguf";
        assert!(
            error.ends_with(&format!("give one of them: {listed}")),
            "{error}"
        );
    }
}
