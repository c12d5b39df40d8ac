//! Bytes in, an answer out, over a connection of its own.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// Longer than any answer takes: reaching it is a hang.
const HANG: Duration = Duration::from_secs(60);

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status; None where the connection ended without one.
    pub status: Option<u16>,
    /// Everything, head and body.
    pub bytes: Vec<u8>,
}

/// Sends `bytes` and reads to the end; panics where there is none. Bytes that are no whole request of HTTP may promise more
/// than they hold: then the server is told that nothing follows, or it would wait for the rest.
#[track_caller]
pub fn send(port: u16, bytes: &[u8], is_http: bool) -> Answer {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    connection
        .set_read_timeout(Some(HANG))
        .expect("a time-out can be set");
    connection
        .set_write_timeout(Some(HANG))
        .expect("a time-out can be set");
    // The server may refuse, and close, before it has read everything.
    let _ = connection.write_all(bytes);
    if !is_http {
        let _ = connection.shutdown(Shutdown::Write);
    }
    let mut received = Vec::new();
    match connection.read_to_end(&mut received) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            panic!("no end within {HANG:?}: {}", String::from_utf8_lossy(bytes));
        }
        // A reset: the server did not want the rest.
        Err(_) => {}
    }
    if let Some(rest) = received.strip_prefix(b"HTTP/1.1 100 Continue\r\n\r\n") {
        received = rest.to_vec();
    }
    Answer {
        status: status(&received),
        bytes: received,
    }
}

fn status(received: &[u8]) -> Option<u16> {
    let line = received.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}
