//! A client that sees every byte.

use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Far above anything that a test waits for: reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for what must come.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("what was waited for never came")
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e} in {:?}", self.body))
    }

    /// Status, code and param of an error, whose shape is checked.
    #[track_caller]
    pub fn error(&self) -> (u16, String, Option<String>) {
        let json = self.json();
        let error = json["error"]
            .as_object()
            .unwrap_or_else(|| panic!("no error in {json}"));
        let keys: Vec<&str> = error.keys().map(String::as_str).collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|message| !message.is_empty())
        );
        let kinds = ["invalid_request_error", "rate_limit_error", "server_error"];
        assert!(kinds.contains(&error["type"].as_str().unwrap()));
        let text = |key: &str| error[key].as_str().map(str::to_owned);
        (self.status, text("code").unwrap_or_default(), text("param"))
    }
}

/// A request about to be sent.
pub struct Call {
    head: String,
    body: Vec<u8>,
}

impl Call {
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            head: format!("{method} {path} HTTP/1.1\r\n"),
            body: Vec::new(),
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    pub fn json(self, body: impl ToString) -> Self {
        let mut call = self.header("content-type", "application/json");
        call.body = body.to_string().into_bytes();
        call
    }

    pub fn bytes(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    /// Sends it and leaves the answer to be read piece by piece.
    pub async fn open(mut self, to: SocketAddr) -> Connection {
        if !self.head.to_ascii_lowercase().contains("\r\nhost:") {
            self = self.header("host", &to.to_string());
        }
        if !self.body.is_empty() {
            let length = self.body.len().to_string();
            self = self.header("content-length", &length);
        }
        let mut socket = TcpStream::connect(to).await.unwrap();
        let head = format!("{}connection: close\r\n\r\n", self.head);
        socket.write_all(head.as_bytes()).await.unwrap();
        // The server may refuse, and close, before it has read the body.
        let _ = socket.write_all(&self.body).await;
        Connection {
            socket,
            received: Vec::new(),
        }
    }

    pub async fn send(self, to: SocketAddr) -> Reply {
        self.open(to).await.finish().await
    }
}

pub struct Connection {
    socket: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    /// One on which nothing has been sent.
    pub async fn keep_alive(to: SocketAddr) -> Self {
        Self {
            socket: TcpStream::connect(to).await.unwrap(),
            received: Vec::new(),
        }
    }

    pub async fn until_closed(&mut self) {
        while self.read().await > 0 {}
    }

    /// Reads until `text` has come `times` times; returns all that has come.
    pub async fn until(&mut self, text: &str, times: usize) -> String {
        loop {
            let received = String::from_utf8_lossy(&self.received).into_owned();
            if received.matches(text).count() >= times {
                return received;
            }
            assert!(self.read().await > 0, "ended without {text:?}: {received}");
        }
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Reads a little; 0 at the end.
    pub async fn read(&mut self) -> usize {
        let mut buffer = [0; 4096];
        let count = soon(self.socket.read(&mut buffer)).await.unwrap_or(0);
        self.received.extend_from_slice(&buffer[..count]);
        count
    }

    pub async fn finish(mut self) -> Reply {
        self.until_closed().await;
        parse(&self.received)
    }
}

fn parse(received: &[u8]) -> Reply {
    let text = String::from_utf8_lossy(received);
    let end = received.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no head in {text:?}"));
    let head = String::from_utf8(received[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").unwrap_or((line, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let body = &received[end + 4..];
    let is_chunked = headers
        .iter()
        .any(|(name, value)| name.eq_ignore_ascii_case("transfer-encoding") && value == "chunked");
    let body = if is_chunked {
        dechunk(body)
    } else {
        body.to_vec()
    };
    Reply {
        status,
        headers,
        body: String::from_utf8(body).unwrap(),
    }
}

fn dechunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&rest[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return body;
        }
        let start = line + 2;
        body.extend_from_slice(&rest[start..start + size]);
        rest = &rest[start + size + 2..];
    }
    panic!(
        "the stream was cut before its end: {:?}",
        String::from_utf8_lossy(&body)
    );
}
