//! Made-up bodies: whatever comes, the answer is no 5xx and the server lives.

use super::fake::{self, FakeEngine};
use super::*;

/// splitmix64 (Steele, Lea and Flood, 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// A body with every field that is known.
fn full() -> Value {
    chat(json!({
        "prompt": "hello", "max_tokens": 3, "temperature": 1, "top_p": 1, "top_k": 3, "min_p": 0.1, "n": 1, "seed": 1,
        "stop": ["a", "b"], "stop_token_ids": [1], "logit_bias": {"5": 1}, "stream": false, "presence_penalty": 0,
        "frequency_penalty": 0, "repetition_penalty": 1, "ignore_eos": false, "chat_template_kwargs": {"shout": true},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}], "tool_choice": "auto",
        "response_format": {"type": "text"}, "modalities": ["text"], "model": "tiny/moe",
    }))
}

fn replacement(random: &mut Random) -> Value {
    let deep = (0..90).fold(json!(1), |inner, _| json!([inner]));
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1e308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.1),
        json!(""),
        json!("\u{0}\u{FFFF}é"),
        json!("a".repeat(1000)),
        json!([]),
        json!({}),
        json!([null, 1, "x"]),
        json!({"type": "text", "text": 1}),
        json!([{"role": "user", "content": [{"type": "text", "text": "t"}]}]),
        json!([[1, 2], ["a"]]),
        deep,
    ];
    random.pick(&values).clone()
}

/// Changes one place of the body, at any depth.
fn mutate(value: &mut Value, random: &mut Random) {
    let descend = random.below(3) > 0;
    match value {
        Value::Object(fields) if descend && !fields.is_empty() => {
            let key = fields
                .keys()
                .nth(random.below(fields.len()))
                .unwrap()
                .clone();
            if random.below(8) == 0 {
                fields.remove(&key);
            } else {
                mutate(&mut fields[&key], random);
            }
        }
        Value::Array(items) if descend && !items.is_empty() => {
            let place = random.below(items.len());
            mutate(&mut items[place], random);
        }
        other => *other = replacement(random),
    }
}

#[tokio::test]
async fn no_body_makes_a_5xx() {
    let seed = 0x0D_0E;
    let mut random = Random(seed);
    let engine = FakeEngine::new(|_| fake::says("ok"));
    let server = Server::with(HttpConfig::default(), engine).await;
    let mut accepted = 0;
    for round in 0..400 {
        let mut body = full();
        for _ in 0..=random.below(2) {
            mutate(&mut body, &mut random);
        }
        let mut bytes = body.to_string().into_bytes();
        if random.below(4) == 0 {
            let place = random.below(bytes.len());
            bytes[place] = random.next() as u8;
        }
        let path = *random.pick(&[CHAT, COMPLETIONS]);
        let call = Call::new("POST", path).header("content-type", "application/json");
        let reply = call.bytes(&bytes).send(server.address).await;
        let shown = String::from_utf8_lossy(&bytes);
        assert!(
            reply.status < 500,
            "seed {seed}, round {round}: {shown} got {}",
            reply.body
        );
        if reply.status == 200 {
            accepted += 1;
        } else {
            reply.error();
        }
    }
    assert!(
        (20..380).contains(&accepted),
        "{accepted} of 400 accepted: the mutations miss their aim"
    );
    server.engine.until_running(0).await;
    assert_eq!(server.post(CHAT, chat(json!({}))).await.status, 200);
}
