//! Calls as Python writes them: `[NAME(KEY=VALUE, …), …]`, or one on each line.

use super::call_object::Step;
use super::emit::Emit;
use super::format::ToolSpec;
use serde_json::{Map, Number, Value};

/// Values nested deeper than this are no call.
const DEPTH_LIMIT: usize = 64;

/// Reads calls. Each comes whole: half a Python literal is no JSON.
#[derive(Clone, Debug)]
pub struct PythonCalls {
    place: Place,
    has_begun: bool,
}

#[derive(Clone, Debug)]
enum Place {
    Between,
    Call(String, Brackets),
}

/// Follows strings and brackets.
#[derive(Clone, Copy, Debug, Default)]
struct Brackets {
    depth: u32,
    quote: Option<u8>,
    is_escaped: bool,
}

impl PythonCalls {
    pub fn new() -> Self {
        Self {
            place: Place::Between,
            has_begun: false,
        }
    }

    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Reads on; returns how many bytes were read. With `tools`, only their names are calls.
    pub fn read(
        &mut self,
        text: &str,
        tools: Option<&[ToolSpec]>,
        out: &mut Emit,
    ) -> (usize, Step) {
        for (at, byte) in text.bytes().enumerate() {
            let step = match &mut self.place {
                Place::Call(call, brackets) => {
                    // Bytes of one character follow each other.
                    let is_last = brackets.step(byte);
                    if !is_last {
                        continue_call(call, text, at);
                        if brackets.depth == 0 && !is_name_byte(byte) {
                            return (at, Step::Bad);
                        }
                        continue;
                    }
                    call.push(')');
                    let Some((name, arguments)) = parse_call(call) else {
                        return (at + 1, Step::Bad);
                    };
                    if tools.is_some_and(|tools| tools.iter().all(|tool| tool.name != name)) {
                        return (at + 1, Step::Bad);
                    }
                    out.begin_call(&name);
                    out.arguments(&Value::Object(arguments).to_string());
                    out.end_call();
                    self.has_begun = true;
                    self.place = Place::Between;
                    Step::More
                }
                Place::Between => self.between(byte),
            };
            match (step, &mut self.place) {
                (Step::More, Place::Call(call, _)) => call.push(char::from(byte)),
                (Step::More, Place::Between) => {}
                // A closing mark is left to the reader of marks.
                (Step::Done, _) => return (at + usize::from(byte != b'<'), Step::Done),
                (Step::Bad, _) => return (at, Step::Bad),
            }
        }
        (text.len(), Step::More)
    }

    fn between(&mut self, byte: u8) -> Step {
        match byte {
            b']' | b'<' if self.has_begun => Step::Done,
            b'[' | b',' | b';' => Step::More,
            byte if byte.is_ascii_whitespace() => Step::More,
            byte if byte.is_ascii_alphabetic() || byte == b'_' => {
                self.place = Place::Call(String::new(), Brackets::default());
                Step::More
            }
            _ => Step::Bad,
        }
    }
}

/// Adds the character that begins at this byte, if one does.
fn continue_call(call: &mut String, text: &str, at: usize) {
    if let Some(character) = text.get(at..).and_then(|rest| rest.chars().next()) {
        call.push(character);
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

impl Brackets {
    /// Whether this byte closes the outermost bracket.
    fn step(&mut self, byte: u8) -> bool {
        if self.is_escaped {
            self.is_escaped = false;
        } else if let Some(quote) = self.quote {
            match byte {
                b'\\' => self.is_escaped = true,
                byte if byte == quote => self.quote = None,
                _ => {}
            }
        } else {
            match byte {
                b'"' | b'\'' if self.depth > 0 => self.quote = Some(byte),
                b'(' | b'[' | b'{' => self.depth = self.depth.saturating_add(1),
                b')' | b']' | b'}' if self.depth > 0 => {
                    self.depth -= 1;
                    return self.depth == 0;
                }
                _ => {}
            }
        }
        false
    }
}

/// Name and arguments of `NAME(KEY=VALUE, …)`.
fn parse_call(call: &str) -> Option<(String, Map<String, Value>)> {
    let (name, rest) = call.split_once('(')?;
    let mut literal = Literal {
        text: rest.strip_suffix(')')?,
    };
    let mut arguments = Map::new();
    while !literal.is_over() {
        let key = literal.name()?;
        literal.expect('=')?;
        arguments.insert(key, literal.value(0)?);
        if !literal.is_over() {
            literal.expect(',')?;
        }
    }
    Some((name.to_owned(), arguments))
}

/// Reads Python literals.
struct Literal<'a> {
    text: &'a str,
}

impl Literal<'_> {
    fn is_over(&mut self) -> bool {
        self.text = self.text.trim_start();
        self.text.is_empty()
    }

    fn expect(&mut self, character: char) -> Option<()> {
        self.text = self.text.trim_start().strip_prefix(character)?;
        Some(())
    }

    fn eat(&mut self, character: char) -> bool {
        self.expect(character).is_some()
    }

    /// A word of letters, digits and what numbers have besides.
    fn word(&mut self) -> &str {
        self.text = self.text.trim_start();
        let is_in = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '+');
        let end = self.text.find(|c| !is_in(c)).unwrap_or(self.text.len());
        let (word, rest) = self.text.split_at(end);
        self.text = rest;
        word
    }

    fn name(&mut self) -> Option<String> {
        let word = self.word();
        (!word.is_empty()).then(|| word.to_owned())
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > DEPTH_LIMIT {
            return None;
        }
        match self.text.trim_start().chars().next()? {
            '"' | '\'' => self.string().map(Value::from),
            '[' => self.list('[', ']', depth),
            '(' => self.list('(', ')', depth),
            '{' => self.dictionary(depth),
            _ => match self.word() {
                "True" | "true" => Some(true.into()),
                "False" | "false" => Some(false.into()),
                "None" | "null" => Some(Value::Null),
                word => number(word),
            },
        }
    }

    fn list(&mut self, open: char, close: char, depth: usize) -> Option<Value> {
        self.expect(open)?;
        let mut items = Vec::new();
        while !self.eat(close) {
            items.push(self.value(depth + 1)?);
            if !self.text.trim_start().starts_with(close) {
                self.expect(',')?;
            }
        }
        Some(Value::Array(items))
    }

    fn dictionary(&mut self, depth: usize) -> Option<Value> {
        self.expect('{')?;
        let mut members = Map::new();
        while !self.eat('}') {
            let Value::String(key) = self.value(depth + 1)? else {
                return None;
            };
            self.expect(':')?;
            members.insert(key, self.value(depth + 1)?);
            if !self.text.trim_start().starts_with('}') {
                self.expect(',')?;
            }
        }
        Some(Value::Object(members))
    }

    fn string(&mut self) -> Option<String> {
        self.text = self.text.trim_start();
        let mut characters = self.text.char_indices();
        let (_, quote) = characters.next()?;
        let mut string = String::new();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => match characters.next()?.1 {
                    'n' => string.push('\n'),
                    't' => string.push('\t'),
                    'r' => string.push('\r'),
                    'b' => string.push('\u{8}'),
                    'f' => string.push('\u{c}'),
                    '\n' => {}
                    'u' => {
                        let digits: String = characters.by_ref().take(4).map(|c| c.1).collect();
                        let code = u32::from_str_radix(&digits, 16).ok()?;
                        string.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    same @ ('\\' | '\'' | '"') => string.push(same),
                    // Python keeps what it does not know.
                    other => string.extend(['\\', other]),
                },
                character if character == quote => {
                    self.text = &self.text[at + character.len_utf8()..];
                    return Some(string);
                }
                character => string.push(character),
            }
        }
        None
    }
}

fn number(word: &str) -> Option<Value> {
    if let Ok(integer) = word.parse::<i64>() {
        return Some(integer.into());
    }
    let float = word.parse::<f64>().ok()?;
    Number::from_f64(float).map(Value::Number)
}
