//! Valid requests of every endpoint, mutations of them, and a client that sends whatever it is given.

mod mutate;
mod raw;
mod valid;

pub use mutate::mutated;
pub use raw::{Answer, send};
pub use valid::valid;

use serde_json::Value;

/// A request before it becomes bytes.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Header lines beside `Host`, `Content-Length` and `Connection`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Option<Value>,
}

impl Wanted {
    /// As it goes over the wire. `content_length` is what is claimed of the body.
    fn to_bytes(&self, body: &[u8], content_length: Option<usize>) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(length) = content_length {
            head.push_str(&format!("content-length: {length}\r\n"));
        }
        head.push_str("connection: close\r\n\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }
}
