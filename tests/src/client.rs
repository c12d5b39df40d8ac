//! A blocking HTTP client for one server.

use crate::sse::{SseItem, SseReader};
use serde_json::{Value, json};
use std::time::Duration;
use ureq::http;

/// Longer than any answer takes: it turns a hang into a failure.
const HANG: Duration = Duration::from_secs(120);

/// A whole reply.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The body.
    pub body: String,
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e} in {:?}", self.body))
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Itself, if its status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }
}

/// Speaks to one server. Never retries.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    base: String,
}

impl Client {
    /// For `http://127.0.0.1:port`.
    pub fn new(port: u16) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(HANG))
            .http_status_as_error(false)
            // A vanished or restarted server must not be hidden by an old connection.
            .max_idle_connections(0)
            .build();
        Self {
            agent: config.into(),
            base: format!("http://127.0.0.1:{port}"),
        }
    }

    /// `GET`, or None where nobody listens.
    pub fn try_get(&self, path: &str) -> Option<Reply> {
        let reply = self.agent.get(format!("{}{path}", self.base)).call().ok()?;
        Some(whole(reply))
    }

    /// `GET`.
    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.try_get(path)
            .unwrap_or_else(|| panic!("GET {path}: no answer"))
    }

    /// `GET` with a bearer's key.
    #[track_caller]
    pub fn get_as(&self, key: &str, path: &str) -> Reply {
        let request = self.agent.get(format!("{}{path}", self.base));
        let reply = request
            .header("authorization", format!("Bearer {key}"))
            .call();
        whole(reply.unwrap_or_else(|e| panic!("GET {path}: {e}")))
    }

    /// `PATCH` of JSON with a bearer's key.
    #[track_caller]
    pub fn patch_as(&self, key: &str, path: &str, body: &Value) -> Reply {
        let request = self.agent.patch(format!("{}{path}", self.base));
        let reply = request
            .header("authorization", format!("Bearer {key}"))
            .send_json(body);
        whole(reply.unwrap_or_else(|e| panic!("PATCH {path}: {e}")))
    }

    /// `POST` of JSON.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        whole(self.send(path, body))
    }

    /// `POST` of JSON that must answer 200 with server-sent events.
    #[track_caller]
    pub fn stream(&self, path: &str, body: &Value) -> SseReader {
        let reply = self.send(path, body);
        if reply.status() != 200 {
            let reply = whole(reply);
            panic!("POST {path}: {} {}", reply.status, reply.body);
        }
        let kind = reply.headers()["content-type"]
            .to_str()
            .expect("a content type")
            .to_string();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        SseReader::new(Box::new(reply.into_body().into_reader()))
    }

    /// `GET` of server-sent events.
    pub fn get_stream(&self, path: &str) -> SseReader {
        let reply = self.agent.get(format!("{}{path}", self.base)).call();
        let reply = reply.unwrap_or_else(|e| panic!("GET {path}: {e}"));
        assert_eq!(reply.status(), 200);
        SseReader::new(Box::new(reply.into_body().into_reader()))
    }

    #[track_caller]
    fn send(&self, path: &str, body: &Value) -> http::Response<ureq::Body> {
        let reply = self
            .agent
            .post(format!("{}{path}", self.base))
            .send_json(body);
        reply.unwrap_or_else(|e| panic!("POST {path}: {e}"))
    }

    /// A greedy completion of token ids, with the chosen tokens' logprobs. The reply is compared as a whole, so any
    /// difference of a token or of a bit of a logprob shows.
    #[track_caller]
    pub fn complete_tokens(&self, prompt: &[u32], max_tokens: u32) -> Reply {
        let body = json!({
            "model": self.model(), "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "logprobs": 3,
        });
        self.post("/v1/completions", &body)
    }

    /// The served model's name.
    #[track_caller]
    pub fn model(&self) -> String {
        let models = self.get("/v1/models").expect(200).json();
        models["data"][0]["id"]
            .as_str()
            .expect("one model is listed")
            .to_string()
    }
}

fn whole(mut reply: http::Response<ureq::Body>) -> Reply {
    let body = reply
        .body_mut()
        .with_config()
        .limit(64 << 20)
        .read_to_string();
    Reply {
        status: reply.status().as_u16(),
        headers: reply.headers().clone(),
        body: body.expect("a whole body of UTF-8"),
    }
}

/// What an answer says, without what differs from one request to the next (ids and times).
pub fn answer(reply: &Reply) -> Value {
    let json = reply.clone().expect(200).json();
    json["choices"].clone()
}

/// The text of a chat stream, after checking its framing: one role first, one finish, then `[DONE]` and the end.
pub fn chat_text(stream: SseReader) -> String {
    let (mut text, mut chunks, mut finish, mut done) = (String::new(), 0, None, false);
    let mut id = None;
    for item in stream {
        assert!(!done, "something after [DONE]: {item:?}");
        match item {
            SseItem::Comment => {}
            SseItem::Done => done = true,
            SseItem::Json(chunk) => {
                assert!(chunk.get("error").is_none(), "{chunk}");
                assert_eq!(chunk["object"], "chat.completion.chunk");
                assert_eq!(
                    *id.get_or_insert(chunk["id"].clone()),
                    chunk["id"],
                    "one id on every chunk"
                );
                let choice = &chunk["choices"][0];
                assert_eq!(
                    choice["delta"]["role"] == "assistant",
                    chunks == 0,
                    "role first and once: {chunk}"
                );
                assert!(finish.is_none(), "a chunk after the finish: {chunk}");
                text.push_str(choice["delta"]["content"].as_str().unwrap_or(""));
                finish = choice["finish_reason"].as_str().map(str::to_string);
                chunks += 1;
            }
        }
    }
    assert!(done && finish.is_some(), "a stream without its end");
    text
}
