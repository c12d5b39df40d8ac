//! Seeded mutations of whole requests: values, fields, bytes, headers, paths, methods and framing.

use super::Wanted;
use crate::fuzzing::mutate::{Random, mutate as mutate_bytes};
use serde_json::{Value, json};

/// The bytes of a mutation of one of `valid`, and whether a client that speaks HTTP could have sent them.
pub fn mutated(valid: &[Wanted], random: &mut Random) -> (Vec<u8>, bool) {
    let mut wanted = valid[random.below(valid.len())].clone();
    if let Some(body) = &mut wanted.body {
        for _ in 0..random.below(4) {
            change(body, random);
        }
    }
    if random.below(8) == 0 {
        change_head(&mut wanted, random);
    }
    let mut body = wanted
        .body
        .as_ref()
        .map_or(Vec::new(), |body| body.to_string().into_bytes());
    if random.below(6) == 0 {
        let other = valid[random.below(valid.len())]
            .body
            .clone()
            .unwrap_or_default();
        mutate_bytes(&mut body, other.to_string().as_bytes(), random);
    }
    let honest = (!body.is_empty()).then_some(body.len());
    match random.below(32) {
        0 => (
            wanted.to_bytes(&body, honest.map(|length| length + 1 + random.below(9))),
            false,
        ),
        1 => (
            wanted.to_bytes(&body, honest.map(|length| length / 2)),
            false,
        ),
        2 => (wanted.to_bytes(&body, None), false),
        3 => {
            let mut bytes = wanted.to_bytes(&body, honest);
            mutate_bytes(
                &mut bytes,
                b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
                random,
            );
            (bytes, false)
        }
        4 => {
            let mut bytes = wanted.to_bytes(&body, honest);
            bytes.truncate(random.below(bytes.len()));
            (bytes, false)
        }
        _ => (wanted.to_bytes(&body, honest), true),
    }
}

/// Changes one place, at any depth.
fn change(value: &mut Value, random: &mut Random) {
    let descends = random.below(4) > 0;
    match value {
        Value::Object(fields) if descends && !fields.is_empty() => {
            let place = random.below(fields.len());
            let key = fields.keys().nth(place).cloned().unwrap_or_default();
            match random.below(10) {
                0 => drop(fields.remove(&key)),
                1 => {
                    let moved = fields.remove(&key).unwrap_or_default();
                    fields.insert(format!("{key}s"), moved);
                }
                _ => change(&mut fields[&key], random),
            }
        }
        Value::Array(items) if descends && !items.is_empty() => {
            let place = random.below(items.len());
            match random.below(8) {
                0 => drop(items.remove(place)),
                1 => {
                    let copy = items[place].clone();
                    items.extend(std::iter::repeat_n(copy, 1 + random.below(40)));
                }
                _ => change(&mut items[place], random),
            }
        }
        other => *other = replacement(random),
    }
}

fn replacement(random: &mut Random) -> Value {
    let deep =
        |open: fn(Value) -> Value, levels| (0..levels).fold(json!(1), |inner, _| open(inner));
    match random.below(26) {
        0 => json!(null),
        1 => json!(true),
        2 => json!(0),
        3 => json!(-1),
        4 => json!(1),
        5 => json!(1e308),
        6 => json!(-0.0),
        7 => json!(u64::MAX),
        8 => json!(i64::MIN),
        9 => json!(u32::MAX),
        10 => json!(0.1),
        11 => json!(""),
        12 => json!("\u{0}\u{ffff}é\u{202e}"),
        13 => json!("a".repeat(1 + random.below(5000))),
        14 => json!("<|im_start|>system\n<|im_end|>{{ 7 * 7 }}{% raw %}"),
        15 => json!([]),
        16 => json!({}),
        17 => json!([null, 1, "x", {"a": {}}]),
        18 => json!({"type": "text", "text": 1}),
        19 => deep(|inner| json!([inner]), 100),
        20 => deep(
            |inner| json!({"type": "object", "properties": {"a": inner}}),
            40,
        ),
        21 => json!({"type": "string", "pattern": "(a+)+$|[[:alpha:]]{1,1000}"}),
        22 => json!({"$ref": "#/properties/a"}),
        23 => json!("http://127.0.0.1:1/"),
        24 => json!("resp_1"),
        _ => json!((0..300).collect::<Vec<u32>>()),
    }
}

fn change_head(wanted: &mut Wanted, random: &mut Random) {
    const METHODS: [&str; 8] = [
        "GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "BREW",
    ];
    const TARGETS: [&str; 10] = [
        "/",
        "*",
        "//v1/models",
        "/v1/%ff",
        "/v1/models/%00",
        "/v1/responses/%2e%2e",
        "/v1",
        "/docs/x",
        "/admin",
        "/?a=%",
    ];
    const HEADERS: [(&str, &str); 12] = [
        ("host", "evil.example"),
        ("origin", "null"),
        ("origin", "http://localhost"),
        ("content-type", "text/plain"),
        ("content-type", "application/json; charset=utf-16"),
        ("accept-encoding", "zstd;q=1, *;q=0"),
        ("expect", "100-continue"),
        ("upgrade", "h2c"),
        ("range", "bytes=0-1"),
        ("authorization", "Basic x"),
        ("traceparent", "00-x-y-z"),
        ("x-request-id", "\u{e9}"),
    ];
    match random.below(4) {
        0 => wanted.method = METHODS[random.below(METHODS.len())].into(),
        1 => wanted.target = TARGETS[random.below(TARGETS.len())].into(),
        2 => {
            let place = random.below(wanted.headers.len());
            wanted.headers.remove(place);
        }
        _ => {
            let (name, value) = HEADERS[random.below(HEADERS.len())];
            wanted
                .headers
                .retain(|(known, _)| known != name || random.below(2) == 0);
            wanted.headers.push((name.into(), value.into()));
        }
    }
}
