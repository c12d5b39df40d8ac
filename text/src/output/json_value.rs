//! Where a JSON value ends, in text that arrives in pieces.

/// Follows one value. It need not be valid: only strings and brackets are looked at.
#[derive(Clone, Debug, Default)]
pub struct JsonValue {
    kind: Option<Kind>,
    depth: u32,
    in_string: bool,
    is_escaped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// An object or a list.
    Nested,
    Text,
    /// A number or a word.
    Scalar,
}

impl JsonValue {
    /// How many bytes of `text` belong to the value, and whether it ends there.
    pub fn take(&mut self, text: &str) -> (usize, bool) {
        for (at, byte) in text.bytes().enumerate() {
            let kind = *self.kind.get_or_insert(match byte {
                b'{' | b'[' => Kind::Nested,
                b'"' => Kind::Text,
                _ => Kind::Scalar,
            });
            if kind == Kind::Scalar {
                if matches!(byte, b',' | b'}' | b']' | b'<') || byte.is_ascii_whitespace() {
                    return (at, true);
                }
            } else if self.step(byte) {
                return (at + 1, true);
            }
        }
        (text.len(), false)
    }

    /// Whether the value ends with this byte.
    fn step(&mut self, byte: u8) -> bool {
        if self.is_escaped {
            self.is_escaped = false;
        } else if self.in_string {
            match byte {
                b'\\' => self.is_escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return !self.in_string && self.depth == 0;
        } else {
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    return self.depth == 0;
                }
                _ => {}
            }
        }
        false
    }
}
