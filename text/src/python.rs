//! What chat templates expect of Python: `json.dumps` and `strftime`.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// How [`dumps`] lays out JSON; the defaults are those of `json.dumps(ensure_ascii=False)`.
pub(crate) struct JsonStyle {
    pub item_separator: String,
    pub key_separator: String,
    /// One item a line, each level indented by this.
    pub indent: Option<String>,
    pub sort_keys: bool,
    pub ensure_ascii: bool,
}

impl Default for JsonStyle {
    fn default() -> Self {
        Self {
            item_separator: ", ".to_owned(),
            key_separator: ": ".to_owned(),
            indent: None,
            sort_keys: false,
            ensure_ascii: false,
        }
    }
}

/// Deeper values are refused: templates can build them without end.
const DEPTH_LIMIT: usize = 128;

/// JSON as Python writes it. Longer output than `limit_bytes` is an error.
pub(crate) fn dumps(value: &Value, style: &JsonStyle, limit_bytes: usize) -> Result<String, Error> {
    let mut writer = Writer {
        style,
        limit_bytes,
        out: String::new(),
    };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct Writer<'a> {
    style: &'a JsonStyle,
    limit_bytes: usize,
    out: String,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_LIMIT || self.out.len() > self.limit_bytes {
            return Err(refuse("the value is too deep or too long for tojson"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?;
                self.container('[', ']', items, depth, |writer, item| {
                    writer.value(&item, depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.style.sort_keys {
                    keys.sort();
                }
                self.container('{', '}', keys.into_iter(), depth, |writer, key| {
                    writer.key(&key)?;
                    writer.out.push_str(&writer.style.key_separator);
                    writer.value(&value.get_item(&key)?, depth + 1)
                })?;
            }
            other => {
                return Err(refuse(&format!(
                    "a value of type {other} cannot be written as JSON"
                )));
            }
        }
        Ok(())
    }

    fn container(
        &mut self,
        open: char,
        close: char,
        items: impl Iterator<Item = Value>,
        depth: usize,
        mut write: impl FnMut(&mut Self, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let mut empty = true;
        for item in items {
            if !empty {
                self.out.push_str(&self.style.item_separator);
            }
            empty = false;
            self.line(depth + 1);
            write(self, item)?;
        }
        if !empty {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.style.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn key(&mut self, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.string(key.as_str().unwrap_or_default()),
            ValueKind::None => self.out.push_str("\"null\""),
            ValueKind::Bool => self.out.push_str(if key.is_true() {
                "\"true\""
            } else {
                "\"false\""
            }),
            ValueKind::Number => self.out.push_str(&format!("\"{}\"", number(key))),
            other => {
                return Err(refuse(&format!(
                    "a key of type {other} cannot be written as JSON"
                )));
            }
        }
        Ok(())
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' '
                    || (self.style.ensure_ascii && !c.is_ascii())
                    || (self.style.ensure_ascii && c == '\u{7f}') =>
                {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn refuse(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_owned())
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
}

/// Python's `repr` of a float: the shortest digits that read back as the same number, with an exponent from 1e16 on
/// and below 1e-4.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific
        .split_once('e')
        .expect("LowerExp writes an exponent");
    let exponent: i32 = exponent.parse().expect("a small integer");
    if number == 0.0 || (-4..16).contains(&exponent) {
        let plain = number.to_string();
        return if plain.contains('.') {
            plain
        } else {
            plain + ".0"
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// `strftime` in UTC, for the directives that date stamps use; an unknown one is an error that names it.
pub(crate) fn strftime(unix_s: u64, format: &str) -> Result<String, String> {
    let date = Date::from_unix(unix_s);
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut directive = letters.next().ok_or("the format ends in a lone %")?;
        // glibc's `-` leaves out the padding.
        let padded = directive != '-';
        if !padded {
            directive = letters.next().ok_or("the format ends in a lone %-")?;
        }
        out.push_str(&date.directive(directive, padded)?);
    }
    Ok(out)
}

struct Date {
    year: u64,
    /// From 1.
    month: u64,
    /// From 1.
    day: u64,
    /// From 1.
    day_of_year: u64,
    /// From 0, Sunday.
    weekday: u64,
    second_of_day: u64,
}

impl Date {
    fn from_unix(unix_s: u64) -> Self {
        let days = unix_s / 86_400;
        let is_leap = |year: u64| {
            (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
        };
        // Whole cycles of 400 years first, so that the loop over years is short.
        let (cycles, mut rest) = (days / 146_097, days % 146_097);
        let mut year = 1970 + cycles * 400;
        while rest >= 365 + u64::from(is_leap(year)) {
            rest -= 365 + u64::from(is_leap(year));
            year += 1;
        }
        let day_of_year = rest + 1;
        let lengths = [
            31,
            28 + u64::from(is_leap(year)),
            31,
            30,
            31,
            30,
            31,
            31,
            30,
            31,
            30,
            31,
        ];
        let mut month = 0;
        while rest >= lengths[month] {
            rest -= lengths[month];
            month += 1;
        }
        Self {
            year,
            month: month as u64 + 1,
            day: rest + 1,
            day_of_year,
            weekday: (days + 4) % 7,
            second_of_day: unix_s % 86_400,
        }
    }

    fn directive(&self, directive: char, padded: bool) -> Result<String, String> {
        let number = |value: u64, width: usize| {
            if padded {
                format!("{value:0width$}")
            } else {
                value.to_string()
            }
        };
        let hour = self.second_of_day / 3600;
        let minute = self.second_of_day / 60 % 60;
        let second = self.second_of_day % 60;
        let month = MONTHS[self.month as usize - 1];
        let weekday = DAYS[self.weekday as usize];
        Ok(match directive {
            'Y' => number(self.year, 4),
            'y' => number(self.year % 100, 2),
            'm' => number(self.month, 2),
            'd' => number(self.day, 2),
            'e' => format!("{:>2}", self.day),
            'j' => number(self.day_of_year, 3),
            'H' => number(hour, 2),
            'I' => number((hour + 11) % 12 + 1, 2),
            'M' => number(minute, 2),
            'S' => number(second, 2),
            'f' => "000000".to_owned(),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'w' => self.weekday.to_string(),
            'F' => format!("{:04}-{:02}-{:02}", self.year, self.month, self.day),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            '%' => "%".to_owned(),
            other => return Err(format!("strftime_now does not know %{other}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected texts are what Python 3.11 prints.
    #[test]
    fn floats_print_as_python_prints_them() {
        for (number, expected) in [
            (5.0, "5.0"),
            (0.1, "0.1"),
            (-0.0, "-0.0"),
            (1e-4, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e300, "1.25e+300"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(float(number), expected);
        }
    }

    #[test]
    fn json_has_pythons_spacing_order_and_escapes() {
        let value = Value::from_pairs([
            (
                "b",
                Value::from(vec![
                    Value::from(1),
                    Value::from(2.0),
                    Value::from(true),
                    Value::from(()),
                ]),
            ),
            ("a", Value::from("caf\u{e9} \"\\\n\u{1}<&'")),
            ("c", Value::from_pairs(Vec::<(&str, Value)>::new())),
        ]);
        let plain = dumps(&value, &JsonStyle::default(), 1000).unwrap();
        assert_eq!(
            plain,
            r#"{"b": [1, 2.0, true, null], "a": "caf"#.to_owned()
                + "\u{e9}"
                + r#" \"\\\n\u0001<&'", "c": {}}"#
        );

        let style = JsonStyle {
            indent: Some("  ".into()),
            item_separator: ",".into(),
            sort_keys: true,
            ensure_ascii: true,
            ..JsonStyle::default()
        };
        let value =
            Value::from_pairs([("b", Value::from(vec![1])), ("a", Value::from("\u{1f600}"))]);
        let pretty = dumps(&value, &style, 1000).unwrap();
        assert_eq!(
            pretty,
            "{\n  \"a\": \"\\ud83d\\ude00\",\n  \"b\": [\n    1\n  ]\n}"
        );
    }

    #[test]
    fn what_json_cannot_say_and_what_is_too_long_is_refused() {
        assert!(dumps(&Value::UNDEFINED, &JsonStyle::default(), 1000).is_err());
        let long = Value::from(vec![Value::from("x".repeat(100)); 100]);
        assert!(dumps(&long, &JsonStyle::default(), 1000).is_err());
        let deep = (0..1000).fold(Value::from(1), |inner, _| Value::from(vec![inner]));
        assert!(dumps(&deep, &JsonStyle::default(), 100_000).is_err());
    }

    #[test]
    fn dates_are_pythons() {
        let at = |unix_s, format| strftime(unix_s, format).unwrap();
        assert_eq!(
            at(0, "%A %a %d %B %b %Y %j %w"),
            "Thursday Thu 01 January Jan 1970 001 4"
        );
        assert_eq!(at(951_782_400, "%Y-%m-%d"), "2000-02-29");
        assert_eq!(
            at(1_732_190_400 + 13 * 3600 + 62, "%-d %b %y, %I:%M:%S %p %%"),
            "22 Nov 24, 01:01:02 AM %"
        );
        assert_eq!(at(4_107_542_399, "%F %T"), "2100-02-28 23:59:59");
        assert!(strftime(0, "%Q").unwrap_err().contains("%Q"));
        assert!(strftime(u64::MAX, "%Y").is_ok());
    }
}
