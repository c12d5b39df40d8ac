//! How many values a body holds, before anything is allocated for them.

/// Counts commas and opening brackets outside of strings: no parser makes more values of these bytes, but one.
///
/// The top-level member `beside` is left out: the caller reads it into integers and texts, of which a bounded number is
/// kept, so it takes little more memory than its bytes. Bytes that are no JSON give some number; the parser then
/// refuses them where they stop being JSON, and up to there the number is right.
pub(super) fn count(bytes: &[u8], beside: &str) -> usize {
    let (mut depth, mut values) = (0_usize, 0);
    let (mut is_beside, mut last_string) = (false, &bytes[..0]);
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let length = string_length(&bytes[at + 1..]);
                last_string = &bytes[at + 1..][..length];
                at += length + 1;
            }
            b':' if depth == 1 => is_beside = last_string == beside.as_bytes(),
            b',' => {
                is_beside &= depth > 1;
                values += usize::from(!is_beside);
            }
            b'{' | b'[' => {
                depth += 1;
                values += usize::from(!is_beside);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    values
}

/// Bytes up to the closing quote, or to the end.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn values_are_counted_but_not_what_strings_and_one_member_hold() {
        let cases = [
            ("", 0),
            ("{}", 1),
            (r#"{"a": 1, "b": [1, 2, {}]}"#, 6),
            (r#"{"a": "[,{\",{\\", "b": ",,"}"#, 2),
            (r#"{"prompt": [[1, 2], [3]]}"#, 1),
            (r#"{"prompt": [1, 2], "a": [1, 2]}"#, 4),
            (r#"{"a": [1, 2], "prompt": [1, 2]}"#, 4),
            (r#"{"a": {"prompt": [1, 2]}}"#, 4),
            (r#"{"a": "prompt", "b": [1, 2]}"#, 4),
            (r#"{"\u0070rompt": [1, 2]}"#, 3),
            (r#"["prompt", [1, 2]]"#, 4),
            ("{\"unended", 1),
            ("{\"unended\\", 1),
            ("]]]}[", 1),
        ];
        for (json, expected) in cases {
            assert_eq!(count(json.as_bytes(), "prompt"), expected, "{json}");
        }
    }
}
