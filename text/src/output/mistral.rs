//! Mistral's calls after `[TOOL_CALLS]`: a list of objects, or `NAME[ARGS]{…}`.

use super::call_object::{CallObject, Step};
use super::emit::Emit;
use super::json_value::JsonValue;

const LONGEST_NAME_BYTES: usize = 256;

/// Reads all calls of one mark.
#[derive(Clone, Debug)]
pub struct MistralCalls {
    place: Place,
    has_begun: bool,
}

#[derive(Clone, Debug)]
enum Place {
    Start,
    /// In the list, before an object or its end.
    Between,
    Object(CallObject),
    /// Before the arguments, with what stands there.
    Name(String),
    Arguments(JsonValue),
}

impl MistralCalls {
    pub fn new() -> Self {
        Self {
            place: Place::Start,
            has_begun: false,
        }
    }

    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Reads on; returns how many bytes were read.
    pub fn read(&mut self, text: &str, out: &mut Emit) -> (usize, Step) {
        let mut at = 0;
        while at < text.len() {
            let (read, step) = self.step(&text[at..], out);
            at += read;
            if step != Step::More {
                return (at, step);
            }
        }
        (at, Step::More)
    }

    fn step(&mut self, text: &str, out: &mut Emit) -> (usize, Step) {
        let first = text.as_bytes()[0];
        match &mut self.place {
            Place::Object(object) => {
                let (read, step) = object.read(text, None, out);
                self.has_begun |= object.has_begun();
                if step == Step::Done {
                    self.place = Place::Between;
                    return (read, Step::More);
                }
                (read, step)
            }
            Place::Name(name) => {
                let Some(at) = text.find('{') else {
                    name.push_str(text);
                    let fits = name.len() <= LONGEST_NAME_BYTES;
                    return (text.len(), if fits { Step::More } else { Step::Bad });
                };
                name.push_str(&text[..at]);
                let word = name.split('[').next().unwrap_or_default().trim();
                if word.is_empty() || name.len() > LONGEST_NAME_BYTES {
                    return (at, Step::Bad);
                }
                out.begin_call(word);
                self.has_begun = true;
                self.place = Place::Arguments(JsonValue::default());
                (at, Step::More)
            }
            Place::Arguments(value) => {
                let (read, ends) = value.take(text);
                out.arguments(&text[..read]);
                if ends {
                    out.end_call();
                }
                (read, if ends { Step::Done } else { Step::More })
            }
            Place::Start | Place::Between if first.is_ascii_whitespace() => (1, Step::More),
            Place::Start if first == b'[' => {
                self.place = Place::Between;
                (1, Step::More)
            }
            Place::Start => {
                self.place = Place::Name(String::new());
                (0, Step::More)
            }
            Place::Between => match first {
                b',' => (1, Step::More),
                b']' if self.has_begun => (1, Step::Done),
                b'{' => {
                    self.place = Place::Object(CallObject::new());
                    (0, Step::More)
                }
                _ => (0, Step::Bad),
            },
        }
    }
}
