//! A call as a JSON object: `{"name": …, "arguments": {…}}`, with its keys in any order.

use super::emit::Emit;
use super::format::ToolSpec;
use super::json_value::JsonValue;

/// What reading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All text was read; more is needed.
    More,
    /// The call is complete.
    Done,
    /// This is no call.
    Bad,
}

/// Reads one object, and streams its arguments once it knows the name.
#[derive(Clone, Debug)]
pub struct CallObject {
    place: Place,
    has_name: bool,
    /// Arguments that came before the name.
    early: String,
}

#[derive(Clone, Debug)]
enum Place {
    Open,
    KeyOrEnd,
    Key(JsonValue, String),
    Colon(Member),
    Before(Member),
    Value(Member, JsonValue, String),
    /// Arguments on their way out.
    Stream(JsonValue),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    Name,
    Arguments,
    /// `id` and `type`.
    Other,
}

impl CallObject {
    pub fn new() -> Self {
        Self {
            place: Place::Open,
            has_name: false,
            early: String::new(),
        }
    }

    /// Whether the call has been announced.
    pub fn has_begun(&self) -> bool {
        self.has_name
    }

    /// Reads on; returns how many bytes were read. With `tools`, only their names are calls.
    pub fn read(
        &mut self,
        text: &str,
        tools: Option<&[ToolSpec]>,
        out: &mut Emit,
    ) -> (usize, Step) {
        let mut at = 0;
        while at < text.len() {
            let (read, step) = self.step(&text[at..], tools, out);
            at += read;
            if step != Step::More {
                return (at, step);
            }
        }
        (at, Step::More)
    }

    fn step(&mut self, text: &str, tools: Option<&[ToolSpec]>, out: &mut Emit) -> (usize, Step) {
        let first = text.as_bytes()[0];
        match &mut self.place {
            Place::Key(value, raw) => {
                let (read, ends) = value.take(text);
                raw.push_str(&text[..read]);
                if !ends {
                    return (read, Step::More);
                }
                match member(raw) {
                    Some(member) => self.place = Place::Colon(member),
                    None => return (read, Step::Bad),
                }
                (read, Step::More)
            }
            Place::Value(member, value, raw) => {
                let (read, ends) = value.take(text);
                raw.push_str(&text[..read]);
                if !ends {
                    return (read, Step::More);
                }
                let (member, raw) = (*member, std::mem::take(raw));
                self.place = Place::KeyOrEnd;
                (read, self.member(member, &raw, tools, out))
            }
            Place::Stream(value) => {
                let (read, ends) = value.take(text);
                out.arguments(&text[..read]);
                if ends {
                    self.place = Place::KeyOrEnd;
                }
                (read, Step::More)
            }
            _ if first.is_ascii_whitespace() => (1, Step::More),
            Place::Open if first == b'{' => self.go(Place::KeyOrEnd),
            Place::KeyOrEnd => match first {
                b',' => (1, Step::More),
                b'"' => {
                    self.place = Place::Key(JsonValue::default(), String::new());
                    (0, Step::More)
                }
                b'}' if self.has_name => {
                    out.end_call();
                    (1, Step::Done)
                }
                _ => (0, Step::Bad),
            },
            Place::Colon(member) if first == b':' => {
                let member = *member;
                self.go(Place::Before(member))
            }
            Place::Before(member) => {
                let member = *member;
                let streams = member == Member::Arguments && self.has_name && first == b'{';
                self.place = if streams {
                    Place::Stream(JsonValue::default())
                } else {
                    Place::Value(member, JsonValue::default(), String::new())
                };
                (0, Step::More)
            }
            Place::Open | Place::Colon(_) => (0, Step::Bad),
        }
    }

    fn go(&mut self, place: Place) -> (usize, Step) {
        self.place = place;
        (1, Step::More)
    }

    /// Takes in a whole value.
    fn member(
        &mut self,
        member: Member,
        raw: &str,
        tools: Option<&[ToolSpec]>,
        out: &mut Emit,
    ) -> Step {
        match member {
            Member::Other => {}
            Member::Arguments => {
                let arguments = arguments(raw);
                if self.has_name {
                    out.arguments(&arguments);
                } else {
                    self.early = arguments;
                }
            }
            Member::Name => {
                let Ok(name) = serde_json::from_str::<String>(raw) else {
                    return Step::Bad;
                };
                let is_known = tools.is_none_or(|tools| tools.iter().any(|t| t.name == name));
                if self.has_name || name.is_empty() || !is_known {
                    return Step::Bad;
                }
                out.begin_call(&name);
                self.has_name = true;
                out.arguments(&std::mem::take(&mut self.early));
            }
        }
        Step::More
    }
}

fn member(key: &str) -> Option<Member> {
    Some(match key {
        "\"name\"" | "\"function\"" => Member::Name,
        "\"arguments\"" | "\"parameters\"" => Member::Arguments,
        "\"id\"" | "\"type\"" => Member::Other,
        _ => return None,
    })
}

/// Some models write the arguments as OpenAI does, as a string; none at all may be null.
fn arguments(raw: &str) -> String {
    match serde_json::from_str::<serde_json::Value>(raw) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(serde_json::Value::Null) => String::new(),
        _ => raw.to_owned(),
    }
}
