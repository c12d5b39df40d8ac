//! The small files of a store: what the text side needs.

use super::plan::Plan;
use crate::source::ModelSource;

/// A file's name, and all that is in it.
pub(super) type TextFile<'a> = (&'a str, &'a [u8]);

/// Tokenizer, chat template and generation config under the names in the manifest.
pub(super) fn text_files<'a>(
    source: &'a dyn ModelSource,
    plan: &'a Plan,
) -> impl Iterator<Item = TextFile<'a>> {
    let (contents, names) = (&source.metadata().text, &plan.manifest.text);
    let template = contents.chat_template.as_deref().map(str::as_bytes);
    let files = [
        (&names.tokenizer, contents.tokenizer.as_deref()),
        (&names.chat_template, template),
        (
            &names.generation_config,
            contents.generation_config.as_deref(),
        ),
    ];
    let there = |(name, contents): (&'a Option<String>, Option<&'a [u8]>)| {
        Some((name.as_deref()?, contents?))
    };
    files.into_iter().filter_map(there)
}
