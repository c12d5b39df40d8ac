//! What a schema or grammar may hold.

use super::GrammarError;
use serde_json::Value;

/// Bytes of a schema or grammar; of all schemas together where several tools may be called.
pub const SOURCE_BYTES: usize = 64 << 10;
/// Levels of a schema, and of brackets in a grammar.
pub const DEPTH: usize = 32;

/// Checks a schema, or the sum of several.
pub fn check_schemas<'a>(schemas: impl IntoIterator<Item = &'a Value>) -> Result<(), GrammarError> {
    let mut bytes = 0;
    for schema in schemas {
        check("levels", depth(schema), DEPTH)?;
        bytes += schema.to_string().len();
    }
    check("bytes", bytes, SOURCE_BYTES)
}

/// Checks the text of a grammar or a regular expression.
pub fn check_text(text: &str) -> Result<(), GrammarError> {
    check("bytes", text.len(), SOURCE_BYTES)?;
    let (mut level, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => level += 1,
            b')' | b']' | b'}' => level = level.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(level);
    }
    check("levels of brackets", deepest, DEPTH)
}

fn check(what: &'static str, found: usize, limit: usize) -> Result<(), GrammarError> {
    if found > limit {
        return Err(GrammarError::TooLarge { what, found, limit });
    }
    Ok(())
}

/// Parsed JSON is never deeper than its parser's own limit, so recursion is safe.
fn depth(value: &Value) -> usize {
    let inner = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(members) => members.values().map(depth).max(),
        _ => return 0,
    };
    1 + inner.unwrap_or(0)
}
