//! The log: one line a request, and nothing of what is said.

use super::client::soon;
use super::fake::{self, FakeEngine};
use super::*;
use std::io::Write;
use std::sync::{Mutex, OnceLock};
use tracing_subscriber::fmt::MakeWriter;

/// What all tests of this process log; each test looks for its own request ids.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// Installed once and for all threads: whether a line is logged at all is decided globally.
    pub fn collect() -> Self {
        static LINES: OnceLock<Lines> = OnceLock::new();
        let install = || {
            let lines = Lines::default();
            let subscriber = tracing_subscriber::fmt()
                .json()
                .with_max_level(tracing::Level::TRACE)
                .with_writer(lines.clone())
                .finish();
            tracing::subscriber::set_global_default(subscriber).unwrap();
            lines
        };
        LINES.get_or_init(install).clone()
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Fields of the line of one request, once it is there.
    pub async fn request(&self, id: &str) -> Value {
        soon(self.line_of(id)).await
    }

    async fn line_of(&self, id: &str) -> Value {
        loop {
            let text = self.text();
            let lines = text.lines().filter(|line| line.contains(id));
            let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
            let lines = lines.map(|line| line["fields"].clone());
            let mut of_this =
                lines.filter(|line| line["request_id"] == id && line["message"] == "request");
            if let Some(line) = of_this.next() {
                assert!(of_this.next().is_none(), "one line a request");
                return line;
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn a_request_is_one_line_without_its_text() {
    let lines = Lines::collect();
    let server = Server::saying("ANSWER").await;
    let messages = json!([{"role": "user", "content": "QUESTION"}]);
    for (id, more) in [
        ("whole", json!({})),
        ("streamed", json!({"stream": true})),
        ("bad", json!({"n": 99})),
    ] {
        let body = with(chat(json!({"messages": messages})), more);
        Call::new("POST", CHAT)
            .header("x-request-id", id)
            .json(body)
            .send(server.address)
            .await;
    }
    Call::new("GET", "/v1/models?key=SECRET")
        .header("x-request-id", "query")
        .send(server.address)
        .await;
    for id in ["whole", "streamed"] {
        let line = lines.request(id).await;
        assert_eq!(
            (&line["method"], &line["status"]),
            (&json!("POST"), &json!(200))
        );
        assert_eq!(line["path"], json!(format!("{CHAT:?}")));
        assert_eq!(
            (&line["prompt_tokens"], &line["completion_tokens"]),
            (&json!(25), &json!(7))
        );
        assert_eq!(line["outcome"], "stop");
        assert!(line["duration_s"].as_f64().unwrap() >= line["head_s"].as_f64().unwrap());
    }
    assert_eq!(lines.request("bad").await["status"], 400);
    assert_eq!(lines.request("query").await["status"], 200);
    for said in ["QUESTION", "ANSWER", "SECRET"] {
        assert!(
            !lines.text().contains(said),
            "{said} is in {}",
            lines.text()
        );
    }
}

#[tokio::test]
async fn a_vanished_client_is_told_apart() {
    let lines = Lines::collect();
    let server = Server::start(|_| vec![fake::Act::Text("a".into()), fake::Act::Gate]).await;
    let call = |id: &str, more| {
        Call::new("POST", CHAT)
            .header("x-request-id", id)
            .json(chat(more))
    };
    let mut streamed = call("left-streamed", json!({"stream": true}))
        .open(server.address)
        .await;
    streamed.until("\"content\":\"a\"", 1).await;
    let whole = call("left-whole", json!({})).open(server.address).await;
    server.engine.until_running(2).await;
    drop((streamed, whole));
    server.engine.until_running(0).await;
    for (id, status) in [("left-streamed", 200), ("left-whole", 499)] {
        let line = lines.request(id).await;
        assert_eq!(
            (&line["status"], &line["outcome"]),
            (&json!(status), &json!("cancelled"))
        );
    }
}

#[tokio::test]
async fn text_is_logged_where_it_was_asked_for() {
    let lines = Lines::collect();
    let config = HttpConfig {
        log_text: true,
        ..HttpConfig::default()
    };
    let server = Server::with(config, FakeEngine::new(|_| fake::says("REPLIED"))).await;
    let body = chat(json!({"messages": [{"role": "user", "content": "ASKED"}]}));
    let call = Call::new("POST", CHAT).header("x-request-id", "told");
    call.json(body).send(server.address).await;
    lines.request("told").await;
    let text = lines.text();
    let line = text.lines().find(|line| line.contains("ASKED")).unwrap();
    assert!(line.contains("told") && line.contains("REPLIED"), "{line}");
}
